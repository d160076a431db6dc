"""The store of signals: writing those that are due, by the functions in schema/0008_signals.sql, and reading them."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import asyncpg

from services.tenant_quota.quota_model import Level, Window
from services.tenant_quota.signal_model import Measure, Signal
from services.tenant_quota.tenants import require_tenant
from shared.postgres import ACQUIRE_TIMEOUT_SECONDS, postgres_errors, tenant_transaction

RECORD = "SELECT record_signals($1, $2, $3)"
SCAN = "SELECT * FROM scan_signals($1, $2)"
LAST = "SELECT coalesce(max(signal_id), 0) FROM signals WHERE tenant_id = $1"
# Of several tenants at once: what each has after the last that was read.
NEWS = """
SELECT s.* FROM unnest($1::text[], $2::bigint[]) a(tenant_id, after)
  JOIN signals s ON s.tenant_id = a.tenant_id AND s.signal_id > a.after
 ORDER BY s.signal_id
"""
STORED = """
SELECT * FROM signals
 WHERE tenant_id = $1 AND signal_id > $2 AND signal_id <= $3 AND ($4::text IS NULL OR (level = 2 AND subject = $4))
 ORDER BY signal_id LIMIT $5
"""
NEWEST_FIRST = """
SELECT * FROM signals
 WHERE tenant_id = $1 AND signal_id < $2 AND ($3::text IS NULL OR (level = 2 AND subject = $3))
 ORDER BY signal_id DESC LIMIT $4
"""
BEYOND_ALL = 2**63 - 1


class Subject(NamedTuple):
    """Whose counters moved, or whose limits."""

    tenant_id: str
    level: Level
    subject: str


class SignalStore:
    """Keeps signals, each written once."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def record(self, subjects: Sequence[Subject]) -> int:
        """Writes the signals of these subjects that are due and not there yet; returns how many that were."""
        columns = [list(column) for column in zip(*subjects, strict=True)]
        with postgres_errors():
            async with self._pool.acquire(timeout=ACQUIRE_TIMEOUT_SECONDS) as connection:
                count: int = await connection.fetchval(RECORD, *columns)
        return count

    async def scan(self, after_tenant: str, most: int) -> tuple[str | None, int]:
        """As record, for everybody in the next `most` tenants.

        Returns the last of them, None when none are left or another replica is scanning, and how many were written.
        """
        with postgres_errors():
            async with self._pool.acquire(timeout=ACQUIRE_TIMEOUT_SECONDS) as connection:
                row = await connection.fetchrow(SCAN, after_tenant, most)
        return (row["last_tenant"], row["written"]) if row else (None, 0)

    async def last(self, tenant_id: str) -> int:
        """The id of the tenant's newest signal; 0 when it has none."""
        async with tenant_transaction(self._pool, tenant_id) as connection:
            number: int = await connection.fetchval(LAST, tenant_id)
            return number

    async def news(self, after: Mapping[str, int]) -> Sequence[Signal]:
        """What each of these tenants has after the signal named, oldest first."""
        tenants = list(after)
        with postgres_errors():
            async with self._pool.acquire(timeout=ACQUIRE_TIMEOUT_SECONDS) as connection, connection.transaction():
                await connection.execute("SELECT set_config('app.tenants', jsonb_object($1, $1)::text, true)", tenants)
                return [signal_of(row) for row in await connection.fetch(NEWS, tenants, list(after.values()))]

    async def stored(self, tenant_id: str, user_id: str | None, after: int, until: int, most: int) -> Sequence[Signal]:
        """Those after one and up to another, oldest first; only the user's unless None."""
        async with tenant_transaction(self._pool, tenant_id) as connection:
            rows = await connection.fetch(STORED, tenant_id, after, until, user_id, most)
        return [signal_of(row) for row in rows]

    async def newest(self, tenant_id: str, user_id: str | None, before: int | None, most: int) -> Sequence[Signal]:
        """Those before one, newest first; only the user's unless None. NotFound without the tenant."""
        async with tenant_transaction(self._pool, tenant_id) as connection:
            await require_tenant(connection, tenant_id)
            rows = await connection.fetch(NEWEST_FIRST, tenant_id, before or BEYOND_ALL, user_id, most)
        return [signal_of(row) for row in rows]


def signal_of(row: asyncpg.Record) -> Signal:
    return Signal(
        row["signal_id"],
        row["tenant_id"],
        Level(row["level"]),
        row["subject"],
        Window(row["window"]),
        Measure(row["measure"]),
        row["percent"],
        row["limit_amount"],
        row["used_amount"],
        row["period_start_time"],
        row["create_time"],
    )
