"""The feed from MongoDB: stored history by key, then a change stream from the moment the reading of history began.

History is read in a causally consistent session that begins with the cluster's time: by majority it holds all up to
that time, and the stream tells all after it, so nothing lies between. What happened meanwhile may come twice.
"""

import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from bson import Timestamp
from pymongo.errors import OperationFailure

from services.chat_store.engines.mongo.codec import Document
from services.chat_store.engines.mongo.documents import AFTER_COLON, APPENDS
from services.chat_store.engines.mongo.events import TOLD, event_of
from services.chat_store.engines.mongo.sessions import mongo_session
from services.chat_store.feed_token import feed_position, feed_token, refused_token
from services.chat_store.happenings import Event, Shard
from services.chat_store.store import WHOLE_FEED
from shared.cancellation import cancellation_kept
from shared.mongo import MongoCollection, MongoDatabase, MongoSession, mongo_errors, watch

ENGINE = "mongo"
HISTORY_PAGE = 100
LONGEST_WAIT_MS = 1000
# InvalidResumeToken, ChangeStreamFatalError, ChangeStreamHistoryLost: the log no longer knows the place.
LOG_LOST = {260, 280, 286}
# BadValue, FailedToParse, TypeMismatch, Overflow, and all that has a number for a name: the place was made up.
MALFORMED = {2, 9, 14, 15}
FIRST_NUMBERED_ERROR = 10_000
_LOG_PLACE = re.compile(r"[0-9A-F]{2,4096}")
_LARGEST = 2**32 - 1


class LogLostError(Exception):
    """The server's log does not reach back to the place asked for."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a feed stands: in history after `key` (with the time the stream will start from), or in the log."""

    key: str = ""
    time: int = 0
    increment: int = 0
    log: str = ""

    @property
    def sensible(self) -> bool:
        """Whether a store could have been there: a token that somebody made up may say anything."""
        texts = isinstance(self.key, str) and isinstance(self.log, str)
        numbers = all(type(each) is int and 0 <= each <= _LARGEST for each in (self.time, self.increment))
        return texts and numbers and (not self.log or _LOG_PLACE.fullmatch(self.log) is not None)


@dataclass(frozen=True, slots=True)
class _Share:
    """Whose conversations a feed tells, and which of them."""

    tenant_id: str
    shard: Shard

    @property
    def name(self) -> str:
        """What tokens are bound to."""
        shard = self.shard
        return self.tenant_id if shard == WHOLE_FEED else f"{self.tenant_id}\0{shard.count}\0{shard.index}"

    def slots(self, field: str) -> Document:
        """The condition on a conversation's slot."""
        return {} if self.shard.count == 1 else {field: {"$mod": [self.shard.count, self.shard.index]}}

    def token(self, place: _Place) -> str:
        """For going on from there."""
        if place.log:
            return feed_token(ENGINE, self.name, {"log": place.log})
        return feed_token(ENGINE, self.name, {"key": place.key, "time": place.time, "increment": place.increment})

    def place(self, resume_token: str) -> _Place:
        """Where the token says; InvalidArgument with reason RESUME_TOKEN_INVALID."""
        if not resume_token:
            return _Place()
        try:
            place = _Place(**feed_position(ENGINE, self.name, resume_token))
        except TypeError:
            raise refused_token() from None
        if not place.sensible:
            raise refused_token()
        return place


class MongoFeed:
    """Tells what was inserted into the collections that tell something."""

    def __init__(self, database: MongoDatabase, *, idle_seconds: float) -> None:
        self._database = database
        self._collections = {name: database.get_collection(name) for name in TOLD}
        self._idle_seconds = idle_seconds

    async def watch(self, tenant_id: str, resume_token: str, shard: Shard) -> AsyncGenerator[Event, None]:
        """See ChatStore.watch."""
        share = _Share(tenant_id, shard)
        place = share.place(resume_token)
        with mongo_errors():
            while True:
                if not place.log:
                    place = await self._started(place)
                    async with aclosing(self._history(share, place)) as history:
                        async for event in history:
                            yield event
                try:
                    async with aclosing(self._live(share, place)) as live:
                        async for event in live:
                            yield event
                except LogLostError:
                    place = _Place()

    async def position(self, tenant_id: str) -> str:
        """Where a stream that is opened now begins."""
        nothing = {"$match": {"operationType": "insert", "ns.coll": ""}}
        with mongo_errors():
            async with watch(self._database, [nothing], max_await_time_ms=1) as stream:
                while stream.resume_token is None:
                    await stream.try_next()
                return _Share(tenant_id, WHOLE_FEED).token(_Place(log=stream.resume_token["_data"]))

    async def _started(self, place: _Place) -> _Place:
        """The place with the time that the stream will start from, which is before any of history is read."""
        if place.time:
            return place
        session = await mongo_session(self._database, causal_consistency=True)
        async with session:
            await self._database.command("ping", session=session)
            now: Timestamp = session.operation_time
        return _Place(place.key, now.time, now.inc)

    async def _history(self, share: _Share, start: _Place) -> AsyncGenerator[Event, None]:
        """Everything stored, by key: purges first, a conversation before its appends, these before its changes.

        Ends with a bare token and the time up to which this was everything.
        """
        session = await mongo_session(self._database, causal_consistency=True)
        async with session:
            session.advance_operation_time(Timestamp(start.time, start.increment))
            scans = {name: _scan(each, share, start.key, session) for name, each in self._collections.items()}
            place = start
            try:
                heads = {name: await anext(scan, None) for name, scan in scans.items()}
                while waiting := {name: head for name, head in heads.items() if head is not None}:
                    first = min(waiting, key=lambda name: waiting[name]["_id"])
                    document = waiting[first]
                    place = _Place(document["_id"], start.time, start.increment)
                    yield event_of(first, document, share.token(place))
                    heads[first] = await anext(scans[first], None)
                yield Event(share.token(place), time=datetime.fromtimestamp(start.time, UTC))
            finally:
                for scan in scans.values():
                    await scan.aclose()

    async def _live(self, share: _Share, place: _Place) -> AsyncGenerator[Event, None]:
        """What is inserted after the place; when nothing was for a while, a bare token with the time it is good for."""
        start: dict[str, Any] = (
            {"start_after": {"_data": place.log}}
            if place.log
            else {"start_at_operation_time": Timestamp(place.time, place.increment)}
        )
        options = {"max_await_time_ms": LONGEST_WAIT_MS, **start}
        clock = asyncio.get_running_loop().time
        told, opened = 0.0, False
        try:
            async with watch(self._database, _inserts(share), **options) as stream:
                while True:
                    asked = datetime.now(UTC)
                    with cancellation_kept():
                        change = await stream.try_next()
                    opened = True
                    if change is not None:
                        token = share.token(_Place(log=change["_id"]["_data"]))
                        yield event_of(change["ns"]["coll"], change["fullDocument"], token)
                    elif clock() - told >= self._idle_seconds and stream.resume_token is not None:
                        yield Event(share.token(_Place(log=stream.resume_token["_data"])), time=asked)
                    else:
                        continue
                    told = clock()
        except OperationFailure as error:
            if error.code in LOG_LOST:
                raise LogLostError from error
            if place.log and not opened and _is_malformed(error.code):
                raise refused_token() from None
            raise


def _is_malformed(code: int | None) -> bool:
    return code is not None and (code in MALFORMED or code >= FIRST_NUMBERED_ERROR)


def _inserts(share: _Share) -> list[Document]:
    wanted: Document = {
        "operationType": "insert",
        "ns.coll": {"$in": list(TOLD)},
        # Seals tell nothing; only appends have a number of messages.
        "fullDocument.n": {"$ne": 0},
        **share.slots("fullDocument.slot"),
    }
    if share.tenant_id:
        wanted["fullDocument.tenant_id"] = share.tenant_id
    return [{"$match": wanted}, {"$project": {"fullDocument.words": 0}}]


async def _scan(
    collection: MongoCollection, share: _Share, after: str, session: MongoSession
) -> AsyncGenerator[Document, None]:
    """The documents by key, page by page: no cursor stays open while a consumer thinks."""
    end = {"$lt": f"{share.tenant_id}{AFTER_COLON}"} if share.tenant_id else {}
    only = {**share.slots("slot"), **({"n": {"$ne": 0}} if collection.name == APPENDS else {})}
    last = after or (f"{share.tenant_id}:" if share.tenant_id else "")
    told = HISTORY_PAGE
    while told == HISTORY_PAGE:
        told = 0
        found = collection.find({"_id": {"$gt": last, **end}, **only}, {"words": 0}, session=session).sort("_id", 1)
        cursor = found.limit(HISTORY_PAGE).batch_size(HISTORY_PAGE)
        try:
            async for document in cursor:
                last = document["_id"]
                told += 1
                yield document
        finally:
            await cursor.close()
