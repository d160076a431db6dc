"""Series: what happened along one axis, one document a value and a step. The fold, and how it is added to MongoDB.

Sums are incremented. Distributions and users are bytes that only we can merge: they are read and written in the same
transaction, so that two workers who meet there conflict and one of them tries again.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from bson import Binary

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
from services.analytics.rollups.commits import Update, updated, upsert
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
    """What messages alike in every dimension hold: the figures of each, the buckets of what was measured, who spoke."""

    figures: list[Figures] = field(default_factory=list)
    latencies: list[int] = field(default_factory=list)
    first_tokens: list[int] = field(default_factory=list)
    total: Figures = NOTHING
    users: Collection[str] = ()


Cells = dict[tuple[RollupKey, str], Cell]


def folded(facts: Iterable[Fact]) -> Cells:
    """What the facts add to which combination of dimensions and error; the order of the facts does not matter."""
    cells: Cells = {}
    for fact in facts:
        for message in fact.messages:
            figures = message.figures()
            if figures == NOTHING:
                continue
            key = _cell_key(fact, message, figures)
            cell = cells.get(key)
            if cell is None:
                cell = cells[key] = Cell()
            cell.figures.append(figures)
            if figures.timed_turns:
                cell.latencies.append(bucket_of(message.latency_ms))
            if figures.streamed_turns:
                cell.first_tokens.append(bucket_of(message.time_to_first_token_ms))
    for (combination, _), cell in cells.items():
        cell.total = _sum(cell.figures)
        if combination.user_id and (cell.total.user_messages or cell.total.turns):
            cell.users = (combination.user_id,)
    return cells


def _sum(figures: Sequence[Figures]) -> Figures:
    return figures[0] if len(figures) == 1 else Figures(*map(sum, zip(*figures, strict=True)))


def _cell_key(fact: Fact, message: MessageFact, figures: Figures) -> tuple[RollupKey, str]:
    hour = hour_of(message.create_time)
    key = RollupKey(
        fact.tenant_id, hour, message.model, message.user_id, message.assistant_id, message.team_id, fact.channel
    )
    return key, (message.error_reason or "unknown") if figures.errors else ""


def combined(cells: Cells) -> dict[RollupKey, Figures]:
    """The figures of each combination of dimensions, whatever the error."""
    sums: dict[RollupKey, Figures] = {}
    for (key, _), cell in cells.items():
        before = sums.get(key)
        sums[key] = cell.total if before is None else before.plus(cell.total)
    return sums


def series_of(cells: Cells) -> Growths:
    """What the cells add to the series, by hour and by day."""
    placed: defaultdict[SeriesKey, list[Cell]] = defaultdict(list)
    for (key, _), cell in cells.items():
        placed[SeriesKey(key.tenant_id, Axis.USER, Step.DAY, key.user_id, day_of(key.hour))].append(cell)
    for (key, error), crowd in _crowds(cells).items():
        for axis, value in _places(key, error):
            placed[SeriesKey(key.tenant_id, axis, Step.HOUR, value, key.hour)].append(crowd)
    grown = {place: _growth(place, here) for place, here in placed.items()}
    with_days(grown)
    return grown


def _crowds(cells: Cells) -> Cells:
    """The cells whoever spoke: a few, for there are many users to a model or an assistant."""
    together: defaultdict[tuple[RollupKey, str], list[Cell]] = defaultdict(list)
    for (key, error), cell in cells.items():
        anybody = RollupKey(key.tenant_id, key.hour, key.model, "", key.assistant_id, key.team_id, key.channel)
        together[anybody, error].append(cell)
    return {key: _crowd(here) for key, here in together.items()}


def _crowd(cells: Sequence[Cell]) -> Cell:
    return Cell(
        latencies=list(chain.from_iterable(cell.latencies for cell in cells)),
        first_tokens=list(chain.from_iterable(cell.first_tokens for cell in cells)),
        total=_sum([cell.total for cell in cells]),
        users=set(chain.from_iterable(cell.users for cell in cells)),
    )


def with_days(grown: Growths) -> None:
    """Adds to the days what was added to their hours."""
    days: defaultdict[SeriesKey, list[Growth]] = defaultdict(list)
    for key, growth in grown.items():
        if key.step is Step.HOUR:
            days[SeriesKey(key.tenant_id, key.axis, Step.DAY, key.value, day_of(key.start))].append(growth)
    for key, hours in days.items():
        if len(hours) == 1:
            grown[key] = hours[0]
        else:
            grown[key] = Growth()
            for growth in hours:
                grown[key].add(growth)


def _growth(place: SeriesKey, here: Sequence[Cell]) -> Growth:
    sums = _sum([cell.total for cell in here])
    growth = Growth({name: amount for name, amount in zip(FIGURE_NAMES, sums, strict=True) if amount})
    if place.axis is Axis.USER:
        return growth
    for name, buckets in (
        (LATENCY, Counter(chain.from_iterable(cell.latencies for cell in here))),
        (FIRST_TOKEN, Counter(chain.from_iterable(cell.first_tokens for cell in here))),
    ):
        if buckets:
            growth.distributions[name] = buckets
    growth.users = {digest_of(user_id) for cell in here for user_id in cell.users}
    return growth


def _places(key: RollupKey, error: str) -> Iterator[tuple[Axis, str]]:
    yield Axis.TOTAL, ""
    yield Axis.MODEL, key.model
    yield Axis.ASSISTANT, key.assistant_id
    yield Axis.TEAM, key.team_id
    yield Axis.CHANNEL, key.channel
    if error:
        yield Axis.ERROR, error


async def add_to_series(series: MongoCollection, grown: Growths, session: MongoSession) -> None:
    """Adds what has grown to the documents of the series, inside the session's transaction."""
    if not grown:
        return
    with_bytes = [key for key, growth in grown.items() if growth.distributions or growth.users]
    kept = await _kept_bytes(series, with_bytes, session)
    additions = [_addition(key, growth, kept.get(key, {})) for key, growth in grown.items()]
    # A change of nothing, as when a statement says what the one before said, would leave an empty document.
    if changes := [addition for addition in additions if addition["u"]]:
        await updated(series, changes, session)


async def _kept_bytes(
    series: MongoCollection, keys: list[SeriesKey], session: MongoSession
) -> dict[SeriesKey, dict[str, bytes]]:
    names = dict.fromkeys((*DISTRIBUTIONS, USERS), 1)
    cursor = series.find(
        {"_id": {"$in": [document_id(key) for key in keys]}}, names, batch_size=len(keys) + 1, session=session
    )
    return {_key(document.pop("_id")): document async for document in cursor}


def _addition(key: SeriesKey, growth: Growth, kept: Mapping[str, bytes]) -> Update:
    change: dict[str, dict[str, Any]] = {}
    if counts := {name: amount for name, amount in growth.counts.items() if amount}:
        change["$inc"] = counts
    grown = {name: Binary(merged(kept.get(name, b""), more)) for name, more in growth.distributions.items()}
    if growth.users:
        grown[USERS] = Binary(users_merged(kept.get(USERS, b""), growth.users))
    if grown:
        change["$set"] = grown
    return upsert(document_id(key), change)


def document_id(key: SeriesKey) -> dict[str, Any]:
    """The `_id` of a document of a series."""
    return {
        "tenant_id": key.tenant_id,
        "axis": key.axis.value,
        "step": key.step.value,
        "start": key.start,
        "value": key.value,
    }


def _key(place: Mapping[str, Any]) -> SeriesKey:
    return SeriesKey(
        place["tenant_id"],
        Axis(place["axis"]),
        Step(place["step"]),
        place["value"],
        place["start"],
    )
