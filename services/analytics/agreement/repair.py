"""Rollups of a day written anew from its facts, hour by hour, while counting goes on.

Each hour is one commit that reads the hour's facts and puts in their place what they add up to; whoever counts there at
the same time conflicts with it, and one of the two tries again. The day is then made of its hours. What statements have
added to the series stays as it is.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any

from bson import Binary
from pymongo import InsertOne, UpdateOne

from services.analytics.agreement.kept_records import emptied_until
from services.analytics.agreement.model import Drift, DriftKind, DriftNotRepairableError, midnight
from services.analytics.model import FIGURE_NAMES, HOUR, Axis, Fact, Figures, RollupKey, SeriesKey, Step, hour_of
from services.analytics.reports.sums import Sums
from services.analytics.rollups.commits import committed
from services.analytics.rollups.documents import fact_in
from services.analytics.rollups.projection import Generation, Projection
from services.analytics.rollups.series import (
    FIRST_TOKEN,
    LATENCY,
    USERS,
    Growth,
    combined,
    document_id,
    folded,
    series_of,
)
from services.analytics.rollups.sketches import merged, users_merged
from shared.mongo import MongoSession, mongo_errors

DAY = timedelta(days=1)
SPREAD = timedelta(minutes=1)
AXES = (Axis.TOTAL, Axis.MODEL, Axis.ASSISTANT, Axis.TEAM, Axis.CHANNEL, Axis.ERROR)
OWN = (*FIGURE_NAMES, LATENCY, FIRST_TOKEN, USERS)

Values = dict[SeriesKey, Mapping[str, Any]]


class Repair:
    """Writes rollups anew from facts."""

    def __init__(self, projection: Projection) -> None:
        self._projection = projection

    async def mend(self, drift: Drift) -> None:
        """Mends a drift between facts and rollups; DriftNotRepairableError for others, and where the facts are gone."""
        if drift.kind is not DriftKind.ROLLUPS or drift.day is None:
            raise DriftNotRepairableError("only rollups are written anew from facts")
        await self.day(drift.tenant_id, drift.day)

    async def day(self, tenant_id: str, day: date) -> None:
        """Writes all rollups of a tenant's day (UTC) anew."""
        generation = await self._projection.current()
        begin = midnight(day)
        with mongo_errors():
            emptied = await emptied_until(generation, tenant_id)
        if day <= emptied:
            raise DriftNotRepairableError("the facts of the day are not kept any more")
        for number in range(24):
            hour = begin + number * HOUR
            await committed(
                self._projection.database,
                lambda session, hour=hour: _write_hour(generation, tenant_id, hour, session),  # type: ignore[misc]
            )
        await committed(self._projection.database, lambda session: _write_day(generation, tenant_id, begin, session))


async def _write_hour(generation: Generation, tenant_id: str, hour: datetime, session: MongoSession) -> None:
    cells = folded([fact async for fact in _facts(generation, tenant_id, hour, session)])
    await generation.rollups.delete_many({"tenant_id": tenant_id, "hour": hour}, session=session)
    if cells:
        rows = [InsertOne(_combination(*each)) for each in combined(cells).items()]
        await generation.rollups.bulk_write(rows, ordered=False, session=session)
    grown = {key: growth for key, growth in series_of(cells).items() if key.step is Step.HOUR}
    values: Values = {key: _grown(growth) for key, growth in grown.items()}
    await _put(generation, tenant_id, Step.HOUR, hour, values, session)


def _combination(key: RollupKey, figures: Figures) -> dict[str, Any]:
    names = key._asdict()
    return {"_id": names, **names, **{name: amount for name, amount in figures._asdict().items() if amount}}


async def _facts(generation: Generation, tenant_id: str, hour: datetime, session: MongoSession) -> Any:
    """The facts with messages of the hour, without their other messages."""
    near = {"$gte": hour - SPREAD, "$lt": hour + HOUR}
    wanted = {"tenant_id": tenant_id, "time": near, "messages": {"$exists": True}}
    async for document in generation.facts.find(wanted, batch_size=1000, session=session):
        fact: Fact = fact_in(document)
        messages = tuple(each for each in fact.messages if hour_of(each.create_time) == hour)
        if messages:
            yield fact._replace(messages=messages)


def _grown(growth: Growth) -> Mapping[str, Any]:
    values: dict[str, Any] = {name: amount for name, amount in growth.counts.items() if amount}
    values |= {name: Binary(merged(b"", buckets)) for name, buckets in growth.distributions.items()}
    return values | ({USERS: Binary(users_merged(b"", growth.users))} if growth.users else {})


async def _write_day(generation: Generation, tenant_id: str, begin: datetime, session: MongoSession) -> None:
    within = {"$gte": begin, "$lt": begin + DAY}
    hours: dict[SeriesKey, Sums] = {}
    for axis in AXES:
        place = {"_id.tenant_id": tenant_id, "_id.axis": axis.value, "_id.step": Step.HOUR.value, "_id.start": within}
        async for document in generation.series.find(place, dict.fromkeys(OWN, 1), session=session):
            key = SeriesKey(tenant_id, axis, Step.DAY, document.pop("_id")["value"], begin)
            hours.setdefault(key, Sums()).add(document)
    async for cell in generation.rollups.find({"tenant_id": tenant_id, "hour": within}, session=session):
        key = SeriesKey(tenant_id, Axis.USER, Step.DAY, cell["user_id"], begin)
        hours.setdefault(key, Sums()).add({name: cell.get(name, 0) for name in FIGURE_NAMES})
    values: Values = {key: _summed(sums) for key, sums in hours.items()}
    await _put(generation, tenant_id, Step.DAY, begin, values, session)


def _summed(sums: Sums) -> Mapping[str, Any]:
    values: dict[str, Any] = {name: amount for name, amount in sums.counts.items() if amount}
    return values | {name: Binary(content) for name, content in sums.contents().items() if content}


async def _put(
    generation: Generation, tenant_id: str, step: Step, start: datetime, values: Values, session: MongoSession
) -> None:
    """Puts the values in place of those of the same names, also where none are wanted any more."""
    stale = [
        key for axis in (*AXES, Axis.USER) async for key in _kept(generation, tenant_id, axis, step, start, session)
    ]
    changes = [_put_one(key, values.get(key, {})) for key in _distinct(stale, values)]
    if changes:
        await generation.series.bulk_write(changes, ordered=False, session=session)


async def _kept(
    generation: Generation, tenant_id: str, axis: Axis, step: Step, start: datetime, session: MongoSession
) -> Any:
    place = {"_id.tenant_id": tenant_id, "_id.axis": axis.value, "_id.step": step.value, "_id.start": start}
    async for document in generation.series.find(place, {"_id": 1}, session=session):
        yield SeriesKey(tenant_id, axis, step, document["_id"]["value"], start)


def _distinct(stale: Sequence[SeriesKey], values: Iterable[SeriesKey]) -> list[SeriesKey]:
    return list(dict.fromkeys([*stale, *values]))


def _put_one(key: SeriesKey, values: Mapping[str, Any]) -> UpdateOne:
    gone = dict.fromkeys((name for name in OWN if name not in values), "")
    change = ({"$set": dict(values)} if values else {}) | {"$unset": gone}
    return UpdateOne({"_id": document_id(key)}, change, upsert=bool(values))
