"""Facts and rollups as records to compare: both of a day read as of one moment, while counting goes on."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any

from services.analytics.agreement.model import NOTHING, Amounts, Days, Sheet, midnight
from services.analytics.analyses.analysis_store import ANALYSES
from services.analytics.model import Axis, Step
from services.analytics.rollups.projection import Generation, Projection
from shared.mongo import MongoCollection, MongoSession, aggregate, mongo_errors, transaction

DAY = timedelta(days=1)
# The messages of one append are stored together; their fact has the time of the first.
SPREAD = timedelta(minutes=1)
TOKENS = Amounts._fields[:4]
SUMMED = (*TOKENS, "cost_micros")
# What counts as a message in rollups: answers, failures and what people wrote.
COUNTED = ("turns", "errors", "user_messages")

# Messages by day, model and conversation.
ByConversation = dict[tuple[date, str, str], Amounts]


@dataclass(slots=True)
class KeptRecords:
    """The facts of some days, and each kind of rollup made of them; `told` are facts that the feed tells.

    Of `emptied` days not all facts are kept any more: they can be compared with nothing.
    """

    facts: Sheet = field(default_factory=dict)
    rollups: dict[str, Sheet] = field(default_factory=dict)
    told: ByConversation = field(default_factory=dict)
    emptied: set[date] = field(default_factory=set)
    documents_examined: int = 0


class KeptReader:
    """Reads facts and rollups of whole days."""

    def __init__(self, projection: Projection) -> None:
        self._projection = projection
        self._analyses = projection.database[ANALYSES]

    async def tenants(self) -> Sequence[str]:
        """Everybody of whom anything was counted."""
        series = (await self._projection.current()).series
        with mongo_errors():
            return sorted(await series.distinct("_id.tenant_id"))

    async def days(self, tenant_id: str, days: Days) -> KeptRecords:
        """The records of these days."""
        records = KeptRecords(rollups={name: {} for name in ("days", "hours", "combinations")})
        generation = await self._projection.current()
        with mongo_errors():
            emptied = await emptied_until(generation, tenant_id)
        records.emptied = {day for day in days.each() if day <= emptied}
        for day in days.each():
            if day in records.emptied:
                continue
            with mongo_errors():
                # One transaction sees one moment: a fact and the sums it adds are one commit.
                async with transaction(self._projection.database) as session:
                    await _read_facts(generation, tenant_id, day, records, session)
                    await _read_rollups(generation, tenant_id, day, records, session)
        return records

    async def totals(self, tenant_id: str, *, charged_only: bool) -> dict[str, Amounts]:
        """All that was ever counted of what the ledger knows too: turns that the feed told, and analyses; by model.

        With `charged_only` without the analyses that still have to be charged.
        """
        generation = await self._projection.current()
        match = {"_id.tenant_id": tenant_id, "_id.axis": Axis.MODEL.value, "_id.step": Step.DAY.value}
        outside: Sequence[Mapping[str, Any]] = (
            {"$match": {"tenant_id": tenant_id, "outside": True}},
            {"$unwind": "$messages"},
            {"$group": {"_id": "$messages.model", **_sums("$messages.")}},
        )
        with mongo_errors():
            counted = {model: amounts async for model, amounts in _by_model(generation.series, match)}
            async for document in aggregate(generation.facts, outside):
                model = document["_id"] or ""
                counted[model] = counted.get(model, NOTHING).minus(_amounts(document))
            async for document in aggregate(self._analyses, _spent(tenant_id, charged_only=charged_only)):
                model = document["_id"]
                counted[model] = counted.get(model, NOTHING).plus(_amounts(document))
        return counted

    async def first_day(self, tenant_id: str) -> date | None:
        """The first day on which anything was counted."""
        series = (await self._projection.current()).series
        match = {"_id.tenant_id": tenant_id, "_id.axis": Axis.TOTAL.value, "_id.step": Step.DAY.value}
        with mongo_errors():
            found = await series.find_one(match, {"_id.start": 1}, sort=[("_id.start", 1)])
        return found["_id"]["start"].date() if found else None


async def _read_facts(
    generation: Generation, tenant_id: str, day: date, records: KeptRecords, session: MongoSession
) -> None:
    begin = midnight(day)
    within = {"$gte": begin, "$lt": begin + DAY}
    pipeline: Sequence[Mapping[str, Any]] = (
        {
            "$match": {
                "tenant_id": tenant_id,
                "time": {"$gte": begin - SPREAD, "$lt": begin + DAY},
                "messages": {"$exists": True},
            }
        },
        {"$unwind": "$messages"},
        {"$match": {"messages.create_time": within}},
        {
            "$group": {
                "_id": {"model": "$messages.model", "conversation": "$conversation_id", "outside": "$outside"},
                **_sums("$messages."),
                "documents": {"$sum": 1},
                "messages": {"$sum": {"$cond": [{"$eq": ["$messages.speaker", "system"]}, 0, 1]}},
            }
        },
    )
    async for document in aggregate(generation.facts, pipeline, session=session, allowDiskUse=True):
        place, amounts = document["_id"], _amounts(document)
        model = place.get("model", "")
        _add(records.facts, (day, model), amounts)
        if not place.get("outside"):
            key = (day, model, place.get("conversation", ""))
            records.told[key] = records.told.get(key, NOTHING).plus(amounts)
        records.documents_examined += document["documents"]


async def emptied_until(generation: Generation, tenant_id: str) -> date:
    """The last day of which facts were emptied, because the tenant keeps them no longer: it begins with the oldest."""
    emptied = {"tenant_id": tenant_id, "time": None, "emptied": True}
    if await generation.facts.find_one(emptied, {"_id": 1}) is None:
        return date.min
    kept = {"tenant_id": tenant_id, "time": {"$gt": midnight(date(1970, 1, 1))}}
    oldest = await generation.facts.find_one(kept, {"time": 1}, sort=[("time", 1)])
    return oldest["time"].date() if oldest else date.max


async def _read_rollups(
    generation: Generation, tenant_id: str, day: date, records: KeptRecords, session: MongoSession
) -> None:
    begin = midnight(day)
    within = {"$gte": begin, "$lt": begin + DAY}
    match = {"_id.tenant_id": tenant_id, "_id.axis": Axis.MODEL.value, "_id.start": within}
    for name, step in (("days", Step.DAY), ("hours", Step.HOUR)):
        async for model, amounts in _by_model(generation.series, {**match, "_id.step": step.value}, session):
            _add(records.rollups[name], (day, model), amounts)
            records.documents_examined += 1
    cells = generation.rollups.find({"tenant_id": tenant_id, "hour": within}, session=session)
    async for document in cells:
        _add(records.rollups["combinations"], (day, document["model"]), _counted(document))
        records.documents_examined += 1


async def _by_model(
    series: MongoCollection, match: Mapping[str, Any], session: MongoSession = None
) -> AsyncIterator[tuple[str, Amounts]]:
    sums: dict[str, Amounts] = {}
    fields = dict.fromkeys((*SUMMED, *COUNTED), 1)
    async for document in series.find(match, fields, batch_size=1000, session=session):
        model = document["_id"]["value"]
        sums[model] = sums.get(model, NOTHING).plus(_counted(document))
    for each in sums.items():
        yield each


def _spent(tenant_id: str, *, charged_only: bool) -> Sequence[Mapping[str, Any]]:
    """What analyses were charged; their versions may tell of one reservation several times."""
    charged = {"pending": {"$ne": "charge"}} if charged_only else {}
    once = {name: {"$first": f"$spent.{name}"} for name in ("model", *TOKENS)}
    return (
        {"$match": {"tenant_id": tenant_id, "spent.reservation_id": {"$gt": ""}, **charged}},
        {"$group": {"_id": "$spent.reservation_id", **once}},
        {"$group": {"_id": "$model", **{name: {"$sum": f"${name}"} for name in TOKENS}}},
    )


def _sums(prefix: str) -> dict[str, Mapping[str, Any]]:
    return {name: {"$sum": f"{prefix}{name}"} for name in SUMMED}


def _amounts(document: Mapping[str, Any]) -> Amounts:
    return Amounts(*(document.get(name, 0) for name in Amounts._fields))


def _counted(document: Mapping[str, Any]) -> Amounts:
    return _amounts(document)._replace(messages=sum(document.get(name, 0) for name in COUNTED))


def _add(sheet: Sheet, place: tuple[date, str], amounts: Amounts) -> None:
    if amounts != NOTHING:
        sheet[place] = sheet.get(place, NOTHING).plus(amounts)
