"""All that a database keeps, given out in pieces. A conversation is read in one snapshot: its pieces fit together."""

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import asyncpg

from services.chat_store.engines.postgres import rows
from services.chat_store.engines.postgres.audit import link_of
from services.chat_store.engines.postgres.database import ALL_TENANTS, Database
from services.chat_store.entries import Entry
from services.chat_store.policy import Policy
from services.chat_store.snapshot import (
    KeptAppend,
    KeptBody,
    KeptChange,
    KeptConversation,
    KeptEntry,
    KeptPolicy,
    KeptPurge,
    Piece,
)

AT_ONCE = 100
_OWN = "where tenant_id = $1 and conversation_id = $2"


async def dump(database: Database) -> AsyncGenerator[Piece, None]:
    """See Upkeep.dump."""
    async for row in _pages(database, "select * from policies where tenant_id > $1 order by 1", ("tenant_id",), ("",)):
        yield KeptPolicy(row["tenant_id"], rows.load(Policy, row["policy"]))
    links = "select * from audit_links where (tenant_id, number) > ($1, $2) order by 1, 2"
    async for row in _pages(database, links, ("tenant_id", "number"), ("", 0)):
        yield link_of(row)
    purges = "select * from happenings where kind = 4 and (xid, position) > ($1::text::xid8, $2) order by xid, position"
    async for row in _pages(database, purges, ("xid", "position"), ("0", 0)):
        yield KeptPurge(row["tenant_id"], row["conversation_id"], row["since"], row["time"])
    keys = """
        select tenant_id, conversation_id from conversations where (tenant_id, conversation_id) > ($1, $2) order by 1, 2
    """
    async for row in _pages(database, keys, ("tenant_id", "conversation_id"), ("", "")):
        async for piece in _conversation(database, row["tenant_id"], row["conversation_id"]):
            yield piece


async def _pages(database: Database, query: str, names: tuple[str, ...], after: tuple[Any, ...]) -> AsyncIterator[Any]:
    """The rows page by page, by the columns of those names: nothing is held while whoever takes them in is slow."""
    while True:
        async with database.transaction(ALL_TENANTS) as connection:
            page = await connection.fetch(f"{query} limit {AT_ONCE}", *after)
        for row in page:
            yield row
        if len(page) < AT_ONCE:
            return
        after = tuple(str(page[-1][name]) if name == "xid" else page[-1][name] for name in names)


async def _conversation(database: Database, tenant_id: str, conversation_id: str) -> AsyncIterator[Piece]:
    key = (tenant_id, conversation_id)
    async with database.transaction(tenant_id, snapshot=True) as connection:
        row = await connection.fetchrow(f"select * from conversations {_OWN}", *key)  # noqa: S608
        if row is None:
            return
        request = (rows.spoken(row["request_id"]), row["fingerprint"] if row["request_id"] else "")
        yield KeptConversation(rows.conversation_of(row), *request)
        async for body in connection.cursor(f"select * from bodies {_OWN} order by sha256", *key, prefetch=1):  # noqa: S608
            yield KeptBody(*key, body["sha256"], body["content"])
        happened = f"select * from happenings {_OWN} and kind in (2, 3) order by kind, place"  # noqa: S608
        async for each in connection.cursor(happened, *key, prefetch=AT_ONCE):
            yield await _append(connection, each) if each["kind"] == rows.APPENDED else _change(each)
        async for entry in connection.cursor(f"select * from entries {_OWN} order by kind, entry_id", *key):  # noqa: S608
            yield KeptEntry(*key, rows.load(Entry, entry["facts"]))


async def _append(connection: asyncpg.Connection, row: Any) -> KeptAppend:
    wanted = f"select * from messages {_OWN} and seq >= $3 and seq < $3 + $4 order by seq"  # noqa: S608
    key = (row["tenant_id"], row["conversation_id"])
    messages = await connection.fetch(wanted, *key, row["place"], row["n"])
    return KeptAppend(
        tenant_id=row["tenant_id"],
        conversation_id=row["conversation_id"],
        since=row["since"],
        request_id=rows.spoken(row["request_id"]),
        fingerprint=row["fingerprint"],
        said=tuple(rows.said_of(each) for each in messages),
        changed=tuple(rows.message_of(each) for each in messages if each["changed"] is not None),
    )


def _change(row: Any) -> KeptChange:
    return KeptChange(
        tenant_id=row["tenant_id"],
        conversation_id=row["conversation_id"],
        since=row["since"],
        revision=row["place"],
        time=row["time"],
        actor=rows.spoken(row["actor"]),
        request_id=rows.spoken(row["request_id"]),
        fingerprint=row["fingerprint"],
        state=rows.state_of(row),
    )
