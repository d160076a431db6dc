"""Money: what is held for the dearest case, and what the price book says in the end."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import asyncpg
import pytest

from services.tenant_quota.audit import discrepancies
from services.tenant_quota.quota_model import Quota, State, TokenUsage, UnpricedModels
from services.tenant_quota.quotas import LedgerFilter, Quotas
from services.tenant_quota.reservations import Reservations
from shared.errors import FailedPrecondition, QuotaExceeded
from tests.tenant_quota.account_world import ask, month, more, new_key, new_plan, new_price, opened
from tests.tenant_quota.world import commit, fresh, new_tenant, release


@pytest.fixture
async def store(pool: asyncpg.Pool) -> AsyncIterator[Reservations]:
    async with opened(pool) as (only,):
        yield only


async def test_granted_cost_never_exceeds_a_hard_limit(pool: asyncpg.Pool, other_pool: asyncpg.Pool) -> None:
    tenant_id, model = await new_tenant(pool), fresh("model")
    await new_price(pool, model, 1_000_000, 100_000, 4_000_000, 4_000_000)
    await Quotas(pool).set(Quota(tenant_id, "", cost_micros_per_month=10_001))
    async with opened(pool, other_pool) as stores:
        calls = [stores[n % 2].reserve(ask(tenant_id, 90, minimum=1, model=model)) for n in range(60)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
    granted = [answer for answer in answers if not isinstance(answer, BaseException)]
    assert sum(each.granted for each in granted) == 2_500
    assert sum(each.granted_cost_micros for each in granted) == 10_000
    assert (await month(pool, tenant_id)).held_cost_micros == 10_000
    assert await discrepancies(pool, tenant_id) == []


async def test_a_commit_costs_what_the_price_book_says_of_each_component(
    pool: asyncpg.Pool, store: Reservations
) -> None:
    tenant_id, model = await new_tenant(pool), fresh("model")
    await new_price(pool, model, 1_000_000, 100_000, 4_000_000, 5_000_000)
    await Quotas(pool).set(Quota(tenant_id, "", cost_micros_per_month=10_000))
    held = await store.reserve(ask(tenant_id, 1_000, model=model))
    assert held.granted_cost_micros == 5_000, "the dearest component"
    commitment = replace(commit(tenant_id, held.reservation_id, 0, cost_micros=7), usage=TokenUsage(100, 15, 20, 3))
    settled = await store.settle(commitment)
    assert settled.cost_micros == 100 + 2 + 80 + 15, "1.5 for what was cached is a whole 2"
    assert await store.settle(commitment) == settled, "whatever cost its holder reports"
    entry = (await Quotas(pool).ledger(tenant_id, LedgerFilter(), None, 1))[0]
    assert (entry.priced, entry.cost_micros) == (True, 197)
    usage = await month(pool, tenant_id)
    assert (usage.used_cost_micros, usage.held_cost_micros, usage.limit_cost_micros) == (197, 0, 10_000)
    assert await discrepancies(pool, tenant_id) == []


async def test_the_price_in_force_when_the_tokens_were_held_is_the_one_that_counts(
    pool: asyncpg.Pool, store: Reservations
) -> None:
    tenant_id, model = await new_tenant(pool), fresh("model")
    await new_price(pool, model, *[9_000_000] * 4, hours_ago=48)
    await new_price(pool, model, *[2_000_000] * 4, hours_ago=24)
    held = await store.reserve(ask(tenant_id, 100, model=model))
    await new_price(pool, model, *[50_000_000] * 4, hours_ago=0)
    assert (await store.settle(commit(tenant_id, held.reservation_id, 10))).cost_micros == 20
    later = await store.reserve(ask(tenant_id, 100, model=model))
    assert (await store.settle(commit(tenant_id, later.reservation_id, 10))).cost_micros == 500
    assert await discrepancies(pool, tenant_id) == []


async def test_an_unknown_price_is_refused_or_admitted_and_never_silently_free(
    pool: asyncpg.Pool, store: Reservations
) -> None:
    tenant_id = await new_tenant(pool)
    await new_plan(pool, tenant_id, cost_micros_per_month=100)
    unknown = ask(tenant_id, 10, model=fresh("model"))
    with pytest.raises(FailedPrecondition) as refused:
        await store.reserve(unknown)
    assert refused.value.reason == "MODEL_PRICE_UNKNOWN"
    await Quotas(pool).set(Quota(tenant_id, "", unpriced_models=UnpricedModels.ADMIT))
    held = await store.reserve(unknown)
    settled = await store.settle(commit(tenant_id, held.reservation_id, 10, cost_micros=100))
    assert settled.cost_micros == 100
    assert not (await Quotas(pool).ledger(tenant_id, LedgerFilter(), None, 1))[0].priced
    free = fresh("model")
    await new_price(pool, free, 0, 0, 0, 0)
    assert (await store.reserve(ask(tenant_id, 10**9, model=free))).granted_cost_micros == 0, "an explicit zero"


async def test_without_a_limit_of_cost_an_unknown_price_hinders_nobody(pool: asyncpg.Pool, store: Reservations) -> None:
    tenant_id = await new_tenant(pool, tokens_per_day=100)
    held = await store.reserve(ask(tenant_id, 10, model=fresh("model")))
    assert held.granted_cost_micros == 0
    assert (await store.settle(commit(tenant_id, held.reservation_id, 10, cost_micros=12))).cost_micros == 12
    assert (await month(pool, tenant_id)).used_cost_micros == 12


async def test_the_cost_of_a_key_is_limited_too_and_a_denial_says_so(pool: asyncpg.Pool, store: Reservations) -> None:
    tenant_id, model = await new_tenant(pool, tokens_per_day=10_000), fresh("model")
    key_id = await new_key(pool, tenant_id)
    await new_price(pool, model, *[1_000_000] * 4)
    await Quotas(pool).set(Quota(tenant_id, "", cost_micros_per_month=50, key_id=key_id))
    held = await store.reserve(ask(tenant_id, 40, model=model, key_id=key_id))
    with pytest.raises(QuotaExceeded) as denied:
        await store.reserve(ask(tenant_id, 11, model=model, key_id=key_id))
    assert [each.subject for each in denied.value.violations] == [f"key:{key_id}"]
    assert denied.value.metadata["unit"] == "micros"
    assert (await store.extend(more(tenant_id, held.reservation_id, 30, minimum=1))).granted_cost_micros == 50
    await store.settle(release(tenant_id, held.reservation_id))
    assert (await month(pool, tenant_id, key_id=key_id)).held_cost_micros == 0
    assert await discrepancies(pool, tenant_id) == []


async def test_children_share_the_cost_that_their_parent_holds(pool: asyncpg.Pool, store: Reservations) -> None:
    tenant_id, model = await new_tenant(pool), fresh("model")
    await new_price(pool, model, *[1_000_000] * 4)
    await Quotas(pool).set(Quota(tenant_id, "", cost_micros_per_month=1_000))
    parent = await store.reserve(ask(tenant_id, 100, model=model))
    child = await store.reserve(ask(tenant_id, 40, model=model, parent=parent.reservation_id))
    assert child.granted_cost_micros == 40
    await store.settle(commit(tenant_id, child.reservation_id, 30))
    usage = await month(pool, tenant_id)
    assert (usage.used_cost_micros, usage.held_cost_micros) == (30, 70)
    ended = await store.settle(commit(tenant_id, parent.reservation_id, 5))
    assert (ended.state, ended.cost_micros) == (State.COMMITTED, 5)
    usage = await month(pool, tenant_id)
    assert (usage.used_cost_micros, usage.held_cost_micros) == (35, 0)
    assert await discrepancies(pool, tenant_id) == []


async def test_a_commit_repeated_with_another_model_contradicts_the_first(
    pool: asyncpg.Pool, store: Reservations
) -> None:
    tenant_id = await new_tenant(pool)
    held = await store.reserve(ask(tenant_id, 10, model="one"))
    first = replace(commit(tenant_id, held.reservation_id, 4), model="other")
    settled = await store.settle(first)
    for again in (first, replace(first, model="")):
        assert (await store.settle(again)).usage == settled.usage
    with pytest.raises(FailedPrecondition) as refused:
        await store.settle(replace(first, model="one"))
    assert refused.value.reason == "RESERVATION_SETTLED"
