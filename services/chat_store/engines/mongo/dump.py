"""All that a Mongo database keeps, given out in pieces and taken in again.

A conversation is read in a snapshot session, so its pieces fit together whatever is written meanwhile.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from services.chat_store.audit_chain import AuditLink
from services.chat_store.engines.mongo import documents
from services.chat_store.engines.mongo.acts import entry_document
from services.chat_store.engines.mongo.audit import link_document, link_of
from services.chat_store.engines.mongo.bodies import beginnings, insert_absent, keep_bodies
from services.chat_store.engines.mongo.changes import change_document, kept_change
from services.chat_store.engines.mongo.codec import Document, document_of, read
from services.chat_store.engines.mongo.headers import MongoHeaders
from services.chat_store.engines.mongo.pages import append_holding, messages_now
from services.chat_store.engines.mongo.sessions import mongo_session
from services.chat_store.engines.mongo.words import terms_in
from services.chat_store.entries import Entry
from services.chat_store.model import Totals
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
    belongs,
)
from shared.mongo import MongoCollection, MongoSession, mongo_errors

KEYS_AT_ONCE = 500


async def dump(headers: MongoHeaders) -> AsyncGenerator[Piece, None]:
    """See Upkeep.dump."""
    database = headers.database
    with mongo_errors():
        async for policy in _by_key(database[documents.POLICIES]):
            yield KeptPolicy(policy["_id"], read(Policy, policy))
        async for link in _by_key(database[documents.AUDIT]):
            yield link_of(link)
        async for purge in _by_key(database[documents.PURGES]):
            yield read(KeptPurge, purge)
        async for header in _by_key(headers.durable, {"_id": 1}):
            async for piece in _conversation(headers, header["_id"]):
                yield piece


async def load(headers: MongoHeaders, pieces: Sequence[Piece]) -> None:
    """See Upkeep.load."""
    await headers.ensure_indexes()
    loading = _Loading(headers)
    with mongo_errors():
        for kind, same in groupby(pieces, type):
            await loading.take(kind, list(same))


async def _conversation(headers: MongoHeaders, key: str) -> AsyncIterator[Piece]:
    session = await mongo_session(headers.database, snapshot=True)
    async with session:
        header = await headers.durable.find_one({"_id": key}, session=session)
        if header is None:
            return
        last = await headers.last_append(key, session)
        if last is not None and documents.last_seq_of(last) > header["last_seq"]:
            header |= documents.header_after(last)
        conversation = documents.conversation_of(header)
        yield KeptConversation(conversation, header.get("request_id", ""), header.get("fingerprint", ""))
        async for body in _bodies(headers, key, session):
            yield body
        async for append in _within(headers.appends, key, session, {"words": 0}):
            if append["n"]:
                yield await _kept_append(headers, append, session)
        async for change in _within(headers.changes, key, session):
            yield kept_change(change)
        async for entry in _within(headers.entries, key, session):
            yield KeptEntry(entry["tenant_id"], entry["conversation_id"], read(Entry, entry))


async def _kept_append(headers: MongoHeaders, append: Document, session: MongoSession) -> KeptAppend:
    now = await messages_now(headers.changes, append, session)
    return KeptAppend(
        tenant_id=append["tenant_id"],
        conversation_id=append["conversation_id"],
        since=append["since"],
        request_id=append.get("request_id", ""),
        fingerprint=append["fingerprint"],
        said=tuple(documents.said_in(append)),
        changed=tuple(message for message in now if str(message.seq) in append.get("changed", {})),
    )


async def _bodies(headers: MongoHeaders, key: str, session: MongoSession) -> AsyncIterator[KeptBody]:
    chunks: list[Document] = []
    async for chunk in _within(headers.bodies, key, session):
        if chunks and chunk["sha256"] != chunks[0]["sha256"]:
            yield _kept_body(chunks)
            chunks = []
        chunks.append(chunk)
    if chunks:
        yield _kept_body(chunks)


def _kept_body(chunks: Sequence[Document]) -> KeptBody:
    first, content = chunks[0], b"".join(chunk["content"] for chunk in chunks)
    return KeptBody(first["tenant_id"], first["conversation_id"], first["sha256"], content)


async def _within(
    collection: MongoCollection, key: str, session: MongoSession, fields: Document | None = None
) -> AsyncIterator[Document]:
    """What the collection holds of a conversation, by key."""
    cursor = collection.find(documents.everything_of(key), fields, session=session).sort("_id", 1)
    try:
        async for document in cursor:
            yield document
    finally:
        await cursor.close()


async def _by_key(collection: MongoCollection, fields: Document | None = None) -> AsyncIterator[Document]:
    """All of a collection, page by page: no cursor stays open while whoever takes it in is slow."""
    last: Mapping[str, Any] = {}
    while page := await collection.find(last, fields).sort("_id", 1).limit(KEYS_AT_ONCE).to_list(None):
        for document in page:
            yield document
        last = {"_id": {"$gt": page[-1]["_id"]}}


class _Loading:
    """Takes pieces in; what does not belong to a conversation as it is kept already is left out."""

    def __init__(self, headers: MongoHeaders) -> None:
        self._headers = headers
        self._known: dict[str, Document | None] = {}
        self._sums: dict[str, Totals] = {}

    async def take(self, kind: type[Piece], pieces: Sequence[Any]) -> None:
        """Pieces of one kind, next to each other in a dump."""
        takers: Mapping[type[Any], Any] = {
            KeptConversation: self._conversations,
            KeptAppend: self._appends,
            KeptChange: self._changes,
            KeptEntry: self._entries,
            KeptBody: self._bodies,
            KeptPurge: self._purges,
            KeptPolicy: self._policies,
            AuditLink: self._links,
        }
        await takers[kind](pieces)

    async def _conversations(self, pieces: Sequence[KeptConversation]) -> None:
        made = [documents.new_header(piece) for piece in pieces]
        await insert_absent(self._headers.durable, made)
        closed = [header for header in made if "finalize_time" in header]
        await insert_absent(self._headers.appends, map(documents.new_seal, closed))

    async def _appends(self, pieces: Sequence[KeptAppend]) -> None:
        kept = []
        for piece in pieces:
            header = await self._header(piece.tenant_id, piece.conversation_id)
            if header is not None and belongs(piece, documents.version_of(header)):
                totals, terms = await self._sum(header, piece), await self._terms(header, piece)
                kept.append(documents.kept_append(header, piece, totals, terms))
        await insert_absent(self._headers.appends, kept)

    async def _changes(self, pieces: Sequence[KeptChange]) -> None:
        kept = []
        for piece in pieces:
            header = await self._header(piece.tenant_id, piece.conversation_id)
            if header is not None and belongs(piece, documents.version_of(header)):
                kept.append(change_document(header, piece))
        await insert_absent(self._headers.changes, kept)

    async def _entries(self, pieces: Sequence[KeptEntry]) -> None:
        kept = [(await self._header(piece.tenant_id, piece.conversation_id), piece.entry) for piece in pieces]
        await insert_absent(self._headers.entries, [entry_document(each, entry) for each, entry in kept if each])

    async def _bodies(self, pieces: Sequence[KeptBody]) -> None:
        for piece in pieces:
            if header := await self._header(piece.tenant_id, piece.conversation_id):
                await keep_bodies(self._headers.bodies, header, {piece.sha256: piece.content})

    async def _purges(self, pieces: Sequence[KeptPurge]) -> None:
        await insert_absent(self._headers.purges, map(documents.purge_document, pieces))

    async def _policies(self, pieces: Sequence[KeptPolicy]) -> None:
        kept: Iterable[Document] = ({"_id": piece.tenant_id, **document_of(piece.policy)} for piece in pieces)
        await insert_absent(self._headers.database[documents.POLICIES], kept)

    async def _links(self, pieces: Sequence[AuditLink]) -> None:
        await insert_absent(self._headers.database[documents.AUDIT], map(link_document, pieces))

    async def _header(self, tenant_id: str, conversation_id: str) -> Document | None:
        key = documents.conversation_key(tenant_id, conversation_id)
        if key not in self._known:
            self._known[key] = await self._headers.conversations.find_one({"_id": key}, documents.FACTS)
        return self._known[key]

    async def _sum(self, header: Document, piece: KeptAppend) -> Totals:
        """The sums after the append. Only those of the last one are ever needed, and these are the conversation's."""
        whole = documents.totals_of(header)
        if piece.said[-1].seq == whole.messages:
            return whole
        before = self._sums.get(header["_id"]) or await self._stored_sum(header["_id"], piece.said[0].seq - 1)
        self._sums[header["_id"]] = before.after([message.draft for message in piece.said])
        return self._sums[header["_id"]]

    async def _terms(self, header: Document, piece: KeptAppend) -> list[list[str]]:
        """Of its messages as they are now. What of them is kept apart came before them."""
        drafts = [message.draft for message in piece.present]
        bodies = await beginnings(self._headers.bodies, header["_id"], header["create_time"], drafts)
        return await terms_in(drafts, bodies)

    async def _stored_sum(self, key: str, seq: int) -> Totals:
        holding = await append_holding(self._headers.newest_appends, key, seq, {"totals": 1})
        return Totals() if holding is None else documents.totals_of(holding)
