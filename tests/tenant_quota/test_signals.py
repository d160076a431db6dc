"""Which shares are passed, and that each is said once."""

import asyncio
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import asyncpg
import pytest

from services.tenant_quota.quota_model import Level, Quota, Window
from services.tenant_quota.quotas import Quotas
from services.tenant_quota.reservations import Reservations
from services.tenant_quota.signal_model import Measure, Signal
from services.tenant_quota.signal_store import SignalStore, Subject
from services.tenant_quota.signals import Signals
from services.tenant_quota.tenants import Tenants
from shared.errors import Unavailable
from shared.postgres import tenant_transaction
from tests.house.zones import AT_NOON
from tests.tenant_quota.signal_world import limit, tenant_with, use
from tests.tenant_quota.world import commit, new_tenant, new_user, wish

NEW_PLAN = """
INSERT INTO plans (plan_id, display_name, tokens_per_day, user_tokens_per_day, key_tokens_per_day, threshold_percents)
VALUES ($1, 'x', 1000, 100, 50, $2)
"""


@pytest.fixture
def pool(quiet_pool: asyncpg.Pool) -> asyncpg.Pool:
    """Where nobody else looks."""
    return quiet_pool


@pytest.fixture
def other_pool(other_quiet_pool: asyncpg.Pool) -> asyncpg.Pool:
    """What a second replica has there."""
    return other_quiet_pool


def said(signals: list[Signal]) -> set[tuple[Level, Window, Measure, int]]:
    """What the signals say, each once."""
    words = [(each.level, each.window, each.measure, each.percent) for each in signals]
    assert len(set(words)) == len(words)
    return set(words)


async def written(pool: asyncpg.Pool, tenant_id: str, *others: Subject) -> set[tuple[Level, Window, Measure, int]]:
    """What there is to say of the tenant after looking."""
    store = SignalStore(pool)
    await store.record([Subject(tenant_id, Level.TENANT, ""), *others])
    return said(list(await store.newest(tenant_id, None, None, 100)))


TENANT_DAY = (Level.TENANT, Window.DAY, Measure.TOKENS)
TENANT_MONTH = (Level.TENANT, Window.MONTH, Measure.TOKENS)


async def test_80_and_100_percent_are_said_when_they_are_reached_and_not_before(pool: asyncpg.Pool) -> None:
    tenant_id = await tenant_with(pool, day=1000, month=10_000)
    await use(pool, tenant_id, 799)
    assert await written(pool, tenant_id) == set()
    await use(pool, tenant_id, 1)
    assert await written(pool, tenant_id) == {(*TENANT_DAY, 80)}
    await use(pool, tenant_id, 7_200)
    assert await written(pool, tenant_id) == {(*TENANT_DAY, 80), (*TENANT_DAY, 100), (*TENANT_MONTH, 80)}


async def test_a_signal_says_what_was_used_of_what(pool: asyncpg.Pool) -> None:
    tenant_id = await tenant_with(pool, month=1000, cost=50)
    await use(pool, tenant_id, 850, cost=51)
    await written(pool, tenant_id)
    signals = await SignalStore(pool).newest(tenant_id, None, None, 10)
    tokens = next(each for each in signals if each.measure is Measure.TOKENS)
    assert (tokens.limit, tokens.used, tokens.subject, tokens.tenant_id) == (1000, 850, "", tenant_id)
    assert tokens.period_start_time.astimezone(ZoneInfo(AT_NOON)).hour == 0
    assert tokens.period_start_time <= tokens.create_time <= datetime.now(UTC)
    assert {(each.percent, each.limit, each.used) for each in signals if each.measure is Measure.COST} == {
        (80, 50, 51),
        (100, 50, 51),
    }


async def test_the_quota_says_which_shares(pool: asyncpg.Pool) -> None:
    tenant_id = await tenant_with(pool, day=100, percents=[50, 150])
    await use(pool, tenant_id, 120)
    assert await written(pool, tenant_id) == {(*TENANT_DAY, 50)}
    await use(pool, tenant_id, 30)
    assert await written(pool, tenant_id) == {(*TENANT_DAY, 50), (*TENANT_DAY, 150)}


async def test_users_and_keys_have_signals_of_their_own(pool: asyncpg.Pool) -> None:
    tenant_id = await tenant_with(pool)
    await limit(pool, tenant_id, Level.USER, "maria", day=10)
    await limit(pool, tenant_id, Level.KEY, "key", day=10)
    user, key = Subject(tenant_id, Level.USER, "maria"), Subject(tenant_id, Level.KEY, "key")
    for subject in (user, key):
        await use(pool, tenant_id, 9, level=subject.level, subject=subject.subject)
    assert await written(pool, tenant_id, user, key) == {
        (Level.USER, Window.DAY, Measure.TOKENS, 80),
        (Level.KEY, Window.DAY, Measure.TOKENS, 80),
    }


@pytest.mark.parametrize(("percents", "expected"), [([], 80), ([70], 70)])
async def test_what_a_quota_leaves_open_the_plan_says(pool: asyncpg.Pool, percents: list[int], expected: int) -> None:
    tenant_id = await tenant_with(pool)
    async with tenant_transaction(pool, "*") as connection:
        await connection.execute(NEW_PLAN, tenant_id, percents)
        await connection.execute("UPDATE tenants SET plan_id = $1 WHERE tenant_id = $1", tenant_id)
    user, key = Subject(tenant_id, Level.USER, "maria"), Subject(tenant_id, Level.KEY, "key")
    own = Subject(tenant_id, Level.USER, "joana")
    await limit(pool, tenant_id, Level.USER, "joana", day=1_000_000)
    await use(pool, tenant_id, 800)
    for subject, tokens in ((user, 80), (key, 40), (own, 500)):
        await use(pool, tenant_id, tokens, level=subject.level, subject=subject.subject)
    assert await written(pool, tenant_id, user, key, own) == {
        (*TENANT_DAY, expected),
        (Level.USER, Window.DAY, Measure.TOKENS, expected),
        (Level.KEY, Window.DAY, Measure.TOKENS, expected),
    }


@pytest.mark.parametrize(("borrow_percent", "share"), [(0, 500), (50, 750)])
async def test_a_fair_share_that_is_used_up_is_said_of_the_user(
    pool: asyncpg.Pool, borrow_percent: int, share: int
) -> None:
    tenant_id = await new_tenant(pool)
    heavy, _, free = [await new_user(pool, tenant_id) for _ in range(3)]
    await Quotas(pool).set(Quota(tenant_id, free, unlimited=True))
    await Tenants(pool).update_user(tenant_id, free, {"active": False})
    await Quotas(pool).set(Quota(tenant_id, "", tokens_per_month=1_000, fair_share_borrow_percent=borrow_percent))
    users = [Subject(tenant_id, Level.USER, user_id) for user_id in (heavy, free)]
    store, signals = Reservations(pool), SignalStore(pool)
    passed = []
    for tokens in (share - 1, 1):
        held = await store.reserve(wish(tenant_id, tokens, user_id=heavy))
        await store.settle(commit(tenant_id, held.reservation_id, tokens))
        await signals.record(users)
        newest = await signals.newest(tenant_id, heavy, None, 10)
        passed.append({(each.percent, each.limit) for each in newest if each.window is Window.MONTH})
    assert passed == [{(80, share)}, {(80, share), (100, share)}]
    await use(pool, tenant_id, 1_000, level=Level.USER, subject=free)
    assert await signals.record(users) == 0, "who is unlimited has no share"


async def test_who_is_unlimited_passes_nothing(pool: asyncpg.Pool) -> None:
    tenant_id = await tenant_with(pool, unlimited=True)
    await use(pool, tenant_id, 10**9)
    assert await written(pool, tenant_id) == set()


async def test_what_a_top_up_pays_passes_nothing(pool: asyncpg.Pool) -> None:
    tenant_id = await tenant_with(pool, month=1000)
    await use(pool, tenant_id, 1_500, topped=800)
    assert await written(pool, tenant_id) == set()


async def test_a_limit_of_nothing_is_passed_by_the_first_token(pool: asyncpg.Pool) -> None:
    tenant_id = await tenant_with(pool, day=0)
    assert await written(pool, tenant_id) == set()
    await use(pool, tenant_id, 1)
    assert await written(pool, tenant_id) == {(*TENANT_DAY, 80), (*TENANT_DAY, 100)}


async def test_a_lowered_limit_is_passed_by_what_was_used(pool: asyncpg.Pool) -> None:
    tenant_id = await tenant_with(pool, day=1000)
    await use(pool, tenant_id, 500)
    assert await written(pool, tenant_id) == set()
    async with tenant_transaction(pool, tenant_id) as connection:
        await connection.execute("UPDATE quotas SET tokens_per_day = 600 WHERE tenant_id = $1", tenant_id)
    await Signals(SignalStore(pool)).scan()
    assert await written(pool, tenant_id) == {(*TENANT_DAY, 80)}


async def test_each_is_written_once_though_all_look_at_once(pool: asyncpg.Pool, other_pool: asyncpg.Pool) -> None:
    # All connections there are, so that the looks really meet.
    await asyncio.gather(*(each.execute("SELECT pg_sleep(0.1)") for each in (pool, other_pool) for _ in range(10)))
    for _ in range(10):
        tenant_id = await tenant_with(pool, day=100, month=100, cost=100, percents=list(range(10, 101, 10)))
        await use(pool, tenant_id, 100, cost=100)
        subject = Subject(tenant_id, Level.TENANT, "")
        looks = [SignalStore(each).record([subject]) for each in (pool, other_pool) for _ in range(10)]
        assert sum(await asyncio.gather(*looks)) == 30
        assert len(await written(pool, tenant_id)) == 30
        await asyncio.gather(*(Signals(SignalStore(each)).scan() for each in (pool, other_pool)))
        assert len(await written(pool, tenant_id)) == 30


async def test_ids_are_committed_in_their_order(pool: asyncpg.Pool, other_pool: asyncpg.Pool) -> None:
    """Else a reader that has seen the later one would never ask for the earlier one."""
    tenant_id = await tenant_with(pool, day=100)
    await limit(pool, tenant_id, Level.USER, "maria", day=100)
    await use(pool, tenant_id, 80)
    await use(pool, tenant_id, 80, level=Level.USER, subject="maria")
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("SELECT record_signals($1, $2, $3)", [tenant_id], [Level.TENANT], [""])
        second = asyncio.create_task(SignalStore(other_pool).record([Subject(tenant_id, Level.USER, "maria")]))
        await asyncio.wait([second], timeout=0.3)
        assert not second.done()
    assert await second == 1
    later, earlier = await SignalStore(pool).newest(tenant_id, None, None, 10)
    assert (earlier.level, later.level) == (Level.TENANT, Level.USER)


async def test_what_a_killed_replica_did_not_come_to_is_found_by_another(
    pool: asyncpg.Pool, other_pool: asyncpg.Pool
) -> None:
    tenant_id = await tenant_with(pool, day=100)
    await use(pool, tenant_id, 90)
    killed = Signals(SignalStore(pool))
    killed.touched(tenant_id)
    del killed
    await Signals(SignalStore(other_pool)).scan()
    signals = list(await SignalStore(pool).newest(tenant_id, None, None, 10))
    assert said(signals) == {(*TENANT_DAY, 80)}


async def test_one_replica_scans_at_a_time(pool: asyncpg.Pool, other_pool: asyncpg.Pool) -> None:
    tenant_id = await tenant_with(pool, day=100)
    await use(pool, tenant_id, 90)
    async with pool.acquire() as connection, connection.transaction():
        await connection.fetch("SELECT * FROM scan_signals('', 1)")
        assert await SignalStore(other_pool).scan("", 200) == (None, 0)


async def test_many_tenants_are_scanned_in_steps(pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.tenant_quota.signals.TENANTS_AT_ONCE", 2)
    tenants = [await tenant_with(pool, day=100) for _ in range(5)]
    for tenant_id in tenants:
        await use(pool, tenant_id, 90)
    await Signals(SignalStore(pool)).scan()
    for tenant_id in tenants:
        assert len(await SignalStore(pool).newest(tenant_id, None, None, 10)) == 1


async def test_what_could_not_be_looked_at_is_looked_at_again(pool: asyncpg.Pool) -> None:
    class Stumbling(SignalStore):
        stumbles = 1

        async def record(self, subjects: list[Subject]) -> int:  # type: ignore[override]
            if self.stumbles:
                self.stumbles -= 1
                raise Unavailable("down")
            return await super().record(subjects)

    tenant_id = await tenant_with(pool, day=100)
    await use(pool, tenant_id, 90)
    signals = Signals(Stumbling(pool))
    signals.touched(tenant_id, "maria", "key")
    with pytest.raises(Unavailable):
        await signals.record_touched()
    assert await signals.record_touched() == 1
    assert await signals.record_touched() == 0


async def test_nobody_changes_or_deletes_a_signal(pool: asyncpg.Pool) -> None:
    tenant_id = await tenant_with(pool, day=100)
    await use(pool, tenant_id, 90)
    await written(pool, tenant_id)
    for app_tenant in (tenant_id, "*"):
        for statement in ("UPDATE signals SET percent = 1", "DELETE FROM signals"):
            async with tenant_transaction(pool, app_tenant) as connection:
                await connection.execute(
                    "SELECT set_config('app.tenants', jsonb_object($1, $1)::text, true)", [tenant_id]
                )
                assert await connection.execute(statement) in ("UPDATE 0", "DELETE 0")
