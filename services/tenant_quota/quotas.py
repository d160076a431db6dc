"""The store of limits, and what the account says: counters of the current periods, and the ledger."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import asyncpg

from services.tenant_quota.holds import usage_of
from services.tenant_quota.quota_model import (
    Enforcement,
    LedgerEntry,
    Level,
    Quota,
    UnpricedModels,
    Usage,
    Window,
    level_of,
)
from services.tenant_quota.tenants import require_tenant, require_user
from shared.errors import NotFound
from shared.postgres import tenant_transaction

SET_QUOTA = """
INSERT INTO quotas (tenant_id, level, subject, tokens_per_day, tokens_per_month, enforcement, cost_micros_per_month,
                    requests_per_minute, threshold_percents, unlimited, unpriced_models, fair_share_borrow_percent,
                    fair_share_weight)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
ON CONFLICT (tenant_id, level, subject) DO UPDATE SET tokens_per_day = excluded.tokens_per_day,
    tokens_per_month = excluded.tokens_per_month, enforcement = excluded.enforcement,
    cost_micros_per_month = excluded.cost_micros_per_month, requests_per_minute = excluded.requests_per_minute,
    threshold_percents = excluded.threshold_percents, unlimited = excluded.unlimited,
    unpriced_models = excluded.unpriced_models, fair_share_borrow_percent = excluded.fair_share_borrow_percent,
    fair_share_weight = excluded.fair_share_weight, update_time = clock_timestamp()
"""
# The account looks for limits of users (2) and keys (4) only where there are any.
NOTE_LEVEL = "UPDATE tenants SET counted = counted | $2 WHERE tenant_id = $1 AND counted & $2 < $2"
GET_QUOTA = "SELECT * FROM quotas WHERE tenant_id = $1 AND level = $2 AND subject = $3"
GET_KEY = "SELECT true FROM api_keys WHERE tenant_id = $1 AND key_id = $2"
# A subject without a balance has no limit: what it used is in usage_days, what it holds in its open reservations.
USAGE = """
WITH now AS (
    SELECT t.*, l.today, date_trunc('month', l.today::timestamp)::date AS month, extract(day FROM l.today)::int AS d
      FROM tenants t
     CROSS JOIN LATERAL (SELECT (clock_timestamp() AT TIME ZONE t.time_zone)::date AS today) l
     WHERE t.tenant_id = $1
)
SELECT s.level, s.subject, CASE WHEN q.unlimited THEN NULL ELSE coalesce(q.tokens_per_day, p.day) END AS day_limit,
       least(CASE WHEN q.unlimited THEN NULL ELSE coalesce(q.tokens_per_month, p.month) END, f.share) AS month_limit,
       CASE WHEN q.unlimited THEN NULL ELSE coalesce(q.cost_micros_per_month, p.cost) END AS cost_limit,
       coalesce(b.day_used[n.d], u.day, 0) AS day_used, coalesce(b.day_held[n.d], h.day, 0) AS day_held,
       coalesce(b.used, u.month, 0) AS month_used, coalesce(b.held, h.month, 0) AS month_held,
       coalesce(b.cost_used, u.cost, 0) AS cost_used, coalesce(b.cost_held, h.cost, 0) AS cost_held,
       coalesce(b.topped_used, 0) AS month_topped, coalesce(b.day_topped_used[n.d], 0) AS day_topped,
       n.today::timestamp AT TIME ZONE n.time_zone AS day_start,
       (n.today + 1)::timestamp AT TIME ZONE n.time_zone AS day_end,
       n.month::timestamp AT TIME ZONE n.time_zone AS month_start,
       (n.month + interval '1 month') AT TIME ZONE n.time_zone AS month_end
  FROM now n
 CROSS JOIN unnest($2::smallint[], $3::text[]) WITH ORDINALITY s(level, subject, place)
  LEFT JOIN quotas q ON q.tenant_id = n.tenant_id AND q.level = s.level AND q.subject = s.subject
  LEFT JOIN quotas w ON w.tenant_id = n.tenant_id AND w.level = 1 AND w.subject = ''
  LEFT JOIN plans g ON g.plan_id = nullif(n.plan_id, '')
 CROSS JOIN LATERAL (
    SELECT CASE s.level WHEN 1 THEN g.tokens_per_day WHEN 2 THEN g.user_tokens_per_day
                        ELSE g.key_tokens_per_day END AS day,
           CASE s.level WHEN 1 THEN g.tokens_per_month WHEN 2 THEN g.user_tokens_per_month
                        ELSE g.key_tokens_per_month END AS month,
           CASE s.level WHEN 1 THEN g.cost_micros_per_month END AS cost) p
  LEFT JOIN LATERAL (
    SELECT fair_share(coalesce(w.tokens_per_month, g.tokens_per_month), coalesce(nullif(q.fair_share_weight, 0), 1),
                      n.share_weights, coalesce(w.fair_share_borrow_percent, g.fair_share_borrow_percent)) AS share
     WHERE s.level = 2 AND NOT coalesce(q.unlimited, false) AND NOT coalesce(w.unlimited, false)
       AND CASE WHEN w.tokens_per_month IS NOT NULL THEN w.enforcement ELSE g.enforcement END <> 2) f ON true
  LEFT JOIN balances b ON b.tenant_id = n.tenant_id AND b.level = s.level AND b.subject = s.subject
                      AND b.month = n.month
  LEFT JOIN LATERAL (
    SELECT sum(e.tokens) FILTER (WHERE e.day = n.today)::bigint AS day, sum(e.tokens)::bigint AS month,
           sum(e.cost_micros)::bigint AS cost
      FROM (SELECT day, cost_micros, input_tokens + cached_input_tokens + output_tokens + reasoning_tokens AS tokens
              FROM usage_days
             WHERE tenant_id = n.tenant_id AND day >= n.month AND day < n.month + interval '1 month'
               AND CASE s.level WHEN 2 THEN user_id ELSE key_id END = s.subject) e) u
       ON b.tenant_id IS NULL AND s.level > 1
  LEFT JOIN LATERAL (
    SELECT sum(r.granted - r.spent) FILTER (WHERE r.day = n.today)::bigint AS day,
           sum(r.granted - r.spent)::bigint AS month, sum(r.granted_cost - r.spent_cost)::bigint AS cost
      FROM reservations r
     WHERE r.tenant_id = n.tenant_id AND r.state = 1 AND r.month = n.month AND r.parent_reservation_id = ''
       AND CASE s.level WHEN 2 THEN r.user_id ELSE r.key_id END = s.subject) h ON b.tenant_id IS NULL AND s.level > 1
 ORDER BY s.place
"""
# Conditions on the ledger; "{}" is where the parameter goes.
BY_USER = "user_id = {}"
# A reservation moves when it is made, when it is extended and when it ends; those instants are where its entries are.
BY_RESERVATION = """reservation_id = {0} AND create_time = ANY (ARRAY(
    SELECT unnest(ARRAY[r.create_time, r.settle_time] || r.extend_times) FROM reservations r
     WHERE r.tenant_id = $1 AND r.reservation_id = {0}))"""
SINCE, UNTIL = "create_time >= {}", "create_time < {}"
BEFORE = "(create_time, entry_id) < ({}, {})"


@dataclass(frozen=True, slots=True)
class LedgerFilter:
    """Which entries are wanted; None does not narrow."""

    user_id: str | None = None
    reservation_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None


class Quotas:
    """Keeps limits and reads the account."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def set(self, quota: Quota) -> Quota:
        """Replaces the limits of a tenant, user or key; NotFound when it does not exist."""
        async with tenant_transaction(self._pool, quota.tenant_id) as connection:
            await _require_subject(connection, quota.tenant_id, quota.level, quota.subject)
            shares = quota.fair_share_borrow_percent is not None
            await connection.execute(NOTE_LEVEL, quota.tenant_id, 2 * quota.level - 2 or 2 * shares)
            await connection.execute(
                SET_QUOTA,
                quota.tenant_id,
                quota.level,
                quota.subject,
                quota.tokens_per_day,
                quota.tokens_per_month,
                quota.enforcement,
                quota.cost_micros_per_month,
                quota.requests_per_minute,
                quota.threshold_percents,
                quota.unlimited,
                quota.unpriced_models,
                quota.fair_share_borrow_percent,
                quota.fair_share_weight,
            )
        return quota

    async def get(self, tenant_id: str, user_id: str, key_id: str = "") -> Quota:
        """The limits as set; without any when none were. NotFound when the tenant, user or key does not exist."""
        level, subject = level_of(user_id, key_id)
        async with tenant_transaction(self._pool, tenant_id) as connection:
            await _require_subject(connection, tenant_id, level, subject)
            row = await connection.fetchrow(GET_QUOTA, tenant_id, level, subject)
        return Quota(tenant_id, user_id, key_id=key_id) if row is None else quota_of(row)

    async def usage(self, tenant_id: str, user_id: str, key_id: str = "") -> Sequence[Usage]:
        """Day and month of the tenant, then of the user and the key that are named. NotFound without the tenant."""
        subjects = [(Level.TENANT, ""), (Level.USER, user_id), (Level.KEY, key_id)]
        named = [(level, subject) for level, subject in subjects if subject or level is Level.TENANT]
        async with tenant_transaction(self._pool, tenant_id) as connection:
            rows = await connection.fetch(USAGE, tenant_id, *map(list, zip(*named, strict=True)))
        if not rows:
            raise NotFound("tenant", tenant_id)
        return [usage for row in rows for usage in _usages(row)]

    async def ledger(
        self, tenant_id: str, wanted: LedgerFilter, before: tuple[datetime, int] | None, most: int
    ) -> Sequence[LedgerEntry]:
        """The entries, newest first, after the one at `before`. NotFound without the tenant."""
        sql, values = _ledger_query(tenant_id, wanted, before, most)
        async with tenant_transaction(self._pool, tenant_id) as connection:
            await require_tenant(connection, tenant_id)
            return [_entry(row) for row in await connection.fetch(sql, *values)]


async def _require_subject(connection: asyncpg.Connection, tenant_id: str, level: Level, subject: str) -> None:
    await require_tenant(connection, tenant_id)
    if level is Level.USER:
        await require_user(connection, tenant_id, subject)
    elif level is Level.KEY and not await connection.fetchval(GET_KEY, tenant_id, subject):
        raise NotFound("api_key", subject)


def _ledger_query(
    tenant_id: str, wanted: LedgerFilter, before: tuple[datetime, int] | None, most: int
) -> tuple[str, list[object]]:
    values: list[object] = [tenant_id]
    conditions = ["tenant_id = $1"]
    chosen: list[tuple[str, tuple[object, ...]]] = [
        (BY_USER, (wanted.user_id,)),
        (BY_RESERVATION, (wanted.reservation_id,)),
        (SINCE, (wanted.since,)),
        (UNTIL, (wanted.until,)),
        (BEFORE, before or (None,)),
    ]
    for condition, parameters in chosen:
        if parameters[0] is not None:
            places = [f"${len(values) + number}" for number in range(1, len(parameters) + 1)]
            conditions.append(condition.format(*places))
            values.extend(parameters)
    values.append(most)
    where = " AND ".join(conditions)
    order = f"ORDER BY create_time DESC, entry_id DESC LIMIT ${len(values)}"
    return f"SELECT * FROM ledger WHERE {where} {order}", values  # noqa: S608 only constants and parameter places


def quota_of(row: asyncpg.Record) -> Quota:
    """The limits that a row of `quotas` keeps."""
    level = Level(row["level"])
    return Quota(
        row["tenant_id"],
        row["subject"] if level is Level.USER else "",
        row["tokens_per_day"],
        row["tokens_per_month"],
        Enforcement(row["enforcement"]),
        row["subject"] if level is Level.KEY else "",
        row["cost_micros_per_month"],
        row["requests_per_minute"],
        tuple(row["threshold_percents"]),
        row["unlimited"],
        UnpricedModels(row["unpriced_models"]) if row["unpriced_models"] else None,
        row["fair_share_borrow_percent"],
        row["fair_share_weight"],
    )


def _usages(row: asyncpg.Record) -> tuple[Usage, Usage]:
    level = Level(row["level"])
    user_id = row["subject"] if level is Level.USER else ""
    key_id = row["subject"] if level is Level.KEY else ""

    def usage(window: Window, name: str) -> Usage:
        return Usage(
            window,
            user_id,
            row[f"{name}_limit"],
            row[f"{name}_used"],
            row[f"{name}_held"],
            row[f"{name}_start"],
            row[f"{name}_end"],
            key_id,
            topped_up_tokens=row[f"{name}_topped"],
        )

    month = replace(
        usage(Window.MONTH, "month"),
        limit_cost_micros=row["cost_limit"],
        used_cost_micros=row["cost_used"],
        held_cost_micros=row["cost_held"],
    )
    return usage(Window.DAY, "day"), month


def _entry(row: asyncpg.Record) -> LedgerEntry:
    return LedgerEntry(
        row["entry_id"],
        row["kind"],
        row["reservation_id"],
        row["user_id"],
        row["key_id"],
        row["model"],
        row["conversation_id"],
        row["assistant_id"],
        row["held_delta"],
        row["used_delta"],
        usage_of(row),
        row["usage_source"] or 0,
        row["cost_micros"],
        row["create_time"],
        row["issued_delta"],
        row["available_delta"],
        row["parent_reservation_id"],
        row["top_up_id"],
        row["key_display_name"],
        row["priced"],
    )
