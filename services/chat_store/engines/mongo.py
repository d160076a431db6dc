"""Conversations in MongoDB: one immutable document per append, one header per conversation.

The unique `_id` of an append is its place, so two writers cannot take the same one: the loser reads the tail and tries
again. The header is brought up to date after the append and before the acknowledgement; whatever it says is
the place of some append, so starting from a header that lags can only collide, never leave a gap.
"""

import asyncio
import random
from collections.abc import AsyncGenerator, Mapping
from typing import Any
from weakref import WeakValueDictionary

from pymongo import WriteConcern
from pymongo.errors import DuplicateKeyError
from pymongo.read_concern import ReadConcern

from services.chat_store.engines import mongo_documents as documents
from services.chat_store.engines.mongo_documents import Document
from services.chat_store.engines.mongo_feed import MongoFeed
from services.chat_store.engines.mongo_pages import read_page
from services.chat_store.model import (
    Batch,
    Conversation,
    Event,
    Message,
    NewConversation,
    Page,
    Reach,
    Selection,
    Window,
    is_conversation_id,
    to_milliseconds,
)
from shared.clock import Clock, SystemClock
from shared.errors import AlreadyExists, Conflict, NotFound, RequestIdReused
from shared.mongo import MongoCollection, MongoDatabase, mongo_errors, mongo_ready

APPEND_ATTEMPTS = 40
LONGEST_PAUSE_SECONDS = 0.064
TAIL_FIELDS = {"first_seq": 1, "n": 1, "create_time": 1, "totals": 1, "preview": 1}


class MongoChatStore:
    """ChatStore over one Mongo database that it owns."""

    def __init__(self, database: MongoDatabase, *, feed_idle_seconds: float = 10.0, clock: Clock | None = None) -> None:
        # What was written a moment ago, be it acknowledged by a majority or not.
        newest = ReadConcern("local")
        self._database = database
        self._durable_conversations = database.get_collection(documents.CONVERSATIONS)
        self._conversations = database.get_collection(documents.CONVERSATIONS, read_concern=newest)
        # A lost header update heals from the appends: it need not wait for a majority.
        self._hints = database.get_collection(documents.CONVERSATIONS, write_concern=WriteConcern(w=1))
        self._appends = database.get_collection(documents.APPENDS)
        self._newest_appends = database.get_collection(documents.APPENDS, read_concern=newest)
        self._feed = MongoFeed(database, idle_seconds=feed_idle_seconds)
        self._clock = clock or SystemClock()
        self._indexed = False
        self._indexing = asyncio.Lock()
        self._writing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def ready(self) -> None:
        """Unavailable while the database is away or its indexes cannot be made."""
        await mongo_ready(self._database)
        await self._ensure_indexes()

    async def create(self, reach: Reach, new: NewConversation) -> Conversation:
        """Makes or gets a conversation; what it returns is durable either way."""
        await self._ensure_indexes()
        with mongo_errors():
            key = documents.conversation_key(reach.tenant_id, new.conversation_id)
            if await self._durable_conversations.find_one({"_id": key}, {"_id": 1}) is not None:
                return await self._created_before(reach, new)
            header = documents.new_header(new, reach.tenant_id, to_milliseconds(self._clock.now()))
            try:
                await self._conversations.insert_one(header)
            except DuplicateKeyError:
                await self._wait_until_durable(key)
                return await self._created_before(reach, new)
        return documents.conversation_of(header)

    async def get(self, reach: Reach, conversation_id: str) -> Conversation:
        """The conversation as its last append left it, whatever the header says."""
        key = documents.conversation_key(reach.tenant_id, conversation_id)
        with mongo_errors():
            header, last = await asyncio.gather(self._header(reach, conversation_id), self._last_append(key))
            if last is not None and last["totals"]["messages"] > header["last_seq"]:
                await self._bring_up_to_date(self._hints, key, last)
                header |= documents.header_after(last)
        return documents.conversation_of(header)

    async def select(self, reach: Reach, selection: Selection) -> tuple[list[Conversation], bool]:
        """Reads headers only, in the order of an index."""
        wanted = _selected(reach, selection)
        with mongo_errors():
            found = self._conversations.find(wanted).sort([("last_activity_time", -1), ("_id", -1)])
            headers = await found.limit(selection.limit + 1).to_list(None)
        more = len(headers) > selection.limit
        return [documents.conversation_of(header) for header in headers[: selection.limit]], more

    async def append(self, reach: Reach, conversation_id: str, batch: Batch) -> list[Message]:
        """One insert by majority, then the header. Writers of one process take turns, others collide and retry."""
        await self._ensure_indexes()
        with mongo_errors():
            async with self._turn(documents.conversation_key(reach.tenant_id, conversation_id)):
                header = await self._header(reach, conversation_id)
                for attempt in range(APPEND_ATTEMPTS):
                    stored = await self._try_append(header, batch)
                    if stored is not None:
                        return documents.messages_of(stored)
                    await asyncio.sleep(random.uniform(0, min(0.001 * 2**attempt, LONGEST_PAUSE_SECONDS)))  # noqa: S311
                    last = await self._last_append(header["_id"])
                    header |= documents.header_after(last) if last else {}
        raise Conflict("too many writers append to this conversation at once")

    async def read(self, reach: Reach, conversation_id: str, window: Window) -> Page:
        """One query: every append names the owner, who never changes, so only an empty page asks the header."""
        if not is_conversation_id(conversation_id):
            raise NotFound("conversation", conversation_id)
        key = documents.conversation_key(reach.tenant_id, conversation_id)
        with mongo_errors():
            page, owner = await read_page(self._appends, key, window)
            if owner is None:
                await self._header(reach, conversation_id)
            elif reach.user_id not in (None, owner):
                raise NotFound("conversation", conversation_id)
        return page

    def watch(self, tenant_id: str, resume_token: str) -> AsyncGenerator[Event, None]:
        """See MongoFeed."""
        return self._feed.watch(tenant_id, resume_token)

    async def _header(self, reach: Reach, conversation_id: str) -> Document:
        header: Document | None = None
        if is_conversation_id(conversation_id):
            key = documents.conversation_key(reach.tenant_id, conversation_id)
            header = await self._conversations.find_one({"_id": key, "tenant_id": reach.tenant_id})
        if header is None or reach.user_id not in (None, header["user_id"]):
            raise NotFound("conversation", conversation_id)
        return header

    async def _created_before(self, reach: Reach, new: NewConversation) -> Conversation:
        header = await self._header(reach, new.conversation_id)
        same_request = new.request_id and new.request_id == header.get("request_id")
        if same_request and header["fingerprint"] != new.fingerprint:
            raise RequestIdReused
        return await self.get(reach, new.conversation_id)

    async def _try_append(self, header: Document, batch: Batch) -> Document | None:
        """The append as stored, now or by an earlier try of the same request; None when its place is taken."""
        at = max(to_milliseconds(self._clock.now()), header["last_activity_time"])
        append = documents.new_append(header, documents.totals_of(header["totals"]), batch, at)
        try:
            await self._appends.insert_one(append)
        except DuplicateKeyError as collision:
            if "_id" in _keys_of(collision):
                return None
            append = await self._stored_before(header, batch, collision)
            # By majority: the acknowledgement of the first try may never have come.
            await self._bring_up_to_date(self._conversations, header["_id"], append)
        else:
            await self._bring_up_to_date(self._hints, header["_id"], append)
        return append

    async def _stored_before(self, header: Document, batch: Batch, collision: DuplicateKeyError) -> Document:
        of_conversation = {"tenant_id": header["tenant_id"], "conversation_id": header["conversation_id"]}
        stored: Document | None = None
        if batch.request_id:
            stored = await self._newest_appends.find_one({**of_conversation, "request_id": batch.request_id})
            if stored is not None and stored["fingerprint"] != batch.fingerprint:
                raise RequestIdReused
        if stored is None:
            taken = _keys_of(collision).get("messages.message_id", batch.drafts[0].message_id)
            stored = await self._newest_appends.find_one({**of_conversation, "messages.message_id": taken})
            if stored is None or stored["fingerprint"] != batch.fingerprint:
                raise AlreadyExists("message", taken)
        return stored

    async def _last_append(self, key: str) -> Document | None:
        found = self._newest_appends.find(documents.appends_of(key), TAIL_FIELDS).sort("_id", -1).limit(1)
        last: list[Document] = await found.to_list(None)
        return last[0] if last else None

    async def _bring_up_to_date(self, headers: MongoCollection, key: str, append: Document) -> None:
        """Moves the header forward to this append, never back."""
        behind = {"_id": key, "last_seq": {"$lt": append["totals"]["messages"]}}
        await headers.update_one(behind, {"$set": documents.header_after(append)})

    async def _wait_until_durable(self, key: str) -> None:
        """A write by majority is acknowledged only when all before it are as durable."""
        await self._conversations.update_one({"_id": key}, {"$setOnInsert": {"last_seq": 0}})

    def _turn(self, key: str) -> asyncio.Lock:
        turn = self._writing.get(key)
        if turn is None:
            turn = self._writing[key] = asyncio.Lock()
        return turn

    async def _ensure_indexes(self) -> None:
        """Before the first write: without them a retry could make a duplicate."""
        if self._indexed:
            return
        async with self._indexing:
            with mongo_errors():
                await self._conversations.create_indexes(documents.CONVERSATION_INDEXES)
                await self._appends.create_indexes(documents.APPEND_INDEXES)
        self._indexed = True


def _selected(reach: Reach, selection: Selection) -> Document:
    wanted: Document = {"tenant_id": reach.tenant_id}
    if reach.user_id is not None:
        wanted["user_id"] = reach.user_id
    if selection.assistant_id:
        wanted["assistant_id"] = selection.assistant_id
    if selection.after is not None:
        at = selection.after.last_activity_time
        key = documents.conversation_key(reach.tenant_id, selection.after.conversation_id)
        wanted["last_activity_time"] = {"$lte": at}
        wanted["$or"] = [{"last_activity_time": {"$lt": at}}, {"_id": {"$lt": key}}]
    return wanted


def _keys_of(collision: DuplicateKeyError) -> Mapping[str, Any]:
    """The fields that are not unique, with their values."""
    details: Mapping[str, Any] = collision.details or {}
    keys: Mapping[str, Any] = details.get("keyValue") or {}
    return keys
