"""The store of top-ups: tokens given to a tenant beyond its limits. Here they come and go; the account draws."""

from collections.abc import Sequence
from datetime import datetime

import asyncpg

from services.tenant_quota.model import Replay
from services.tenant_quota.quota_model import TopUp
from services.tenant_quota.replays import once
from services.tenant_quota.tenants import Position, bounds, require_tenant
from shared.errors import FieldViolation, InvalidArgument, NotFound
from shared.identifiers import new_id
from shared.postgres import tenant_transaction

# As every movement of the account: the tenant's row first. The bit lets the account look for top-ups from now on.
LOCK = "SELECT set_config('app.tenants', jsonb_build_object($1::text, '')::text, true)"
NOTE = "UPDATE tenants SET counted = counted | 8 WHERE tenant_id = $1 RETURNING clock_timestamp()"
INSERT = """
INSERT INTO top_ups (tenant_id, top_up_id, tokens, priority, reason, expire_time, create_time)
VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING *
"""
LOG = """
INSERT INTO ledger (tenant_id, create_time, kind, reservation_id, user_id, key_id, model, conversation_id, assistant_id,
                    issued_delta, available_delta, held_delta, used_delta, cost_micros, top_up_id)
VALUES ($1, $2, 5, '', '', '', '', '', '', -$3::bigint, $3, 0, 0, 0, $4)
"""
LIST = """
SELECT * FROM top_ups WHERE tenant_id = $1 AND (create_time, top_up_id) < ($2::text::timestamptz, $3)
 ORDER BY create_time DESC, top_up_id DESC LIMIT $4
"""
REVOKE = """
UPDATE top_ups SET expire_time = least(expire_time, $3) WHERE tenant_id = $1 AND top_up_id = $2 RETURNING *
"""
TAKE_BACK = "SELECT end_top_ups(ARRAY[$1::text], $2)"


class TopUps:
    """Gives, lists and ends top-ups."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def create(
        self,
        tenant_id: str,
        tokens: int,
        priority: int,
        expire_time: datetime | None,
        reason: str,
        replay: Replay | None,
    ) -> TopUp:
        """NotFound without the tenant, InvalidArgument when it would have ended already."""
        async with tenant_transaction(self._pool, tenant_id) as connection:
            now = await _alone(connection, tenant_id)

            async def make() -> asyncpg.Record | None:
                if expire_time is not None and expire_time <= now:
                    text = "must be in the future"
                    raise InvalidArgument(violations=[FieldViolation("expire_time", text, "timestamp.gt_now")])
                row = await connection.fetchrow(INSERT, tenant_id, new_id(), tokens, priority, reason, expire_time, now)
                await connection.execute(LOG, tenant_id, now, tokens, row and row["top_up_id"])
                return row

            row, _ = await once(connection, tenant_id, "CreateTopUp", replay, "top_ups", make)
        return _top_up(row)

    async def list(self, tenant_id: str, before: Position | None, most: int) -> Sequence[TopUp]:
        """Newest first; NotFound without the tenant."""
        async with tenant_transaction(self._pool, tenant_id) as connection:
            await require_tenant(connection, tenant_id)
            return [_top_up(row) for row in await connection.fetch(LIST, tenant_id, *bounds(before), most)]

    async def revoke(self, tenant_id: str, top_up_id: str) -> TopUp:
        """Repeating it changes nothing; NotFound when the tenant has no such top-up."""
        async with tenant_transaction(self._pool, tenant_id) as connection:
            now = await _alone(connection, tenant_id)
            row = await connection.fetchrow(REVOKE, tenant_id, top_up_id, now)
            await connection.execute(TAKE_BACK, tenant_id, now)
        if row is None:
            raise NotFound("top_up", top_up_id)
        return _top_up(row)


async def _alone(connection: asyncpg.Connection, tenant_id: str) -> datetime:
    """The moment from which on the tenant's account is the transaction's alone."""
    await connection.execute(LOCK, tenant_id)
    now: datetime | None = await connection.fetchval(NOTE, tenant_id)
    if now is None:
        raise NotFound("tenant", tenant_id)
    return now


def _top_up(row: asyncpg.Record) -> TopUp:
    return TopUp(
        row["top_up_id"],
        row["tenant_id"],
        row["tokens"],
        row["used"],
        row["held"],
        row["priority"],
        row["reason"],
        row["expire_time"],
        row["create_time"],
    )
