"""Single messages: as they are now, as they were, and their whole texts."""

from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import Any

import asyncpg

from services.chat_store.batch import SEARCHED_BYTES, Bodies
from services.chat_store.engines.postgres import rows
from services.chat_store.engines.postgres.database import Database, missing
from services.chat_store.limits import BODY_CHUNK_BYTES
from services.chat_store.model import Draft, Message, MessageType
from services.chat_store.selection import Reach
from shared.errors import NotFound


class PostgresMessages:
    """The messages of one database, one at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, reach: Reach, conversation_id: str, message_id: str) -> Message:
        """See ChatStore.message."""
        async with self._database.transaction(reach.tenant_id) as connection:
            return rows.message_of(await self._row(connection, reach, conversation_id, message_id))

    async def appended(self, tenant_id: str, conversation_id: str, first_seq: int) -> list[Message]:
        """The messages of the append that begins at that seq, as they were said."""
        wanted = """
            select m.* from messages m
             where m.tenant_id = $1 and m.conversation_id = $2 and m.seq >= $3 and m.first_seq = $3
               and m.seq < $3 + (select n from happenings
                                  where tenant_id = $1 and conversation_id = $2 and kind = 2 and place = $3)
             order by m.seq
        """
        async with self._database.transaction(tenant_id) as connection:
            return [rows.said_of(row) for row in await connection.fetch(wanted, tenant_id, conversation_id, first_seq)]

    async def revisions(
        self, reach: Reach, conversation_id: str, message_id: str, after: int, limit: int
    ) -> tuple[list[Message], bool]:
        """What was said is in the message, all later revisions are among what happened."""
        wanted = """
            select target, state from happenings
             where tenant_id = $1 and conversation_id = $2 and target_seq = $3 and target_revision > $4
             order by target_revision limit $5
        """
        async with self._database.transaction(reach.tenant_id) as connection:
            row = await self._row(connection, reach, conversation_id, message_id)
            said = [rows.said_of(row)] if after < 0 else []
            place = (reach.tenant_id, conversation_id, row["seq"], max(after, 0), limit + 1)
            later = [rows.load(Message, each["state"]) for each in await connection.fetch(wanted, *place)]
        found = [*said, *later]
        return found[:limit], len(found) > limit

    async def text(self, reach: Reach, conversation_id: str, message_id: str) -> AsyncGenerator[bytes, None]:
        """See ChatStore.text. Each chunk is a call of its own: a slow reader holds no connection."""
        draft = (await self.get(reach, conversation_id, message_id)).draft
        if draft.body is None:
            for chunk in _chunks(draft.text.encode()):
                yield chunk
            return
        for begin in range(0, draft.body.size_bytes, BODY_CHUNK_BYTES):
            yield await self._chunk(reach.tenant_id, conversation_id, draft.body.sha256, begin)

    async def _row(self, connection: asyncpg.Connection, reach: Reach, conversation_id: str, message_id: str) -> Any:
        called = self._database.called(reach, conversation_id)
        found = "select 1 from conversation($1, $2, $3, $4, $5)"
        if not await connection.fetchval(found, *called, reach.deleted, self._database.now()):
            raise missing(conversation_id)
        wanted = "select * from messages where tenant_id = $1 and conversation_id = $2 and message_id = $3"
        row = await connection.fetchrow(wanted, reach.tenant_id, conversation_id, rows.plain(message_id))
        if row is None:
            raise NotFound("message", message_id)
        return row

    async def _chunk(self, tenant_id: str, conversation_id: str, sha256: str, begin: int) -> bytes:
        wanted = """
            select substring(content from $4 for $5) from bodies
             where tenant_id = $1 and conversation_id = $2 and sha256 = $3
        """
        place = (tenant_id, conversation_id, sha256, begin + 1, BODY_CHUNK_BYTES)
        async with self._database.transaction(tenant_id) as connection:
            chunk: bytes | None = await connection.fetchval(wanted, *place)
        if chunk is None:
            raise missing(conversation_id)  # it was purged while it was read
        return chunk


async def drop_unsaid_texts(connection: asyncpg.Connection, key: tuple[str, str], texts: Sequence[str]) -> None:
    """Removes those texts that no message of the conversation has or had."""
    if texts:
        drop = """
            delete from bodies b where tenant_id = $1 and conversation_id = $2 and sha256 = any ($3)
               and not exists (select from messages m where m.tenant_id = $1 and m.conversation_id = $2
                                  and m.bodies @> array[b.sha256::text])
        """
        await connection.execute(drop, *key, list(texts))


async def beginnings(connection: asyncpg.Connection, key: tuple[str, str], texts: Sequence[str]) -> Bodies:
    """Of those texts of the conversation what search looks through."""
    wanted = """
        select sha256, substring(content from 1 for $4) as beginning from bodies
         where tenant_id = $1 and conversation_id = $2 and sha256 = any ($3)
    """
    found = await connection.fetch(wanted, *key, list(texts), SEARCHED_BYTES) if texts else []
    return {row["sha256"]: row["beginning"] for row in found}


def guests_in(message: Message) -> Iterator[str]:
    """Who says something in a message and about it."""
    yield author_of(message.draft)
    if message.feedback is not None:
        yield message.feedback.user_id


def author_of(draft: Draft) -> str:
    """Who wrote it, when it was a person."""
    return draft.user_id if draft.type is MessageType.USER else ""


def _chunks(whole: bytes) -> Iterator[bytes]:
    for begin in range(0, len(whole), BODY_CHUNK_BYTES):
        yield whole[begin : begin + BODY_CHUNK_BYTES]
