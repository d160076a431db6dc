"""What the service does by itself, in PostgreSQL: policies, what is due, purges, trimming."""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import asyncpg

from services.chat_store.engines.postgres import rows
from services.chat_store.engines.postgres.authors import PostgresAuthors
from services.chat_store.engines.postgres.database import ALL_TENANTS, Database, latest, locked
from services.chat_store.engines.postgres.dump import dump
from services.chat_store.engines.postgres.load import load, tell_purge
from services.chat_store.engines.postgres.messages import drop_unsaid_texts
from services.chat_store.model import Conversation
from services.chat_store.policy import Policy
from services.chat_store.snapshot import Piece

# What hangs on a conversation, by table; `happenings` last and apart: that it was purged stays.
_PLACES = ("messages", "message_terms", "guests", "bodies", "entries")


class PostgresUpkeep:
    """Upkeep over one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._authors = PostgresAuthors(database)
        self.forget_author, self.residue = self._authors.forget, self._authors.residue

    async def policy(self, tenant_id: str) -> Policy:
        """See Upkeep.policy."""
        async with self._database.transaction(tenant_id) as connection:
            found = await connection.fetchval("select policy from policies where tenant_id = $1", tenant_id)
        return Policy() if found is None else rows.load(Policy, found)

    async def set_policy(self, tenant_id: str, policy: Policy) -> None:
        """See Upkeep.set_policy."""
        keep = "insert into policies values ($1, $2) on conflict (tenant_id) do update set policy = excluded.policy"
        async with self._database.transaction(tenant_id) as connection:
            await connection.execute(keep, tenant_id, rows.dump(policy))

    async def policies(self) -> list[tuple[str, Policy]]:
        """See Upkeep.policies."""
        async with self._database.transaction(ALL_TENANTS) as connection:
            found = await connection.fetch("select tenant_id, policy from policies order by tenant_id")
        return [(row["tenant_id"], rows.load(Policy, row["policy"])) for row in found]

    async def leaving(self, at: datetime, limit: int) -> list[tuple[str, str]]:
        """See Upkeep.leaving."""
        due = "select tenant_id, conversation_id from conversations where leave_time <= $1 order by leave_time limit $2"
        async with self._database.transaction(ALL_TENANTS) as connection:
            return [(row[0], row[1]) for row in await connection.fetch(due, at, limit)]

    async def idle(self, tenant_id: str, before: datetime, limit: int) -> list[str]:
        """See Upkeep.idle."""
        due = """
            select conversation_id from conversations where tenant_id = $1 and last_activity_time < $2
             order by last_activity_time, conversation_id limit $3
        """
        async with self._database.transaction(tenant_id) as connection:
            return [row[0] for row in await connection.fetch(due, tenant_id, before, limit)]

    async def purge(
        self, tenant_id: str, conversation_id: str, when: Callable[[Conversation], bool] | None = None
    ) -> Mapping[str, int]:
        """One transaction: nothing is ever left half."""
        async with self._database.transaction(tenant_id) as connection:
            row = await locked(connection, tenant_id, conversation_id)
            conversation = None if row is None else rows.conversation_of(row)
            if conversation is None or not (when is None or when(conversation)):
                return {}
            removed = await _remove_all(connection, tenant_id, conversation_id)
            at = latest(self._database.now(), conversation)
            await tell_purge(connection, tenant_id, conversation_id, row["slot"], conversation.create_time, at)
        return removed

    async def trim(self, tenant_id: str, conversation_id: str, keep_from: int) -> int:
        """See Upkeep.trim. One transaction, however much that is: readers see it before or afterwards."""
        async with self._database.transaction(tenant_id) as connection:
            row = await locked(connection, tenant_id, conversation_id)
            key = (tenant_id, conversation_id)
            first = None if row is None else await _first_kept(connection, key, keep_from, row["last_seq"])
            if first is None or first <= row["first_seq"]:
                return 0
            return await _remove_before(connection, key, first)

    def dump(self) -> AsyncGenerator[Piece, None]:
        """See dump."""
        return dump(self._database)

    async def load(self, pieces: Sequence[Piece]) -> None:
        """See load."""
        await load(self._database, pieces)


async def _remove_all(connection: asyncpg.Connection, tenant_id: str, conversation_id: str) -> dict[str, int]:
    own = "where tenant_id = $1 and conversation_id = $2"
    counts = {
        place: await _delete(connection, f"delete from {place} {own}", tenant_id, conversation_id)  # noqa: S608
        for place in (*_PLACES, "conversations")
    }
    told = f"delete from happenings {own} and kind <> 4"  # noqa: S608
    counts["happenings"] = await _delete(connection, told, tenant_id, conversation_id)
    return {place: count for place, count in counts.items() if count}


async def _first_kept(
    connection: asyncpg.Connection, key: tuple[str, str], keep_from: int, last_seq: int
) -> int | None:
    """The first seq of the append that holds `keep_from`; what is behind all messages keeps none."""
    if keep_from > last_seq:
        return last_seq + 1
    holding = "select first_seq from messages where tenant_id = $1 and conversation_id = $2 and seq = $3"
    first: int | None = await connection.fetchval(holding, *key, keep_from)
    return first


async def _remove_before(connection: asyncpg.Connection, key: tuple[str, str], first: int) -> int:
    keep = "update conversations set first_seq = $3 where tenant_id = $1 and conversation_id = $2"
    await connection.execute(keep, *key, first)
    before = "where tenant_id = $1 and conversation_id = $2 and"
    gone = await connection.fetchval(
        f"""
        with gone as (delete from messages {before} seq < $3 returning bodies)
        select array[count(*)::text] || array_agg(distinct body) filter (where body is not null)
          from gone left join lateral unnest(bodies) body on true
        """,  # noqa: S608
        *key,
        first,
    )
    await drop_unsaid_texts(connection, key, gone[1:])
    removed = await _delete(connection, f"delete from message_terms {before} seq < $3", *key, first)  # noqa: S608
    for place, bound in {
        "guests": "seq > 0 and seq < $3",
        "happenings": "(kind = 2 and place < $3 or kind = 3 and target_seq < $3)",
    }.items():
        await connection.execute(f"delete from {place} {before} {bound}", *key, first)  # noqa: S608
    return removed


async def _delete(connection: asyncpg.Connection, statement: str, *arguments: Any) -> int:
    done: str = await connection.execute(statement, *arguments)
    return int(done.removeprefix("DELETE "))
