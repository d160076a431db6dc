"""Settled reservations and signals go after their time; the ledger stays, and the account still adds up."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import date

import asyncpg
import pytest

from services.tenant_quota.audit import discrepancies
from services.tenant_quota.quota_model import Level, State
from services.tenant_quota.reservations import Reservations
from services.tenant_quota.retention import forget_reservations, forget_signals
from services.tenant_quota.signal_store import SignalStore, Subject
from services.tenant_quota.statements import Statements
from services.tenant_quota.top_ups import TopUps
from shared.errors import FailedPrecondition, NotFound
from shared.postgres import tenant_transaction
from tests.tenant_quota.account_world import ask, entries, month, more, new_key
from tests.tenant_quota.hand_set_clock import Clock
from tests.tenant_quota.signal_world import tenant_with, use
from tests.tenant_quota.world import SAO_PAULO, commit, new_tenant, new_user, release, sweep_all, wish

KEPT_DAYS = 90
YEAR_SECONDS = 366 * 86_400
AUGUST, IN_AUGUST, LATER = date(2026, 8, 1), "2026-08-31T22:30-03:00", "2026-12-05T12:00-03:00"
# What nobody but a lie does to what is past; $1 is the tenant.
LIES = {
    "an entry that vanished": "DELETE FROM ledger WHERE tenant_id = $1 AND kind = 2",
    "a beginning that vanished": "DELETE FROM ledger WHERE tenant_id = $1 AND kind = 1",
    "usage that vanished": "DELETE FROM usage_days WHERE tenant_id = $1",
    "a day that forgot": "UPDATE balances SET day_used[31] = day_used[31] - 1 WHERE tenant_id = $1 AND level = 1",
    "a top-up that nobody drew on": "DELETE FROM forgotten_draws WHERE tenant_id = $1",
}


@pytest.fixture
async def store(timed_pool: asyncpg.Pool) -> AsyncIterator[Reservations]:
    reservations = Reservations(timed_pool)
    yield reservations
    await reservations.close()


async def _as_superuser(pool: asyncpg.Pool, statement: str, tenant_id: str) -> None:
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("SET LOCAL ROLE NONE")
        await connection.execute(statement, tenant_id)


async def _kept(pool: asyncpg.Pool, tenant_id: str) -> set[str]:
    async with tenant_transaction(pool, tenant_id) as connection:
        return {row["reservation_id"] for row in await connection.fetch("SELECT reservation_id FROM reservations")}


async def _eventful_evening(pool: asyncpg.Pool, clock: Clock, store: Reservations) -> tuple[str, str, str]:
    """A tenant with a bit of everything of August behind it, its user, and what it still holds, with a child over."""
    await clock.set(IN_AUGUST)
    tenant_id = await new_tenant(pool, SAO_PAULO, tokens_per_day=100, tokens_per_month=100)
    user_id, key_id = await new_user(pool, tenant_id, tokens_per_day=400), await new_key(pool, tenant_id)
    await TopUps(pool).create(tenant_id, 400, 0, None, "", None)
    settled = await store.reserve(
        replace(ask(tenant_id, 60, user_id=user_id, key_id=key_id, request_id="once"), lease_seconds=7_200)
    )
    child = await store.reserve(ask(tenant_id, 10, parent=settled.reservation_id))
    await store.settle(commit(tenant_id, child.reservation_id, 12, cost_micros=3))
    await store.extend(more(tenant_id, settled.reservation_id, 70))
    lasting = await store.reserve(replace(ask(tenant_id, 50, user_id=user_id), lease_seconds=YEAR_SECONDS))
    part = await store.reserve(ask(tenant_id, 20, parent=lasting.reservation_id))
    await store.settle(commit(tenant_id, part.reservation_id, 15, cost_micros=2))
    lapsed = await store.reserve(ask(tenant_id, 5, user_id=user_id))
    given_back = await store.reserve(ask(tenant_id, 5, key_id=key_id))
    await store.settle(release(tenant_id, given_back.reservation_id))
    # Settled in September, charged to August.
    await clock.set("2026-09-01T00:10-03:00")
    await sweep_all(pool, store)
    await store.settle(commit(tenant_id, settled.reservation_id, 100, cost_micros=5))
    assert lapsed.reservation_id in await _kept(pool, tenant_id)
    return tenant_id, user_id, lasting.reservation_id


async def test_settled_reservations_go_after_their_time_and_the_account_still_adds_up(
    timed_pool: asyncpg.Pool, clock: Clock, store: Reservations
) -> None:
    tenant_id, user_id, lasting = await _eventful_evening(timed_pool, clock, store)
    statements = Statements(timed_pool)
    await clock.set(LATER)
    newer = await store.reserve(ask(tenant_id, 30, user_id=user_id))
    await store.settle(commit(tenant_id, newer.reservation_id, 30))
    told, stated = await entries(timed_pool, tenant_id), await statements.get(tenant_id, AUGUST)
    before = await _kept(timed_pool, tenant_id)

    await forget_reservations(timed_pool, KEPT_DAYS, at_once=3)

    kept = await _kept(timed_pool, tenant_id)
    assert {lasting, newer.reservation_id} < kept, "what is held, and what is younger"
    assert len(before - kept) == 4, "what was settled, its child, what lapsed, what was released"
    assert await discrepancies(timed_pool, tenant_id) == []
    assert await entries(timed_pool, tenant_id) == told
    assert await statements.get(tenant_id, AUGUST) == stated
    assert (await month(timed_pool, tenant_id, user_id)).used_tokens == 30

    await store.settle(commit(tenant_id, lasting, 20))
    assert await discrepancies(timed_pool, tenant_id) == []


async def test_a_request_id_and_a_late_commit_get_the_same_answer_until_they_are_forgotten(
    timed_pool: asyncpg.Pool, clock: Clock, store: Reservations
) -> None:
    await clock.set("2026-08-10T12:00-03:00")
    tenant_id = await new_tenant(timed_pool, SAO_PAULO, tokens_per_month=1_000)
    wanted = wish(tenant_id, 10, request_id="again")
    lapsed = await store.reserve(wanted)
    await clock.set("2026-08-10T12:02-03:00")
    await sweep_all(timed_pool, store)
    for moment in ("2026-08-10T12:02-03:00", "2026-11-08T12:01-03:00"):
        await clock.set(moment)
        await forget_reservations(timed_pool, KEPT_DAYS)
        assert (await store.reserve(wanted)).state is State.EXPIRED
        with pytest.raises(FailedPrecondition) as late:
            await store.settle(commit(tenant_id, lapsed.reservation_id, 10))
        assert late.value.reason == "RESERVATION_EXPIRED"

    await clock.set("2026-11-08T12:03-03:00")
    await forget_reservations(timed_pool, KEPT_DAYS)
    with pytest.raises(NotFound):
        await store.settle(commit(tenant_id, lapsed.reservation_id, 10))
    again = await store.reserve(replace(wanted, reservation_id="anew"))
    assert (again.reservation_id, again.state) == ("anew", State.HELD)
    assert await discrepancies(timed_pool, tenant_id) == []


@pytest.mark.parametrize("lie", LIES)
async def test_each_lie_about_the_past_is_found(
    timed_pool: asyncpg.Pool, clock: Clock, store: Reservations, lie: str
) -> None:
    tenant_id, *_ = await _eventful_evening(timed_pool, clock, store)
    await clock.set(LATER)
    await forget_reservations(timed_pool, KEPT_DAYS)
    assert await discrepancies(timed_pool, tenant_id) == []
    await _as_superuser(timed_pool, LIES[lie], tenant_id)
    assert await discrepancies(timed_pool, tenant_id)


async def test_forgetting_waits_for_nobody_and_nobody_for_it(
    timed_pool: asyncpg.Pool, clock: Clock, store: Reservations
) -> None:
    tenant_id, _, lasting = await _eventful_evening(timed_pool, clock, store)
    await clock.set(LATER)
    async with tenant_transaction(timed_pool, tenant_id) as somebody:
        await somebody.execute("SELECT FROM tenants WHERE tenant_id = $1 FOR NO KEY UPDATE", tenant_id)
        replicas = (forget_reservations(timed_pool, KEPT_DAYS, at_once=4) for _ in range(3))
        await asyncio.gather(*replicas)
    assert len(await _kept(timed_pool, tenant_id)) == 2, "what is held, with its child"
    assert (await store.extend(more(tenant_id, lasting, 5))).granted == 55
    assert await discrepancies(timed_pool, tenant_id) == []


async def test_signals_go_after_their_time_and_never_while_their_period_goes_on(quiet_pool: asyncpg.Pool) -> None:
    tenant_id = await tenant_with(quiet_pool, day=1_000, percents=[50, 100])
    await use(quiet_pool, tenant_id, 500)
    signals, everybody = SignalStore(quiet_pool), [Subject(tenant_id, Level.TENANT, "")]
    await signals.record(everybody)
    aged = "UPDATE signals SET create_time = now() - interval '60 days' WHERE tenant_id = $1"
    await _as_superuser(quiet_pool, aged, tenant_id)
    await use(quiet_pool, tenant_id, 500)
    await signals.record(everybody)

    await forget_signals(quiet_pool, 61)
    assert [each.percent for each in await signals.newest(tenant_id, None, None, 10)] == [100, 50]
    await forget_signals(quiet_pool, 0)
    assert [each.percent for each in await signals.newest(tenant_id, None, None, 10)] == [100], "PostgreSQL refuses it"
