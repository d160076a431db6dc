"""A month's statement: what the ledger says, to the unit, and the same for ever once the month is over."""

import random
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import astuple
from datetime import date

import asyncpg
import pytest

from services.tenant_quota.quota_model import Quota, Settlement, State, TokenUsage
from services.tenant_quota.quotas import Quotas
from services.tenant_quota.reservations import Reservations
from services.tenant_quota.statements import Statements
from services.tenant_quota.tenants import Tenants
from services.tenant_quota.top_ups import TopUps
from services.tenant_quota.usage_model import Statement, TopUpFlow, UsageLine, UsageSum, shortened
from shared.errors import NotFound, QuotaExceeded
from shared.postgres import tenant_transaction
from tests.tenant_quota.account_world import ask
from tests.tenant_quota.hand_set_clock import Clock
from tests.tenant_quota.world import SAO_PAULO, fresh, new_tenant, new_user, release, sweep_all

NOVEMBER = date(2026, 11, 1)
DECEMBER = date(2026, 12, 1)
# The ledger alone: a settlement belongs to the month in which its reservation, or that one's parent, was first held.
FROM_LEDGER = """
WITH begun AS (
    SELECT reservation_id, min(create_time AT TIME ZONE $2) AS local_time
      FROM ledger WHERE kind = 1 GROUP BY reservation_id
)
SELECT e.model, e.user_id, e.key_id, e.input_tokens, e.cached_input_tokens, e.output_tokens, e.reasoning_tokens,
       e.cost_micros
  FROM ledger e JOIN begun b ON b.reservation_id = coalesce(nullif(e.parent_reservation_id, ''), e.reservation_id)
 WHERE e.kind = 2 AND date_trunc('month', b.local_time) = $1::date
"""
TOP_UPS_FROM_LEDGER = """
SELECT date_trunc('month', create_time AT TIME ZONE $1)::date AS month, kind, sum(abs(issued_delta))::bigint AS tokens
  FROM ledger WHERE kind > 4 GROUP BY 1, 2
"""
# What a reservation drew on top-ups is the one thing that the ledger does not say.
DRAWN = """
SELECT r.month, sum(t)::bigint AS tokens FROM reservations r, unnest(r.topped) t WHERE r.state > 1 GROUP BY r.month
"""


@pytest.fixture
async def store(timed_pool: asyncpg.Pool) -> AsyncIterator[Reservations]:
    reservations = Reservations(timed_pool)
    yield reservations
    await reservations.close()


async def _busy_hours(
    pool: asyncpg.Pool, store: Reservations, tenant_id: str, users: list[str], dice: random.Random
) -> None:
    """Reservations of all fates, some with children, some beyond the limits and paid by top-ups."""
    for _ in range(12):
        user_id, key_id = dice.choice(users), dice.choice(["key-a", "key-b"])
        wanted = ask(tenant_id, dice.randint(20, 60), key_id=key_id, model=dice.choice(["m1", "m2"]), user_id=user_id)
        try:
            held = await store.reserve(wanted)
        except QuotaExceeded:
            continue
        if dice.random() < 0.3:
            child = await store.reserve(ask(tenant_id, 10, model="m3", parent=held.reservation_id))
            await store.settle(_commit(tenant_id, child.reservation_id, dice, 10))
        if dice.random() < 0.8:
            await store.settle(_commit(tenant_id, held.reservation_id, dice, held.granted + 5))
        elif dice.random() < 0.5:
            await store.settle(release(tenant_id, held.reservation_id))


def _commit(tenant_id: str, reservation_id: str, dice: random.Random, most: int) -> Settlement:
    usage = TokenUsage(dice.randint(0, most // 4), dice.randint(0, 3), dice.randint(0, most // 4), dice.randint(0, 3))
    return Settlement(tenant_id, reservation_id, State.COMMITTED, usage, 1, cost_micros=dice.randint(0, 50))


async def _recomputed(pool: asyncpg.Pool, tenant_id: str, month: date) -> Statement:
    async with tenant_transaction(pool, tenant_id) as connection:
        rows = await connection.fetch(FROM_LEDGER, month, "America/Sao_Paulo")
        moved = await connection.fetch(TOP_UPS_FROM_LEDGER, "America/Sao_Paulo")
        drawn = {row["month"]: row["tokens"] for row in await connection.fetch(DRAWN)}
    total = UsageSum()
    lists: list[dict[str, UsageSum]] = [defaultdict(UsageSum) for _ in range(3)]
    for row in rows:
        one = UsageSum(1, *tuple(row)[3:])
        total += one
        for sums, name in zip(lists, tuple(row)[:3], strict=True):
            sums[name] += one
    models, users, keys = ([UsageLine((name,), each) for name, each in sums.items()] for sums in lists)
    given = {row["month"]: row["tokens"] for row in moved if row["kind"] == 5}
    ended = {row["month"]: row["tokens"] for row in moved if row["kind"] == 6}
    opening = sum(
        sum(sign * tokens for when, tokens in flow.items() if when < month)
        for sign, flow in ((1, given), (-1, ended), (-1, drawn))
    )
    flow = TopUpFlow(opening, given.get(month, 0), drawn.get(month, 0), ended.get(month, 0))
    return Statement(tenant_id, month, total, models, users, keys, flow, is_final=True)


async def test_a_statement_is_what_the_ledger_says_and_stays_so(
    timed_pool: asyncpg.Pool, clock: Clock, store: Reservations
) -> None:
    dice, statements, top_ups = random.Random(7), Statements(timed_pool), TopUps(timed_pool)
    await clock.set("2026-11-20T10:00-03:00")
    tenant_id = await new_tenant(timed_pool, SAO_PAULO, tokens_per_day=250, tokens_per_month=600)
    users = [await new_user(timed_pool, tenant_id), await new_user(timed_pool, tenant_id), ""]
    await top_ups.create(tenant_id, 400, 1, None, "a gift", None)
    passing = await top_ups.create(tenant_id, 70, 0, None, "another", None)
    for moment in ("2026-11-20T10:00-03:00", "2026-11-21T10:00-03:00", "2026-11-30T23:59-03:00"):
        await clock.set(moment)
        await _busy_hours(timed_pool, store, tenant_id, users, dice)
    assert not (await statements.get(tenant_id, NOVEMBER)).is_final

    await clock.set("2026-12-01T00:30-03:00")
    await top_ups.revoke(tenant_id, passing.top_up_id)
    await _busy_hours(timed_pool, store, tenant_id, users, dice)
    assert not (await statements.get(tenant_id, NOVEMBER)).is_final, "somewhere it is November still"
    await clock.set("2026-12-01T09:00-03:00")
    assert not (await statements.get(tenant_id, NOVEMBER)).is_final, "something is held"
    await sweep_all(timed_pool, store)

    final = await statements.get(tenant_id, NOVEMBER)
    assert final.is_final
    assert final.total.requests > 20
    assert final.top_ups.used > 0
    assert len(final.models) == 3
    recomputed = await _recomputed(timed_pool, tenant_id, NOVEMBER)
    assert (final.total, final.top_ups, final.digest) == (recomputed.total, recomputed.top_ups, recomputed.digest)
    for lines in (final.models, final.users, final.keys):
        assert sum((line.sum for line in lines), UsageSum()) == final.total

    await _busy_hours(timed_pool, store, tenant_id, users, dice)
    await Tenants(timed_pool).update(tenant_id, {"time_zone": "Pacific/Kiritimati"})
    assert (await statements.get(tenant_id, NOVEMBER)).digest == final.digest, "whatever comes later"
    await Tenants(timed_pool).update(tenant_id, {"time_zone": "America/Sao_Paulo"})
    await clock.set("2027-01-02T10:00-03:00")
    await sweep_all(timed_pool, store)
    december = await statements.get(tenant_id, DECEMBER)
    assert december.digest == (await _recomputed(timed_pool, tenant_id, DECEMBER)).digest
    assert december.top_ups.opening == final.top_ups.closing
    assert december.digest != final.digest


async def test_a_person_who_is_erased_changes_no_statement(
    timed_pool: asyncpg.Pool, clock: Clock, store: Reservations
) -> None:
    await clock.set("2026-11-20T10:00-03:00")
    tenant_id = await new_tenant(timed_pool, SAO_PAULO)
    user_id = await new_user(timed_pool, tenant_id)
    await _busy_hours(timed_pool, store, tenant_id, [user_id, ""], random.Random(3))
    before = await Statements(timed_pool).get(tenant_id, NOVEMBER)
    async with tenant_transaction(timed_pool, tenant_id) as connection:
        await connection.fetch("SELECT * FROM erase_user($1, $2)", tenant_id, user_id)
    after = await Statements(timed_pool).get(tenant_id, NOVEMBER)
    assert sorted(line.names[0][:7] for line in after.users) == ["", "erased-"]
    assert after.digest == before.digest


async def test_an_empty_month_is_all_zeroes(timed_pool: asyncpg.Pool) -> None:
    tenant_id = await new_tenant(timed_pool, SAO_PAULO)
    statement = await Statements(timed_pool).get(tenant_id, date(2020, 1, 1))
    assert (statement.total, statement.models, statement.users, statement.is_final) == (UsageSum(), [], [], True)
    assert (await Statements(timed_pool).get(tenant_id, date(9999, 12, 1))).is_final is False
    with pytest.raises(NotFound):
        await Statements(timed_pool).get(fresh("tenant"), NOVEMBER)


async def test_a_top_up_belongs_to_the_tenants_own_day(timed_pool: asyncpg.Pool, clock: Clock) -> None:
    await clock.set("2026-11-30T22:00-03:00")
    tenant_id = await new_tenant(timed_pool, SAO_PAULO)
    top_up = await TopUps(timed_pool).create(tenant_id, 50, 0, None, "", None)
    await clock.set("2026-12-01T00:10-03:00")
    await TopUps(timed_pool).revoke(tenant_id, top_up.top_up_id)
    november = (await Statements(timed_pool).get(tenant_id, NOVEMBER)).top_ups
    december = (await Statements(timed_pool).get(tenant_id, DECEMBER)).top_ups
    assert (astuple(november), november.closing) == ((0, 50, 0, 0), 50)
    assert (astuple(december), december.closing) == ((50, 0, 0, 50), 0)


def test_long_lists_end_in_a_line_for_all_others() -> None:
    lines = [UsageLine((f"user-{number}",), UsageSum(1, number)) for number in range(10)]
    shown, others = shortened(lines, 4)
    assert [line.names[0] for line in shown] == ["user-9", "user-8", "user-7", ""]
    assert (others, shown[-1].sum) == (7, UsageSum(7, sum(range(7))))
    assert shortened(lines, 10)[1] == 0


async def test_a_quota_changes_no_statement(timed_pool: asyncpg.Pool, clock: Clock, store: Reservations) -> None:
    await clock.set("2026-11-20T10:00-03:00")
    tenant_id = await new_tenant(timed_pool, SAO_PAULO)
    await _busy_hours(timed_pool, store, tenant_id, [""], random.Random(5))
    before = (await Statements(timed_pool).get(tenant_id, NOVEMBER)).digest
    await Quotas(timed_pool).set(Quota(tenant_id, "", 1, 1))
    assert (await Statements(timed_pool).get(tenant_id, NOVEMBER)).digest == before
