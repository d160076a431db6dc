"""The feed from MongoDB: stored history by key, then a change stream from the moment the reading of history began.

History is read in a causally consistent session that begins with the cluster's time: by majority it holds all up to
that time, and the stream tells all after it, so nothing lies between. What happened meanwhile may come twice.
"""

import asyncio
import inspect
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from bson import Timestamp
from pymongo.errors import OperationFailure

from services.chat_store.engines.mongo_documents import (
    AFTER_COLON,
    APPENDS,
    CONVERSATIONS,
    Document,
    event_of,
)
from services.chat_store.feed_token import feed_position, feed_token
from services.chat_store.model import Event
from shared.mongo import MongoCollection, MongoDatabase, MongoSession, mongo_errors, watch

ENGINE = "mongo"
HISTORY_PAGE = 100
LONGEST_WAIT_MS = 1000
# InvalidResumeToken, ChangeStreamFatalError, ChangeStreamHistoryLost: the log no longer knows the place.
LOG_LOST = {260, 280, 286}


class LogLostError(Exception):
    """The server's log does not reach back to the place asked for."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a feed stands: in history after `key` (with the time the stream will start from), or in the log."""

    key: str = ""
    time: int = 0
    increment: int = 0
    log: str = ""


class MongoFeed:
    """Tells what was inserted into both collections."""

    def __init__(self, database: MongoDatabase, *, idle_seconds: float) -> None:
        self._database = database
        self._collections = {name: database.get_collection(name) for name in (CONVERSATIONS, APPENDS)}
        self._idle_seconds = idle_seconds

    async def watch(self, tenant_id: str, resume_token: str) -> AsyncGenerator[Event, None]:
        """See ChatStore.watch."""
        place = _Place(**feed_position(ENGINE, tenant_id, resume_token)) if resume_token else _Place()
        with mongo_errors():
            while True:
                if not place.log:
                    place = await self._started(place)
                    async with aclosing(self._history(tenant_id, place)) as history:
                        async for event in history:
                            yield event
                try:
                    async with aclosing(self._live(tenant_id, place)) as live:
                        async for event in live:
                            yield event
                except LogLostError:
                    place = _Place()

    async def _started(self, place: _Place) -> _Place:
        """The place with the time that the stream will start from, which is before any of history is read."""
        if place.time:
            return place
        session = await self._session()
        async with session:
            await self._database.command("ping", session=session)
            now: Timestamp = session.operation_time
        return _Place(place.key, now.time, now.inc)

    async def _history(self, tenant_id: str, start: _Place) -> AsyncGenerator[Event, None]:
        """Everything stored, by key: a conversation's key is the beginning of its appends' keys, so it is first.

        Ends with a bare token and the time up to which this was everything.
        """
        session = await self._session()
        async with session:
            session.advance_operation_time(Timestamp(start.time, start.increment))
            scans = {
                name: _scan(collection, tenant_id, start.key, session) for name, collection in self._collections.items()
            }
            place = start
            try:
                heads = {name: await anext(scan, None) for name, scan in scans.items()}
                while waiting := {name: head for name, head in heads.items() if head is not None}:
                    first = min(waiting, key=lambda name: waiting[name]["_id"])
                    document = waiting[first]
                    place = _Place(document["_id"], start.time, start.increment)
                    yield event_of(first, document, _token(tenant_id, place))
                    heads[first] = await anext(scans[first], None)
                yield Event(_token(tenant_id, place), time=datetime.fromtimestamp(start.time, UTC))
            finally:
                for scan in scans.values():
                    await scan.aclose()

    async def _live(self, tenant_id: str, place: _Place) -> AsyncGenerator[Event, None]:
        """What is inserted after the place; when nothing was for a while, a bare token with the time it is good for."""
        start: dict[str, Any] = (
            {"start_after": {"_data": place.log}}
            if place.log
            else {"start_at_operation_time": Timestamp(place.time, place.increment)}
        )
        options = {"max_await_time_ms": LONGEST_WAIT_MS, **start}
        clock = asyncio.get_running_loop().time
        told = 0.0
        try:
            async with watch(self._database, _inserts(tenant_id), **options) as stream:
                while True:
                    asked = datetime.now(UTC)
                    change = await stream.try_next()
                    if change is not None:
                        token = _token(tenant_id, _Place(log=change["_id"]["_data"]))
                        yield event_of(change["ns"]["coll"], change["fullDocument"], token)
                    elif clock() - told >= self._idle_seconds and stream.resume_token is not None:
                        yield Event(_token(tenant_id, _Place(log=stream.resume_token["_data"])), time=asked)
                    else:
                        continue
                    told = clock()
        except OperationFailure as error:
            if error.code in LOG_LOST:
                raise LogLostError from error
            raise

    async def _session(self) -> MongoSession:
        session = self._database.client.start_session(causal_consistency=True)
        return await session if inspect.isawaitable(session) else session


def _inserts(tenant_id: str) -> list[Document]:
    wanted: Document = {"operationType": "insert", "ns.coll": {"$in": [CONVERSATIONS, APPENDS]}}
    if tenant_id:
        wanted["fullDocument.tenant_id"] = tenant_id
    return [{"$match": wanted}]


async def _scan(
    collection: MongoCollection, tenant_id: str, after: str, session: MongoSession
) -> AsyncGenerator[Document, None]:
    """The documents by key, page by page: no cursor stays open while a consumer thinks."""
    end = {"$lt": f"{tenant_id}{AFTER_COLON}"} if tenant_id else {}
    last = after or (f"{tenant_id}:" if tenant_id else "")
    told = HISTORY_PAGE
    while told == HISTORY_PAGE:
        told = 0
        found = collection.find({"_id": {"$gt": last, **end}}, session=session).sort("_id", 1)
        cursor = found.limit(HISTORY_PAGE).batch_size(HISTORY_PAGE)
        try:
            async for document in cursor:
                last = document["_id"]
                told += 1
                yield document
        finally:
            await cursor.close()


def _token(tenant_id: str, place: _Place) -> str:
    if place.log:
        return feed_token(ENGINE, tenant_id, {"log": place.log})
    return feed_token(ENGINE, tenant_id, {"key": place.key, "time": place.time, "increment": place.increment})
