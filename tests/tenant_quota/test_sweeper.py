"""The sweeper outlives what goes wrong around it."""

import asyncio

import asyncpg
import pytest

from services.tenant_quota.replays import forget
from services.tenant_quota.reservations import Reservations
from services.tenant_quota.sweeper import Sweeper
from shared.errors import Unavailable
from shared.postgres import tenant_transaction
from tests.house.waiting import until_answered
from tests.tenant_quota.world import counters, new_tenant, nothing_held, sweep_all, wish

LEASE_OF_A_MOMENT = "UPDATE reservations SET expire_time = clock_timestamp() WHERE tenant_id = $1"
REQUESTS = """
INSERT INTO requests (tenant_id, method, request_id, fingerprint, create_time)
SELECT $1, 'ExtendReservation', n, '', clock_timestamp() - make_interval(hours => $2) FROM generate_series(1, $3::int) n
"""


class Stumbling(Reservations):
    """A store whose database is down at first, and then has a surprise."""

    stumbles: list[Exception]

    async def sweep(self, most: int) -> int:
        if self.stumbles:
            raise self.stumbles.pop()
        return await super().sweep(most)


async def test_the_sweeper_goes_on_after_an_outage_and_after_a_bug(quiet_pool: asyncpg.Pool) -> None:
    store = Stumbling(quiet_pool)
    store.stumbles = [RuntimeError("a bug"), Unavailable("down")]
    tenant_id = await new_tenant(quiet_pool)
    await store.reserve(wish(tenant_id, 5, lease_seconds=1))
    running = asyncio.create_task(Sweeper(store, interval_seconds=0.05, batch=10).run())
    try:
        await until_answered(lambda: nothing_held(quiet_pool, tenant_id))
    finally:
        running.cancel()
    assert not store.stumbles


async def test_requests_too_old_to_be_repeated_are_all_forgotten_however_many(quiet_pool: asyncpg.Pool) -> None:
    tenant_id = await new_tenant(quiet_pool)
    async with tenant_transaction(quiet_pool, tenant_id) as connection:
        await connection.execute(REQUESTS, tenant_id, 49, 2_500)
        await connection.execute(REQUESTS.replace(" n, ", " -n, "), tenant_id, 47, 3)
    await forget(quiet_pool)
    async with tenant_transaction(quiet_pool, tenant_id) as connection:
        assert await connection.fetchval("SELECT count(*) FROM requests") == 3


async def test_an_account_at_fault_keeps_nobody_elses_leases_and_is_told(quiet_pool: asyncpg.Pool) -> None:
    store = Reservations(quiet_pool)
    wrong, sound, also = sorted([await new_tenant(quiet_pool) for _ in range(3)])
    for tenant_id in (wrong, sound, also):
        await store.reserve(wish(tenant_id, 5))
        async with tenant_transaction(quiet_pool, tenant_id) as connection:
            await connection.execute(LEASE_OF_A_MOMENT, tenant_id)
    async with tenant_transaction(quiet_pool, wrong) as connection:
        await connection.execute("UPDATE balances SET held = 0 WHERE tenant_id = $1", wrong)
    with pytest.raises(asyncpg.RaiseError, match=wrong):
        await Sweeper(store, interval_seconds=1, batch=2).sweep()
    assert [(await counters(quiet_pool, tenant_id)).held for tenant_id in (sound, also)] == [0, 0]
    async with tenant_transaction(quiet_pool, wrong) as connection:
        await connection.execute("UPDATE balances SET held = 5 WHERE tenant_id = $1", wrong)
    await sweep_all(quiet_pool, store)
    assert (await counters(quiet_pool, wrong)).held == 0
