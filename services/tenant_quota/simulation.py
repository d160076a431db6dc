"""What-if: the ledger of the past days read in its order, bit by bit, and replayed under what is proposed."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from services.tenant_quota.plan_model import Rates
from services.tenant_quota.quota_model import Enforcement, Level, Quota, UnpricedModels
from services.tenant_quota.quotas import Quotas
from services.tenant_quota.replays import present
from services.tenant_quota.statements import STANDING
from services.tenant_quota.tenants import ACROSS_TENANTS
from services.tenant_quota.what_if import Limits, Outcome, PriceList, Proposal, Replay
from shared.deadline import seconds_left
from shared.postgres import tenant_transaction

# A replay is work for the event loop and holds a connection: reservations go before.
MOST_AT_ONCE = 2
# Entries taken in one go, a few milliseconds of work.
STEP = 500
# What remains of the caller's time for the answer.
ANSWER_SECONDS = 1.0

# The ledger is read from the day before the month of the first day on, so that what was open then is known.
SPAN = """
SELECT clock_timestamp() AS now, t.time_zone, d.first AS first_day,
       d.first::timestamp AT TIME ZONE t.time_zone AS start,
       (date_trunc('month', d.first::timestamp) - interval '1 day') AT TIME ZONE t.time_zone AS since,
       date_trunc('month', d.first::timestamp)::date AS month
  FROM tenants t, LATERAL (SELECT (clock_timestamp() AT TIME ZONE t.time_zone)::date - $2::int + 1 AS first) d
 WHERE t.tenant_id = $1
"""
# What a quota leaves open, the tenant's plan decides.
PLAN = """
SELECT CASE $2::int WHEN 1 THEN p.tokens_per_day WHEN 2 THEN p.user_tokens_per_day
                    ELSE p.key_tokens_per_day END AS tokens_per_day,
       CASE $2 WHEN 1 THEN p.tokens_per_month WHEN 2 THEN p.user_tokens_per_month
               ELSE p.key_tokens_per_month END AS tokens_per_month,
       CASE $2 WHEN 1 THEN p.cost_micros_per_month END AS cost_micros_per_month,
       CASE $2 WHEN 1 THEN p.requests_per_minute WHEN 2 THEN p.user_requests_per_minute
               ELSE p.key_requests_per_minute END AS requests_per_minute,
       coalesce(p.enforcement, 1) AS enforcement, p.unpriced_models, q.unpriced_models AS own_unpriced_models
  FROM tenants t
  LEFT JOIN plans p ON p.plan_id = nullif(t.plan_id, '')
  LEFT JOIN quotas q ON q.tenant_id = t.tenant_id AND q.level = 1 AND q.subject = ''
 WHERE t.tenant_id = $1
"""
BOOK = """
SELECT model, array_agg(effective_time ORDER BY effective_time) AS since,
       array_agg(greatest(input_micros, cached_input_micros, output_micros, reasoning_micros)
                 ORDER BY effective_time) AS most
  FROM prices GROUP BY model
"""
IN_ORDER = "SET LOCAL enable_sort = off; SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off"
ENTRIES = """
SELECT create_time, kind, reservation_id, parent_reservation_id, user_id, model, held_delta, used_delta,
       available_delta, input_tokens, cached_input_tokens, output_tokens, reasoning_tokens, cost_micros,
       (create_time AT TIME ZONE $3)::date AS day
  FROM ledger WHERE tenant_id = $1 AND create_time >= $2 AND $4 = {subject}
 ORDER BY create_time, entry_id
"""
SUBJECTS: Mapping[Level, str] = {Level.TENANT: "''", Level.USER: "user_id", Level.KEY: "key_id"}


@dataclass(frozen=True, slots=True)
class Question:
    """What is proposed: a quota, whose subject is replayed; or, without `with_limits`, prices alone."""

    quota: Quota
    with_limits: bool
    prices: Mapping[str, Rates]
    days: int


@dataclass(frozen=True, slots=True)
class Simulation:
    """What came of it, and up to where the ledger was replayed."""

    start_time: datetime
    end_time: datetime
    is_complete: bool
    outcome: Outcome


class Simulations:
    """Replays; a few at a time."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._quotas = Quotas(pool)
        self._turns = asyncio.Semaphore(MOST_AT_ONCE)

    async def run(self, question: Question) -> Simulation:
        """All as of one moment. It ends early, with what it has, when the caller's time runs out.

        NotFound when the tenant, user or key does not exist.
        """
        quota = question.quota
        give_up = time.monotonic() + (seconds_left() or float("inf")) - ANSWER_SECONDS
        await self._quotas.get(quota.tenant_id, quota.user_id, quota.key_id)
        prices = PriceList(question.prices, await self._book())
        async with self._turns, tenant_transaction(self._pool, quota.tenant_id, snapshot=True) as connection:
            span = present(await connection.fetchrow(SPAN, quota.tenant_id, question.days))
            replay = Replay(await _proposal(connection, question, prices, span))
            await connection.execute(IN_ORDER)
            entries = ENTRIES.format(subject=SUBJECTS[quota.level])
            cursor = await connection.cursor(entries, quota.tenant_id, span["since"], span["time_zone"], quota.subject)
            reached = span["start"]
            while rows := await cursor.fetch(STEP):
                if time.monotonic() > give_up:
                    return Simulation(span["start"], reached, is_complete=False, outcome=replay.outcome)
                for row in rows:
                    replay.take(row)
                reached = max(reached, rows[-1]["create_time"])
        return Simulation(span["start"], span["now"], is_complete=True, outcome=replay.outcome)

    async def _book(self) -> dict[str, Sequence[tuple[datetime, int]]]:
        # In a transaction of its own: whoever sets a price waits for all that read prices, and reservations for them.
        async with tenant_transaction(self._pool, ACROSS_TENANTS) as connection:
            rows = await connection.fetch(BOOK)
        return {row["model"]: tuple(zip(row["since"], row["most"], strict=True)) for row in rows}


async def _proposal(
    connection: asyncpg.Connection, question: Question, prices: PriceList, span: asyncpg.Record
) -> Proposal:
    quota = question.quota
    standing = present(await connection.fetchrow(STANDING, quota.tenant_id, span["month"]))
    plan = present(await connection.fetchrow(PLAN, quota.tenant_id, quota.level))
    return Proposal(
        _limits(quota, plan) if question.with_limits else Limits(),
        prices,
        span["first_day"],
        standing["opening"] if quota.level is Level.TENANT else None,
    )


def _limits(quota: Quota, plan: asyncpg.Record) -> Limits:
    """The limits that would be in force: those of the quota, else of the plan."""

    def limit(name: str) -> int | None:
        own: int | None = getattr(quota, name)
        enforcement = plan["enforcement"] if own is None else quota.enforcement
        return None if quota.unlimited or enforcement == Enforcement.SOFT else plan[name] if own is None else own

    rate = plan["requests_per_minute"] if quota.requests_per_minute is None else quota.requests_per_minute
    # The tenant's own word on models without a price holds for its users and keys, too.
    own_word = quota.unpriced_models if quota.level is Level.TENANT else plan["own_unpriced_models"]
    return Limits(
        limit("tokens_per_day"),
        limit("tokens_per_month"),
        limit("cost_micros_per_month"),
        rate,
        refuses_unpriced=(own_word or plan["unpriced_models"]) != UnpricedModels.ADMIT,
    )
