"""Writes that may be repeated: what a request_id made is kept beside the effect, in the same transaction."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Literal, TypeAlias

import asyncpg

from services.tenant_quota.forgetting import forget_all
from services.tenant_quota.model import Replay

KEPT_HOURS = 48

Table: TypeAlias = Literal["tenants", "users", "api_keys", "webhooks", "top_ups", "plans", "prices"]

CLAIM = """
INSERT INTO requests (tenant_id, method, request_id, fingerprint) VALUES ($1, $2, $3, $4)
ON CONFLICT DO NOTHING RETURNING true
"""
KEEP = "UPDATE requests SET outcome = $4 WHERE tenant_id = $1 AND method = $2 AND request_id = $3"
RECALL: dict[Table, str] = {
    "tenants": """SELECT r.fingerprint, x.* FROM requests r, jsonb_populate_record(NULL::tenants, r.outcome) x
                  WHERE r.tenant_id = $1 AND r.method = $2 AND r.request_id = $3""",
    "users": """SELECT r.fingerprint, x.* FROM requests r, jsonb_populate_record(NULL::users, r.outcome) x
                WHERE r.tenant_id = $1 AND r.method = $2 AND r.request_id = $3""",
    "api_keys": """SELECT r.fingerprint, x.* FROM requests r, jsonb_populate_record(NULL::api_keys, r.outcome) x
                   WHERE r.tenant_id = $1 AND r.method = $2 AND r.request_id = $3""",
    "plans": """SELECT r.fingerprint, x.* FROM requests r, jsonb_populate_record(NULL::plans, r.outcome) x
                WHERE r.tenant_id = $1 AND r.method = $2 AND r.request_id = $3""",
    "prices": """SELECT r.fingerprint, x.* FROM requests r, jsonb_populate_record(NULL::prices, r.outcome) x
                 WHERE r.tenant_id = $1 AND r.method = $2 AND r.request_id = $3""",
    "top_ups": """SELECT r.fingerprint, x.* FROM requests r, jsonb_populate_record(NULL::top_ups, r.outcome) x
                  WHERE r.tenant_id = $1 AND r.method = $2 AND r.request_id = $3""",
    "webhooks": """SELECT r.fingerprint, x.* FROM requests r, jsonb_populate_record(NULL::webhooks, r.outcome) x
                   WHERE r.tenant_id = $1 AND r.method = $2 AND r.request_id = $3""",
}
FORGET = """
WITH gone AS (
    DELETE FROM requests WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM requests WHERE create_time < now() - make_interval(hours => $2) ORDER BY create_time LIMIT $1))
    RETURNING 1
)
SELECT count(*) FROM gone
"""


async def once(
    connection: asyncpg.Connection,
    scope: str,
    method: str,
    replay: Replay | None,
    table: Table,
    make: Callable[[], Awaitable[asyncpg.Record | None]],
) -> tuple[asyncpg.Record, bool]:
    """The row that `make` inserted into `table`, now or when the request_id was first used; True when it was now.

    A second call at the same moment waits for the first to end. Raises RequestIdReused for another payload.
    """
    if replay is None:
        return present(await make()), True
    address = (scope, method, replay.request_id)
    if not await connection.fetchval(CLAIM, *address, replay.fingerprint):
        known = present(await connection.fetchrow(RECALL[table], *address))
        replay.expect(known["fingerprint"])
        return known, False
    made = present(await make())
    await connection.execute(KEEP, *address, _plain(made))
    return made, True


def present(row: asyncpg.Record | None) -> asyncpg.Record:
    """The row of a statement that always gives one."""
    if row is None:
        raise LookupError("the statement gave no row")
    return row


async def forget(pool: asyncpg.Pool) -> None:
    """Deletes what is too old to be a retry."""
    await forget_all(pool, FORGET, KEPT_HOURS)


def _plain(row: asyncpg.Record) -> dict[str, object]:
    """The row as JSON, without its secrets."""
    return {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in row.items()
        if not isinstance(value, bytes)
    }
