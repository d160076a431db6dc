"""What reports read: documents of series and combinations of dimensions, by their indexes; never facts."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from services.analytics.model import FIGURE_NAMES, Axis
from services.analytics.reports.calendar import Span
from services.analytics.reports.model import MAX_DOCUMENTS, Question, too_many_documents
from services.analytics.rollups.projection import Projection
from shared.mongo import aggregate, mongo_errors

BATCH = 5_000


class Point(NamedTuple):
    """What one document says: when it begins, of which values, and the fields asked for, as far as it has them."""

    start: datetime
    split: tuple[str, ...]
    fields: Mapping[str, Any]


@dataclass(slots=True)
class Reading:
    """What was read, and how many documents that took."""

    points: list[Point] = field(default_factory=list)
    documents_examined: int = 0


class RollupReader:
    """The only reader of rollups."""

    def __init__(self, projection: Projection) -> None:
        self._projection = projection

    async def series(
        self,
        tenant_id: str,
        axis: Axis,
        spans: Sequence[Span],
        fields: Iterable[str],
        *,
        value: str | None = None,
    ) -> Reading:
        """The documents of an axis (or of one value on it) in these spans; RangeTooLargeError for too many."""
        reading = Reading()
        if not spans:
            return reading
        series = (await self._projection.current()).series
        found = series.find(
            {"$or": [_place(tenant_id, axis, span, value) for span in spans]},
            dict.fromkeys(fields, 1),
            batch_size=BATCH,
            limit=MAX_DOCUMENTS + 1,
        )
        with mongo_errors():
            async for document in found:
                place = document.pop("_id")
                split = () if axis is Axis.TOTAL else (place["value"],)
                reading.points.append(Point(place["start"], split, document))
        return _counted(reading, len(reading.points))

    async def combinations(self, question: Question, hours: Sequence[Span]) -> Reading:
        """The figures of these hours, summed by hour and by the dimensions that the question splits by."""
        if not hours:
            return Reading()
        names = [dimension.value for dimension in question.group_by]
        within = [{"tenant_id": question.tenant_id, "hour": {"$gte": span.first, "$lt": span.after}} for span in hours]
        pipeline: list[Mapping[str, Any]] = [
            {"$match": {"$or": within}},
            {"$limit": MAX_DOCUMENTS + 1},
            {
                "$group": {
                    "_id": {"hour": "$hour", **{name: f"${name}" for name in names}},
                    **{name: {"$sum": f"${name}"} for name in FIGURE_NAMES},
                    "documents": {"$sum": 1},
                }
            },
        ]
        rollups, reading, examined = (await self._projection.current()).rollups, Reading(), 0
        with mongo_errors():
            async for document in aggregate(rollups, pipeline, allowDiskUse=True):
                place, examined = document.pop("_id"), examined + document.pop("documents")
                split = tuple(place.get(name, "") for name in names)
                reading.points.append(Point(place["hour"], split, document))
        return _counted(reading, examined)


def _place(tenant_id: str, axis: Axis, span: Span, value: str | None) -> dict[str, Any]:
    place = {
        "_id.tenant_id": tenant_id,
        "_id.axis": axis.value,
        "_id.step": span.step.value,
        "_id.start": {"$gte": span.first, "$lt": span.after},
    }
    return place if value is None else {**place, "_id.value": value}


def _counted(reading: Reading, examined: int) -> Reading:
    if examined > MAX_DOCUMENTS:
        raise too_many_documents()
    reading.documents_examined = examined
    return reading
