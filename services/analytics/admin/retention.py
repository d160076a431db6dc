"""How long facts are kept. Figures stay for ever, and so does the mark that an event was counted."""

from datetime import UTC, datetime, timedelta

from services.analytics.rollups.projection import Projection
from shared.mongo import MongoDatabase, mongo_errors

RETENTION = "retention"
AT_ONCE = 5000


class Retentions:
    """The tenants' wishes, and the cleaning that follows them."""

    def __init__(self, database: MongoDatabase, projection: Projection) -> None:
        self._wishes = database[RETENTION]
        self._projection = projection

    async def days(self, tenant_id: str) -> int:
        """Days after which a fact is emptied; 0 = never."""
        with mongo_errors():
            found = await self._wishes.find_one({"_id": tenant_id})
        return int(found["facts_days"]) if found else 0

    async def set_days(self, tenant_id: str, days: int) -> None:
        """In force from the next cleaning on."""
        with mongo_errors():
            await self._wishes.update_one({"_id": tenant_id}, {"$set": {"facts_days": days}}, upsert=True)

    async def clean(self) -> int:
        """Empties what is too old of every tenant; returns how many facts."""
        with mongo_errors():
            wishes = [(each["_id"], each["facts_days"]) async for each in self._wishes.find({"facts_days": {"$gt": 0}})]
        now, emptied = datetime.now(UTC), 0
        for tenant_id, days in wishes:
            emptied += await self._empty(tenant_id, now - timedelta(days=days))
        return emptied

    async def _empty(self, tenant_id: str, before: datetime) -> int:
        """Leaves of each fact the mark alone: an event that comes again after years must not be counted again."""
        facts, emptied = (await self._projection.current()).facts, 0
        old = {"tenant_id": tenant_id, "time": {"$lt": before}}
        mark = {"$replaceWith": {"_id": "$_id", "tenant_id": "$tenant_id", "emptied": True}}
        with mongo_errors():
            while found := [each["_id"] async for each in facts.find(old, {"_id": 1}).limit(AT_ONCE)]:
                emptied += (await facts.update_many({"_id": {"$in": found}}, [mark])).modified_count
        return emptied
