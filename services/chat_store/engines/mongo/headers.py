"""The collections of the Mongo engine, and the headers of conversations: found within reach, brought up to date.

A header may lag behind the appends after a crash. Whatever it says is the place of some append, and the appends can
rebuild it, so updates of headers by appends do not wait for a majority.
"""

import asyncio
from datetime import datetime
from typing import Any
from weakref import WeakValueDictionary

from pymongo import WriteConcern
from pymongo.read_concern import ReadConcern

from services.chat_store.engines.mongo import documents
from services.chat_store.engines.mongo.codec import Document
from services.chat_store.engines.mongo.gathered import Gathered
from services.chat_store.engines.mongo.indexes import INDEXES
from services.chat_store.selection import Reach, is_conversation_id
from shared.clock import Clock
from shared.errors import NotFound
from shared.mongo import MongoDatabase, MongoSession, mongo_errors

TAIL_FIELDS = {"first_seq": 1, "n": 1, "create_time": 1, "totals": 1, "preview": 1}


class MongoHeaders:
    """Where everything is kept, and which conversations there are."""

    def __init__(self, database: MongoDatabase, clock: Clock) -> None:
        # What was written a moment ago, be it acknowledged by a majority or not.
        newest = ReadConcern("local")
        self.database = database
        self.durable = database.get_collection(documents.CONVERSATIONS)
        self.conversations = database.get_collection(documents.CONVERSATIONS, read_concern=newest)
        # A lost update of a header heals from the appends: it need not wait for a majority.
        self.hints = database.get_collection(documents.CONVERSATIONS, write_concern=WriteConcern(w=1))
        self.appends = database.get_collection(documents.APPENDS)
        self.newest_appends = database.get_collection(documents.APPENDS, read_concern=newest)
        self.changes = database.get_collection(documents.CHANGES)
        self.entries = database.get_collection(documents.ENTRIES)
        self.bodies = database.get_collection(documents.BODIES)
        self.purges = database.get_collection(documents.PURGES)
        self.gathered = Gathered(self.conversations, self.durable, self.hints, self.appends)
        self._clock = clock
        self._indexed = False
        self._indexing = asyncio.Lock()
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def now(self) -> datetime:
        """The present moment, as it is kept."""
        return documents.to_milliseconds(self._clock.now())

    def turn(self, key: str) -> asyncio.Lock:
        """Writers of one process take turns with a conversation, so that only replicas collide."""
        turn = self._turns.get(key)
        if turn is None:
            turn = self._turns[key] = asyncio.Lock()
        return turn

    async def find(self, reach: Reach, conversation_id: str) -> Document:
        """What FACTS are of the header of a conversation that is there for a reader; NotFound."""
        return await self._shown(reach, await self.find_kept(reach, conversation_id))

    async def find_kept(self, reach: Reach, conversation_id: str) -> Document:
        """The same of a conversation that may be gone; NotFound when it is none or out of reach."""
        known = is_conversation_id(conversation_id)
        key = documents.conversation_key(reach.tenant_id, conversation_id)
        return _within(reach, conversation_id, await self.gathered.header(key) if known else None)

    async def find_whole(self, reach: Reach, conversation_id: str) -> Document:
        """The whole header of a conversation that may be gone; NotFound when it is none or out of reach."""
        known = is_conversation_id(conversation_id)
        key = documents.conversation_key(reach.tenant_id, conversation_id)
        return _within(reach, conversation_id, await self.conversations.find_one({"_id": key}) if known else None)

    async def find_end(self, reach: Reach, conversation_id: str) -> tuple[Document, int]:
        """As `find`, and the place of the last message: as a majority has both, like messages and their changes."""
        header, end = None, 0
        if is_conversation_id(conversation_id):
            header, end = await self.gathered.end(documents.conversation_key(reach.tenant_id, conversation_id))
        return await self._shown(reach, _within(reach, conversation_id, header)), end

    async def last_append(self, key: str, session: MongoSession = None) -> Document | None:
        """What the appends' end says of the conversation."""
        wanted = documents.appends_of(key)
        found = self.newest_appends.find(wanted, TAIL_FIELDS, session=session).sort("_id", -1).limit(1)
        last: list[Document] = await found.to_list(None)
        return last[0] if last else None

    async def bring_up_to_date(self, header: Document, append: Document, *, durable: bool = False) -> bool:
        """Moves the header forward to this append, never back; False when it is not sure that it moved it.

        `durable`: by majority, and with it everything that was written before.
        """
        behind = {
            "_id": header["_id"],
            "create_time": header["create_time"],
            "last_seq": {"$lt": documents.last_seq_of(append)},
        }
        if durable:
            return bool((await self.conversations.update_one(behind, documents.advance_to(append))).matched_count)
        return await self.gathered.advance(behind, documents.advance_to(append))

    async def healed(self, header: Document, last: Document | None) -> Document:
        """The header as the last append left it, should it lag."""
        if last is None or documents.last_seq_of(last) <= header["last_seq"]:
            return header
        await self.bring_up_to_date(header, last)
        return header | documents.header_after(last)

    async def _shown(self, reach: Reach, header: Document) -> Document:
        if not self._shows(reach, header):
            header = await self.healed(header, await self.last_append(header["_id"]))
            if not self._shows(reach, header):
                raise NotFound("conversation", header["conversation_id"])
        return header

    def _shows(self, reach: Reach, header: Document) -> bool:
        return reach.shows(documents.conversation_of(header), self.now())

    async def ensure_indexes(self) -> None:
        """Before the first write: without them a retry could make a duplicate."""
        if self._indexed:
            return
        async with self._indexing:
            with mongo_errors():
                for name, indexes in INDEXES.items():
                    await self.database[name].create_indexes(indexes)
        self._indexed = True


def _within(reach: Reach, conversation_id: str, header: Document | None) -> Document:
    if header is None or reach.tenant_id != header["tenant_id"] or reach.user_id not in (None, header["user_id"]):
        raise NotFound("conversation", conversation_id)
    return header


def collision_keys(details: Any) -> Document:
    """The fields that are not unique, with their values, of what DuplicateKeyError.details says."""
    keys: Document = (details or {}).get("keyValue") or {}
    return keys
