"""How far the feed has been counted, and who follows it: one small document in MongoDB, judged by its clock."""

from datetime import UTC, datetime
from typing import Any

from services.analytics.model import Position
from shared.mongo import MongoDatabase, mongo_errors

POSITIONS = "feed_positions"
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


class FeedPositions:
    """The kept position of one feed, under a lease: only its holder may move it."""

    def __init__(self, database: MongoDatabase, feed: str = "chat_store") -> None:
        self._collection = database[POSITIONS]
        self._feed = feed

    async def read(self) -> Position:
        """The kept position; the beginning when there is none."""
        with mongo_errors():
            document = await self._collection.find_one({"_id": self._feed}) or {}
        return Position(document.get("token", ""), document.get("counted_until"))

    async def acquire(self, holder: str, lease_seconds: float) -> bool:
        """Makes `holder` the one that follows the feed, unless another one's lease still runs."""
        free = {"$or": [{"holder": holder}, {"$expr": {"$lt": ["$lease_until", "$$NOW"]}}]}
        with mongo_errors():
            await self._collection.update_one(
                {"_id": self._feed}, [{"$set": {"lease_until": {"$ifNull": ["$lease_until", _LONG_AGO]}}}], upsert=True
            )
            taken = await self._collection.update_one(
                {"_id": self._feed, **free}, [{"$set": {"holder": holder, **_lease(lease_seconds)}}]
            )
        return bool(taken.matched_count)

    async def keep(self, holder: str, position: Position, lease_seconds: float) -> bool:
        """Keeps the position and prolongs the lease; False when the lease is another's by now."""
        kept: dict[str, Any] = {"token": {"$literal": position.token}, "counted_until": position.counted_until}
        with mongo_errors():
            done = await self._collection.update_one(
                {"_id": self._feed, "holder": holder}, [{"$set": {**kept, **_lease(lease_seconds)}}]
            )
        return bool(done.matched_count)

    async def release(self, holder: str) -> None:
        """Lets another one take over at once."""
        with mongo_errors():
            await self._collection.update_one(
                {"_id": self._feed, "holder": holder}, [{"$set": {"holder": "", "lease_until": _LONG_AGO}}]
            )


def _lease(seconds: float) -> dict[str, Any]:
    return {"lease_until": {"$add": ["$$NOW", int(seconds * 1000)]}}
