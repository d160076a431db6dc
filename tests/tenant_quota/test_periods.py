"""Days and months begin and end by the database's clock in the tenant's time zone; that clock is set by hand here."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import asyncpg
import pytest

from services.tenant_quota.audit import discrepancies
from services.tenant_quota.quota_model import State
from services.tenant_quota.quotas import Quotas
from services.tenant_quota.reservations import Reservations
from services.tenant_quota.tenants import Tenants
from shared.errors import FailedPrecondition, QuotaExceeded
from tests.tenant_quota.hand_set_clock import Clock
from tests.tenant_quota.world import SAO_PAULO, commit, new_tenant, sweep_all, wish


@pytest.fixture
async def store(timed_pool: asyncpg.Pool) -> AsyncIterator[Reservations]:
    reservations = Reservations(timed_pool)
    yield reservations
    await reservations.close()


async def test_a_day_ends_at_midnight_of_the_tenant(
    timed_pool: asyncpg.Pool, clock: Clock, store: Reservations
) -> None:
    await clock.set("2026-11-20T23:59:58.500-03:00")
    tenant_id = await new_tenant(timed_pool, SAO_PAULO, tokens_per_day=10, tokens_per_month=100)
    await store.reserve(wish(tenant_id, 10, user_id="u"))

    with pytest.raises(QuotaExceeded) as denied:
        await store.reserve(wish(tenant_id, 1, user_id="u"))
    assert denied.value.metadata["window"] == "day"
    assert denied.value.retry_after_seconds == 1.5, "exactly until midnight in São Paulo"

    await clock.set("2026-11-21T00:00:00-03:00")
    assert (await store.reserve(wish(tenant_id, 10, user_id="u"))).granted == 10
    day, month = await Quotas(timed_pool).usage(tenant_id, "")
    assert (day.held_tokens, month.held_tokens) == (10, 20)
    assert day.start_time == datetime(2026, 11, 21, 3, tzinfo=UTC)
    assert day.end_time == datetime(2026, 11, 22, 3, tzinfo=UTC)
    assert month.start_time == datetime(2026, 11, 1, 3, tzinfo=UTC)
    assert month.end_time == datetime(2026, 12, 1, 3, tzinfo=UTC)


async def test_nobody_is_told_to_wait_for_more_than_a_whole_limit(
    timed_pool: asyncpg.Pool, clock: Clock, store: Reservations
) -> None:
    await clock.set("2026-11-20T12:00-03:00")
    tenant_id = await new_tenant(timed_pool, SAO_PAULO, tokens_per_day=10, tokens_per_month=100)
    for tokens, wait in ((10, 12 * 3600), (11, None)):
        await store.reserve(wish(tenant_id, 1))
        with pytest.raises(QuotaExceeded) as denied:
            await store.reserve(wish(tenant_id, tokens))
        assert denied.value.retry_after_seconds == wait


async def test_a_month_ends_at_midnight_of_the_tenant(
    timed_pool: asyncpg.Pool, clock: Clock, store: Reservations
) -> None:
    await clock.set("2026-12-31T22:00-03:00")
    tenant_id = await new_tenant(timed_pool, SAO_PAULO, tokens_per_month=10)
    await store.reserve(wish(tenant_id, 10))
    with pytest.raises(QuotaExceeded) as denied:
        await store.reserve(wish(tenant_id, 1))
    assert denied.value.retry_after_seconds == 2 * 3600
    await clock.set("2027-01-01T00:00-03:00")
    await store.reserve(wish(tenant_id, 10))


async def test_another_zone_has_another_midnight(timed_pool: asyncpg.Pool, clock: Clock, store: Reservations) -> None:
    await clock.set("2026-11-21T00:30-03:00")
    acre = await new_tenant(timed_pool, "America/Rio_Branco", tokens_per_day=10)
    await store.reserve(wish(acre, 10))
    day, _ = await Quotas(timed_pool).usage(acre, "")
    assert day.start_time == datetime(2026, 11, 20, 5, tzinfo=UTC)
    with pytest.raises(QuotaExceeded) as denied:
        await store.reserve(wish(acre, 1))
    assert denied.value.retry_after_seconds == 1.5 * 3600


async def test_a_day_without_a_midnight_begins_when_it_begins(
    timed_pool: asyncpg.Pool, clock: Clock, store: Reservations
) -> None:
    # Daylight saving began in São Paulo on 2018-11-04 at 00:00, which became 01:00: the day had 23 hours.
    await clock.set("2018-11-04T12:00-02:00")
    tenant_id = await new_tenant(timed_pool, SAO_PAULO, tokens_per_day=1)
    await store.reserve(wish(tenant_id, 1))
    day, _ = await Quotas(timed_pool).usage(tenant_id, "")
    assert day.end_time - day.start_time == datetime(2018, 11, 5, 2, tzinfo=UTC) - datetime(2018, 11, 4, 3, tzinfo=UTC)


async def test_a_commit_after_midnight_is_charged_to_the_day_of_its_reservation(
    timed_pool: asyncpg.Pool, clock: Clock, store: Reservations
) -> None:
    await clock.set("2026-11-30T23:59:50-03:00")
    tenant_id = await new_tenant(timed_pool, SAO_PAULO, tokens_per_day=100)
    held = await store.reserve(wish(tenant_id, 50, user_id="u"))
    await clock.set("2026-12-01T00:00:10-03:00")
    await store.settle(commit(tenant_id, held.reservation_id, 40))

    usages = await Quotas(timed_pool).usage(tenant_id, "u")
    assert [(each.used_tokens, each.held_tokens) for each in usages] == [(0, 0)] * 4
    await clock.set("2026-11-30T23:59:59-03:00")
    usages = await Quotas(timed_pool).usage(tenant_id, "u")
    assert [(each.used_tokens, each.held_tokens) for each in usages] == [(40, 0)] * 4
    assert await discrepancies(timed_pool, tenant_id) == []


async def test_a_lease_ends_to_the_instant(timed_pool: asyncpg.Pool, clock: Clock, store: Reservations) -> None:
    await clock.set("2026-11-20T12:00:00-03:00")
    tenant_id = await new_tenant(timed_pool, SAO_PAULO)
    first, second = [await store.reserve(wish(tenant_id, 5, lease_seconds=60)) for _ in range(2)]
    await clock.set("2026-11-20T12:00:59.999-03:00")
    await sweep_all(timed_pool, store)
    assert (await store.settle(commit(tenant_id, first.reservation_id, 5))).state is State.COMMITTED
    await clock.set("2026-11-20T12:01:00-03:00")
    with pytest.raises(FailedPrecondition):
        await store.settle(commit(tenant_id, second.reservation_id, 5))


async def test_a_clock_that_steps_back_breaks_no_account(
    timed_pool: asyncpg.Pool, clock: Clock, store: Reservations
) -> None:
    await clock.set("2026-11-21T00:10-03:00")
    tenant_id = await new_tenant(timed_pool, SAO_PAULO, tokens_per_day=10)
    held = await store.reserve(wish(tenant_id, 10, lease_seconds=3600))
    await clock.set("2026-11-20T23:50-03:00")
    earlier = await store.reserve(wish(tenant_id, 10, lease_seconds=3600))
    with pytest.raises(QuotaExceeded):
        await store.reserve(wish(tenant_id, 1))
    for reservation in (held, earlier):
        await store.settle(commit(tenant_id, reservation.reservation_id, 10))
    assert await discrepancies(timed_pool, tenant_id) == []


async def test_a_tenant_that_moves_to_another_zone_keeps_its_counters(
    timed_pool: asyncpg.Pool, clock: Clock, store: Reservations
) -> None:
    await clock.set("2026-11-20T12:00-03:00")
    tenant_id = await new_tenant(timed_pool, SAO_PAULO, tokens_per_day=10)
    held = await store.reserve(wish(tenant_id, 10))
    await Tenants(timed_pool).update(tenant_id, {"time_zone": "America/Manaus"})
    with pytest.raises(QuotaExceeded):
        await store.reserve(wish(tenant_id, 1))
    await store.settle(commit(tenant_id, held.reservation_id, 10))
    assert await discrepancies(timed_pool, tenant_id) == []
