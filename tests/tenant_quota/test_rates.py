"""Requests per minute on a real Redis: never one over, all levels or none, the wait told is the wait."""

import asyncio
import random
import time
from collections.abc import AsyncIterator

import pytest
from pydantic import SecretStr

from services.tenant_quota.rates import Level, Rates, Subject, Verdict, concerned
from shared.redis_streams import open_redis
from tests.tenant_quota.rate_world import DOMAIN, SetLimits, admitted, ask, replicas
from tests.tenant_quota.world import fresh

WINDOW_MS, GRAIN_MS = 60_000, 50


@pytest.fixture
def tenant() -> Subject:
    return Subject(fresh("tenant"))


@pytest.fixture
def limits() -> SetLimits:
    return SetLimits({})


@pytest.fixture
async def rates(redis_url: str, limits: SetLimits) -> AsyncIterator[Rates]:
    async with replicas(SecretStr(redis_url), limits) as (one,):
        yield one


async def pass_time(redis_url: str, subject: Subject, seconds: float) -> None:
    """Lets the window of the subject be so much older, or younger, as if Redis's clock had moved."""
    async with open_redis(SecretStr(redis_url)) as client:
        key = f"prosa:rate:{DOMAIN}:{subject.tenant_id}:{subject.level:d}:{subject.subject_id}"
        entries = [entry.split() for entry in await client.lrange(key, 0, -1)]
        await client.delete(key)
        moved = [f"{max(0, int(until) - int(seconds * 1000))} {int(counted)}" for until, counted in entries]
        await client.rpush(key, *moved)


async def test_exactly_the_limit_is_admitted_and_the_next_is_told_to_wait(
    rates: Rates, limits: SetLimits, tenant: Subject
) -> None:
    limits.by_subject[tenant] = 5
    used = [(await ask(rates, tenant)).standings[0].used for _ in range(5)]
    refused = await ask(rates, tenant)
    assert used == [1, 2, 3, 4, 5]
    denial = refused.denial()
    assert denial is not None
    assert denial.reason == "RATE_LIMITED"
    assert [(each.subject, each.description) for each in denial.violations] == [
        (f"tenant:{tenant.tenant_id}", "5 requests per minute: 5 used")
    ]
    assert denial.retry_after_seconds is not None
    assert 50 < denial.retry_after_seconds <= (WINDOW_MS + GRAIN_MS) / 1000


async def test_three_replicas_that_share_one_redis_admit_exactly_the_limit(
    redis_url: str, limits: SetLimits, tenant: Subject
) -> None:
    user = Subject(tenant.tenant_id, Level.USER, "maria")
    limits.by_subject |= {tenant: 100, user: 1_000}
    async with replicas(SecretStr(redis_url), limits, 3) as three:
        assert await admitted(three, 1_000, tenant, user) == 100
        verdict = await ask(three[0], user)
    assert verdict.standings[0].used == 101, "what the tenant refused was counted against the user"


async def test_a_request_counts_at_all_levels_or_at_none(rates: Rates, limits: SetLimits, tenant: Subject) -> None:
    subjects = concerned(tenant.tenant_id, "maria", "key-1")
    limits.by_subject |= dict(zip(subjects, (10, 3, 10), strict=True))
    assert await admitted([rates], 8, *subjects) == 3
    refused = await ask(rates, *subjects)
    assert [standing.share.subject.level for standing in refused.full] == [Level.USER]
    assert [standing.used for standing in refused.standings] == [3, 3, 3]


async def test_every_full_limit_is_named_and_the_longest_wait_told(
    rates: Rates, limits: SetLimits, redis_url: str, tenant: Subject
) -> None:
    user = Subject(tenant.tenant_id, Level.USER, "maria")
    limits.by_subject |= {tenant: 2, user: 2}
    await admitted([rates], 2, tenant, user)
    await pass_time(redis_url, tenant, 40)
    denial = (await ask(rates, tenant, user)).denial()
    assert denial is not None
    assert [each.subject for each in denial.violations] == [str(tenant), str(user)]
    assert denial.metadata["subject"] == "user:maria"
    assert denial.retry_after_seconds is not None
    assert denial.retry_after_seconds > 50, "40 s less it would be the tenant's"


async def test_the_wait_told_is_the_wait(rates: Rates, limits: SetLimits, redis_url: str, tenant: Subject) -> None:
    limits.by_subject[tenant] = 3
    await ask(rates, tenant)
    await pass_time(redis_url, tenant, 30)
    await admitted([rates], 2, tenant)
    loop = asyncio.get_running_loop()
    before = loop.time()
    told = (await ask(rates, tenant)).wait_seconds
    after = loop.time()
    assert told is not None
    assert 0 < told <= 30 + GRAIN_MS / 1000
    wait = 1.0
    await pass_time(redis_url, tenant, told - wait)
    while True:
        asked = loop.time()
        if not (await ask(rates, tenant)).full:
            break
        assert asked < after + wait + 0.03, "no room came when it was told"
        await asyncio.sleep(0.01)
    assert loop.time() > before + wait - 0.03, "room came before it was told"
    assert (await ask(rates, tenant)).full


async def test_the_wait_for_many_hits_is_until_so_many_have_left(
    rates: Rates, limits: SetLimits, redis_url: str, tenant: Subject
) -> None:
    limits.by_subject[tenant] = 200
    began = time.monotonic()
    for _ in range(100):
        await ask(rates, tenant)
        await pass_time(redis_url, tenant, 0.5)
    wait = (await ask(rates, tenant, hits=190)).wait_seconds
    asking = time.monotonic() - began
    # The oldest came 50 s ago; 90 of them must leave, and half a second and the asking lie between each two.
    assert wait is not None
    assert 10 + 89 * 0.5 - asking - 0.5 < wait < 10 + 89 * 0.5 + 0.5
    await pass_time(redis_url, tenant, wait)
    assert not (await ask(rates, tenant, hits=190)).full


async def test_no_minute_ever_holds_more_than_the_limit(
    rates: Rates, limits: SetLimits, redis_url: str, tenant: Subject
) -> None:
    """A random history of ten minutes: as many as there is room for, then some time passes."""
    limits.by_subject[tenant] = 20
    dice, loop = random.Random(7), asyncio.get_running_loop()
    passed, times = 0.0, list[tuple[float, float]]()
    while passed < 600:
        before = passed + loop.time()
        count = await admitted([rates], dice.randrange(1, 15), tenant)
        times += [(before, passed + loop.time())] * count
        step = dice.choice((0.06, 0.3, 2, 11, 29))
        await pass_time(redis_url, tenant, step)
        passed += step
    assert len(times) > 100
    assert all(sum(start <= begun and ended < start + 60 for begun, ended in times) <= 20 for start, _ in times)


async def test_a_request_counts_for_a_whole_minute_and_no_more_than_its_grain(
    rates: Rates, limits: SetLimits, tenant: Subject
) -> None:
    loop = asyncio.get_running_loop()
    for number in range(30):
        subject = Subject(tenant.tenant_id, Level.USER, str(number))
        limits.by_subject[subject] = 1
        before = loop.time()
        await ask(rates, subject)
        wait = (await ask(rates, subject)).wait_seconds
        after = loop.time()
        assert wait is not None
        assert before + WINDOW_MS / 1000 < after + wait <= after + (WINDOW_MS + GRAIN_MS) / 1000
        await asyncio.sleep(0.003)


async def test_a_minute_later_all_is_free_again(
    rates: Rates, limits: SetLimits, redis_url: str, tenant: Subject
) -> None:
    limits.by_subject[tenant] = 5
    await admitted([rates], 5, tenant)
    await pass_time(redis_url, tenant, 61)
    assert [standing.used for standing in (await ask(rates, tenant)).standings] == [1]


async def test_a_limit_of_0_refuses_all_and_promises_nothing(rates: Rates, limits: SetLimits, tenant: Subject) -> None:
    limits.by_subject[tenant] = 0
    denial = (await ask(rates, tenant)).denial()
    assert denial is not None
    assert denial.retry_after_seconds is None


async def test_more_hits_than_the_limit_never_fit_and_take_nothing(
    rates: Rates, limits: SetLimits, tenant: Subject
) -> None:
    limits.by_subject[tenant] = 10
    assert (await ask(rates, tenant, hits=4_294_967_295)).wait_seconds is None
    assert (await ask(rates, tenant, hits=10)).standings[0].used == 10


async def test_a_lowered_limit_counts_what_was_used(rates: Rates, limits: SetLimits, tenant: Subject) -> None:
    limits.by_subject[tenant] = 10
    assert await admitted([rates], 8, tenant) == 8
    limits.by_subject[tenant] = 5
    refused = await ask(rates, tenant)
    assert [standing.remaining for standing in refused.full] == [0]
    limits.by_subject[tenant] = 9
    assert await admitted([rates], 8, tenant) == 1


async def test_tenants_users_keys_and_domains_of_one_name_are_counted_apart(
    rates: Rates, limits: SetLimits, tenant: Subject
) -> None:
    other = Subject(fresh("tenant"))
    subjects = [*concerned(tenant.tenant_id, "x", "x"), *concerned(other.tenant_id, "x", "x")]
    limits.by_subject |= dict.fromkeys(subjects, 1)
    verdicts = [await ask(rates, subject) for subject in subjects]
    verdicts += [await rates.admit("another", {subject: 1}) for subject in subjects]
    assert not [verdict for verdict in verdicts if verdict.full]
    assert all([(await ask(rates, subject)).full for subject in subjects])


async def test_nobody_s_limit_is_nobody_s_count(rates: Rates, tenant: Subject) -> None:
    assert await ask(rates, tenant) == Verdict()


@pytest.mark.parametrize("seconds", [-30, -59])
async def test_a_clock_put_back_by_less_than_a_minute_admits_nothing_more(
    rates: Rates, limits: SetLimits, redis_url: str, tenant: Subject, seconds: float
) -> None:
    limits.by_subject[tenant] = 5
    await admitted([rates], 4, tenant)
    await pass_time(redis_url, tenant, seconds)
    assert await admitted([rates], 5, tenant) == 1
    wait = (await ask(rates, tenant)).wait_seconds
    assert wait is not None
    assert 50 < wait + seconds <= (WINDOW_MS + GRAIN_MS) / 1000, "exact by the clock as it is now"
    await pass_time(redis_url, tenant, wait - 10)
    assert (await ask(rates, tenant)).full
    await pass_time(redis_url, tenant, 10)
    assert not (await ask(rates, tenant)).full


async def test_a_clock_put_back_further_begins_a_new_window(
    rates: Rates, limits: SetLimits, redis_url: str, tenant: Subject
) -> None:
    limits.by_subject[tenant] = 5
    await admitted([rates], 5, tenant)
    await pass_time(redis_url, tenant, -3_600)
    assert await admitted([rates], 9, tenant) == 5


async def test_windows_leave_nothing_behind(rates: Rates, limits: SetLimits, redis_url: str, tenant: Subject) -> None:
    limits.by_subject[tenant] = 1_000_000
    for _ in range(20):
        await admitted([rates], 50, tenant)
    async with open_redis(SecretStr(redis_url)) as client:
        (key,) = [key async for key in client.scan_iter(f"prosa:rate:{DOMAIN}:{tenant.tenant_id}:*")]
        assert 0 < await client.pttl(key) <= WINDOW_MS + GRAIN_MS
        assert await client.llen(key) <= 21
