"""The account checked against itself: the ledger must explain every counter to the token."""

from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from shared.postgres import tenant_transaction

# By subject and day, since a month is the sum of its days. A subject that is not counted has nothing to explain.
# Which day an entry belongs to its reservation knows. Where these may be forgotten, the past, the usage by day has to
# explain the counters, and the ledger the sum of all that usage.
AUDIT = """
WITH past AS (
    SELECT coalesce(max((until_time AT TIME ZONE 'UTC')::date + 1), '-infinity') AS day
      FROM forgotten WHERE tenant_id = $1
), moved AS (
    SELECT r.user_id, r.key_id, r.month, r.day, r.day <= p.day IS NOT FALSE AS is_past,
           sum(e.held_delta)::bigint AS held, sum(e.used_delta)::bigint AS used, sum(e.cost_micros)::bigint AS cost
      FROM past p CROSS JOIN ledger e
      LEFT JOIN reservations r ON r.tenant_id = e.tenant_id AND r.reservation_id = e.reservation_id
     WHERE e.tenant_id = $1 AND e.kind < 5
     GROUP BY r.user_id, r.key_id, r.month, r.day, is_past
), spent AS (
    SELECT u.user_id, u.key_id, u.day, u.day <= p.day AS is_past,
           sum(u.input_tokens + u.cached_input_tokens + u.output_tokens + u.reasoning_tokens)::bigint AS used,
           sum(u.cost_micros)::bigint AS cost
      FROM past p CROSS JOIN usage_days u WHERE u.tenant_id = $1
     GROUP BY u.user_id, u.key_id, u.day, is_past
), told AS (
    SELECT l.level, l.subject, m.month, m.day, sum(m.held)::bigint AS held, sum(m.used)::bigint AS used,
           sum(m.cost)::bigint AS cost
      FROM (SELECT user_id, key_id, month, day, held, CASE WHEN NOT is_past THEN used ELSE 0 END AS used,
                   CASE WHEN NOT is_past THEN cost ELSE 0 END AS cost
              FROM moved WHERE day IS NOT NULL
             UNION ALL
            SELECT user_id, key_id, date_trunc('month', day::timestamp)::date, day, 0, used, cost
              FROM spent WHERE is_past) m
     CROSS JOIN LATERAL (VALUES (1::smallint, ''), (2::smallint, nullif(m.user_id, '')),
                                (3::smallint, nullif(m.key_id, ''))) l(level, subject)
     WHERE l.subject IS NOT NULL
     GROUP BY l.level, l.subject, m.month, m.day
), counted AS (
    SELECT b.level, b.subject, b.month, b.month + n - 1 AS day, b.day_held[n] AS held, b.day_used[n] AS used,
           coalesce(b.day_topped_held[n], 0) AS topped_held, coalesce(b.day_topped_used[n], 0) AS topped_used
      FROM balances b, generate_series(1, 31) n
     WHERE b.tenant_id = $1
), rolled AS (
    SELECT day, sum(used)::bigint AS used, sum(cost)::bigint AS cost FROM spent GROUP BY day
), drawn AS (
    SELECT r.day, u.top_up_id, r.state, sum(u.tokens)::bigint AS tokens
      FROM reservations r, unnest(r.top_ups, r.topped) u(top_up_id, tokens)
     WHERE r.tenant_id = $1 GROUP BY r.day, u.top_up_id, r.state
     UNION ALL
    SELECT day, top_up_id, 2, tokens FROM forgotten_draws WHERE tenant_id = $1
), held_now AS (
    SELECT sum(granted - spent)::bigint AS held, sum(granted_cost - spent_cost)::bigint AS cost, month
      FROM reservations WHERE tenant_id = $1 AND state = 1 AND parent_reservation_id = '' GROUP BY month
), found AS (
    SELECT 'held' AS counter, level, subject, day::text AS period,
           coalesce(c.held, 0) - coalesce(t.held, 0) AS difference
      FROM counted c LEFT JOIN told t USING (level, subject, month, day)
    UNION ALL
    SELECT 'used', level, subject, day::text, coalesce(c.used, 0) - coalesce(t.used, 0)
      FROM counted c LEFT JOIN told t USING (level, subject, month, day)
    UNION ALL
    SELECT 'uncounted', 1, '', t.day::text, coalesce(t.held, 0) + coalesce(t.used, 0)
      FROM told t
     WHERE t.level = 1
       AND NOT EXISTS (SELECT FROM balances b WHERE b.tenant_id = $1 AND b.level = 1 AND b.month = t.month)
    UNION ALL
    SELECT 'month', b.level, b.subject, b.month::text,
           (b.held + b.used) - (SELECT sum(h) FROM unnest(b.day_held) h) - (SELECT sum(u) FROM unnest(b.day_used) u)
      FROM balances b WHERE b.tenant_id = $1
    UNION ALL
    SELECT 'cost_used', b.level, b.subject, b.month::text, b.cost_used - coalesce(
           (SELECT sum(t.cost) FROM told t WHERE (t.level, t.subject, t.month) = (b.level, b.subject, b.month)), 0)
      FROM balances b WHERE b.tenant_id = $1
    UNION ALL
    SELECT 'cost_held', 1, '', b.month::text, b.cost_held - coalesce(h.cost, 0)
      FROM balances b LEFT JOIN held_now h USING (month) WHERE b.tenant_id = $1 AND b.level = 1
    UNION ALL
    SELECT 'reserved', 1, '', b.month::text, b.held - coalesce(h.held, 0)
      FROM balances b LEFT JOIN held_now h USING (month) WHERE b.tenant_id = $1 AND b.level = 1
    UNION ALL
    SELECT 'usage_days', 1, '', day::text,
           coalesce(u.used, 0) - coalesce(t.used, 0) + coalesce(u.cost, 0) - coalesce(t.cost, 0)
      FROM rolled u FULL JOIN (SELECT day, used, cost FROM told WHERE level = 1) t USING (day)
    UNION ALL
    SELECT 'past', 1, '', p.day::text, coalesce((SELECT sum(used + cost) FROM spent WHERE is_past), 0)
           - coalesce((SELECT sum(used + cost) FROM moved WHERE is_past), 0)
      FROM past p
    UNION ALL
    SELECT 'past_held', 1, '', p.day::text, -coalesce((SELECT sum(held) FROM moved WHERE day IS NULL), 0)
      FROM past p
    UNION ALL
    SELECT 'top_up', 1, u.top_up_id, '', (u.tokens - u.ended) + coalesce((
           SELECT sum(e.issued_delta) FROM ledger e WHERE e.tenant_id = $1 AND e.top_up_id = u.top_up_id), 0)
      FROM top_ups u WHERE u.tenant_id = $1
    UNION ALL
    SELECT 'top_up_used', 1, u.top_up_id, '', u.used - coalesce((
           SELECT sum(d.tokens) FROM drawn d WHERE d.top_up_id = u.top_up_id AND d.state > 1), 0)
      FROM top_ups u WHERE u.tenant_id = $1
    UNION ALL
    SELECT 'top_up_held', 1, u.top_up_id, '', u.held - coalesce((
           SELECT sum(d.tokens) FROM drawn d WHERE d.top_up_id = u.top_up_id AND d.state = 1), 0)
      FROM top_ups u WHERE u.tenant_id = $1
    UNION ALL
    SELECT 'topped', 1, '', c.day::text, c.topped_held + c.topped_used - coalesce((
           SELECT sum(d.tokens) FROM drawn d WHERE d.day = c.day), 0)
      FROM counted c WHERE c.level = 1
    UNION ALL
    SELECT 'topped_month', 1, '', b.month::text, b.topped_held + b.topped_used
           - coalesce((SELECT sum(x) FROM unnest(b.day_topped_held || b.day_topped_used) x), 0)
      FROM balances b WHERE b.tenant_id = $1
)
SELECT counter, level, subject, period, difference::bigint FROM found WHERE difference <> 0
"""


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """A counter that says more (or, negative, less) than what should explain it."""

    counter: str
    level: int
    subject: str
    period: str
    difference: int


async def discrepancies(pool: asyncpg.Pool, tenant_id: str) -> Sequence[Discrepancy]:
    """Every counter of the tenant that its ledger does not explain, and every difference between the counters, the
    usage by day and the top-ups; none is the only good answer.
    """
    async with tenant_transaction(pool, tenant_id, snapshot=True) as connection:
        return await discrepancies_seen(connection, tenant_id)


async def discrepancies_seen(
    connection: asyncpg.Connection, tenant_id: str, timeout_seconds: float | None = None
) -> Sequence[Discrepancy]:
    """The same, as the tenant's transaction in progress sees it."""
    rows = await connection.fetch(AUDIT, tenant_id, timeout=timeout_seconds)
    return [Discrepancy(**row) for row in rows]
