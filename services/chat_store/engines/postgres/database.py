"""The Postgres engine's way to its database: one statement in one round trip, or a transaction of one tenant."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import asyncpg

from services.chat_store.engines.postgres.rows import milliseconds, plain
from services.chat_store.model import Conversation
from services.chat_store.selection import Reach, is_conversation_id
from shared.clock import Clock
from shared.errors import NotFound
from shared.postgres import postgres_errors, tenant_transaction

ALL_TENANTS = "*"
# A conversation's writers take turns under this lock, and its row comes and goes under it (schema/0001).
LOCK_ID = "select pg_advisory_xact_lock(hashtextextended($1 || ':' || $2, 0))"


class Database:
    """A pool on the schema of chat_store, and the time."""

    def __init__(self, pool: asyncpg.Pool, clock: Clock) -> None:
        self.pool = pool
        self._clock = clock

    def now(self) -> datetime:
        """The time, to the millisecond."""
        return milliseconds(self._clock.now())

    async def call(self, statement: str, *arguments: object) -> list[Any]:
        """The rows of one statement, in a transaction of its own; for functions that set the tenant themselves."""
        with postgres_errors():
            rows: list[Any] = await self.pool.fetch(statement, *arguments)
        return rows

    @asynccontextmanager
    async def transaction(self, tenant_id: str, *, snapshot: bool = False) -> AsyncIterator[asyncpg.Connection]:
        """A transaction on what one tenant has; ALL_TENANTS may only read. `snapshot`: reads as of one moment."""
        async with tenant_transaction(self.pool, tenant_id, snapshot=snapshot) as connection:
            yield connection

    def called(self, reach: Reach, conversation_id: str) -> tuple[str, str | None, str]:
        """Tenant, user and conversation as functions want them; NotFound when no conversation could have that id."""
        if not is_conversation_id(conversation_id):
            raise missing(conversation_id)
        return reach.tenant_id, None if reach.user_id is None else plain(reach.user_id), conversation_id


def missing(conversation_id: str) -> NotFound:
    """The same words whether it never was, is gone, or is out of reach."""
    return NotFound("conversation", conversation_id)


async def locked(connection: asyncpg.Connection, tenant_id: str, conversation_id: str) -> Any:
    """The row of the conversation, held against other writers until the transaction ends; None if there is none."""
    await connection.execute(LOCK_ID, tenant_id, conversation_id)
    wanted = "select * from conversations where tenant_id = $1 and conversation_id = $2 for no key update"
    return await connection.fetchrow(wanted, tenant_id, conversation_id)


def latest(now: datetime, conversation: Conversation) -> datetime:
    """The time of what is done to the conversation: never before what was done to it."""
    return max(now, conversation.last_activity_time)
