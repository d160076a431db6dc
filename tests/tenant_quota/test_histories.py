"""Random histories against a model of the account that anybody can check by hand."""

import asyncio
import random
from dataclasses import dataclass, field

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.tenant_quota.audit import discrepancies
from services.tenant_quota.quota_model import Quota, Reservation
from services.tenant_quota.quotas import Quotas
from services.tenant_quota.reservations import Reservations
from shared.errors import QuotaExceeded, ServiceError
from tests.tenant_quota.world import commit, counters, new_tenant, new_user, release, sweep_all, wish

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["reserve", "reserve", "commit", "release", "limit"]),
        st.integers(min_value=1, max_value=60),
        st.integers(min_value=1, max_value=60),
        st.booleans(),
    ),
    min_size=5,
    max_size=40,
)


@dataclass
class Account:
    """What a careful clerk would write down."""

    limits: dict[str, int]
    used: dict[str, int] = field(default_factory=lambda: {"": 0, "u": 0})
    held: dict[str, int] = field(default_factory=lambda: {"": 0, "u": 0})
    open: list[tuple[Reservation, str]] = field(default_factory=list)

    def room(self, user: str) -> int:
        return min(self.limits[each] - self.used[each] - self.held[each] for each in {"", user})

    def move(self, user: str, held: int, used: int) -> None:
        for each in {"", user}:
            self.held[each] += held
            self.used[each] += used


@settings(max_examples=40)
@given(steps=STEPS)
async def test_every_history_has_the_outcome_of_the_model(
    pool: asyncpg.Pool, steps: list[tuple[str, int, int, bool]]
) -> None:
    store, quotas = Reservations(pool), Quotas(pool)
    account = Account({"": 120, "u": 80})
    tenant_id = await new_tenant(pool, tokens_per_month=120)
    user_id = await new_user(pool, tenant_id, tokens_per_month=80)
    for action, first, second, anonymous in steps:
        user = "" if anonymous else "u"
        if action == "reserve":
            asked = wish(
                tenant_id, max(first, second), minimum=min(first, second), user_id="" if anonymous else user_id
            )
            expected = min(asked.tokens, account.room(user))
            try:
                got = await store.reserve(asked)
            except QuotaExceeded:
                assert expected < asked.minimum
            else:
                assert got.granted == expected >= asked.minimum
                account.open.append((got, user))
                account.move(user, got.granted, 0)
        elif action == "limit":
            account.limits[user] = first * 4
            await quotas.set(Quota(tenant_id, user_id if user else "", tokens_per_month=first * 4))
        elif account.open:
            reservation, holder = account.open.pop(first % len(account.open))
            if action == "commit":
                await store.settle(commit(tenant_id, reservation.reservation_id, second))
                account.move(holder, -reservation.granted, second)
            else:
                await store.settle(release(tenant_id, reservation.reservation_id))
                account.move(holder, -reservation.granted, 0)
    for user, name in (("", ""), ("u", user_id)):
        kept = await counters(pool, tenant_id, name)
        assert (kept.used, kept.held) == (account.used[user], account.held[user])
    assert await discrepancies(pool, tenant_id) == []


@pytest.mark.parametrize("seed", range(3))
async def test_the_ledger_explains_every_counter_after_random_concurrent_work(
    pool: asyncpg.Pool, other_pool: asyncpg.Pool, seed: int
) -> None:
    stores = [Reservations(pool), Reservations(other_pool)]
    tenants = [await new_tenant(pool, tokens_per_day=3_000) for _ in range(4)]
    open_ids: list[tuple[str, str]] = []

    async def client(number: int) -> None:
        dice = random.Random(seed * 1_000 + number)
        store = stores[number % 2]
        for step in range(25):
            try:
                roll = dice.random()
                if roll < 0.5 or not open_ids:
                    tenant_id = dice.choice(tenants)
                    lease = dice.choice([1, 60])
                    request_id = f"{number}-{step}" if dice.random() < 0.5 else ""
                    asked = wish(
                        tenant_id,
                        dice.randint(1, 300),
                        minimum=1,
                        user_id=dice.choice(["", "a", "b"]),
                        lease_seconds=lease,
                        request_id=request_id,
                    )
                    held = await store.reserve(asked)
                    open_ids.append((tenant_id, held.reservation_id))
                elif roll < 0.8:
                    await store.settle(commit(*dice.choice(open_ids), dice.randint(0, 400)))
                elif roll < 0.95:
                    await store.settle(release(*dice.choice(open_ids)))
                else:
                    await store.sweep(20)
            except ServiceError:
                continue

    await asyncio.gather(*(client(number) for number in range(48)))
    await asyncio.sleep(1.05)
    await sweep_all(pool, stores[0])

    for tenant_id in tenants:
        assert await discrepancies(pool, tenant_id) == []
