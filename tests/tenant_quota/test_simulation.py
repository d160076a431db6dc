"""What-if against what is: limits that were in force deny nothing, others what a real account would have denied."""

import random
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import asyncpg
import pytest

from services.tenant_quota.plan_model import Rates
from services.tenant_quota.quota_model import Enforcement, Quota, Settlement, State, TokenUsage, UnpricedModels
from services.tenant_quota.quotas import Quotas
from services.tenant_quota.reservations import Reservations
from services.tenant_quota.simulation import Question, Simulation, Simulations
from services.tenant_quota.top_ups import TopUps
from services.tenant_quota.what_if import DenyingLimit
from shared.deadline import set_deadline
from shared.errors import FailedPrecondition, NotFound, QuotaExceeded
from tests.tenant_quota.account_world import ask, more, new_key, new_plan, new_price
from tests.tenant_quota.hand_set_clock import Clock
from tests.tenant_quota.world import SAO_PAULO, fresh, new_tenant, new_user, release

BEGIN = datetime.fromisoformat("2026-11-08T09:00-03:00")


@pytest.fixture
async def store(timed_pool: asyncpg.Pool) -> AsyncIterator[Reservations]:
    reservations = Reservations(timed_pool)
    yield reservations
    await reservations.close()


@dataclass
class Account:
    """A tenant with a user and a key, and what was refused to it."""

    tenant_id: str
    user_id: str
    key_id: str
    open: dict[int, str] = field(default_factory=dict)
    refused: list[tuple[str, int]] = field(default_factory=list)
    refused_extensions: int = 0


@dataclass
class World:
    """The database, its clock, and a model with a price."""

    pool: asyncpg.Pool
    clock: Clock
    store: Reservations
    model: str

    async def account(self) -> Account:
        tenant_id = await new_tenant(self.pool, SAO_PAULO)
        return Account(tenant_id, await new_user(self.pool, tenant_id), await new_key(self.pool, tenant_id))

    async def live(self, accounts: list[Account], seed: int, *, days: int = 3, steps: int = 30) -> None:
        """The same days for all of them: each step is tried with each, at the same moment."""
        for number in range(days * steps):
            at = BEGIN + timedelta(days=number // steps, minutes=number % steps)
            await self.clock.set(at.isoformat())
            for account in accounts:
                await self._step(account, number, random.Random(seed * 10_000 + number))

    async def _step(self, account: Account, number: int, dice: random.Random) -> None:
        fate = dice.random()
        if fate < 0.6:
            await self._reserve(account, number, dice)
        elif fate < 0.65:
            await TopUps(self.pool).create(account.tenant_id, dice.randint(10, 60), 0, None, "", None)
        elif number - 3 in account.open:
            held = account.open[number - 3]
            if fate < 0.75:
                await self._extend(account, held, dice.randint(1, 40))
            elif fate < 0.95:
                usage = TokenUsage(dice.randint(0, 60), 1, dice.randint(0, 40), 1)
                await self._end(Settlement(account.tenant_id, held, State.COMMITTED, usage, 1))
            else:
                await self._end(release(account.tenant_id, held))
            if fate >= 0.75:
                del account.open[number - 3]

    async def _reserve(self, account: Account, number: int, dice: random.Random) -> None:
        user_id, key_id = dice.choice([account.user_id, ""]), dice.choice([account.key_id, "other"])
        tokens, has_child = dice.randint(20, 120), dice.random() < 0.2
        wish = ask(account.tenant_id, tokens, key_id=key_id, model=self.model, user_id=user_id, lease_seconds=3600)
        try:
            held = await self.store.reserve(wish)
        except QuotaExceeded:
            account.refused.append((user_id, tokens))
            return
        account.open[number] = held.reservation_id
        if has_child:
            child = await self.store.reserve(
                ask(account.tenant_id, 9, model=self.model, parent=held.reservation_id, lease_seconds=3600)
            )
            usage = TokenUsage(dice.randint(0, 60), 0, 2, 0)
            await self.store.settle(Settlement(account.tenant_id, child.reservation_id, State.COMMITTED, usage, 1))

    async def _extend(self, account: Account, held: str, tokens: int) -> None:
        try:
            with suppress(FailedPrecondition):
                await self.store.extend(replace(more(account.tenant_id, held, tokens), lease_seconds=3600))
        except QuotaExceeded:
            account.refused_extensions += 1

    async def _end(self, settlement: Settlement) -> None:
        # What was begun the evening before has expired by the morning.
        with suppress(FailedPrecondition):
            await self.store.settle(settlement)

    async def simulate(self, quota: Quota, **more: object) -> Simulation:
        question = Question(quota, with_limits=True, prices={}, days=30)
        return await Simulations(self.pool).run(replace(question, **more))  # type: ignore[arg-type]


@pytest.fixture
async def world(timed_pool: asyncpg.Pool, clock: Clock, store: Reservations) -> World:
    await clock.set("2026-11-01T00:00-03:00")
    model = fresh("model")
    await new_price(timed_pool, model, 2_000_000, 500_000, 3_000_000, 3_000_000)
    return World(timed_pool, clock, store, model)


LIMITS = (
    {"tokens_per_day": 700},
    {"tokens_per_month": 1500},
    {"tokens_per_day": 800, "tokens_per_month": 2000},
    {"cost_micros_per_month": 3000},
    {"tokens_per_day": 600, "cost_micros_per_month": 4000},
)


def quota_of(account: Account, level: str, limits: dict[str, int]) -> Quota:
    user_id = account.user_id if level == "user" else ""
    key_id = account.key_id if level == "key" else ""
    share = 1 if level == "tenant" else 2
    return Quota(account.tenant_id, user_id, key_id=key_id, **{name: most // share for name, most in limits.items()})  # type: ignore[arg-type]


@pytest.mark.parametrize("level", ["tenant", "user", "key"])
@pytest.mark.parametrize("seed", range(len(LIMITS)))
async def test_a_simulation_denies_what_a_real_account_denies(world: World, level: str, seed: int) -> None:
    free, limited = await world.account(), await world.account()
    await Quotas(world.pool).set(quota_of(limited, level, LIMITS[seed]))
    await world.live([free, limited], seed)
    names = {limited.user_id: free.user_id, "": ""}
    refused = [(names[user_id], tokens) for user_id, tokens in limited.refused]

    found = (await world.simulate(quota_of(free, level, LIMITS[seed]))).outcome
    assert refused, "or nothing is shown"
    assert (found.denied.reservations, found.denied.tokens) == (len(refused), sum(tokens for _, tokens in refused))
    assert found.denied_extensions == limited.refused_extensions
    for user_id in set(names.values()):
        denied = found.users.get(user_id)
        assert (denied.tokens if denied else 0) == sum(tokens for name, tokens in refused if name == user_id)
    assert found.first_denied is not None

    was_in_force = (await world.simulate(quota_of(limited, level, LIMITS[seed]))).outcome
    assert (was_in_force.denied.reservations, was_in_force.denied_extensions) == (0, 0)
    assert was_in_force.reservations > 0


async def test_the_window_begins_with_a_day_and_counts_what_the_month_had_used(world: World) -> None:
    account = await world.account()
    for day in (8, 9, 10):
        await world.clock.set(f"2026-11-{day:02}T12:00-03:00")
        held = await world.store.reserve(ask(account.tenant_id, 100, user_id=account.user_id))
        usage = TokenUsage(100, 0, 0, 0)
        await world.store.settle(Settlement(account.tenant_id, held.reservation_id, State.COMMITTED, usage, 1, 7))
    quota = Quota(account.tenant_id, "", tokens_per_month=250)
    two_days = await world.simulate(quota, days=2)
    assert two_days.start_time == datetime.fromisoformat("2026-11-09T00:00-03:00")
    assert (two_days.outcome.reservations, two_days.outcome.denied.reservations) == (2, 1)
    assert two_days.outcome.last_denied == datetime.fromisoformat("2026-11-10T12:00-03:00")
    ((denied_day, limit),) = two_days.outcome.days
    assert (denied_day.day, limit) == (10, DenyingLimit.TOKENS_PER_MONTH)
    total = next(iter(two_days.outcome.models.values()))
    assert (total.was, total.would_be) == (14, 7)
    below = await world.simulate(Quota(account.tenant_id, "", tokens_per_month=50), days=2)
    assert below.outcome.denied.reservations == 2, "all that is asked about"


async def test_what_is_not_limited_hard_denies_nothing(world: World) -> None:
    account = await world.account()
    await world.live([account], seed=1, days=1)
    soft = Quota(account.tenant_id, "", tokens_per_day=1, enforcement=Enforcement.SOFT)
    for quota in (soft, Quota(account.tenant_id, "", unlimited=True), Quota(account.tenant_id, "")):
        assert (await world.simulate(quota)).outcome.denied.reservations == 0
    nothing = await world.simulate(Quota(account.tenant_id, "", tokens_per_day=0), with_limits=False)
    assert nothing.outcome.denied.reservations == 0


async def test_what_a_quota_leaves_open_the_plan_decides(world: World) -> None:
    account = await world.account()
    await world.live([account], seed=1, days=1)
    await new_plan(world.pool, account.tenant_id, tokens_per_day=100, user_tokens_per_day=50)
    by_plan = (await world.simulate(Quota(account.tenant_id, ""))).outcome
    by_quota = (await world.simulate(Quota(account.tenant_id, "", tokens_per_day=100))).outcome
    assert by_plan.denied == by_quota.denied
    assert by_plan.denied.reservations > 0
    assert (await world.simulate(Quota(account.tenant_id, account.user_id))).outcome.denied.reservations > 0


async def test_prices_that_are_proposed_change_the_cost_alone(world: World) -> None:
    account = await world.account()
    await world.live([account], seed=2, days=1)
    rates = Rates(20_000_000, 5_000_000, 30_000_000, 30_000_000)
    found = (await world.simulate(Quota(account.tenant_id, ""), with_limits=False, prices={world.model: rates})).outcome
    cost = found.models[world.model]
    assert cost.was > 0
    # Ten times the price; each settlement is rounded up by itself.
    assert 10 * cost.was - 10 * found.reservations <= cost.would_be <= 10 * cost.was
    limited = replace(Quota(account.tenant_id, ""), cost_micros_per_month=cost.was)
    dearer = (await world.simulate(limited, prices={world.model: rates})).outcome
    assert dearer.denied.reservations > 0
    assert dearer.models[world.model].would_be <= cost.was


async def test_a_model_without_a_price_is_denied_where_a_cost_is_limited_unless_admitted(world: World) -> None:
    account = await world.account()
    await world.store.reserve(ask(account.tenant_id, 5, model=fresh("model")))
    quota = Quota(account.tenant_id, "", cost_micros_per_month=10**9)
    assert {limit for _, limit in (await world.simulate(quota)).outcome.days} == {DenyingLimit.NO_PRICE}
    admitted = replace(quota, unpriced_models=UnpricedModels.ADMIT)
    assert (await world.simulate(admitted)).outcome.denied.reservations == 0


async def test_requests_per_minute_are_replayed(world: World) -> None:
    account = await world.account()
    for second in (0, 1, 2, 59, 60, 61, 62):
        await world.clock.set((BEGIN + timedelta(seconds=second)).isoformat())
        await world.store.reserve(ask(account.tenant_id, 1))
    found = (await world.simulate(Quota(account.tenant_id, "", requests_per_minute=3))).outcome
    assert found.denied.reservations == 1, "the one at 59 s"
    assert {limit for _, limit in found.days} == {DenyingLimit.REQUESTS_PER_MINUTE}


async def test_a_replay_ends_early_when_the_callers_time_runs_out(world: World) -> None:
    account = await world.account()
    await world.live([account], seed=1, days=1)
    set_deadline(1.0)
    found = await world.simulate(Quota(account.tenant_id, "", tokens_per_day=1))
    set_deadline(3600)
    assert not found.is_complete
    assert found.end_time == found.start_time
    assert (await world.simulate(Quota(account.tenant_id, "", tokens_per_day=1))).is_complete


async def test_whoever_does_not_exist_is_not_found(world: World) -> None:
    account = await world.account()
    for quota in (
        Quota(fresh("tenant"), ""),
        Quota(account.tenant_id, fresh("user")),
        Quota(account.tenant_id, "", key_id=fresh("key")),
    ):
        with pytest.raises(NotFound):
            await world.simulate(quota)
