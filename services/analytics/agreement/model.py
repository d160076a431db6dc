"""What is held against what, and what is a drift. No input or output."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from enum import Enum
from hashlib import blake2b
from operator import add, sub
from typing import NamedTuple

from services.analytics.reports.model import RangeTooLargeError, wrong
from shared.errors import FailedPrecondition

MOST_DAYS = 31


class Amounts(NamedTuple):
    """What a record holds. Token components are disjoint; cost in micro-units; `messages` are those that count."""

    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cost_micros: int = 0
    messages: int = 0

    def plus(self, other: "Amounts") -> "Amounts":
        """Both together."""
        return Amounts(*map(add, self, other))

    def minus(self, other: "Amounts") -> "Amounts":
        """By how much this is above the other."""
        return Amounts(*map(sub, self, other))

    def tokens_only(self) -> "Amounts":
        """Without what the ledger counts otherwise."""
        return self._replace(cost_micros=0, messages=0)


NOTHING = Amounts()
# Amounts by day (UTC) and model.
Sheet = dict[tuple[date, str], Amounts]


class DriftKind(Enum):
    """Which two records differ."""

    ROLLUPS = "rollups"
    MESSAGES = "messages"
    LEDGER = "ledger"


class DriftNotRepairableError(FailedPrecondition):
    """Only what is made of facts can be made anew from facts, and only while they are kept."""

    reason = "DRIFT_NOT_REPAIRABLE"


@dataclass(frozen=True, slots=True)
class Days:
    """Days (UTC) to check, both included."""

    first: date
    last: date

    @classmethod
    def of(cls, first_day: str, last_day: str, now: datetime) -> "Days":
        """The days asked for: yesterday and today when nothing is said; InvalidArgument when they make no sense."""
        last = _day("last_day", last_day) if last_day else now.astimezone(UTC).date()
        first = _day("first_day", first_day) if first_day else last - timedelta(days=1)
        if first > last:
            raise wrong("first_day", "the last day comes before the first")
        if (last - first).days >= MOST_DAYS:
            raise RangeTooLargeError(f"a check covers at most {MOST_DAYS} days", metadata={"max_days": str(MOST_DAYS)})
        return cls(first, last)

    def begin(self) -> datetime:
        """The first moment."""
        return midnight(self.first)

    def end(self) -> datetime:
        """The moment after the last one."""
        return midnight(self.last) + timedelta(days=1)

    def each(self) -> list[date]:
        """All of them."""
        return [self.first + timedelta(days=number) for number in range((self.last - self.first).days + 1)]


@dataclass(frozen=True, slots=True)
class Drift:
    """Two records that differ for a model; `day` is None where the whole is compared and not a day."""

    tenant_id: str
    kind: DriftKind
    model: str
    day: date | None
    difference: Amounts
    find_time: datetime | None = None
    check_time: datetime | None = None
    settle_time: datetime | None = None

    @property
    def drift_id(self) -> str:
        """The same for the same two records, model and day of a tenant."""
        text = "\0".join((self.tenant_id, self.kind.value, self.model, str(self.day)))
        return blake2b(text.encode(), digest_size=12).hexdigest()


@dataclass(slots=True)
class Line:
    """The records of one model over all days that were checked; `forgotten` are facts whose messages are gone."""

    ledger: Amounts = NOTHING
    facts: Amounts = NOTHING
    rollups: Amounts = NOTHING
    messages: Amounts = NOTHING
    forgotten: Amounts = NOTHING


@dataclass(slots=True)
class Findings:
    """What a check has found; `counted_until` is how far all had been counted."""

    lines: dict[str, Line] = field(default_factory=dict)
    drifts: list[Drift] = field(default_factory=list)
    documents_examined: int = 0
    counted_until: datetime | None = None

    def line(self, model: str) -> Line:
        """The line of a model."""
        return self.lines.setdefault(model, Line())


def differing(tenant_id: str, kind: DriftKind, one: Sheet, other: Sheet) -> list[Drift]:
    """Where the second sheet is above or below the first."""
    places = sorted(one.keys() | other.keys())
    found = ((place, other.get(place, NOTHING).minus(one.get(place, NOTHING))) for place in places)
    return [Drift(tenant_id, kind, model, day, beyond) for (day, model), beyond in found if beyond != NOTHING]


def beyond_both(before: Mapping[str, Amounts], between: Mapping[str, Amounts], after: Mapping[str, Amounts]) -> Sheet:
    """By how much what only grows was above what was read between its two readings, or below; by model.

    What was under way while they were read lies between the readings, and is no difference.
    """
    found: Sheet = {}
    for model in before.keys() | between.keys() | after.keys():
        first, held, last = (each.get(model, NOTHING).tokens_only() for each in (before, between, after))
        beyond = Amounts(
            *(
                low - amount if amount < low else min(high - amount, 0)
                for low, amount, high in zip(first, held, last, strict=True)
            )
        )
        if beyond != NOTHING:
            found[date.min, model] = beyond
    return found


def midnight(day: date) -> datetime:
    """When a day begins, UTC."""
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def _day(name: str, text: str) -> date:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise wrong(name, "no such day") from None
    if not 1970 <= day.year < 9000:
        raise wrong(name, "outside of the years 1970 to 9000")
    return day
