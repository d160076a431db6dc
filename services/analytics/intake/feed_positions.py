"""How far the feed has been counted, and who follows it: one small document in MongoDB, judged by its clock."""

from datetime import UTC, datetime
from typing import Any

from services.analytics.model import Position
from services.analytics.rollups.projection import Projection
from shared.mongo import MongoDatabase, mongo_errors

POSITIONS = "feed_positions"
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


class FeedPositions:
    """The kept position of one feed, under a lease: only its holder may move it. Each projection has its own."""

    def __init__(self, database: MongoDatabase, projection: Projection | None = None, feed: str = "chat_store") -> None:
        self._collection = database[POSITIONS]
        self._projection = projection or Projection(database)
        self._name = feed

    async def _feed(self) -> str:
        number = (await self._projection.current()).number
        return f"{self._name}_{number}" if number else self._name

    async def read(self) -> Position:
        """The kept position; the beginning when there is none."""
        feed = await self._feed()
        with mongo_errors():
            document = await self._collection.find_one({"_id": feed}) or {}
        return Position(document.get("token", ""), document.get("counted_until"))

    async def acquire(self, holder: str, lease_seconds: float) -> bool:
        """Makes `holder` the one that follows the feed, unless another one's lease still runs."""
        feed = await self._feed()
        free = {"$or": [{"holder": holder}, {"$expr": {"$lt": ["$lease_until", "$$NOW"]}}]}
        with mongo_errors():
            await self._collection.update_one(
                {"_id": feed}, [{"$set": {"lease_until": {"$ifNull": ["$lease_until", _LONG_AGO]}}}], upsert=True
            )
            taken = await self._collection.update_one(
                {"_id": feed, **free}, [{"$set": {"holder": holder, **_lease(lease_seconds)}}]
            )
        return bool(taken.matched_count)

    async def keep(self, holder: str, position: Position, lease_seconds: float) -> bool:
        """Keeps the position and prolongs the lease; False when the lease is another's by now."""
        feed = await self._feed()
        kept: dict[str, Any] = {"token": {"$literal": position.token}, "counted_until": position.counted_until}
        with mongo_errors():
            done = await self._collection.update_one(
                {"_id": feed, "holder": holder}, [{"$set": {**kept, **_lease(lease_seconds)}}]
            )
        return bool(done.matched_count)

    async def release(self, holder: str) -> None:
        """Lets another one take over at once."""
        feed = await self._feed()
        with mongo_errors():
            await self._collection.update_one(
                {"_id": feed, "holder": holder}, [{"$set": {"holder": "", "lease_until": _LONG_AGO}}]
            )


def _lease(seconds: float) -> dict[str, Any]:
    return {"lease_until": {"$add": ["$$NOW", int(seconds * 1000)]}}
