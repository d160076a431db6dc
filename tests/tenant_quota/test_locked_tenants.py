"""A tenant whose row somebody keeps locked, be it a transaction that hangs or a person at psql: the others go on."""

import asyncio
import time
from collections.abc import AsyncIterator

import asyncpg
import pytest

from services.tenant_quota.quota_model import Reservation
from services.tenant_quota.reservations import Reservations
from services.tenant_quota.sweeper import Sweeper
from shared.errors import Conflict
from shared.postgres import tenant_transaction
from tests.tenant_quota.account_world import opened
from tests.tenant_quota.world import counters, new_tenant, sweep_all, wish

# Before any lease that another test left, so that those of the locked tenant are as many as are given back at once.
LEASE_LONG_OVER = "UPDATE reservations SET expire_time = clock_timestamp() - interval '1 day' WHERE tenant_id = $1"


@pytest.fixture
async def store(pool: asyncpg.Pool) -> AsyncIterator[Reservations]:
    async with opened(pool) as (only,):
        yield only


async def test_however_many_requests_a_locked_tenant_has_the_others_wait_for_it_once(
    pool: asyncpg.Pool, other_pool: asyncpg.Pool, store: Reservations
) -> None:
    stuck, free = await new_tenant(pool), await new_tenant(pool)
    async with tenant_transaction(other_pool, stuck) as connection:
        await connection.execute("SELECT FROM tenants WHERE tenant_id = $1 FOR UPDATE", stuck)
        began = time.monotonic()
        answers = await asyncio.gather(
            *(store.reserve(wish(stuck, 1)) for _ in range(5)), store.reserve(wish(free, 1)), return_exceptions=True
        )
        # 2 s together with the others and 2 s for the locked one alone; 12 s if each of its requests waited.
        assert time.monotonic() - began < 10
    assert all(isinstance(answer, Conflict) for answer in answers[:-1])
    assert isinstance(answers[-1], Reservation)
    assert (await store.reserve(wish(stuck, 1))).granted == 1


async def test_who_comes_while_a_statement_waits_for_a_locked_tenant_does_not_wait_with_it(
    pool: asyncpg.Pool, other_pool: asyncpg.Pool, store: Reservations
) -> None:
    stuck, free = [await new_tenant(pool), await new_tenant(pool)], await new_tenant(pool)
    async with tenant_transaction(other_pool, "*") as connection:
        await connection.execute("SELECT FROM tenants WHERE tenant_id = ANY ($1) FOR UPDATE", stuck)
        # 2 s together and 2 s for each alone.
        waiting = asyncio.gather(*(store.reserve(wish(each, 1)) for each in stuck), return_exceptions=True)
        await asyncio.sleep(0.01)
        assert (await store.reserve(wish(free, 1))).granted == 1
        assert not waiting.done()
        assert all(isinstance(answer, Conflict) for answer in await waiting)


async def test_the_sweeper_passes_by_a_locked_tenant(quiet_pool: asyncpg.Pool, other_quiet_pool: asyncpg.Pool) -> None:
    pool, other_pool = quiet_pool, other_quiet_pool
    store = Reservations(pool)
    stuck, free = await new_tenant(pool), await new_tenant(pool)
    for tenant_id in (stuck, stuck, free):
        await store.reserve(wish(tenant_id, 5))
    for tenant_id in (stuck, free):
        async with tenant_transaction(pool, tenant_id) as connection:
            await connection.execute(LEASE_LONG_OVER, tenant_id)
    async with tenant_transaction(other_pool, stuck) as connection:
        await connection.execute("SELECT FROM tenants WHERE tenant_id = $1 FOR NO KEY UPDATE", stuck)
        await Sweeper(store, interval_seconds=1, batch=2).sweep()
        assert (await counters(pool, free)).held == 0
        assert (await counters(pool, stuck)).held == 10
    await sweep_all(pool, store)
    assert (await counters(pool, stuck)).held == 0
