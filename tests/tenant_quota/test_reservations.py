"""The account under concurrency: limits, idempotency, leases, and what the ledger says of it all."""

import asyncio
import random
from collections.abc import AsyncIterator

import asyncpg
import pytest

from services.tenant_quota.audit import discrepancies
from services.tenant_quota.quota_model import Enforcement, Quota, Reservation, State
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
from tests.tenant_quota.world import commit, counters, fresh, leases_end, new_tenant, new_user, release, sweep_all, wish

CLIENTS = 64


@pytest.fixture
async def store(pool: asyncpg.Pool) -> AsyncIterator[Reservations]:
    reservations = Reservations(pool)
    yield reservations
    await reservations.close()


@pytest.fixture
async def replicas(pool: asyncpg.Pool, other_pool: asyncpg.Pool) -> AsyncIterator[list[Reservations]]:
    """Two of them: own pools, own coalescers, the same rows."""
    stores = [Reservations(pool), Reservations(other_pool)]
    yield stores
    for reservations in stores:
        await reservations.close()


async def test_granted_tokens_never_exceed_a_hard_limit(pool: asyncpg.Pool, replicas: list[Reservations]) -> None:
    limit = 40_000
    tenant_id = await new_tenant(pool, tokens_per_day=limit, tokens_per_month=10 * limit)
    users = [await new_user(pool, tenant_id, tokens_per_day=6_000) for _ in range(8)]
    granted: list[int] = []
    refused = 0

    async def client(number: int) -> None:
        nonlocal refused
        dice = random.Random(number)
        for _ in range(20):
            size = dice.choice([1, 7, 100, 333, 1_000])
            minimum = dice.choice([size, 1])
            chosen = wish(tenant_id, size, minimum=minimum, user_id=users[number % len(users)])
            try:
                reservation = await replicas[number % 2].reserve(chosen)
            except QuotaExceeded:
                refused += 1
            else:
                assert minimum <= reservation.granted <= size
                granted.append(reservation.granted)

    await asyncio.gather(*(client(number) for number in range(CLIENTS)))

    assert refused > 0
    assert sum(granted) == limit, "with clients that take any single token, the limit is met exactly"
    assert (await counters(pool, tenant_id)).held == limit
    for user_id in users:
        assert (await counters(pool, tenant_id, user_id)).held <= 6_000
    assert await discrepancies(pool, tenant_id) == []


async def test_nothing_stays_held_after_all_work_ends(pool: asyncpg.Pool, replicas: list[Reservations]) -> None:
    tenants = [await new_tenant(pool, tokens_per_month=20_000) for _ in range(3)]
    used = dict.fromkeys(tenants, 0)

    async def client(number: int) -> None:
        dice = random.Random(1_000 + number)
        store = replicas[number % 2]
        for _ in range(15):
            tenant_id = dice.choice(tenants)
            try:
                held = await store.reserve(wish(tenant_id, dice.randint(1, 400), user_id=f"u{number % 5}"))
            except QuotaExceeded:
                continue
            if dice.random() < 0.3:
                await store.settle(release(tenant_id, held.reservation_id))
            else:
                spent = dice.randint(0, held.granted)
                await replicas[dice.randint(0, 1)].settle(commit(tenant_id, held.reservation_id, spent))
                used[tenant_id] += spent

    await asyncio.gather(*(client(number) for number in range(CLIENTS)))

    for tenant_id in tenants:
        account = await counters(pool, tenant_id)
        assert account.held == 0
        assert account.used == used[tenant_id]
        assert await discrepancies(pool, tenant_id) == []


async def test_what_a_dead_holder_holds_returns_when_its_lease_ends(
    pool: asyncpg.Pool, replicas: list[Reservations]
) -> None:
    tenant_id = await new_tenant(pool, tokens_per_day=1_000)
    holds = [wish(tenant_id, 10, user_id="u") for _ in range(100)]
    held = await asyncio.gather(*(replicas[0].reserve(each) for each in holds))
    with pytest.raises(QuotaExceeded):
        await replicas[1].reserve(wish(tenant_id, 1))

    await leases_end(pool, tenant_id)
    await asyncio.gather(*(replica.sweep(30) for replica in replicas * 6))
    await sweep_all(pool, replicas[0])

    assert (await counters(pool, tenant_id)).held == 0
    assert await discrepancies(pool, tenant_id) == []
    kinds = [entry.kind for entry in await Quotas(pool).ledger(tenant_id, LedgerFilter(), None, 1000)]
    assert sorted(kinds) == [1] * len(held) + [4] * len(held), "each is given back once"
    with pytest.raises(FailedPrecondition) as late:
        await replicas[0].settle(commit(tenant_id, held[0].reservation_id, 5))
    assert late.value.reason == "RESERVATION_EXPIRED"


async def test_a_commit_past_the_lease_is_fenced_even_before_the_sweeper_comes(
    pool: asyncpg.Pool, store: Reservations
) -> None:
    tenant_id = await new_tenant(pool)
    held = await store.reserve(wish(tenant_id, 10))
    await leases_end(pool, tenant_id)

    with pytest.raises(FailedPrecondition) as late:
        await store.settle(commit(tenant_id, held.reservation_id, 5))

    assert late.value.reason == "RESERVATION_EXPIRED"
    account = await counters(pool, tenant_id)
    assert (account.used, account.held) == (0, 0)
    given_back = await store.settle(release(tenant_id, held.reservation_id))
    assert given_back.state is State.EXPIRED
    assert await discrepancies(pool, tenant_id) == []


async def test_25_concurrent_first_calls_of_a_brand_new_tenant_make_one_balance(
    pool: asyncpg.Pool, replicas: list[Reservations]
) -> None:
    tenant_id = await new_tenant(pool, tokens_per_day=25)
    calls = [replicas[n % 2].reserve(wish(tenant_id, 1, user_id="first")) for n in range(26)]
    answers = await asyncio.gather(*calls, return_exceptions=True)

    assert sum(isinstance(answer, Reservation) for answer in answers) == 25
    assert sum(isinstance(answer, QuotaExceeded) for answer in answers) == 1
    assert (await counters(pool, tenant_id)).held == 25
    assert (await counters(pool, tenant_id, "first")).held == 25


async def test_all_levels_are_held_or_none(pool: asyncpg.Pool, store: Reservations) -> None:
    tenant_id = await new_tenant(pool, tokens_per_day=100, tokens_per_month=1_000)
    user_id = await new_user(pool, tenant_id, tokens_per_day=1_000, tokens_per_month=30)
    await store.reserve(wish(tenant_id, 20, user_id=user_id))

    with pytest.raises(QuotaExceeded) as denied:
        await store.reserve(wish(tenant_id, 20, user_id=user_id))

    assert [each.subject for each in denied.value.violations] == [f"user:{user_id}"]
    assert denied.value.metadata["window"] == "month"
    assert denied.value.metadata["limit"] == "30"
    assert denied.value.metadata["held"] == "20"
    assert (await counters(pool, tenant_id)).held == 20
    assert (await counters(pool, tenant_id, user_id)).held == 20


async def test_less_is_granted_when_less_is_left_but_never_below_the_minimum(
    pool: asyncpg.Pool, store: Reservations
) -> None:
    tenant_id = await new_tenant(pool, tokens_per_day=100)
    assert (await store.reserve(wish(tenant_id, 70, minimum=10))).granted == 70
    assert (await store.reserve(wish(tenant_id, 70, minimum=30))).granted == 30
    with pytest.raises(QuotaExceeded):
        await store.reserve(wish(tenant_id, 70, minimum=1))


async def test_a_soft_limit_never_denies_and_shows_the_excess(pool: asyncpg.Pool, store: Reservations) -> None:
    tenant_id = await new_tenant(pool)
    await Quotas(pool).set(Quota(tenant_id, "", tokens_per_day=10, enforcement=Enforcement.SOFT))
    assert (await store.reserve(wish(tenant_id, 50))).granted == 50
    day, _ = await Quotas(pool).usage(tenant_id, "")
    assert (day.limit_tokens, day.held_tokens) == (10, 50)


async def test_a_zero_limit_grants_nothing(pool: asyncpg.Pool, store: Reservations) -> None:
    tenant_id = await new_tenant(pool, tokens_per_month=0)
    with pytest.raises(QuotaExceeded):
        await store.reserve(wish(tenant_id, 1))


async def test_without_a_quota_everything_is_granted_and_counted(pool: asyncpg.Pool, store: Reservations) -> None:
    tenant_id = await new_tenant(pool)
    held = await store.reserve(wish(tenant_id, 1_000_000_000))
    assert (await counters(pool, tenant_id)).held == held.granted == 1_000_000_000


async def test_lowering_a_limit_takes_nothing_back(pool: asyncpg.Pool, store: Reservations) -> None:
    tenant_id = await new_tenant(pool, tokens_per_day=100)
    held = await store.reserve(wish(tenant_id, 80))
    await Quotas(pool).set(Quota(tenant_id, "", tokens_per_day=50))
    with pytest.raises(QuotaExceeded):
        await store.reserve(wish(tenant_id, 1))
    settled = await store.settle(commit(tenant_id, held.reservation_id, 80))
    assert settled.state is State.COMMITTED


async def test_usage_beyond_the_grant_is_charged_in_full(pool: asyncpg.Pool, store: Reservations) -> None:
    tenant_id = await new_tenant(pool, tokens_per_day=100)
    held = await store.reserve(wish(tenant_id, 10, user_id="u"))
    await store.settle(commit(tenant_id, held.reservation_id, 500))
    account = await counters(pool, tenant_id)
    assert (account.used, account.held) == (500, 0)
    with pytest.raises(QuotaExceeded):
        await store.reserve(wish(tenant_id, 1))


async def test_a_reported_zero_stays_zero(pool: asyncpg.Pool, store: Reservations) -> None:
    tenant_id = await new_tenant(pool)
    held = await store.reserve(wish(tenant_id, 10))
    settled = await store.settle(commit(tenant_id, held.reservation_id, 0))
    assert settled.usage is not None
    assert settled.usage.total == 0
    assert (await counters(pool, tenant_id)).used == 0


async def test_the_same_request_id_holds_the_tokens_once(pool: asyncpg.Pool, replicas: list[Reservations]) -> None:
    tenant_id = await new_tenant(pool, tokens_per_day=10)
    calls = [replicas[n % 2].reserve(wish(tenant_id, 10, request_id="turn-1")) for n in range(40)]
    answers = await asyncio.gather(*calls)
    assert len({answer.reservation_id for answer in answers}) == 1
    assert {answer.granted for answer in answers} == {10}
    assert (await counters(pool, tenant_id)).held == 10


async def test_the_same_request_id_with_another_payload_is_refused(pool: asyncpg.Pool, store: Reservations) -> None:
    tenant_id = await new_tenant(pool)
    await store.reserve(wish(tenant_id, 10, request_id="turn-1"))
    with pytest.raises(RequestIdReused):
        await store.reserve(wish(tenant_id, 11, request_id="turn-1", fingerprint=b"another"))
    other = await new_tenant(pool)
    assert (await store.reserve(wish(other, 11, request_id="turn-1", fingerprint=b"another"))).granted == 11


@pytest.mark.parametrize("end", [State.COMMITTED, State.RELEASED, State.EXPIRED])
async def test_a_repeated_request_id_gives_the_reservation_as_it_is_now(
    pool: asyncpg.Pool, store: Reservations, end: State
) -> None:
    tenant_id = await new_tenant(pool)
    asked = wish(tenant_id, 10, request_id="turn")
    held = await store.reserve(asked)
    if end is State.COMMITTED:
        await store.settle(commit(tenant_id, held.reservation_id, 7, cost_micros=3))
    elif end is State.RELEASED:
        await store.settle(release(tenant_id, held.reservation_id))
    else:
        await leases_end(pool, tenant_id)
        await sweep_all(pool, store)

    again = await store.reserve(wish(tenant_id, 10, request_id="turn"))

    assert again.reservation_id == held.reservation_id
    assert again.state is end
    assert again.granted == 10
    assert again.cost_micros == (3 if end is State.COMMITTED else 0)
    assert (await counters(pool, tenant_id)).held == 0


async def test_committing_the_same_usage_again_changes_nothing(
    pool: asyncpg.Pool, replicas: list[Reservations]
) -> None:
    tenant_id = await new_tenant(pool)
    held = await replicas[0].reserve(wish(tenant_id, 10))
    same = commit(tenant_id, held.reservation_id, 8, cost_micros=5)
    answers = await asyncio.gather(*(replicas[n % 2].settle(same) for n in range(20)))
    assert len(set(answers)) == 1
    assert (await counters(pool, tenant_id)).used == 8
    with pytest.raises(FailedPrecondition) as other:
        await replicas[0].settle(commit(tenant_id, held.reservation_id, 9, cost_micros=5))
    assert other.value.reason == "RESERVATION_SETTLED"
    with pytest.raises(FailedPrecondition) as too_late:
        await replicas[0].settle(release(tenant_id, held.reservation_id))
    assert too_late.value.reason == "RESERVATION_SETTLED"
    assert (await counters(pool, tenant_id)).used == 8


async def test_releasing_again_changes_nothing_and_then_no_commit_is_taken(
    pool: asyncpg.Pool, store: Reservations
) -> None:
    tenant_id = await new_tenant(pool)
    held = await store.reserve(wish(tenant_id, 10))
    first, second = [await store.settle(release(tenant_id, held.reservation_id)) for _ in range(2)]
    assert first == second
    assert first.state is State.RELEASED
    with pytest.raises(FailedPrecondition) as late:
        await store.settle(commit(tenant_id, held.reservation_id, 1))
    assert late.value.reason == "RESERVATION_EXPIRED"


async def test_a_commit_and_a_release_at_once_have_one_winner(pool: asyncpg.Pool, replicas: list[Reservations]) -> None:
    tenant_id = await new_tenant(pool)
    for _ in range(20):
        held = await replicas[0].reserve(wish(tenant_id, 10))
        await asyncio.gather(
            replicas[0].settle(commit(tenant_id, held.reservation_id, 10)),
            replicas[1].settle(release(tenant_id, held.reservation_id)),
            return_exceptions=True,
        )
    assert (await counters(pool, tenant_id)).held == 0
    assert await discrepancies(pool, tenant_id) == []


async def test_a_foreign_reservation_is_not_found(pool: asyncpg.Pool, store: Reservations) -> None:
    owner, stranger = await new_tenant(pool), await new_tenant(pool)
    held = await store.reserve(wish(owner, 10))
    for settlement in (commit(stranger, held.reservation_id, 1), release(stranger, held.reservation_id)):
        with pytest.raises(NotFound):
            await store.settle(settlement)
    assert (await counters(pool, owner)).held == 10


async def test_a_missing_tenant_is_not_found_and_a_deactivated_one_is_refused(
    pool: asyncpg.Pool, store: Reservations
) -> None:
    tenant_id = await new_tenant(pool)
    held = await store.reserve(wish(tenant_id, 10))
    await Tenants(pool).deactivate(tenant_id)
    missing, refused, other = await asyncio.gather(
        store.reserve(wish(fresh("nobody"), 1)),
        store.reserve(wish(tenant_id, 1)),
        store.reserve(wish(await new_tenant(pool), 1)),
        return_exceptions=True,
    )
    assert isinstance(missing, NotFound)
    assert isinstance(refused, PermissionDenied)
    assert refused.reason == "TENANT_INACTIVE"
    assert isinstance(other, Reservation), "one bad request does not spoil its batch"
    assert (await store.settle(commit(tenant_id, held.reservation_id, 4))).state is State.COMMITTED


async def test_a_text_the_database_cannot_keep_fails_alone(pool: asyncpg.Pool, store: Reservations) -> None:
    tenant_id = await new_tenant(pool)
    bad = wish(tenant_id, 1, user_id="nul\0")
    good = [wish(tenant_id, 1) for _ in range(5)]
    answers = await asyncio.gather(*(store.reserve(each) for each in [bad, *good]), return_exceptions=True)
    assert isinstance(answers[0], InvalidArgument)
    assert all(isinstance(answer, Reservation) for answer in answers[1:])


async def test_the_ledger_tells_each_movement_with_its_labels(pool: asyncpg.Pool, store: Reservations) -> None:
    tenant_id = await new_tenant(pool)
    held = await store.reserve(wish(tenant_id, 10, user_id="u"))
    await store.settle(commit(tenant_id, held.reservation_id, 7, cost_micros=42))

    settled, reserved = await Quotas(pool).ledger(tenant_id, LedgerFilter(), None, 10)

    assert (reserved.held_delta, reserved.used_delta, reserved.usage) == (10, 0, None)
    assert (settled.held_delta, settled.used_delta, settled.cost_micros) == (-10, 7, 42)
    assert settled.usage is not None
    assert settled.usage.total == settled.used_delta
    assert settled.entry_id > reserved.entry_id
    for entry in (reserved, settled):
        labels = (entry.model, entry.conversation_id, entry.assistant_id, entry.user_id, entry.key_id)
        assert labels == ("model", "conversation", "assistant", "u", "key")
