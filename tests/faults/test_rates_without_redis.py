"""Redis killed, stopped, restarted, emptied under three replicas: requests go on, soon, and are counted again after."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from services.tenant_quota.rates import Level, Rates, Subject
from shared.errors import Unavailable
from shared.redis_streams import open_redis
from tests.house.ports import own_port
from tests.house.waiting import until_answered
from tests.tenant_quota.rate_world import FragileRedis, SetLimits, admitted, ask, replicas
from tests.tenant_quota.world import fresh

# Longer than a busy machine keeps a Redis that is there from answering.
PATIENCE_SECONDS = 1.5
# What one request may wait for a Redis that went away: its own batch, and the one before; not for each before it.
LONGEST_WAIT_SECONDS = 2 * PATIENCE_SECONDS + 12
LIMIT = 50


@pytest.fixture
def redis(engine_directory: Path) -> Iterator[FragileRedis]:
    fragile = FragileRedis(engine_directory / f"fragile-{uuid4().hex[:8]}", own_port())
    yield fragile
    fragile.end()


@pytest.fixture
def tenant() -> Subject:
    return Subject(fresh("tenant"))


@pytest.fixture
async def three(redis: FragileRedis, tenant: Subject) -> AsyncIterator[list[Rates]]:
    limits = SetLimits({tenant: LIMIT, Subject(tenant.tenant_id, Level.KEY, "closed"): 0})
    async with replicas(redis.url, limits, 3, patience_seconds=PATIENCE_SECONDS) as made:
        yield made


async def counted(rates: Rates, tenant: Subject) -> bool:
    return bool((await ask(rates, tenant)).standings)


async def all_count_again(replicas: list[Rates], tenant: Subject) -> None:
    for rates in replicas:
        await until_answered(lambda rates=rates: counted(rates, tenant))  # type: ignore[misc]


@pytest.mark.parametrize("harm", [FragileRedis.kill, FragileRedis.halt])
async def test_requests_go_on_uncounted_while_redis_is_away_and_are_counted_again(
    three: list[Rates], redis: FragileRedis, tenant: Subject, harm: Callable[[FragileRedis], None]
) -> None:
    assert await admitted(three, 2 * LIMIT, tenant) == LIMIT
    harm(redis)
    begun = time.perf_counter()
    assert await admitted(three, 300, tenant) == 300
    assert time.perf_counter() - begun < LONGEST_WAIT_SECONDS
    assert (await ask(three[0], Subject(tenant.tenant_id, Level.KEY, "closed"))).full, "0 is 0, counted or not"
    if harm is FragileRedis.halt:
        redis.resume()
    else:
        redis.restart()
    await all_count_again(three, tenant)
    assert await admitted(three, 3 * LIMIT, tenant) <= LIMIT


async def test_nothing_is_admitted_twice_over_by_a_redis_that_comes_back_with_its_data(
    three: list[Rates], redis: FragileRedis, tenant: Subject
) -> None:
    assert await admitted(three, LIMIT, tenant) == LIMIT
    redis.restart()
    await all_count_again(three, tenant)
    assert await admitted(three, 30, tenant) == 0


async def test_an_emptied_redis_begins_one_new_window(three: list[Rates], redis: FragileRedis, tenant: Subject) -> None:
    assert await admitted(three, LIMIT, tenant) == LIMIT
    async with open_redis(redis.url) as client:
        await client.flushall()
        await client.script_flush()
    assert await admitted(three, 3 * LIMIT, tenant) == LIMIT


async def test_a_request_under_way_when_redis_dies_is_let_through(
    three: list[Rates], redis: FragileRedis, tenant: Subject
) -> None:
    redis.halt()
    waiting = asyncio.gather(*(ask(rates, tenant) for rates in three))
    await asyncio.sleep(PATIENCE_SECONDS / 4)
    redis.kill()
    try:
        assert not [verdict for verdict in await waiting if verdict.full]
    except Unavailable:
        pytest.fail("Redis has no say in whether the work is done")


async def test_a_redis_that_takes_no_writes_stops_nobody(
    three: list[Rates], redis: FragileRedis, tenant: Subject
) -> None:
    async with open_redis(redis.url) as client:
        await client.config_set("maxmemory", "1")
        assert await admitted(three, 2 * LIMIT, tenant) == 2 * LIMIT
        await client.config_set("maxmemory", "0")
    await all_count_again(three, tenant)
