"""Series: what happened along one axis, one document a value and a step. The fold, and how it is added to MongoDB.

Sums are incremented. Distributions and users are bytes that only we can merge: they are read and written in the same
transaction, so that two workers who meet there conflict and one of them tries again.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from bson import Binary
from pymongo import UpdateOne

from services.analytics.model import (
    FIGURE_NAMES,
    Axis,
    Fact,
    Figures,
    MessageFact,
    RollupKey,
    SeriesKey,
    Step,
    day_of,
    hour_of,
)
from services.analytics.rollups.sketches import bucket_of, digest_of, merged, users_merged
from shared.mongo import MongoCollection, MongoSession

LATENCY = "latency"
FIRST_TOKEN = "first_token"  # noqa: S105 a moment, no secret
SESSION_SECONDS = "session_seconds"
SESSION_TURNS = "session_turns"
DISTRIBUTIONS = (LATENCY, FIRST_TOKEN, SESSION_SECONDS, SESSION_TURNS)
USERS = "users"
NOTHING = Figures()


@dataclass(slots=True)
class Growth:
    """What is added to one document of a series: counts by name, distributions by name and bucket, users' digests."""

    counts: dict[str, int] = field(default_factory=dict)
    distributions: dict[str, dict[int, int]] = field(default_factory=dict)
    users: set[int] = field(default_factory=set)

    def count(self, counts: Mapping[str, int]) -> None:
        """Adds to the counts."""
        mine = self.counts
        for name, amount in counts.items():
            mine[name] = mine.get(name, 0) + amount

    def measure(self, name: str, buckets: Mapping[int, int]) -> None:
        """Adds to a distribution."""
        mine = self.distributions.setdefault(name, {})
        for bucket, amount in buckets.items():
            mine[bucket] = mine.get(bucket, 0) + amount

    def add(self, other: "Growth") -> None:
        """Adds all of another growth."""
        self.count(other.counts)
        for name, buckets in other.distributions.items():
            self.measure(name, buckets)
        self.users |= other.users


Growths = dict[SeriesKey, Growth]


@dataclass(slots=True)
class Cell:
    """What messages alike in every dimension add up to."""

    figures: Figures = NOTHING
    latencies: dict[int, int] = field(default_factory=dict)
    first_tokens: dict[int, int] = field(default_factory=dict)


def folded(facts: Iterable[Fact]) -> dict[tuple[RollupKey, str], Cell]:
    """What the facts add to which combination of dimensions and error; the order of the facts does not matter."""
    cells: dict[tuple[RollupKey, str], Cell] = {}
    hours: dict[datetime, datetime] = {}
    for fact in facts:
        for message in fact.messages:
            figures = message.figures()
            if figures == NOTHING:
                continue
            hour = hours.get(message.create_time) or hours.setdefault(message.create_time, hour_of(message.create_time))
            key = _cell_key(fact, message, hour, figures)
            cell = cells.get(key)
            if cell is None:
                cell = cells[key] = Cell()
            cell.figures = cell.figures.plus(figures)
            if figures.timed_turns:
                bucket = bucket_of(message.latency_ms)
                cell.latencies[bucket] = cell.latencies.get(bucket, 0) + 1
            if figures.streamed_turns:
                bucket = bucket_of(message.time_to_first_token_ms)
                cell.first_tokens[bucket] = cell.first_tokens.get(bucket, 0) + 1
    return cells


def _cell_key(fact: Fact, message: MessageFact, hour: datetime, figures: Figures) -> tuple[RollupKey, str]:
    key = RollupKey(
        fact.tenant_id, hour, message.model, message.user_id, message.assistant_id, message.team_id, fact.channel
    )
    return key, (message.error_reason or "unknown") if figures.errors else ""


def combined(cells: Mapping[tuple[RollupKey, str], Cell]) -> dict[RollupKey, Figures]:
    """The figures of each combination of dimensions, whatever the error."""
    sums: dict[RollupKey, Figures] = {}
    for (key, _), cell in cells.items():
        before = sums.get(key)
        sums[key] = cell.figures if before is None else before.plus(cell.figures)
    return sums


def series_of(cells: Mapping[tuple[RollupKey, str], Cell]) -> Growths:
    """What the cells add to the series, by hour and by day."""
    grown: Growths = {}
    for (key, error), cell in cells.items():
        growth = _growth(key, cell)
        for axis, value in _places(key, error):
            _grow(grown, SeriesKey(key.tenant_id, axis, Step.HOUR, value, key.hour), growth)
    with_days(grown)
    for (key, _), cell in cells.items():
        _grow(
            grown,
            SeriesKey(key.tenant_id, Axis.USER, Step.DAY, key.user_id, day_of(key.hour)),
            Growth(_named(cell.figures)),
        )
    return grown


def with_days(grown: Growths) -> None:
    """Adds to the days what was added to their hours."""
    for key, growth in list(grown.items()):
        if key.step is Step.HOUR:
            _grow(grown, key._replace(step=Step.DAY, start=day_of(key.start)), growth)


def _growth(key: RollupKey, cell: Cell) -> Growth:
    growth = Growth(_named(cell.figures))
    if cell.latencies:
        growth.distributions[LATENCY] = cell.latencies
    if cell.first_tokens:
        growth.distributions[FIRST_TOKEN] = cell.first_tokens
    if key.user_id and (cell.figures.user_messages or cell.figures.turns):
        growth.users.add(digest_of(key.user_id))
    return growth


def _named(figures: Figures) -> dict[str, int]:
    return {name: amount for name, amount in zip(FIGURE_NAMES, figures, strict=True) if amount}


def _places(key: RollupKey, error: str) -> Iterator[tuple[Axis, str]]:
    yield Axis.TOTAL, ""
    yield Axis.MODEL, key.model
    yield Axis.ASSISTANT, key.assistant_id
    yield Axis.TEAM, key.team_id
    yield Axis.CHANNEL, key.channel
    if error:
        yield Axis.ERROR, error


def _grow(grown: Growths, key: SeriesKey, growth: Growth) -> None:
    mine = grown.get(key)
    if mine is None:
        mine = grown[key] = Growth()
    mine.add(growth)


async def add_to_series(series: MongoCollection, grown: Growths, session: MongoSession) -> None:
    """Adds what has grown to the documents of the series, inside the session's transaction."""
    if not grown:
        return
    with_bytes = [key for key, growth in grown.items() if growth.distributions or growth.users]
    kept = await _kept_bytes(series, with_bytes, session)
    additions = [_addition(key, growth, kept.get(key, {})) for key, growth in grown.items()]
    await series.bulk_write(additions, ordered=False, session=session)


async def _kept_bytes(
    series: MongoCollection, keys: list[SeriesKey], session: MongoSession
) -> dict[SeriesKey, dict[str, bytes]]:
    names = dict.fromkeys((*DISTRIBUTIONS, USERS), 1)
    cursor = series.find(
        {"_id": {"$in": [_document_id(key) for key in keys]}}, names, batch_size=len(keys) + 1, session=session
    )
    return {_key(document.pop("_id")): document async for document in cursor}


def _addition(key: SeriesKey, growth: Growth, kept: Mapping[str, bytes]) -> UpdateOne:
    change: dict[str, dict[str, Any]] = {}
    if counts := {name: amount for name, amount in growth.counts.items() if amount}:
        change["$inc"] = counts
    grown = {name: Binary(merged(kept.get(name, b""), more)) for name, more in growth.distributions.items()}
    if growth.users:
        grown[USERS] = Binary(users_merged(kept.get(USERS, b""), growth.users))
    if grown:
        change["$set"] = grown
    return UpdateOne({"_id": _document_id(key)}, change, upsert=True)


def _document_id(key: SeriesKey) -> dict[str, Any]:
    return {
        "tenant_id": key.tenant_id,
        "axis": key.axis.value,
        "step": key.step.value,
        "start": key.start,
        "value": key.value,
    }


def _key(document_id: Mapping[str, Any]) -> SeriesKey:
    return SeriesKey(
        document_id["tenant_id"],
        Axis(document_id["axis"]),
        Step(document_id["step"]),
        document_id["value"],
        document_id["start"],
    )
