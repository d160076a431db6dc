"""Tokens beyond the limits: which are drawn on first, what they cover, and how they end."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from services.tenant_quota.audit import discrepancies
from services.tenant_quota.model import Replay
from services.tenant_quota.quota_model import Reservation, TopUp
from services.tenant_quota.reservations import Reservations
from services.tenant_quota.top_ups import TopUps
from shared.errors import InvalidArgument, NotFound, QuotaExceeded, RequestIdReused
from shared.postgres import tenant_transaction
from tests.tenant_quota.account_world import ask, entries, month, more, opened
from tests.tenant_quota.world import commit, fresh, new_tenant, new_user, release, sweep_all


@pytest.fixture
async def store(pool: asyncpg.Pool) -> AsyncIterator[Reservations]:
    async with opened(pool) as (only,):
        yield only


async def give(pool: asyncpg.Pool, tenant_id: str, tokens: int, priority: int = 0, seconds: float = 0) -> TopUp:
    expire_time = datetime.now(UTC) + timedelta(seconds=seconds) if seconds else None
    return await TopUps(pool).create(tenant_id, tokens, priority, expire_time, "a gift", None)


async def state(pool: asyncpg.Pool, top_up: TopUp) -> tuple[int, int]:
    """What of it is used and held."""
    found = {each.top_up_id: each for each in await TopUps(pool).list(top_up.tenant_id, None, 50)}[top_up.top_up_id]
    return found.used, found.held


async def test_a_top_up_is_drawn_on_only_when_a_limit_has_not_enough_left(
    pool: asyncpg.Pool, store: Reservations
) -> None:
    tenant_id = await new_tenant(pool, tokens_per_day=100, tokens_per_month=1_000)
    gift = await give(pool, tenant_id, 50)
    first = await store.reserve(ask(tenant_id, 90))
    assert await state(pool, gift) == (0, 0)
    second = await store.reserve(ask(tenant_id, 40))
    assert await state(pool, gift) == (0, 30)
    with pytest.raises(QuotaExceeded):
        await store.reserve(ask(tenant_id, 21))
    await store.settle(commit(tenant_id, second.reservation_id, 25))
    assert await state(pool, gift) == (15, 0), "its limits' own part is used first"
    usage = await month(pool, tenant_id)
    assert (usage.used_tokens, usage.topped_up_tokens, usage.held_tokens) == (25, 15, 90)
    await store.settle(release(tenant_id, first.reservation_id))
    assert (await store.reserve(ask(tenant_id, 200, minimum=1))).granted == 90 + 35
    assert await discrepancies(pool, tenant_id) == []


async def test_granted_tokens_never_exceed_a_limit_and_its_top_ups(
    pool: asyncpg.Pool, other_pool: asyncpg.Pool
) -> None:
    tenant_id = await new_tenant(pool, tokens_per_day=500)
    gifts = [await give(pool, tenant_id, 100, priority) for priority in (2, 1)]
    async with opened(pool, other_pool) as stores:
        calls = [stores[n % 2].reserve(ask(tenant_id, 30, minimum=1, user_id=f"u{n % 4}")) for n in range(40)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        held = [answer for answer in answers if isinstance(answer, Reservation)]
        assert sum(each.granted for each in held) == 700
        await asyncio.gather(*(stores[0].settle(commit(tenant_id, each.reservation_id, 30)) for each in held))
    assert [(await state(pool, gift))[1] for gift in gifts] == [0, 0]
    assert (await month(pool, tenant_id)).used_tokens == 30 * len(held)
    assert await discrepancies(pool, tenant_id) == []


async def test_the_lowest_priority_goes_first_then_what_expires_first(pool: asyncpg.Pool, store: Reservations) -> None:
    tenant_id = await new_tenant(pool, tokens_per_day=0)
    late, soon, never, first = (
        await give(pool, tenant_id, 10, 5, 900),
        await give(pool, tenant_id, 10, 5, 600),
        await give(pool, tenant_id, 10, 5),
        await give(pool, tenant_id, 10, 1, 1_200),
    )
    order = []
    for _ in range(4):
        await store.reserve(ask(tenant_id, 10))
        order.append([gift for gift in (late, soon, never, first) if (await state(pool, gift))[1] == 10])
    assert order == [[first], [soon, first], [late, soon, first], [late, soon, never, first]]


async def test_a_top_up_lifts_nobody_else_over_their_own_limit(pool: asyncpg.Pool, store: Reservations) -> None:
    tenant_id = await new_tenant(pool, tokens_per_day=10)
    user_id = await new_user(pool, tenant_id, tokens_per_day=15)
    await give(pool, tenant_id, 100)
    with pytest.raises(QuotaExceeded) as denied:
        await store.reserve(ask(tenant_id, 16, user_id=user_id))
    assert [each.subject for each in denied.value.violations] == [f"user:{user_id}"]
    assert (await store.reserve(ask(tenant_id, 99, minimum=1, user_id=user_id))).granted == 15


async def test_what_is_held_of_a_top_up_when_it_expires_may_still_be_used(
    pool: asyncpg.Pool, store: Reservations
) -> None:
    tenant_id = await new_tenant(pool, tokens_per_day=0)
    gift = await give(pool, tenant_id, 100, seconds=60)
    held = await store.reserve(ask(tenant_id, 60))
    async with tenant_transaction(pool, tenant_id) as connection:
        await connection.execute("UPDATE top_ups SET expire_time = clock_timestamp()")
    await sweep_all(pool, store)
    with pytest.raises(QuotaExceeded):
        await store.reserve(ask(tenant_id, 1))
    await store.settle(commit(tenant_id, held.reservation_id, 45))
    assert await state(pool, gift) == (45, 0)
    assert await entries(pool, tenant_id) == [
        (5, -100, 100, 0, 0),
        (1, 0, -60, 60, 0),
        (6, 40, -40, 0, 0),
        (2, 0, 15, -60, 45),
        (6, 15, -15, 0, 0),
    ], "what comes back after the end goes too"
    assert await discrepancies(pool, tenant_id) == []


async def test_a_revoked_top_up_gives_nothing_more(pool: asyncpg.Pool, store: Reservations) -> None:
    tenant_id = await new_tenant(pool, tokens_per_day=0)
    gift = await give(pool, tenant_id, 100)
    await store.reserve(ask(tenant_id, 30))
    ended = await TopUps(pool).revoke(tenant_id, gift.top_up_id)
    assert ended.expire_time is not None
    assert await TopUps(pool).revoke(tenant_id, gift.top_up_id) == ended
    with pytest.raises(QuotaExceeded):
        await store.reserve(ask(tenant_id, 1))
    for stranger, top_up_id in ((await new_tenant(pool), gift.top_up_id), (tenant_id, "none")):
        with pytest.raises(NotFound):
            await TopUps(pool).revoke(stranger, top_up_id)
    assert await discrepancies(pool, tenant_id) == []


async def test_a_stream_and_a_team_draw_on_top_ups_too(pool: asyncpg.Pool, store: Reservations) -> None:
    tenant_id = await new_tenant(pool, tokens_per_day=50)
    gift = await give(pool, tenant_id, 100)
    parent = await store.reserve(ask(tenant_id, 40))
    assert (await store.extend(more(tenant_id, parent.reservation_id, 60))).granted == 100
    assert await state(pool, gift) == (0, 50)
    child = await store.reserve(ask(tenant_id, 70, parent=parent.reservation_id))
    await store.settle(commit(tenant_id, child.reservation_id, 65))
    await store.settle(commit(tenant_id, parent.reservation_id, 10))
    assert await state(pool, gift) == (25, 0)
    assert (await month(pool, tenant_id)).topped_up_tokens == 25
    assert (await store.reserve(ask(tenant_id, 75))).granted == 75, "of the gift, since the day is used up"
    assert await discrepancies(pool, tenant_id) == []


async def test_a_top_up_is_given_once_for_a_request_id_and_never_expired(pool: asyncpg.Pool) -> None:
    tenant_id, store = await new_tenant(pool), TopUps(pool)
    replay = Replay("gift", b"same")
    given = await asyncio.gather(*(store.create(tenant_id, 5, 0, None, "", replay) for _ in range(5)))
    assert len(set(given)) == 1
    with pytest.raises(RequestIdReused):
        await store.create(tenant_id, 6, 0, None, "", Replay("gift", b"another"))
    with pytest.raises(InvalidArgument):
        await store.create(tenant_id, 5, 0, datetime.now(UTC) - timedelta(seconds=1), "", None)
    with pytest.raises(NotFound):
        await store.create(fresh("nobody"), 5, 0, None, "", None)
    assert len(await store.list(tenant_id, None, 10)) == 1


async def test_nobody_lowers_the_sums_of_a_top_up_below_zero(pool: asyncpg.Pool) -> None:
    tenant_id = await new_tenant(pool)
    await give(pool, tenant_id, 5)
    with pytest.raises(asyncpg.CheckViolationError):
        async with tenant_transaction(pool, tenant_id) as connection:
            await connection.execute("UPDATE top_ups SET used = 6")
