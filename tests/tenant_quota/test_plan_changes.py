"""What a person would expect when a plan or a price changes while tokens are held, and when a month ends."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

import asyncpg
import pytest

from services.tenant_quota.audit import discrepancies
from services.tenant_quota.plan_model import PlanTerms, Rates
from services.tenant_quota.plans import Plans
from services.tenant_quota.prices import ALONE, Prices
from services.tenant_quota.quota_model import Quota, TokenUsage, UnpricedModels
from services.tenant_quota.quotas import Quotas
from services.tenant_quota.reservations import Reservations
from shared.errors import Conflict, FailedPrecondition, QuotaExceeded
from shared.postgres import tenant_transaction
from tests.tenant_quota.account_world import ask, month, more, opened
from tests.tenant_quota.hand_set_clock import Clock
from tests.tenant_quota.world import SAO_PAULO, commit, fresh, insisting, new_tenant

ONE_MICRO_A_TOKEN = Rates(10**6, 10**6, 10**6, 10**6)
TEN_MICROS_A_TOKEN = Rates(10**7, 10**7, 10**7, 10**7)
MOST = Rates(10**11, 10**11, 10**11, 10**11)


@pytest.fixture
async def store(pool: asyncpg.Pool) -> AsyncIterator[Reservations]:
    async with opened(pool) as (only,):
        yield only


@pytest.fixture
async def timed_store(timed_pool: asyncpg.Pool) -> AsyncIterator[Reservations]:
    async with opened(timed_pool) as (only,):
        yield only


async def new_plan(pool: asyncpg.Pool, **terms: int) -> str:
    plan = await Plans(pool).create(fresh("plan"), PlanTerms("Plano", **terms), None)  # type: ignore[arg-type]
    return plan.plan_id


async def test_a_larger_plan_gives_at_once_what_it_has_more(pool: asyncpg.Pool, store: Reservations) -> None:
    tenant_id, plans = await new_tenant(pool), Plans(pool)
    await plans.give(tenant_id, await new_plan(pool, tokens_per_month=100, tokens_per_day=100))
    used, open_ = [await store.reserve(ask(tenant_id, tokens)) for tokens in (40, 60)]
    await store.settle(commit(tenant_id, used.reservation_id, 30))
    with pytest.raises(QuotaExceeded):
        await store.reserve(ask(tenant_id, 11))

    await plans.give(tenant_id, await new_plan(pool, tokens_per_month=250))
    assert (await month(pool, tenant_id)).used_tokens == 30, "what was used stays used"
    assert (await store.extend(more(tenant_id, open_.reservation_id, 100))).granted == 160
    assert (await store.reserve(ask(tenant_id, 100, minimum=1))).granted == 60
    await store.settle(commit(tenant_id, open_.reservation_id, 160))
    assert (await month(pool, tenant_id)).used_tokens == 190
    assert await discrepancies(pool, tenant_id) == []


async def test_a_smaller_plan_takes_nothing_back_and_grants_nothing_until_there_is_room(
    timed_pool: asyncpg.Pool, clock: Clock, timed_store: Reservations
) -> None:
    await clock.set("2026-11-30T12:00-03:00")
    tenant_id, plans, store = await new_tenant(timed_pool, SAO_PAULO), Plans(timed_pool), timed_store
    await plans.give(tenant_id, await new_plan(timed_pool, tokens_per_month=1_000))
    used, first, second = [await store.reserve(ask(tenant_id, tokens, lease_seconds=3_600)) for tokens in (90, 60, 80)]
    await store.settle(commit(tenant_id, used.reservation_id, 90))

    await plans.give(tenant_id, await new_plan(timed_pool, tokens_per_month=100))
    for refused in (store.reserve(ask(tenant_id, 1)), store.extend(more(tenant_id, first.reservation_id, 1))):
        with pytest.raises(QuotaExceeded):
            await refused
    await store.extend(more(tenant_id, first.reservation_id, 0, lease_seconds=3_600))
    assert (await store.settle(commit(tenant_id, first.reservation_id, 60))).usage == TokenUsage(15, 15, 15, 15)
    now = await month(timed_pool, tenant_id)
    assert (now.limit_tokens, now.used_tokens, now.held_tokens) == (100, 150, 80), "what is held may be used"

    await clock.set("2026-12-01T00:00-03:00")
    assert (await store.reserve(ask(tenant_id, 100))).granted == 100, "a new month"
    await clock.set("2026-11-30T12:10-03:00")
    await store.settle(commit(tenant_id, second.reservation_id, 80))
    assert await discrepancies(timed_pool, tenant_id) == []


async def test_a_changed_plan_is_another_for_all_tenants_on_it(pool: asyncpg.Pool, store: Reservations) -> None:
    plans, tenants = Plans(pool), [await new_tenant(pool) for _ in range(2)]
    plan_id = await new_plan(pool, tokens_per_month=10)
    for tenant_id in tenants:
        await plans.give(tenant_id, plan_id)
        await store.reserve(ask(tenant_id, 10, user_id="u"))
    await plans.update(plan_id, {"tokens_per_month": 30, "user_tokens_per_month": 25})
    for tenant_id in tenants:
        with pytest.raises(QuotaExceeded) as denied:
            await store.reserve(ask(tenant_id, 16, user_id="u"))
        assert [each.subject for each in denied.value.violations] == ["user:u"], "counted from what it holds already"
        assert (await store.reserve(ask(tenant_id, 15, user_id="u"))).granted == 15
        assert await discrepancies(pool, tenant_id) == []


async def test_no_limit_is_passed_while_plans_come_and_go(pool: asyncpg.Pool, other_pool: asyncpg.Pool) -> None:
    tenant_id, plans = await new_tenant(pool), Plans(pool)
    small, large = await new_plan(pool, tokens_per_month=1_000), await new_plan(pool, tokens_per_month=3_000)
    await plans.give(tenant_id, small)
    async with opened(pool, other_pool) as stores:

        async def client(number: int) -> int:
            granted = 0
            for _ in range(20):
                try:
                    granted += (await stores[number % 2].reserve(ask(tenant_id, 40, minimum=1))).granted
                except QuotaExceeded:
                    await asyncio.sleep(0.002)
            return granted

        async def change() -> None:
            for plan_id in (large, small) * 6:
                await plans.give(tenant_id, plan_id)
            await plans.give(tenant_id, large)

        changes = asyncio.create_task(change())
        granted = sum(await asyncio.gather(*(client(number) for number in range(32))))
        await changes
        if granted < 3_000:
            granted += (await stores[0].reserve(ask(tenant_id, 3_000, minimum=1))).granted
    assert granted == 3_000
    assert await discrepancies(pool, tenant_id) == []


async def test_a_price_changed_while_tokens_are_held_is_for_those_held_afterwards(
    pool: asyncpg.Pool, store: Reservations
) -> None:
    tenant_id, model, prices = await new_tenant(pool), fresh("model"), Prices(pool)
    await Quotas(pool).set(Quota(tenant_id, "", cost_micros_per_month=1_000))
    await prices.set(model, None, ONE_MICRO_A_TOKEN, None)
    held = await store.reserve(ask(tenant_id, 100, model=model))
    await prices.set(model, None, TEN_MICROS_A_TOKEN, None)
    later = await store.reserve(ask(tenant_id, 90, model=model))
    assert (held.granted_cost_micros, later.granted_cost_micros) == (100, 900)
    assert (await store.settle(commit(tenant_id, held.reservation_id, 100))).cost_micros == 100
    assert (await store.settle(commit(tenant_id, later.reservation_id, 90))).cost_micros == 900
    now = await month(pool, tenant_id)
    assert (now.used_cost_micros, now.held_cost_micros) == (1_000, 0)
    assert await discrepancies(pool, tenant_id) == []


async def test_a_price_to_come_begins_to_the_instant(
    timed_pool: asyncpg.Pool, clock: Clock, timed_store: Reservations
) -> None:
    tenant_id, model, prices = await new_tenant(timed_pool, SAO_PAULO), fresh("model"), Prices(timed_pool)
    await clock.set("2026-11-20T12:00-03:00")
    await prices.set(model, None, ONE_MICRO_A_TOKEN, None)
    await prices.set(model, datetime(2026, 12, 1, 3, tzinfo=UTC), TEN_MICROS_A_TOKEN, None)
    costs = []
    for moment in ("2026-11-30T23:59:59.999999-03:00", "2026-12-01T00:00:00-03:00"):
        await clock.set(moment)
        held = await timed_store.reserve(ask(tenant_id, 10, model=model))
        await clock.set("2026-12-01T00:00:30-03:00")
        costs.append((await timed_store.settle(commit(tenant_id, held.reservation_id, 10))).cost_micros)
    assert costs == [10, 100]


async def test_every_cost_is_that_of_the_price_in_force_when_the_tokens_were_held(
    pool: asyncpg.Pool, other_pool: asyncpg.Pool
) -> None:
    tenant_id, model = await new_tenant(pool), fresh("model")
    await Prices(pool).set(model, None, ONE_MICRO_A_TOKEN, None)
    async with opened(pool, other_pool) as stores:

        async def client(number: int) -> None:
            for _ in range(25):
                held = await stores[number % 2].reserve(ask(tenant_id, 4, model=model))
                await stores[number % 2].settle(commit(tenant_id, held.reservation_id, 4))

        async def change() -> None:
            for micros in range(2, 40):
                rates = Rates(*[micros * 10**6] * 4)
                await insisting(partial(Prices(other_pool).set, model, None, rates, None))

        await asyncio.gather(*(client(number) for number in range(8)), change())
    async with tenant_transaction(pool, tenant_id) as connection:
        wrong = await connection.fetchval(
            "SELECT count(*) FROM reservations"
            " WHERE tenant_id = $1 AND cost_micros <> price_of(model, create_time, 4, 0, 0, 0)",
            tenant_id,
        )
        counted = await connection.fetchval("SELECT count(DISTINCT cost_micros) FROM reservations")
    assert (wrong, counted > 2) == (0, True)
    assert await discrepancies(pool, tenant_id) == []


async def test_tokens_are_held_and_settled_before_a_price_begins_or_after_it_is_seen(
    pool: asyncpg.Pool, store: Reservations
) -> None:
    tenant_id, model = await new_tenant(pool), fresh("model")
    await Prices(pool).set(model, None, ONE_MICRO_A_TOKEN, None)

    async def cycle() -> int:
        held = await store.reserve(ask(tenant_id, 10, model=model))
        return (await store.settle(commit(tenant_id, held.reservation_id, 10))).cost_micros

    async with tenant_transaction(pool, "*") as connection:
        await connection.execute(ALONE)
        await connection.execute(
            "INSERT INTO prices SELECT $1, clock_timestamp(), n, n, n, n FROM (SELECT 5000000) x(n)", model
        )
        caught_between = asyncio.create_task(cycle())
        await asyncio.sleep(0.2)
        assert not caught_between.done()
    assert await caught_between == 50


async def test_who_reads_the_price_book_for_long_makes_it_unchangeable_and_holds_nobody_up(
    pool: asyncpg.Pool, other_pool: asyncpg.Pool, store: Reservations
) -> None:
    tenant_id, model, prices = await new_tenant(pool), fresh("model"), Prices(pool)
    future = await prices.set(model, datetime(2126, 1, 1, tzinfo=UTC), ONE_MICRO_A_TOKEN, None)
    async with tenant_transaction(other_pool, "*") as reader:
        await reader.fetch("SELECT * FROM prices")
        for change in (
            prices.set(model, None, ONE_MICRO_A_TOKEN, None),
            prices.delete(model, future.effective_time),
        ):
            waiting = asyncio.create_task(change)
            await asyncio.sleep(0.1)
            held = await store.reserve(ask(tenant_id, 10, model=model))
            await store.settle(commit(tenant_id, held.reservation_id, 10))
            with pytest.raises(Conflict):
                await waiting
    await prices.delete(model, future.effective_time)


async def test_the_largest_price_and_the_largest_usage_have_a_cost(pool: asyncpg.Pool, store: Reservations) -> None:
    tenant_id, model = await new_tenant(pool), fresh("model")
    await Prices(pool).set(model, None, MOST, None)
    for _ in range(2):
        held = await store.reserve(ask(tenant_id, 1, model=model))
        largest = replace(commit(tenant_id, held.reservation_id, 0), usage=TokenUsage(*[10**12] * 4))
        assert (await store.settle(largest)).cost_micros == 4 * 10**17
    assert (await month(pool, tenant_id)).used_cost_micros == 8 * 10**17
    assert await discrepancies(pool, tenant_id) == []


@pytest.mark.parametrize("micros", [0, 1, 10**11])
async def test_the_largest_budget_and_any_price_grant_what_they_can(
    pool: asyncpg.Pool, store: Reservations, micros: int
) -> None:
    tenant_id, model = await new_tenant(pool), fresh("model")
    await Prices(pool).set(model, None, Rates(micros, 0, 0, 0), None)
    await Quotas(pool).set(Quota(tenant_id, "", cost_micros_per_month=10**15))
    held = await store.reserve(ask(tenant_id, 10**9, model=model))
    assert (held.granted, held.granted_cost_micros) == (10**9, 10**3 * micros)
    await Quotas(pool).set(Quota(tenant_id, "", cost_micros_per_month=0))
    if micros:
        with pytest.raises(QuotaExceeded):
            await store.reserve(ask(tenant_id, 1, model=model))
    else:
        assert (await store.reserve(ask(tenant_id, 1, model=model))).granted == 1, "what is free costs no budget"


async def test_a_plan_says_whether_models_without_a_price_are_admitted(pool: asyncpg.Pool, store: Reservations) -> None:
    plans, tenant_id = Plans(pool), await new_tenant(pool)
    plan_id = await new_plan(pool, cost_micros_per_month=100)
    await plans.give(tenant_id, plan_id)
    unknown = ask(tenant_id, 10, model=fresh("model"))
    with pytest.raises(FailedPrecondition) as refused:
        await store.reserve(unknown)
    assert refused.value.reason == "MODEL_PRICE_UNKNOWN"
    await plans.update(plan_id, {"unpriced_models": UnpricedModels.ADMIT})
    held = await store.reserve(unknown)
    assert (await store.settle(commit(tenant_id, held.reservation_id, 4, cost_micros=60))).cost_micros == 60
    await Prices(pool).set(unknown.model, None, ONE_MICRO_A_TOKEN, None)
    assert (await store.reserve(replace(unknown, tokens=50, minimum=1, reservation_id=fresh("r")))).granted == 40


@pytest.mark.parametrize(
    ("zone", "edge", "before"),
    [
        ("America/Sao_Paulo", "2026-12-01T00:00:00-03:00", "2026-11-30T23:59:59.999-03:00"),
        ("America/Rio_Branco", "2026-12-01T02:00:00-03:00", "2026-12-01T01:59:59.999-03:00"),
        ("Pacific/Kiritimati", "2026-11-30T07:00:00-03:00", "2026-11-30T06:59:59.999-03:00"),
    ],
)
async def test_a_budget_begins_anew_at_midnight_of_the_tenant(
    timed_pool: asyncpg.Pool, clock: Clock, timed_store: Reservations, zone: str, edge: str, before: str
) -> None:
    await clock.set("2026-11-01T12:00-03:00")
    tenant_id, model, store = await new_tenant(timed_pool, zone), fresh("model"), timed_store
    await Prices(timed_pool).set(model, None, ONE_MICRO_A_TOKEN, None)
    await Plans(timed_pool).give(tenant_id, await new_plan(timed_pool, cost_micros_per_month=100))
    await clock.set(before)
    late = await store.reserve(ask(tenant_id, 100, model=model))
    with pytest.raises(QuotaExceeded) as denied:
        await store.reserve(ask(tenant_id, 1, model=model))
    assert denied.value.metadata["unit"] == "micros"
    assert denied.value.retry_after_seconds == 0.001

    await clock.set(edge)
    assert (await store.reserve(ask(tenant_id, 70, model=model))).granted == 70
    await store.settle(commit(tenant_id, late.reservation_id, 80))
    now = await month(timed_pool, tenant_id)
    assert (now.used_cost_micros, now.held_cost_micros) == (0, 70), "charged to the month it was held in"
    await clock.set(before)
    then = await month(timed_pool, tenant_id)
    assert (then.used_cost_micros, then.held_cost_micros) == (80, 0)
    assert await discrepancies(timed_pool, tenant_id) == []
