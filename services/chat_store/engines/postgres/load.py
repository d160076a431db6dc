"""Pieces of a dump taken in as they are. What is there stays; what does not belong to it is left out.

A transaction writes what happened to one conversation only, for the order of the feed (schema/0001).
"""

from collections.abc import Sequence
from datetime import datetime
from functools import singledispatch
from itertools import groupby
from typing import Any

import asyncpg

from services.chat_store.audit_chain import AuditLink
from services.chat_store.batch import text_searched
from services.chat_store.engines.postgres import rows
from services.chat_store.engines.postgres.acts import KEEP_CHANGE, change_values, keep_guests
from services.chat_store.engines.postgres.audit import KEEP_LINK, link_values
from services.chat_store.engines.postgres.database import LOCK_ID, Database, locked
from services.chat_store.engines.postgres.messages import beginnings, guests_in
from services.chat_store.entries import Entry
from services.chat_store.happenings import slot_of
from services.chat_store.long_texts import beside_if_long
from services.chat_store.model import Message
from services.chat_store.snapshot import (
    KeptAppend,
    KeptBody,
    KeptChange,
    KeptConversation,
    KeptEntry,
    KeptPolicy,
    KeptPurge,
    Piece,
    belongs,
)


async def load(database: Database, pieces: Sequence[Piece]) -> None:
    """See Upkeep.load."""
    for (tenant_id, _), same in groupby(pieces, _key):
        async with database.transaction(tenant_id) as connection:
            for piece in same:
                await _take(piece, connection)


def _key(piece: Piece) -> tuple[str, str]:
    if isinstance(piece, KeptConversation):
        return piece.conversation.tenant_id, piece.conversation.conversation_id
    return piece.tenant_id, getattr(piece, "conversation_id", "")


@singledispatch
async def _take(piece: object, connection: asyncpg.Connection) -> None:
    raise TypeError(f"{connection} takes no {type(piece).__name__}")


@_take.register
async def _(piece: KeptPolicy, connection: asyncpg.Connection) -> None:
    keep = "insert into policies values ($1, $2) on conflict do nothing"
    await connection.execute(keep, piece.tenant_id, rows.dump(piece.policy))


@_take.register
async def _(piece: AuditLink, connection: asyncpg.Connection) -> None:
    await connection.execute(KEEP_LINK, *link_values(piece))


@_take.register
async def _(piece: KeptPurge, connection: asyncpg.Connection) -> None:
    key = _key(piece)
    await connection.execute(LOCK_ID, *key)
    await tell_purge(connection, *key, slot_of(*key), piece.since, piece.time)


@_take.register
async def _(piece: KeptConversation, connection: asyncpg.Connection) -> None:
    kept, key = piece.conversation, _key(piece)
    columns = {
        "tenant_id": kept.tenant_id,
        "conversation_id": kept.conversation_id,
        "user_id": rows.plain(kept.user_id),
        "assistant_id": rows.plain(kept.assistant_id),
        "team_id": rows.plain(kept.team_id),
        **rows.columns_of(kept),
        "create_time": kept.create_time,
        "last_activity_time": kept.last_activity_time,
        "last_seq": kept.totals.messages,
        "sums": rows.sums_of(kept.totals),
        "preview": rows.plain(kept.preview),
        "slot": slot_of(*key),
        "request_id": rows.plain(piece.request_id),
        "fingerprint": piece.fingerprint,
    }
    places = ", ".join(f"${number}" for number in range(1, len(columns) + 1))
    keep = f"insert into conversations ({', '.join(columns)}) values ({places}) on conflict do nothing"  # noqa: S608
    await connection.execute(LOCK_ID, *key)
    if await connection.execute(keep, *columns.values()) == "INSERT 0 1":
        tell = """
            insert into happenings (tenant_id, conversation_id, slot, since, kind, place, time)
            values ($1, $2, $3, $4, 1, 0, $4)
        """
        await connection.execute(tell, *key, slot_of(*key), kept.create_time)


@_take.register
async def _(piece: KeptBody, connection: asyncpg.Connection) -> None:
    if await locked(connection, *_key(piece)):
        keep = "insert into bodies values ($1, $2, $3, $4) on conflict do nothing"
        await connection.execute(keep, *_key(piece), piece.sha256, piece.content)


@_take.register
async def _(piece: KeptEntry, connection: asyncpg.Connection) -> None:
    entry = piece.entry
    if (header := await locked(connection, *_key(piece))) is not None:
        keep = "insert into entries values ($1, $2, $3, $4, $5, $6, $7) on conflict do nothing"
        place = (*_key(piece), entry.kind.value, rows.plain(entry.entry_id))
        await connection.execute(keep, *place, rows.plain(entry.label), entry.create_time, rows.dump(entry))
        await keep_guests(connection, rows.spoken(header["user_id"]), _key(piece), 0, entry.actor)


@_take.register
async def _(piece: KeptChange, connection: asyncpg.Connection) -> None:
    header = await _header(connection, piece)
    if header is None:
        return
    await connection.execute(KEEP_CHANGE, *change_values(piece))
    state, owner = piece.state, rows.spoken(header["user_id"])
    named = (piece.actor, state.actor) if isinstance(state, Entry) else (piece.actor,)
    await keep_guests(connection, owner, _key(piece), 0, *named)
    if isinstance(state, Message):
        await keep_guests(connection, owner, _key(piece), state.seq, *guests_in(state))
        if state.draft.body is not None:
            await _keep_text_of(connection, _key(piece), state.seq, state.draft.body.sha256)


@_take.register
async def _(piece: KeptAppend, connection: asyncpg.Connection) -> None:
    header = await _header(connection, piece)
    if header is None:
        return
    tell = """
        insert into happenings (tenant_id, conversation_id, slot, since, kind, place, time, size, n, request_id,
                                fingerprint)
        values ($1, $2, $3, $4, 2, $5, $6, $7, $8, $9, $10) on conflict do nothing
    """
    first, size = piece.said[0], sum(message.draft.size_bytes for message in piece.said)
    facts = (first.seq, first.create_time, size, len(piece.said), rows.plain(piece.request_id), piece.fingerprint)
    told = await connection.execute(tell, *_key(piece), header["slot"], piece.since, *facts)
    if told == "INSERT 0 1":
        changed = {message.seq: message for message in piece.changed}
        for said in piece.said:
            await _keep_message(connection, header, first.seq, said, changed.get(said.seq))


async def _keep_message(
    connection: asyncpg.Connection, header: Any, first_seq: int, said: Message, changed: Message | None
) -> None:
    now = changed or said
    key = (header["tenant_id"], header["conversation_id"])
    texts = sorted({message.draft.body.sha256 for message in (said, now) if message.draft.body})
    keep = "insert into messages values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"
    place = (*key, said.seq, rows.plain(said.message_id), first_seq, said.create_time, now.draft.size_bytes)
    await connection.execute(keep, *place, rows.dump(said.draft), rows.dump(changed) if changed else None, texts)
    words = text_searched(now.draft, await beginnings(connection, key, texts))
    terms = await beside_if_long(len(words), rows.terms_in, key[0], words)
    index = "insert into message_terms values ($1, $2, $3, $4, $5, $6, $7::text::bigint[])"
    facts = (header["user_id"], said.draft.type.value, said.create_time, terms)
    await connection.execute(index, *key, said.seq, *facts)
    owner = rows.spoken(header["user_id"])
    await keep_guests(connection, owner, key, said.seq, *guests_in(said), *guests_in(now))


async def tell_purge(
    connection: asyncpg.Connection, tenant_id: str, conversation_id: str, slot: int, since: datetime, at: datetime
) -> None:
    """Keeps that the conversation was purged which was created at `since`."""
    tell = """
        insert into happenings (tenant_id, conversation_id, slot, since, kind, place, time)
        values ($1, $2, $3, $4, 4, $5, $6) on conflict do nothing
    """
    place = rows.milliseconds_of(since)
    await connection.execute(tell, tenant_id, conversation_id, slot, since, place, at)


async def _keep_text_of(connection: asyncpg.Connection, key: tuple[str, str], seq: int, sha256: str) -> None:
    keep = """
        update messages set bodies = bodies || $4::text
         where tenant_id = $1 and conversation_id = $2 and seq = $3 and $4 <> all (bodies)
    """
    await connection.execute(keep, *key, seq, sha256)


async def _header(connection: asyncpg.Connection, piece: KeptAppend | KeptChange) -> Any:
    """The row of the conversation that the piece is of; None if it has no room for it."""
    row = await locked(connection, piece.tenant_id, piece.conversation_id)
    return row if row is not None and belongs(piece, rows.version_of(row)) else None
