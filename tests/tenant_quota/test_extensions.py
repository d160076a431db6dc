"""Reservations that grow, and children that spend inside of them."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import asyncpg
import pytest

from services.tenant_quota.audit import discrepancies
from services.tenant_quota.model import Replay
from services.tenant_quota.quota_model import Quota, Reservation, State
from services.tenant_quota.quotas import LedgerFilter, Quotas
from services.tenant_quota.reservations import Reservations
from services.tenant_quota.tenants import Tenants
from shared.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    QuotaExceeded,
    RequestIdReused,
)
from tests.tenant_quota.account_world import ask, entries, month, more, opened
from tests.tenant_quota.world import commit, counters, leases_end, new_tenant, new_user, release, sweep_all


@pytest.fixture
async def store(pool: asyncpg.Pool) -> AsyncIterator[Reservations]:
    async with opened(pool) as (only,):
        yield only


async def test_a_stream_is_paid_in_slices_and_charged_once(pool: asyncpg.Pool, store: Reservations) -> None:
    tenant_id = await new_tenant(pool, tokens_per_day=100)
    user_id = await new_user(pool, tenant_id, tokens_per_month=90)
    held = await store.reserve(ask(tenant_id, 20, user_id=user_id))
    for total in (40, 60, 80):
        assert (await store.extend(more(tenant_id, held.reservation_id, 20))).granted == total
    assert (await store.extend(more(tenant_id, held.reservation_id, 20, minimum=1))).granted == 90
    with pytest.raises(QuotaExceeded) as full:
        await store.extend(more(tenant_id, held.reservation_id, 5))
    assert [each.subject for each in full.value.violations] == [f"user:{user_id}"]
    assert (await counters(pool, tenant_id)).held == 90

    settled = await store.settle(commit(tenant_id, held.reservation_id, 70))
    assert settled.granted == 90
    assert (await counters(pool, tenant_id, user_id)).used == 70
    told = await Quotas(pool).ledger(tenant_id, LedgerFilter(reservation_id=held.reservation_id), None, 50)
    assert [entry.held_delta for entry in told] == [-90, 10, 20, 20, 20, 20]
    assert await discrepancies(pool, tenant_id) == []


async def test_a_refused_extension_is_not_told_to_wait_because_its_periods_stay_what_they_are(
    pool: asyncpg.Pool, store: Reservations
) -> None:
    tenant_id = await new_tenant(pool, tokens_per_day=10, tokens_per_month=10)
    held = await store.reserve(ask(tenant_id, 10))
    with pytest.raises(QuotaExceeded) as full:
        await store.extend(more(tenant_id, held.reservation_id, 1))
    assert full.value.retry_after_seconds is None


async def test_extensions_at_once_never_exceed_a_limit(pool: asyncpg.Pool, other_pool: asyncpg.Pool) -> None:
    tenant_id = await new_tenant(pool, tokens_per_day=100)
    async with opened(pool, other_pool) as stores:
        held = [await stores[0].reserve(ask(tenant_id, 1, user_id="u")) for _ in range(20)]
        answers = await asyncio.gather(
            *(stores[n % 2].extend(more(tenant_id, each.reservation_id, 7)) for n, each in enumerate(held)),
            return_exceptions=True,
        )
    assert sum(isinstance(answer, Reservation) for answer in answers) == 11
    assert (await counters(pool, tenant_id)).held == 20 + 77


async def test_a_lease_runs_anew_and_is_never_made_shorter(pool: asyncpg.Pool, store: Reservations) -> None:
    tenant_id = await new_tenant(pool, tokens_per_day=10)
    held = await store.reserve(ask(tenant_id, 10, lease_seconds=60))
    longer = await store.extend(more(tenant_id, held.reservation_id, 0, lease_seconds=600))
    assert longer.granted == 10, "no token more"
    assert 590 < (longer.expire_time - held.create_time).total_seconds() <= 660
    again = await store.extend(more(tenant_id, held.reservation_id, 0, lease_seconds=5))
    assert again.expire_time == longer.expire_time


async def test_what_is_over_is_not_extended(pool: asyncpg.Pool, store: Reservations) -> None:
    tenant_id, stranger = await new_tenant(pool), await new_tenant(pool)
    settled, released, expired = [await store.reserve(ask(tenant_id, 5)) for _ in range(3)]
    await store.settle(commit(tenant_id, settled.reservation_id, 5))
    await store.settle(release(tenant_id, released.reservation_id))
    await leases_end(pool, tenant_id)
    reasons = []
    for each in (settled, released, expired):
        with pytest.raises(FailedPrecondition) as refused:
            await store.extend(more(tenant_id, each.reservation_id, 1))
        reasons.append(refused.value.reason)
    assert reasons == ["RESERVATION_SETTLED", "RESERVATION_EXPIRED", "RESERVATION_EXPIRED"]
    held = await store.reserve(ask(tenant_id, 5))
    for tenant, reservation_id in ((stranger, held.reservation_id), (tenant_id, "none")):
        with pytest.raises(NotFound):
            await store.extend(more(tenant, reservation_id, 1))
    await Tenants(pool).deactivate(tenant_id)
    with pytest.raises(PermissionDenied):
        await store.extend(more(tenant_id, held.reservation_id, 1))


async def test_the_same_request_id_extends_once(pool: asyncpg.Pool, other_pool: asyncpg.Pool) -> None:
    tenant_id = await new_tenant(pool)
    async with opened(pool, other_pool) as stores:
        held = await stores[0].reserve(ask(tenant_id, 5))
        slice_ = replace(more(tenant_id, held.reservation_id, 7), replay=Replay("slice", b"same"))
        answers = await asyncio.gather(*(stores[n % 2].extend(slice_) for n in range(12)))
        assert {answer.granted for answer in answers} == {12}
        with pytest.raises(RequestIdReused):
            await stores[0].extend(replace(slice_, tokens=8, replay=Replay("slice", b"another")))
    assert (await counters(pool, tenant_id)).held == 12


async def test_children_spend_inside_of_their_parent_and_ask_no_limit_again(
    pool: asyncpg.Pool, store: Reservations
) -> None:
    tenant_id = await new_tenant(pool, tokens_per_day=100)
    user_id = await new_user(pool, tenant_id, tokens_per_day=100)
    parent = await store.reserve(ask(tenant_id, 100, user_id=user_id))
    first = await store.reserve(ask(tenant_id, 60, parent=parent.reservation_id, user_id="another"))
    second = await store.reserve(ask(tenant_id, 60, minimum=1, parent=parent.reservation_id))
    assert (first.granted, second.granted, first.user_id) == (60, 40, user_id)
    with pytest.raises(QuotaExceeded) as full:
        await store.reserve(ask(tenant_id, 1, parent=parent.reservation_id))
    assert [each.subject for each in full.value.violations] == [f"reservation:{parent.reservation_id}"]
    assert (await counters(pool, tenant_id)).held == 100

    await store.settle(commit(tenant_id, first.reservation_id, 45))
    assert (await counters(pool, tenant_id, user_id)) == (await counters(pool, tenant_id))
    assert ((await counters(pool, tenant_id)).used, (await counters(pool, tenant_id)).held) == (45, 55)
    await store.settle(release(tenant_id, second.reservation_id))
    third = await store.reserve(ask(tenant_id, 55, parent=parent.reservation_id))
    await store.settle(commit(tenant_id, third.reservation_id, 20))
    ended = await store.settle(commit(tenant_id, parent.reservation_id, 8))
    assert (ended.child_tokens, ended.usage and ended.usage.total) == (65, 8)
    account = await counters(pool, tenant_id, user_id)
    assert (account.used, account.held) == (73, 0)
    assert await discrepancies(pool, tenant_id) == []


async def test_children_at_once_never_take_more_than_their_parent_holds(
    pool: asyncpg.Pool, other_pool: asyncpg.Pool
) -> None:
    tenant_id = await new_tenant(pool)
    async with opened(pool, other_pool) as stores:
        parent = await stores[0].reserve(ask(tenant_id, 100))
        answers = await asyncio.gather(
            *(stores[n % 2].reserve(ask(tenant_id, 9, parent=parent.reservation_id)) for n in range(30)),
            return_exceptions=True,
        )
        children = [answer for answer in answers if isinstance(answer, Reservation)]
        assert len(children) == 11
        await asyncio.gather(
            *(stores[n % 2].settle(commit(tenant_id, each.reservation_id, 5)) for n, each in enumerate(children)),
            stores[1].settle(commit(tenant_id, parent.reservation_id, 1)),
            return_exceptions=True,
        )
    assert (await counters(pool, tenant_id)).held == 0
    assert await discrepancies(pool, tenant_id) == []


async def test_a_child_that_spends_too_much_is_charged_in_full(pool: asyncpg.Pool, store: Reservations) -> None:
    tenant_id = await new_tenant(pool)
    parent = await store.reserve(ask(tenant_id, 50))
    child, sibling = [await store.reserve(ask(tenant_id, 20, parent=parent.reservation_id)) for _ in range(2)]
    await store.settle(commit(tenant_id, child.reservation_id, 300))
    account = await counters(pool, tenant_id)
    assert (account.used, account.held) == (300, 30), "its sibling and its parent lose nothing"
    await store.settle(commit(tenant_id, sibling.reservation_id, 20))
    await store.settle(commit(tenant_id, parent.reservation_id, 10))
    assert (await counters(pool, tenant_id)).used == 330
    assert await discrepancies(pool, tenant_id) == []


@pytest.mark.parametrize("end", [State.COMMITTED, State.RELEASED, State.EXPIRED])
async def test_the_end_of_a_parent_ends_its_children(pool: asyncpg.Pool, store: Reservations, end: State) -> None:
    tenant_id = await new_tenant(pool)
    parent = await store.reserve(ask(tenant_id, 50))
    spent, left = [await store.reserve(ask(tenant_id, 20, parent=parent.reservation_id)) for _ in range(2)]
    await store.settle(commit(tenant_id, spent.reservation_id, 15))
    if end is State.EXPIRED:
        await leases_end(pool, tenant_id)
        with pytest.raises(FailedPrecondition) as fenced:
            await store.settle(commit(tenant_id, left.reservation_id, 1))
        assert fenced.value.reason == "RESERVATION_EXPIRED", "also before the sweeper comes"
        await sweep_all(pool, store)
    else:
        ending = commit(tenant_id, parent.reservation_id, 5) if end is State.COMMITTED else None
        await store.settle(ending or release(tenant_id, parent.reservation_id))
    with pytest.raises(FailedPrecondition) as late:
        await store.settle(commit(tenant_id, left.reservation_id, 1))
    assert late.value.reason == "RESERVATION_EXPIRED"
    account = await counters(pool, tenant_id)
    assert (account.used, account.held) == (20 if end is State.COMMITTED else 15, 0)
    assert await discrepancies(pool, tenant_id) == []


async def test_a_parent_must_be_held_and_no_child(pool: asyncpg.Pool, store: Reservations) -> None:
    tenant_id = await new_tenant(pool)
    parent, over = [await store.reserve(ask(tenant_id, 50)) for _ in range(2)]
    child = await store.reserve(ask(tenant_id, 20, parent=parent.reservation_id))
    with pytest.raises(InvalidArgument):
        await store.reserve(ask(tenant_id, 1, parent=child.reservation_id))
    with pytest.raises(NotFound):
        await store.reserve(ask(await new_tenant(pool), 1, parent=parent.reservation_id))
    await store.settle(commit(tenant_id, over.reservation_id, 1))
    with pytest.raises(FailedPrecondition) as settled:
        await store.reserve(ask(tenant_id, 1, parent=over.reservation_id))
    assert settled.value.reason == "RESERVATION_SETTLED"


async def test_a_child_grows_out_of_its_parent(pool: asyncpg.Pool, store: Reservations) -> None:
    tenant_id = await new_tenant(pool, tokens_per_day=50)
    parent = await store.reserve(ask(tenant_id, 50))
    child = await store.reserve(ask(tenant_id, 20, parent=parent.reservation_id))
    assert (await store.extend(more(tenant_id, child.reservation_id, 40, minimum=1))).granted == 50
    with pytest.raises(QuotaExceeded):
        await store.extend(more(tenant_id, child.reservation_id, 1))
    await store.settle(commit(tenant_id, child.reservation_id, 50))
    await store.settle(release(tenant_id, parent.reservation_id))
    assert (await counters(pool, tenant_id)).used == 50
    assert await discrepancies(pool, tenant_id) == []


async def test_every_entry_adds_up_to_zero(pool: asyncpg.Pool, store: Reservations) -> None:
    tenant_id = await new_tenant(pool)
    await Quotas(pool).set(Quota(tenant_id, "", tokens_per_day=100))
    held = await store.reserve(ask(tenant_id, 30))
    await store.extend(more(tenant_id, held.reservation_id, 10))
    await store.settle(commit(tenant_id, held.reservation_id, 55))
    other = await store.reserve(ask(tenant_id, 10))
    await store.settle(release(tenant_id, other.reservation_id))
    assert await entries(pool, tenant_id) == [
        (1, 0, -30, 30, 0),
        (1, 0, -10, 10, 0),
        (2, 0, -15, -40, 55),
        (1, 0, -10, 10, 0),
        (3, 0, 10, -10, 0),
    ]
    assert (await month(pool, tenant_id)).used_tokens == 55
