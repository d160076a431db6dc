"""What reports read: rollups, by their index. Nothing here looks at facts."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from services.analytics.model import FIGURE_NAMES, Figures
from services.analytics.reports.model import UsageQuery
from services.analytics.rollups.rollup_store import ROLLUPS
from shared.mongo import MongoDatabase, aggregate, mongo_errors


class RollupReader:
    """The only reader of rollups."""

    def __init__(self, database: MongoDatabase) -> None:
        self._rollups = database[ROLLUPS]

    async def usage(self, query: UsageQuery) -> "UsageReading":
        """The rollups of the query's tenant and hours, summed by hour and by the dimensions asked for."""
        group = {dimension.value: f"${dimension.value}" for dimension in query.group_by}
        sums: dict[str, Mapping[str, Any]] = {name: {"$sum": f"${name}"} for name in FIGURE_NAMES}
        hours = {"$gte": query.first_hour(), "$lt": query.hour_after()}
        pipeline: list[Mapping[str, Any]] = [
            {"$match": {"tenant_id": query.tenant_id, "hour": hours}},
            {"$group": {"_id": {"hour": "$hour", **group}, **sums, "documents": {"$sum": 1}}},
        ]
        reading = UsageReading()
        with mongo_errors():
            async for document in aggregate(self._rollups, pipeline, allowDiskUse=True):
                reading.add(document, query)
        return reading


class UsageReading:
    """What was read for a report: sums by hour and dimension, and how many rollups they came from."""

    def __init__(self) -> None:
        self.hours: list[tuple[datetime, tuple[str, ...], Figures]] = []
        self.documents_examined = 0

    def add(self, document: Mapping[str, Any], query: UsageQuery) -> None:
        """Takes one group of the pipeline's answer."""
        group = document["_id"]
        split = tuple(group[dimension.value] for dimension in query.group_by)
        self.hours.append((group["hour"], split, Figures(*(document[name] for name in FIGURE_NAMES))))
        self.documents_examined += document["documents"]
