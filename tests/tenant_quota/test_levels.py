"""Tenant, user and key at once; plans beneath them; a level that begins to count in the middle of a month."""

import asyncio
import random
from collections.abc import AsyncIterator

import asyncpg
import pytest

from services.tenant_quota.audit import discrepancies
from services.tenant_quota.quota_model import Enforcement, Quota, Reservation
from services.tenant_quota.quotas import Quotas
from services.tenant_quota.reservations import Reservations
from services.tenant_quota.tenants import Tenants
from shared.errors import InvalidArgument, NotFound, QuotaExceeded
from tests.tenant_quota.account_world import ask, give_plan, month, new_key, new_plan, opened
from tests.tenant_quota.world import commit, fresh, new_tenant, new_user, release


@pytest.fixture
async def store(pool: asyncpg.Pool) -> AsyncIterator[Reservations]:
    async with opened(pool) as (only,):
        yield only


async def test_granted_tokens_never_exceed_the_limit_of_any_level(pool: asyncpg.Pool, other_pool: asyncpg.Pool) -> None:
    tenant_id = await new_tenant(pool, tokens_per_day=30_000, tokens_per_month=25_000)
    users = [await new_user(pool, tenant_id, tokens_per_month=7_000) for _ in range(3)]
    keys = [await new_key(pool, tenant_id) for _ in range(4)]
    for key_id in keys:
        await Quotas(pool).set(Quota(tenant_id, "", tokens_per_day=6_500, key_id=key_id))
    granted: dict[str, int] = dict.fromkeys([*users, *keys, ""], 0)

    async with opened(pool, other_pool) as stores:

        async def client(number: int) -> None:
            dice = random.Random(number)
            for _ in range(15):
                user_id, key_id = dice.choice([*users, ""]), dice.choice(keys)
                asked = ask(tenant_id, dice.choice([7, 100, 900]), user_id=user_id, key_id=key_id, minimum=1)
                try:
                    held = await stores[number % 2].reserve(asked)
                except QuotaExceeded:
                    continue
                for each in {user_id, key_id, ""}:
                    granted[each] += held.granted

        await asyncio.gather(*(client(number) for number in range(48)))

    assert all(granted[user_id] <= 7_000 for user_id in users)
    assert all(granted[key_id] <= 6_500 for key_id in keys)
    assert granted[""] == 25_000, "with clients that take any single token, the limit is met exactly"
    for key_id in keys:
        assert (await month(pool, tenant_id, key_id=key_id)).held_tokens == granted[key_id]
    assert await discrepancies(pool, tenant_id) == []


async def test_a_denial_names_every_full_limit_of_every_level(pool: asyncpg.Pool, store: Reservations) -> None:
    tenant_id = await new_tenant(pool, tokens_per_month=10)
    user_id, key_id = await new_user(pool, tenant_id, tokens_per_day=11), await new_key(pool, tenant_id)
    await Quotas(pool).set(Quota(tenant_id, "", tokens_per_day=12, key_id=key_id))
    with pytest.raises(QuotaExceeded) as denied:
        await store.reserve(ask(tenant_id, 20, user_id=user_id, key_id=key_id))
    subjects = [each.subject for each in denied.value.violations]
    assert subjects == [f"tenant:{tenant_id}", f"user:{user_id}", f"key:{key_id}"]
    assert denied.value.metadata["window"] == "month", "the window that ends last"
    with pytest.raises(QuotaExceeded) as denied:
        await store.reserve(ask(tenant_id, 11, user_id=user_id))
    assert [each.subject for each in denied.value.violations] == [f"tenant:{tenant_id}"]


@pytest.mark.parametrize("level", ["user", "key"])
async def test_a_level_limited_in_mid_period_starts_from_what_it_used_and_holds(
    pool: asyncpg.Pool, store: Reservations, level: str
) -> None:
    tenant_id = await new_tenant(pool)
    user_id, key_id = fresh("user"), await new_key(pool, tenant_id)
    await Tenants(pool).create_user(tenant_id, user_id, "Ana", f"{user_id}@example.org", 3, None)  # type: ignore[arg-type]
    used, held, open_, foreign = [
        await store.reserve(ask(tenant_id, tokens, user_id=user, key_id=key))
        for tokens, user, key in ((30, user_id, key_id), (20, user_id, key_id), (5, user_id, key_id), (99, "x", "y"))
    ]
    await store.settle(commit(tenant_id, used.reservation_id, 25))
    names = {"user": (user_id, ""), "key": ("", key_id)}[level]

    await Quotas(pool).set(Quota(tenant_id, names[0], tokens_per_day=100, tokens_per_month=100, key_id=names[1]))
    before = await month(pool, tenant_id, *names)
    assert (before.used_tokens, before.held_tokens, before.limit_tokens) == (25, 25, 100)
    with pytest.raises(QuotaExceeded):
        await store.reserve(ask(tenant_id, 51, user_id=user_id, key_id=key_id))
    assert (await store.reserve(ask(tenant_id, 50, user_id=user_id, key_id=key_id))).granted == 50
    await store.settle(commit(tenant_id, held.reservation_id, 20))
    await store.settle(release(tenant_id, open_.reservation_id))
    await store.settle(commit(tenant_id, foreign.reservation_id, 99))

    after = await month(pool, tenant_id, *names)
    assert (after.used_tokens, after.held_tokens) == (45, 50)
    assert await discrepancies(pool, tenant_id) == []


async def test_a_level_limited_while_children_are_open_counts_what_they_use(
    pool: asyncpg.Pool, store: Reservations
) -> None:
    tenant_id = await new_tenant(pool)
    user_id = await new_user(pool, tenant_id)
    parent = await store.reserve(ask(tenant_id, 10, user_id=user_id))
    child = await store.reserve(ask(tenant_id, 4, user_id=user_id, parent=parent.reservation_id))

    await Quotas(pool).set(Quota(tenant_id, user_id, None, 100))
    other = await store.reserve(ask(tenant_id, 5, user_id=user_id))
    held = await month(pool, tenant_id, user_id)
    assert (held.used_tokens, held.held_tokens) == (0, 15)

    await store.settle(commit(tenant_id, child.reservation_id, 3))
    await store.settle(release(tenant_id, parent.reservation_id))
    await store.settle(release(tenant_id, other.reservation_id))
    left = await month(pool, tenant_id, user_id)
    assert (left.used_tokens, left.held_tokens) == (3, 0)
    assert await discrepancies(pool, tenant_id) == []


async def test_a_key_without_a_quota_is_counted_nowhere_and_shown_all_the_same(
    pool: asyncpg.Pool, store: Reservations
) -> None:
    tenant_id, key_id = await new_tenant(pool), fresh("key")
    held = await store.reserve(ask(tenant_id, 9, key_id=key_id))
    await store.settle(commit(tenant_id, held.reservation_id, 4))
    await store.reserve(ask(tenant_id, 7, key_id=key_id))
    shown = await month(pool, tenant_id, key_id=key_id)
    assert (shown.used_tokens, shown.held_tokens, shown.limit_tokens) == (4, 7, None)


async def test_what_a_quota_leaves_open_its_plan_decides(pool: asyncpg.Pool, store: Reservations) -> None:
    tenant_id = await new_tenant(pool, tokens_per_day=50)
    await new_plan(pool, tenant_id, tokens_per_day=10, tokens_per_month=60)
    assert (await month(pool, tenant_id)).limit_tokens == 60
    assert (await store.reserve(ask(tenant_id, 50))).granted == 50, "its own limit of the day, not the plan's"
    await Quotas(pool).set(Quota(tenant_id, ""))
    with pytest.raises(QuotaExceeded) as denied:
        await store.reserve(ask(tenant_id, 11))
    assert len(denied.value.violations) == 2
    await Quotas(pool).set(Quota(tenant_id, "", unlimited=True))
    assert (await store.reserve(ask(tenant_id, 10**9))).granted == 10**9
    assert (await month(pool, tenant_id)).limit_tokens is None


async def test_a_plan_changed_in_mid_period_counts_against_what_was_used_so_far(
    pool: asyncpg.Pool, store: Reservations
) -> None:
    tenant_id = await new_tenant(pool)
    small = await new_plan(pool, tenant_id, tokens_per_month=100)
    held = await store.reserve(ask(tenant_id, 100, user_id="u", key_id="k"))
    await store.settle(commit(tenant_id, held.reservation_id, 90))
    await new_plan(pool, tenant_id, tokens_per_month=1_000, user_tokens_per_month=150, key_tokens_per_day=120)
    with pytest.raises(QuotaExceeded) as denied:
        await store.reserve(ask(tenant_id, 61, user_id="u", key_id="k"))
    assert [each.subject for each in denied.value.violations] == ["user:u", "key:k"]
    assert (await store.reserve(ask(tenant_id, 30, user_id="u", key_id="k"))).granted == 30
    await give_plan(pool, tenant_id, small)
    with pytest.raises(QuotaExceeded):
        await store.reserve(ask(tenant_id, 1))
    assert (await month(pool, tenant_id)).used_tokens == 90, "a smaller plan takes nothing back"
    assert await discrepancies(pool, tenant_id) == []


async def test_a_soft_limit_of_a_plan_is_shown_and_never_denies(pool: asyncpg.Pool, store: Reservations) -> None:
    tenant_id = await new_tenant(pool)
    await new_plan(pool, tenant_id, tokens_per_month=10, user_tokens_per_month=5, enforcement=Enforcement.SOFT)
    assert (await store.reserve(ask(tenant_id, 50, user_id="u"))).granted == 50
    assert (await month(pool, tenant_id)).limit_tokens == 10
    assert (await month(pool, tenant_id, "u")).held_tokens == 50


async def test_many_first_calls_of_limited_users_and_keys_make_one_balance_each(
    pool: asyncpg.Pool, other_pool: asyncpg.Pool
) -> None:
    tenant_id = await new_tenant(pool)
    await new_plan(pool, tenant_id, user_tokens_per_month=10, key_tokens_per_month=25)
    async with opened(pool, other_pool) as stores:
        calls = [stores[n % 2].reserve(ask(tenant_id, 1, user_id=f"u{n % 3}", key_id="k")) for n in range(40)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(answer, Reservation) for answer in answers) == 25
    assert (await month(pool, tenant_id, key_id="k")).held_tokens == 25
    assert await discrepancies(pool, tenant_id) == []


async def test_a_quota_that_contradicts_itself_is_refused(pool: asyncpg.Pool) -> None:
    for wrong in (
        {"user_id": "u", "key_id": "k"},
        {"unlimited": True, "tokens_per_day": 1},
        {"user_id": "u", "fair_share_borrow_percent": 1},
        {"fair_share_weight": 2},
    ):
        with pytest.raises(InvalidArgument):
            Quota(**{"tenant_id": "t", "user_id": "", **wrong})  # type: ignore[arg-type]
    tenant_id = await new_tenant(pool)
    with pytest.raises(NotFound):
        await Quotas(pool).set(Quota(tenant_id, "", key_id="nobody's"))
    stranger = await new_key(pool, await new_tenant(pool))
    with pytest.raises(NotFound):
        await Quotas(pool).get(tenant_id, "", stranger)


async def test_a_fair_share_keeps_a_user_from_draining_the_month(pool: asyncpg.Pool, store: Reservations) -> None:
    tenant_id = await new_tenant(pool)
    heavy, light, gone = [await new_user(pool, tenant_id) for _ in range(3)]
    await Quotas(pool).set(Quota(tenant_id, heavy, fair_share_weight=3))
    await Tenants(pool).update_user(tenant_id, gone, {"active": False})
    await Quotas(pool).set(Quota(tenant_id, "", tokens_per_month=1_000, fair_share_borrow_percent=0))
    assert (await month(pool, tenant_id, heavy)).limit_tokens == 750
    assert (await store.reserve(ask(tenant_id, 900, minimum=1, user_id=heavy))).granted == 750
    assert (await store.reserve(ask(tenant_id, 900, minimum=1, user_id=light))).granted == 250
    await Quotas(pool).set(Quota(tenant_id, "", tokens_per_month=2_000, fair_share_borrow_percent=50))
    assert (await month(pool, tenant_id, light)).limit_tokens == 750, "a quarter and half of it again"
    assert (await store.reserve(ask(tenant_id, 900, minimum=1, user_id=light))).granted == 500
    await Tenants(pool).update_user(tenant_id, gone, {"active": True})
    assert (await month(pool, tenant_id, light)).limit_tokens == 600
    assert await discrepancies(pool, tenant_id) == []
