"""What a test must be able to do to the Mongo engine."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from pydantic import SecretStr
from pymongo.read_concern import ReadConcern

from deploy.local.child import Command
from deploy.local.engines import Mongo
from services.chat_store.batch import Batch
from services.chat_store.engines.mongo import documents
from services.chat_store.engines.mongo.codec import Document
from services.chat_store.engines.mongo.store import MongoChatStore
from services.chat_store.model import Totals
from services.chat_store.selection import Reach
from services.chat_store.store import ChatStore
from services.chat_store.words import terms_of
from shared.clock import Clock
from shared.mongo import MongoDatabase, MongoDriver, aggregate, open_mongo
from tests.chat_store.workshop import Work, Workshop, pair

IDLE_SECONDS = 1.0
FORGETTING_SECONDS = 120.0


class CrashedError(Exception):
    """The process is gone."""


class _DyingMongoChatStore(MongoChatStore):
    async def _bring_up_to_date(self, header: Document, append: Document) -> bool:
        raise CrashedError


class MongoWorkshop:
    def __init__(self, database: MongoDatabase) -> None:
        self._database = database
        self.store: ChatStore = MongoChatStore(database, feed_idle_seconds=IDLE_SECONDS)

    async def another_replica(self) -> ChatStore:
        return MongoChatStore(self._database, feed_idle_seconds=IDLE_SECONDS)

    def store_at(self, clock: Clock) -> ChatStore:
        return MongoChatStore(self._database, feed_idle_seconds=IDLE_SECONDS, clock=clock)

    async def crash_after_storing(self, reach: Reach, conversation_id: str, batch: Batch) -> None:
        with pytest.raises(CrashedError):
            await _DyingMongoChatStore(self._database).append(reach, conversation_id, batch)

    async def start_measuring(self) -> None:
        await self._database.command("profile", 0)
        await self._database["system.profile"].drop()
        await self._database.command("profile", 2)

    async def work(self) -> Work:
        await self._database.command("profile", 0)
        done = dict.fromkeys((documents.CONVERSATIONS, documents.APPENDS), 0)
        async for entry in self._database["system.profile"].find({"docsExamined": {"$gt": 0}}):
            collection = entry["ns"].split(".", 1)[1]
            if collection in done:
                done[collection] += entry["docsExamined"]
        return Work(done[documents.CONVERSATIONS], done[documents.APPENDS])

    async def load(self, reach: Reach, conversation_id: str, pairs: int) -> None:
        key = documents.conversation_key(reach.tenant_id, conversation_id)
        header = await self._database[documents.CONVERSATIONS].find_one({"_id": key})
        await self._database[documents.APPENDS].insert_many(_appends(header, pairs), ordered=False)
        await self.store.get(reach, conversation_id)

    async def forget_the_log(self) -> None:
        log = self._database.client["local"]["oplog.rs"]
        now = (await self._database.client.admin.command("hello"))["lastWrite"]["opTime"]["ts"]
        async with asyncio.timeout(FORGETTING_SECONDS):
            while (await log.find_one({}, {"ts": 1}, sort=[("$natural", 1)]))["ts"] <= now:
                await self._database["noise"].insert_many([{"noise": "x" * 100_000} for _ in range(10)])

    async def open_feeds(self) -> int:
        admin = self._database.client.get_database("admin", read_concern=ReadConcern("local"))
        current = {"$currentOp": {"idleCursors": True, "allUsers": True}}
        own = {"$match": {"ns": {"$regex": f"^{self._database.name}\\."}, "cursor": {"$exists": True}}}
        return len([each async for each in aggregate(_Administration(admin), [current, own])])


class ForgetfulMongo(Mongo):
    """A server whose log holds one megabyte, so that a test can make it lose what happened."""

    def command(self) -> Command:
        command = super().command()
        arguments = list(command.argv)
        arguments[arguments.index("--oplogSize") + 1] = "1"
        # The log is cut up to the last checkpoint only: make one every second.
        return replace(command, argv=(*arguments, "--syncdelay", "1"))


@asynccontextmanager
async def mongo_workshop(url: str, driver: MongoDriver) -> AsyncIterator[Workshop]:
    """A workshop over a database of its own, dropped at the end of the block."""
    name = f"chat_{driver}_{uuid4().hex[:8]}"
    async with open_mongo(SecretStr(url), name, driver=driver) as database:
        yield MongoWorkshop(database)
        await database.client.drop_database(name)


class _Administration:
    """$currentOp is asked of a database, which has the same method as a collection."""

    def __init__(self, database: MongoDatabase) -> None:
        self._database = database

    def aggregate(self, pipeline: list[dict[str, Any]], **options: Any) -> Any:
        return self._database.aggregate(pipeline, **options)


def _appends(header: Document, pairs: int) -> Iterable[Document]:
    totals, at = Totals(), header["create_time"]
    for number in range(pairs):
        batch = pair(f"{number}")
        terms = [terms_of(draft.words) for draft in batch.drafts]
        yield documents.new_append(header, totals, batch, at + timedelta(milliseconds=number), terms)
        totals = totals.after(batch.drafts)
