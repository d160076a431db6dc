"""Which collections are in force. A projection is built anew beside the one in force, and then takes its place.

The first generation has plain names; each later one has its number behind them.
"""

import time
from dataclasses import dataclass

from pymongo import ASCENDING

from shared.errors import Conflict
from shared.mongo import MongoCollection, MongoDatabase, mongo_errors

PROJECTIONS = "projections"
IN_FORCE = "in_force"
FACTS = "facts"
ROLLUPS = "rollups"
SERIES = "series"
SESSIONS = "sessions"
STATEMENTS = "statements"
# How long a process may go on with the generation before: what it still counts there is told again by the feed.
SEEN_SECONDS = 1.0

_SERIES_ORDER = ("tenant_id", "axis", "step", "start", "value")


@dataclass(frozen=True, slots=True)
class Generation:
    """The collections of one projection."""

    number: int
    facts: MongoCollection
    rollups: MongoCollection
    series: MongoCollection
    sessions: MongoCollection
    statements: MongoCollection

    async def prepare(self) -> None:
        """Creates the indexes that bound what is read; again and again is fine."""
        with mongo_errors():
            await self.rollups.create_index([("tenant_id", ASCENDING), ("hour", ASCENDING)], name="tenant_hour")
            await self.series.create_index([(f"_id.{name}", ASCENDING) for name in _SERIES_ORDER], name="series")
            await self.facts.create_index(
                [("tenant_id", ASCENDING), ("time", ASCENDING), ("_id", ASCENDING)], name="tenant_time_event"
            )
            await self.sessions.create_index([("open", ASCENDING), ("end", ASCENDING)], name="idle", sparse=True)
            await self.statements.create_index([("tenant_id", ASCENDING), ("time", ASCENDING)], name="tenant_time")

    async def drop(self) -> None:
        """Forgets all of it."""
        with mongo_errors():
            for collection in (self.facts, self.rollups, self.series, self.sessions, self.statements):
                await collection.drop()


class Projection:
    """The generation in force, asked for again after a second; or always the one pinned."""

    def __init__(self, database: MongoDatabase, *, pinned: int | None = None) -> None:
        self.database = database
        self._projections = database[PROJECTIONS]
        self._pinned = pinned
        self._seen: Generation | None = None
        self._seen_at = 0.0

    async def current(self) -> Generation:
        """The collections to read and write now."""
        if self._seen is None or (self._pinned is None and time.monotonic() - self._seen_at > SEEN_SECONDS):
            number = await self._number() if self._pinned is None else self._pinned
            if self._seen is None or self._seen.number != number:
                self._seen = generation(self.database, number)
            self._seen_at = time.monotonic()
        return self._seen

    async def _number(self) -> int:
        with mongo_errors():
            found = await self._projections.find_one({"_id": IN_FORCE})
        return int(found["generation"]) if found else 0

    async def switch(self, before: int, after: int) -> None:
        """Puts generation `after` in the place of `before`; Conflict when that is in force no more."""
        with mongo_errors():
            if before == 0:
                await self._projections.update_one({"_id": IN_FORCE}, {"$setOnInsert": {"generation": 0}}, upsert=True)
            done = await self._projections.update_one(
                {"_id": IN_FORCE, "generation": before}, {"$set": {"generation": after}}
            )
        if not done.matched_count:
            raise Conflict("another projection came into force")
        self._seen = None


def generation(database: MongoDatabase, number: int) -> Generation:
    """The collections of that generation."""
    suffix = f"_{number}" if number else ""
    names = (FACTS, ROLLUPS, SERIES, SESSIONS, STATEMENTS)
    return Generation(number, *(database[name + suffix] for name in names))
