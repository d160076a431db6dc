"""A person erased: what said who they were goes, what was counted stays under a pseudonym."""

from collections.abc import Sequence

import asyncpg

from services.tenant_quota.model import ErasedTable
from services.tenant_quota.sessions import Sessions
from services.tenant_quota.tenants import ACROSS_TENANTS, GET_USER, require_tenant
from shared.caller import SUBJECT_GRACE_SECONDS
from shared.postgres import tenant_transaction

# A token of the erased may name them for so long behind a service's own, and a call that began with it takes minutes.
REMEMBERED_SECONDS = SUBJECT_GRACE_SECONDS + 600.0

ERASE = "SELECT name, deleted, renamed FROM erase_user($1, $2) WHERE deleted > 0 OR renamed > 0 ORDER BY name"
REMEMBER = """
INSERT INTO erasures (tenant_id, user_id, forget_time) VALUES ($1, $2, clock_timestamp() + make_interval(secs => $3))
ON CONFLICT (tenant_id, user_id) DO UPDATE SET forget_time = excluded.forget_time
"""
FORGOTTEN = (
    "SELECT tenant_id, user_id FROM erasures WHERE forget_time <= clock_timestamp() ORDER BY forget_time LIMIT 100"
)
FORGET = "DELETE FROM erasures WHERE tenant_id = $1 AND user_id = $2 AND forget_time <= clock_timestamp()"


class Erasure:
    """Erases people, and once more when nothing of theirs can be on its way any longer."""

    def __init__(self, pool: asyncpg.Pool, sessions: Sessions) -> None:
        self._pool = pool
        self._sessions = sessions

    async def erase(self, tenant_id: str, user_id: str) -> Sequence[ErasedTable]:
        """What became of the rows of each table, by its name; of nobody, and the second time, there is none.

        NotFound when there is no such tenant.
        """
        async with tenant_transaction(self._pool, tenant_id) as connection:
            await require_tenant(connection, tenant_id)
            person = await connection.fetchrow(GET_USER, tenant_id, user_id)
            await connection.execute(REMEMBER, tenant_id, user_id, REMEMBERED_SECONDS)
            rows = await connection.fetch(ERASE, tenant_id, user_id)
        if person is not None:
            await self._sessions.forget_tries(person["email"])
        return [ErasedTable(row["name"], row["deleted"], row["renamed"]) for row in rows]

    async def finish(self) -> None:
        """Erases what was counted for the erased after all, and forgets their ids."""
        async with tenant_transaction(self._pool, ACROSS_TENANTS) as connection:
            due = await connection.fetch(FORGOTTEN)
        for row in due:
            address = (row["tenant_id"], row["user_id"])
            async with tenant_transaction(self._pool, row["tenant_id"]) as connection:
                await connection.fetch(ERASE, *address)
                await connection.execute(FORGET, *address)
