"""Facts and rollups in MongoDB. A batch is one transaction: facts (`_id` = the event's id) and the sums they add.

An event whose fact is there has been dealt with; that is the only mark, and it is made in the commit that counts.
"""

import asyncio
import random
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pymongo import ASCENDING, InsertOne, UpdateOne
from pymongo.errors import BulkWriteError, DuplicateKeyError

from services.analytics.model import Fact, Figures, MessageFact, RollupKey
from services.analytics.rollups.fold import folded
from shared.errors import Conflict
from shared.mongo import MongoDatabase, MongoSession, mongo_errors, mongo_ready, transaction

FACTS = "facts"
ROLLUPS = "rollups"
# Two workers on the same hour of the same tenant meet; each try takes a few milliseconds.
TRIES = 20
_DUPLICATE_KEY = 11000
_WRITE_CONFLICT = 112


class RollupStore:
    """The only writer of facts and rollups."""

    def __init__(self, database: MongoDatabase) -> None:
        self._database = database
        self._facts = database[FACTS]
        self._rollups = database[ROLLUPS]

    async def prepare(self) -> None:
        """Creates the index that bounds what a report reads; again and again is fine."""
        with mongo_errors():
            await self._rollups.create_index([("tenant_id", ASCENDING), ("hour", ASCENDING)], name="tenant_hour")

    async def ready(self) -> None:
        """Answers within seconds or raises Unavailable."""
        await mongo_ready(self._database)

    async def commit(self, facts: Sequence[Fact]) -> int:
        """Counts the facts that are not known yet, all or none; returns how many were new.

        Unavailable and Conflict pass by themselves; anything else means that these facts cannot be stored.
        """
        distinct = list({fact.event_id: fact for fact in facts}.values())
        for attempt in range(1, TRIES):
            try:
                return await self._commit_once(distinct)
            except Conflict:
                await asyncio.sleep(random.uniform(0, 0.005 * attempt))  # noqa: S311 only spreads rivals
        return await self._commit_once(distinct)

    async def _commit_once(self, facts: Sequence[Fact]) -> int:
        with mongo_errors():
            async with transaction(self._database) as session:
                with _races():
                    return await self._write(facts, session)

    async def _write(self, facts: Sequence[Fact], session: MongoSession) -> int:
        known = await self._known([fact.event_id for fact in facts], session)
        fresh = [fact for fact in facts if fact.event_id not in known]
        if fresh:
            await self._facts.bulk_write(
                [InsertOne(_fact_document(fact)) for fact in fresh], ordered=False, session=session
            )
        if sums := folded(fresh):
            await self._rollups.bulk_write(
                [_addition(key, figures) for key, figures in sums.items()], ordered=False, session=session
            )
        return len(fresh)

    async def settled(self, event_ids: Collection[str]) -> set[str]:
        """Which of the events have been dealt with: counted, or given up as dead letters."""
        with mongo_errors():
            return await self._known(list(event_ids), None)

    async def _known(self, event_ids: Sequence[str], session: MongoSession) -> set[str]:
        cursor = self._facts.find(
            {"_id": {"$in": list(event_ids)}}, {"_id": 1}, batch_size=len(event_ids) + 1, session=session
        )
        return {document["_id"] async for document in cursor}

    async def give_up(self, event_id: str, tenant_id: str, reason: str) -> None:
        """Marks an event that cannot be counted as dealt with, so that the feed may go past it."""
        try:
            with mongo_errors():
                await self._facts.insert_one({"_id": event_id, "tenant_id": tenant_id, "dead": reason})
        except DuplicateKeyError:
            return


def _addition(key: RollupKey, figures: Figures) -> UpdateOne:
    names = {name: getattr(key, name) for name in RollupKey.__slots__}
    return UpdateOne({"_id": names}, {"$inc": figures._asdict(), "$setOnInsert": names}, upsert=True)


def _fact_document(fact: Fact) -> dict[str, Any]:
    return {
        "_id": fact.event_id,
        "tenant_id": fact.tenant_id,
        "conversation_id": fact.conversation_id,
        "channel": fact.channel,
        "messages": [_message_document(message) for message in fact.messages],
    }


def _message_document(message: MessageFact) -> dict[str, Any]:
    document = {name: getattr(message, name) for name in MessageFact.__slots__}
    kept = {name: value for name, value in document.items() if value not in ("", 0, False)}
    return {**kept, "speaker": message.speaker.value, "ending": message.ending.value}


@contextmanager
def _races() -> Iterator[None]:
    """Conflict, when another worker stored the same event or the same rollup first: the next try sees what it did."""
    try:
        yield
    except BulkWriteError as error:
        codes = {each["code"] for each in (error.details or {}).get("writeErrors", [])}
        if codes and codes <= {_DUPLICATE_KEY, _WRITE_CONFLICT}:
            raise Conflict("another worker was first") from error
        raise
