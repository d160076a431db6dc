"""The store of limits, and what the account says: counters of the current periods, and the ledger."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from services.tenant_quota.quota_model import Enforcement, LedgerEntry, Quota, Usage, Window
from services.tenant_quota.reservations import usage_of
from services.tenant_quota.tenants import require_tenant, require_user
from shared.errors import NotFound
from shared.postgres import tenant_transaction

SET_QUOTA = """
INSERT INTO quotas AS q (tenant_id, user_id, tokens_per_day, tokens_per_month, enforcement)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (tenant_id, user_id) DO UPDATE SET tokens_per_day = excluded.tokens_per_day,
    tokens_per_month = excluded.tokens_per_month, enforcement = excluded.enforcement, update_time = clock_timestamp()
"""
GET_QUOTA = "SELECT * FROM quotas WHERE tenant_id = $1 AND user_id = $2"
USAGE = """
SELECT w.w AS "window", s.user_id, CASE w.w WHEN 1 THEN q.tokens_per_day ELSE q.tokens_per_month END AS limit_tokens,
       coalesce(b.used, 0) AS used_tokens, coalesce(b.held, 0) AS held_tokens,
       w.first::timestamp AT TIME ZONE t.time_zone AS start_time, w.next AT TIME ZONE t.time_zone AS end_time
  FROM tenants t
 CROSS JOIN LATERAL (SELECT (clock_timestamp() AT TIME ZONE t.time_zone)::date AS today) l
 CROSS JOIN LATERAL (VALUES (1::smallint, l.today, (l.today + 1)::timestamp),
                            (2::smallint, date_trunc('month', l.today::timestamp)::date,
                             date_trunc('month', l.today::timestamp) + interval '1 month')) w(w, first, next)
 CROSS JOIN unnest($2::text[]) WITH ORDINALITY s(user_id, n)
  LEFT JOIN quotas q ON q.tenant_id = t.tenant_id AND q.user_id = s.user_id
  LEFT JOIN balances b ON b.tenant_id = t.tenant_id AND b.user_id = s.user_id AND b."window" = w.w
                      AND b.period_start = w.first
 WHERE t.tenant_id = $1
 ORDER BY s.n, w.w
"""
# Conditions on the ledger; "{}" is where the parameter goes.
BY_USER = "user_id = {}"
# A reservation moves when it is made and when it ends; those instants are where its entries are.
BY_RESERVATION = """reservation_id = {0} AND create_time = ANY (ARRAY(
    SELECT unnest(ARRAY[r.create_time, r.settle_time]) FROM reservations r
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
        """Replaces the limits of a tenant or user; NotFound when it does not exist."""
        async with tenant_transaction(self._pool, quota.tenant_id) as connection:
            await _require_subject(connection, quota.tenant_id, quota.user_id)
            await connection.execute(
                SET_QUOTA,
                quota.tenant_id,
                quota.user_id,
                quota.tokens_per_day,
                quota.tokens_per_month,
                quota.enforcement,
            )
        return quota

    async def get(self, tenant_id: str, user_id: str) -> Quota:
        """The limits; without any when none were set. NotFound when the tenant or user does not exist."""
        async with tenant_transaction(self._pool, tenant_id) as connection:
            await _require_subject(connection, tenant_id, user_id)
            row = await connection.fetchrow(GET_QUOTA, tenant_id, user_id)
        if row is None:
            return Quota(tenant_id, user_id)
        limits = (row["tokens_per_day"], row["tokens_per_month"])
        return Quota(tenant_id, user_id, *limits, Enforcement(row["enforcement"]))

    async def usage(self, tenant_id: str, user_id: str) -> Sequence[Usage]:
        """Day and month of the tenant, then of the user when `user_id` names one. NotFound without the tenant."""
        subjects = ["", user_id] if user_id else [""]
        async with tenant_transaction(self._pool, tenant_id) as connection:
            rows = await connection.fetch(USAGE, tenant_id, subjects)
        if not rows:
            raise NotFound("tenant", tenant_id)
        return [_usage(row) for row in rows]

    async def ledger(
        self, tenant_id: str, wanted: LedgerFilter, before: tuple[datetime, int] | None, most: int
    ) -> Sequence[LedgerEntry]:
        """The entries, newest first, after the one at `before`. NotFound without the tenant."""
        sql, values = _ledger_query(tenant_id, wanted, before, most)
        async with tenant_transaction(self._pool, tenant_id) as connection:
            await require_tenant(connection, tenant_id)
            return [_entry(row) for row in await connection.fetch(sql, *values)]


async def _require_subject(connection: asyncpg.Connection, tenant_id: str, user_id: str) -> None:
    await require_tenant(connection, tenant_id)
    if user_id:
        await require_user(connection, tenant_id, user_id)


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


def _usage(row: asyncpg.Record) -> Usage:
    return Usage(
        Window(row["window"]),
        row["user_id"],
        row["limit_tokens"],
        row["used_tokens"],
        row["held_tokens"],
        row["start_time"],
        row["end_time"],
    )


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
    )
