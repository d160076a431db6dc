"""Conversations in MongoDB: one immutable document per append, one header per conversation.

The unique `_id` of an append is its place, so two writers cannot take the same one: the loser reads the tail and tries
again. The header is brought up to date after the append and before the acknowledgement; whatever it says is
the place of some append, so starting from a header that lags can only collide, never leave a gap. All else that is
written goes through the transactions of mongo/acts.py.
"""

import asyncio
import random
from collections.abc import AsyncGenerator
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

from pymongo.errors import DuplicateKeyError

from services.chat_store.acts import ConversationAct, MessageAct
from services.chat_store.batch import Batch
from services.chat_store.engines.mongo import documents
from services.chat_store.engines.mongo.acts import MongoActs
from services.chat_store.engines.mongo.audit import MongoAudit
from services.chat_store.engines.mongo.codec import Document
from services.chat_store.engines.mongo.entries import MongoEntries
from services.chat_store.engines.mongo.feed import MongoFeed
from services.chat_store.engines.mongo.headers import MongoHeaders, collision_keys
from services.chat_store.engines.mongo.lists import select_conversations
from services.chat_store.engines.mongo.messages import MongoMessages
from services.chat_store.engines.mongo.pages import read_page
from services.chat_store.engines.mongo.search import MongoSearch
from services.chat_store.engines.mongo.texts import with_texts
from services.chat_store.engines.mongo.upkeep import MongoUpkeep
from services.chat_store.engines.mongo.words import terms_in
from services.chat_store.happenings import Event, Shard
from services.chat_store.model import Conversation, ConversationClosed, Message, NewConversation
from services.chat_store.selection import Found, Page, Reach, Search, Selection, Version, Window
from services.chat_store.snapshot import KeptConversation
from services.chat_store.store import WHOLE_FEED
from shared.clock import Clock, SystemClock
from shared.errors import AlreadyExists, Conflict, NotFound, RequestIdReused
from shared.mongo import MongoDatabase, mongo_errors, mongo_ready

APPEND_ATTEMPTS = 40
LONGEST_PAUSE_SECONDS = 0.064
SMALLEST_STEP = timedelta(milliseconds=1)


class MongoChatStore:
    """ChatStore over one Mongo database that it owns."""

    def __init__(self, database: MongoDatabase, *, feed_idle_seconds: float = 10.0, clock: Clock | None = None) -> None:
        self._database = database
        self._headers = MongoHeaders(database, clock or SystemClock())
        self._acts = MongoActs(self._headers)
        self._messages = MongoMessages(self._headers)
        self._search = MongoSearch(self._headers)
        self._feed = MongoFeed(database, idle_seconds=feed_idle_seconds)
        self.entries = MongoEntries(self._headers, self._acts)
        self.audit = MongoAudit(database)
        self.upkeep = MongoUpkeep(self._headers)

    async def ready(self) -> None:
        """Unavailable while the database is away or its indexes cannot be made."""
        await mongo_ready(self._database)
        await self._headers.ensure_indexes()

    async def create(self, reach: Reach, new: NewConversation) -> Conversation:
        """Makes or gets a conversation; what it returns is durable either way."""
        await self._headers.ensure_indexes()
        with mongo_errors():
            key = documents.conversation_key(reach.tenant_id, new.conversation_id)
            known, traces = await asyncio.gather(
                self._headers.durable.find_one({"_id": key}, documents.FACTS), self.upkeep.traces(key)
            )
            if known is not None and await self._is_kept(known):
                return await self._created_before(reach, new)
            if known is not None or traces.left is not None:
                # Also when another creator took the expired one out: what it held must be gone before a new one is.
                await self.upkeep.sweep_left(key)
            at = _first_moment(self._headers.now(), traces.purged if known is None else known["create_time"])
            header = documents.new_header(
                KeptConversation(new.made(reach.tenant_id, at), new.request_id, new.fingerprint)
            )
            try:
                await self._headers.conversations.insert_one(header)
            except DuplicateKeyError:
                await self._wait_until_durable(key)
                return await self._created_before(reach, new)
        return documents.conversation_of(header)

    async def get(self, reach: Reach, conversation_id: str) -> Conversation:
        """The conversation as its last append left it, whatever the header says."""
        key = documents.conversation_key(reach.tenant_id, conversation_id)
        with mongo_errors():
            header, last = await asyncio.gather(
                self._headers.find_whole(reach, conversation_id), self._headers.last_append(key)
            )
            conversation = documents.conversation_of(await self._headers.healed(header, last))
        if not reach.shows(conversation, self._headers.now()):
            raise NotFound("conversation", conversation_id)
        return conversation

    async def version(self, reach: Reach, conversation_id: str) -> Version:
        """Of the header and the end of the appends as a majority has them, or a page read after it could be older."""
        with mongo_errors():
            header, end = await self._headers.find_end(reach, conversation_id)
        return documents.version_of(header, end)

    async def select(self, reach: Reach, selection: Selection) -> tuple[list[Conversation], bool]:
        """Reads headers only, in the order of an index."""
        with mongo_errors():
            return await select_conversations(self._headers, reach, selection)

    async def act(self, reach: Reach, conversation_id: str, act: ConversationAct) -> Conversation:
        """See MongoActs."""
        return await self._acts.on_conversation(reach, conversation_id, act)

    async def append(self, reach: Reach, conversation_id: str, batch: Batch) -> list[Message]:
        """One insert by majority, then the header. Writers of one process take turns, others collide and retry."""
        await self._headers.ensure_indexes()
        reach = replace(reach, deleted=False)
        with mongo_errors():
            async with self._headers.turn(documents.conversation_key(reach.tenant_id, conversation_id)):
                header = await self._headers.find(reach, conversation_id)
                write = partial(self._appended, reach, header, batch)
                return await (with_texts(self._headers, header, batch.bodies, write) if batch.bodies else write())

    async def read(self, reach: Reach, conversation_id: str, window: Window) -> Page:
        """One query, because a page and who may read it belong together; more only for what seems not to be there."""
        key = documents.conversation_key(reach.tenant_id, conversation_id)
        with mongo_errors():
            header, page = await read_page(self._headers, key, window)
            if header is None or not reach.shows(documents.conversation_of(header), self._headers.now()):
                await self._headers.find(reach, conversation_id)
        return page

    async def message(self, reach: Reach, conversation_id: str, message_id: str) -> Message:
        """See MongoMessages."""
        return await self._messages.get(reach, conversation_id, message_id)

    async def revise(self, reach: Reach, conversation_id: str, message_id: str, act: MessageAct) -> Message:
        """See MongoActs."""
        return await self._acts.on_message(reach, conversation_id, message_id, act)

    async def revisions(
        self, reach: Reach, conversation_id: str, message_id: str, after: int, limit: int
    ) -> tuple[list[Message], bool]:
        """See MongoMessages."""
        return await self._messages.revisions(reach, conversation_id, message_id, after, limit)

    def text(self, reach: Reach, conversation_id: str, message_id: str) -> AsyncGenerator[bytes, None]:
        """See MongoMessages."""
        return self._messages.text(reach, conversation_id, message_id)

    async def search(self, reach: Reach, search: Search) -> Found:
        """See MongoSearch."""
        return await self._search.find(reach, search)

    def watch(self, tenant_id: str, resume_token: str, shard: Shard = WHOLE_FEED) -> AsyncGenerator[Event, None]:
        """See MongoFeed."""
        return self._feed.watch(tenant_id, resume_token, shard)

    async def position(self, tenant_id: str) -> str:
        """See MongoFeed."""
        return await self._feed.position(tenant_id)

    async def _is_kept(self, header: Document) -> bool:
        """Whether the conversation is not over; one that is makes way for a new one."""
        now = self._headers.now()
        if not documents.conversation_of(header).expired(now):
            return True
        place = header["tenant_id"], header["conversation_id"]
        await self.upkeep.purge(*place, lambda conversation: conversation.expired(now))
        return await self._headers.conversations.find_one({"_id": header["_id"]}, {"_id": 1}) is not None

    async def _created_before(self, reach: Reach, new: NewConversation) -> Conversation:
        header = await self._headers.find_whole(reach, new.conversation_id)
        same_request = new.request_id and new.request_id == header.get("request_id")
        if same_request and header["fingerprint"] != new.fingerprint:
            raise RequestIdReused
        return await self.get(reach, new.conversation_id)

    async def _appended(self, reach: Reach, header: Document, batch: Batch) -> list[Message]:
        terms = await terms_in(batch.drafts, batch.bodies)
        for attempt in range(APPEND_ATTEMPTS):
            stored = await self._try_append(header, batch, terms)
            if stored is not None:
                return documents.said_in(stored)
            await asyncio.sleep(random.uniform(0, min(0.001 * 2**attempt, LONGEST_PAUSE_SECONDS)))  # noqa: S311
            header = await self._looked_at_again(reach, header)
        raise Conflict("too many writers append to this conversation at once")

    async def _try_append(self, header: Document, batch: Batch, terms: list[list[str]]) -> Document | None:
        """The append as stored, now or by an earlier try of the same request; None when its place is taken."""
        if "finalize_time" in header:
            return await self._stored_before_the_end(header, batch)
        at = max(self._headers.now(), header["last_activity_time"])
        append = documents.new_append(header, documents.totals_of(header), batch, at, terms)
        try:
            await self._headers.gathered.insert(append, sum(draft.size_bytes for draft in batch.drafts))
        except DuplicateKeyError as collision:
            keys = collision_keys(collision.details)
            if "_id" in keys:
                return None
            append = await self._stored_before(header, batch, keys.get("messages.message_id"))
            # By majority: the acknowledgement of the first try may never have come.
            await self._headers.bring_up_to_date(header, append, durable=True)
        else:
            return append if await self._bring_up_to_date(header, append) else None
        return append

    async def _bring_up_to_date(self, header: Document, append: Document) -> bool:
        """The header, unless another writer was faster; a conversation that was purged meanwhile took no message.

        False when the place was free only because what stood there had been trimmed, long after this writer looked.
        """
        if await self._headers.bring_up_to_date(header, append):
            return True
        same = {"_id": header["_id"], "create_time": header["create_time"]}
        kept = await self._headers.conversations.find_one(same, {"first_seq": 1})
        if kept is not None and append["first_seq"] >= kept.get("first_seq", 1):
            return True
        misplaced = {"_id": append["_id"], "since": header["create_time"], "fingerprint": append["fingerprint"]}
        removed = await self._headers.appends.delete_one(misplaced)
        if kept is None:
            raise NotFound("conversation", header["conversation_id"])
        # What is gone already was stored in time, and trimmed since.
        return not removed.deleted_count

    async def _looked_at_again(self, reach: Reach, header: Document) -> Document:
        """The header with what the end of the appends says, after a collision there."""
        now, last = await asyncio.gather(
            self._headers.find(reach, header["conversation_id"]),
            self._headers.last_append(header["_id"]),
        )
        return now | documents.header_after(last) if last else now

    async def _stored_before(self, header: Document, batch: Batch, taken: str | None) -> Document:
        of_conversation = {"tenant_id": header["tenant_id"], "conversation_id": header["conversation_id"]}
        stored: Document | None = None
        if batch.request_id:
            stored = await self._headers.newest_appends.find_one({**of_conversation, "request_id": batch.request_id})
            if stored is not None and stored["fingerprint"] != batch.fingerprint:
                raise RequestIdReused
        if stored is None:
            taken = taken or batch.drafts[0].message_id
            stored = await self._headers.newest_appends.find_one({**of_conversation, "messages.message_id": taken})
            if stored is None or stored["fingerprint"] != batch.fingerprint:
                raise AlreadyExists("message", taken)
        return stored

    async def _stored_before_the_end(self, header: Document, batch: Batch) -> Document:
        """What an earlier try of the request stored before the conversation was closed; ConversationClosed."""
        try:
            return await self._stored_before(header, batch, None)
        except AlreadyExists:
            raise ConversationClosed("the conversation was finalized: it takes no more messages") from None

    async def _wait_until_durable(self, key: str) -> None:
        """A write by majority is acknowledged only when all before it are as durable."""
        await self._headers.conversations.update_one({"_id": key}, {"$setOnInsert": {"last_seq": 0}})


def _first_moment(now: datetime, earlier: datetime | None) -> datetime:
    """When a conversation is created: never at the moment at which the one of its id before it was."""
    return now if earlier is None else max(now, earlier + SMALLEST_STEP)
