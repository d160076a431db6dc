"""The whole account of a tenant audited, and what the last audits found."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from services.tenant_quota.audit import Discrepancy, discrepancies_seen
from services.tenant_quota.replays import present
from services.tenant_quota.tenants import ACROSS_TENANTS, require_tenant
from shared.deadline import seconds_left
from shared.postgres import tenant_transaction

# A long ledger is read in whole, so the pool's own limit of time is none for it.
PATIENCE_SECONDS = 900.0
PATIENCE = "SELECT set_config('statement_timeout', $1, true)"
# Top-ups by day, beside the ledger that they are taken from.
TOP_UP_DAYS = """
SELECT coalesce((SELECT sum(given - ended) FROM top_up_days WHERE tenant_id = $1), 0)
       + coalesce((SELECT sum(issued_delta) FROM ledger WHERE tenant_id = $1 AND kind > 4), 0)
"""
# Held without a lease that runs, as of the transaction's moment. The sweeper comes every second; after a minute it is
# late.
PHANTOM = """
SELECT greatest(0, coalesce((SELECT sum(held) FROM balances WHERE tenant_id = $1 AND level = 1), 0)
                   - coalesce((SELECT sum(granted - spent) FROM reservations
                                WHERE tenant_id = $1 AND state = 1 AND parent_reservation_id = ''
                                  AND expire_time > now() - interval '1 minute'), 0))::bigint
"""
# How far a grant went beyond a hard limit that had been in force for a minute: what a limit refuses must be known to
# whoever grants. Settlements may go beyond, since usage is charged in full; so each grant is looked at in its turn. The
# month is yesterday's, so that a month's last day is audited. Top-ups are counted in whole in the tenant's favour.
# Whoever is limited has a balance.
OVERSHOOT = """
WITH now AS (
    SELECT t.tenant_id, t.plan_id, t.plan_time, t.time_zone, date_trunc('month', l.day::timestamp)::date AS month
      FROM tenants t, LATERAL (SELECT (clock_timestamp() AT TIME ZONE t.time_zone)::date - 1 AS day) l
     WHERE t.tenant_id = $1
), limits AS (
    SELECT s.level, s.subject,
           CASE WHEN CASE WHEN q.tokens_per_day IS NOT NULL THEN q.enforcement ELSE p.enforcement END <> 2 THEN
               coalesce(q.tokens_per_day,
                        CASE s.level WHEN 1 THEN p.tokens_per_day WHEN 2 THEN p.user_tokens_per_day
                                     ELSE p.key_tokens_per_day END) END AS day_limit,
           CASE WHEN CASE WHEN q.tokens_per_month IS NOT NULL THEN q.enforcement ELSE p.enforcement END <> 2 THEN
               coalesce(q.tokens_per_month,
                        CASE s.level WHEN 1 THEN p.tokens_per_month WHEN 2 THEN p.user_tokens_per_month
                                     ELSE p.key_tokens_per_month END) END AS month_limit,
           coalesce(greatest(q.update_time, p.update_time, n.plan_time), '-infinity') + interval '1 minute' AS since,
           CASE s.level WHEN 1 THEN coalesce((SELECT sum(u.tokens) FROM top_ups u WHERE u.tenant_id = $1), 0)
                ELSE 0 END AS topped_up
      FROM now n
     CROSS JOIN LATERAL (SELECT DISTINCT b.level, b.subject FROM balances b
                          WHERE b.tenant_id = n.tenant_id AND b.month >= n.month) s
      LEFT JOIN quotas q ON q.tenant_id = n.tenant_id AND q.level = s.level AND q.subject = s.subject
      LEFT JOIN plans p ON p.plan_id = nullif(n.plan_id, '')
     WHERE NOT coalesce(q.unlimited, false)
), moves AS (
    SELECT l.level, l.subject, r.month, e.create_time, e.kind = 1 AND e.held_delta > 0 AS is_grant,
           l.day_limit, l.month_limit, l.since, l.topped_up,
           sum(e.held_delta + e.used_delta) OVER (PARTITION BY l.level, l.subject, r.day ORDER BY e.entry_id) AS in_day,
           sum(e.held_delta + e.used_delta) OVER by_month AS in_month
      FROM now n
      JOIN ledger e ON e.tenant_id = n.tenant_id AND e.create_time >= n.month::timestamp AT TIME ZONE n.time_zone
      JOIN reservations r ON r.tenant_id = e.tenant_id AND r.reservation_id = e.reservation_id AND r.month >= n.month
      JOIN limits l ON coalesce(l.day_limit, l.month_limit) IS NOT NULL
                   AND l.subject = CASE l.level WHEN 1 THEN '' WHEN 2 THEN r.user_id ELSE r.key_id END
    WINDOW by_month AS (PARTITION BY l.level, l.subject, r.month ORDER BY e.entry_id)
), beyond AS (
    SELECT max(greatest(in_day - day_limit, in_month - month_limit) - topped_up) AS tokens
      FROM moves WHERE is_grant AND create_time >= since GROUP BY level, subject, month
)
SELECT coalesce(sum(tokens) FILTER (WHERE tokens > 0), 0)::bigint FROM beyond
"""
# Those first whose turn was longest ago. An audit that fails has had its turn: it holds up nobody else's.
DUE = """
SELECT t.tenant_id FROM tenants t LEFT JOIN audits a ON a.tenant_id = t.tenant_id
 WHERE coalesce(a.turn_time, t.create_time) < $1
 ORDER BY a.turn_time NULLS FIRST, t.tenant_id LIMIT 1
"""
TURN = """
INSERT INTO audits (tenant_id, turn_time) VALUES ($1, clock_timestamp())
ON CONFLICT (tenant_id) DO UPDATE SET turn_time = excluded.turn_time
"""
KEEP = """
UPDATE audits SET audit_time = clock_timestamp(), discrepancies = $2, phantom_held_tokens = $3, overshoot_tokens = $4
 WHERE tenant_id = $1
"""
FOUND = """
SELECT coalesce(sum(discrepancies), 0)::bigint AS discrepancies,
       coalesce(sum(phantom_held_tokens), 0)::bigint AS phantom_held_tokens,
       coalesce(sum(overshoot_tokens), 0)::bigint AS overshoot_tokens, min(audit_time) AS oldest
  FROM audits
"""
LOCK = "SELECT pg_try_advisory_xact_lock(hashtextextended('tenant_quota.audit', 0))"
LOOK_AT = "SELECT set_config('app.tenant', $1, true)"


@dataclass(frozen=True, slots=True)
class Audit:
    """What was found in a tenant's account; none and zeroes are the only good answer."""

    discrepancies: Sequence[Discrepancy]
    phantom_held_tokens: int
    overshoot_tokens: int

    @property
    def is_clean(self) -> bool:
        """Whether the account adds up."""
        return not (self.discrepancies or self.phantom_held_tokens or self.overshoot_tokens)


@dataclass(frozen=True, slots=True)
class Findings:
    """What the last audits of all tenants found together; `oldest` is when the first of them was."""

    discrepancies: int
    phantom_held_tokens: int
    overshoot_tokens: int
    oldest: datetime | None


class Audits:
    """Audits on demand and in turn."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def run(self, tenant_id: str) -> Audit:
        """All as of one moment. NotFound without the tenant, Unavailable when the caller's time does not suffice."""
        async with tenant_transaction(self._pool, tenant_id, snapshot=True) as connection:
            await require_tenant(connection, tenant_id)
            return await _audit(connection, tenant_id, seconds_left() or PATIENCE_SECONDS)

    async def run_next(self, before: datetime) -> tuple[str, Audit] | None:
        """Audits whoever was not since `before`, one tenant, and keeps what was found.

        None when there is nobody, or another replica is at it; its lock ends with the transaction, however that ends.
        """
        async with tenant_transaction(self._pool, ACROSS_TENANTS, snapshot=True) as connection:
            if not await connection.fetchval(LOCK):
                return None
            tenant_id: str | None = await connection.fetchval(DUE, before)
            if tenant_id is None:
                return None
            await self._note(TURN, tenant_id)
            await connection.execute(LOOK_AT, tenant_id)
            found = await _audit(connection, tenant_id, PATIENCE_SECONDS)
            counts = len(found.discrepancies), found.phantom_held_tokens, found.overshoot_tokens
            await self._note(KEEP, tenant_id, *counts)
        return tenant_id, found

    async def findings(self) -> Findings:
        """What the last audits of all tenants found."""
        async with tenant_transaction(self._pool, ACROSS_TENANTS) as connection:
            return Findings(*present(await connection.fetchrow(FOUND)))

    async def _note(self, statement: str, tenant_id: str, *values: object) -> None:
        async with tenant_transaction(self._pool, tenant_id) as connection:
            await connection.execute(statement, tenant_id, *values)


async def _audit(connection: asyncpg.Connection, tenant_id: str, seconds: float) -> Audit:
    await connection.execute(PATIENCE, str(max(1, int(seconds * 1000))))
    found = list(await discrepancies_seen(connection, tenant_id, seconds))
    by_day = await connection.fetchval(TOP_UP_DAYS, tenant_id, timeout=seconds)
    if by_day:
        found.append(Discrepancy("top_up_days", 1, "", "", int(by_day)))
    return Audit(
        found,
        await connection.fetchval(PHANTOM, tenant_id, timeout=seconds),
        await connection.fetchval(OVERSHOOT, tenant_id, timeout=seconds),
    )
