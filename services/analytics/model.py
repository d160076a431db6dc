"""Facts, figures and rollups: what is counted, where it is counted, and which questions may be asked."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from operator import add
from typing import NamedTuple, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from shared.errors import FieldViolation, InvalidArgument

HOUR = timedelta(hours=1)
DEFAULT_RANGE = timedelta(days=30)
DEFAULT_TIME_ZONE = "America/Sao_Paulo"
# What the rollups' 64-bit sums can take for longer than anybody will watch.
MAX_TOKENS = 10**12
MAX_COST_MICROS = 10**15
MAX_ROWS = 10_000
# Reports are asked within these; near the ends of the calendar its own arithmetic fails.
EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
LATEST = datetime(9000, 1, 1, tzinfo=UTC)


class UncountableEventError(Exception):
    """The event can never be counted, whatever the state: it belongs to the dead letters. The text says why."""

    def __init__(self, reason: str, *, event_id: str = "", tenant_id: str = "") -> None:
        super().__init__(reason)
        self.event_id = event_id
        self.tenant_id = tenant_id


class Speaker(Enum):
    """Who or what a message is from."""

    USER = "user"
    ASSISTANT = "assistant"
    TEAM = "team"
    SYSTEM = "system"
    ERROR = "error"


class Ending(Enum):
    """How a message came to its end."""

    COMPLETE = "complete"
    INTERRUPTED = "interrupted"
    ERROR = "error"


class Figures(NamedTuple):
    """Sums. Token components are disjoint: their total is the sum of the four. Cost in micro-units."""

    turns: int = 0
    rag_turns: int = 0
    errors: int = 0
    user_messages: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cost_micros: int = 0

    def plus(self, other: "Figures") -> "Figures":
        """Both together."""
        return Figures(*map(add, self, other))


FIGURE_NAMES = Figures._fields


@dataclass(frozen=True, slots=True)
class MessageFact:
    """What is kept of one message: everything but its words."""

    message_id: str
    seq: int
    speaker: Speaker
    ending: Ending
    create_time: datetime
    user_id: str = ""
    assistant_id: str = ""
    team_id: str = ""
    model: str = ""
    rag: bool = False
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    usage_source: str = ""
    cost_micros: int = 0
    latency_ms: int = 0
    time_to_first_token_ms: int = 0
    finish_reason: str = ""
    error_reason: str = ""

    def figures(self) -> Figures:
        """What the message adds to the sums. Tokens and cost count whoever spent them, failed turns included."""
        speaks = self.speaker in (Speaker.ASSISTANT, Speaker.TEAM)
        answered = speaks and self.ending is not Ending.ERROR
        failed = self.speaker is Speaker.ERROR or (speaks and self.ending is Ending.ERROR)
        return Figures(
            turns=int(answered),
            rag_turns=int(answered and self.rag),
            errors=int(failed),
            user_messages=int(self.speaker is Speaker.USER),
            input_tokens=self.input_tokens,
            cached_input_tokens=self.cached_input_tokens,
            output_tokens=self.output_tokens,
            reasoning_tokens=self.reasoning_tokens,
            cost_micros=self.cost_micros,
        )


@dataclass(frozen=True, slots=True)
class Fact:
    """What one event of the feed says. `event_id` is what makes it count once."""

    event_id: str
    tenant_id: str
    conversation_id: str
    channel: str
    messages: tuple[MessageFact, ...]


@dataclass(frozen=True, slots=True)
class RollupKey:
    """Where figures are summed: one tenant, one hour (UTC, its first moment), one combination of the dimensions."""

    tenant_id: str
    hour: datetime
    model: str
    user_id: str
    assistant_id: str


@dataclass(frozen=True, slots=True)
class Position:
    """How far the feed has been counted: all events up to `token`; in time, up to `counted_until` where known."""

    token: str = ""
    counted_until: datetime | None = None


class Dimension(Enum):
    """What figures can be split by; the values are the names in a rollup."""

    MODEL = "model"
    USER = "user_id"
    ASSISTANT = "assistant_id"


class Grain(Enum):
    """Length of a step of time."""

    DAY = "day"
    HOUR = "hour"

    def longest_range(self) -> timedelta:
        """How much of it one report may cover."""
        return timedelta(days=400) if self is Grain.DAY else timedelta(days=31)


class RangeTooLargeError(InvalidArgument):
    """More was asked than one report may read or hold."""

    reason = "RANGE_TOO_LARGE"


@dataclass(frozen=True, slots=True)
class UsageQuery:
    """A question about a tenant's usage in [start, end). An hour counts where it begins."""

    tenant_id: str
    start: datetime
    end: datetime
    grain: Grain
    group_by: tuple[Dimension, ...]
    zone: ZoneInfo

    @classmethod
    def of(
        cls,
        tenant_id: str,
        *,
        start: datetime | None,
        end: datetime | None,
        grain: Grain,
        group_by: Iterable[Dimension],
        time_zone: str,
        now: datetime,
    ) -> Self:
        """The question with its defaults filled in; InvalidArgument or RangeTooLargeError when it makes no sense."""
        end = end or now
        _in_calendar("end_time", end)
        start = start or end - DEFAULT_RANGE
        _in_calendar("start_time", start)
        if start >= end:
            raise _wrong("start_time", "the range ends before it starts")
        if end - start > grain.longest_range():
            days = grain.longest_range().days
            raise RangeTooLargeError(
                f"a report by {grain.value} covers at most {days} days", metadata={"max_days": str(days)}
            )
        return cls(tenant_id, start, end, grain, tuple(group_by), _zone(time_zone or DEFAULT_TIME_ZONE))

    def first_hour(self) -> datetime:
        """The first hour that begins in the range."""
        return _next_hour(self.start)

    def hour_after(self) -> datetime:
        """The first hour that begins after the range."""
        return _next_hour(self.end)

    def step(self, hour: datetime) -> datetime:
        """When the step begins in which `hour` begins, UTC."""
        if self.grain is Grain.HOUR:
            return hour
        midnight = hour.astimezone(self.zone).replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
        return midnight.astimezone(UTC)


@dataclass(frozen=True, slots=True)
class UsageRow:
    """Figures of one step and one combination of the dimensions asked for, in the order they were asked."""

    start: datetime
    split: tuple[str, ...]
    figures: Figures


@dataclass(frozen=True, slots=True)
class UsageReport:
    """An answer: rows by time, then by dimension; their sum; what it cost to read; how fresh it is."""

    group_by: tuple[Dimension, ...]
    rows: Sequence[UsageRow]
    total: Figures
    documents_examined: int
    counted_until: datetime | None


def hour_of(moment: datetime) -> datetime:
    """The first moment of the hour (UTC) in which `moment` lies."""
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def _next_hour(moment: datetime) -> datetime:
    hour = hour_of(moment)
    return hour if hour == moment else hour + HOUR


def _in_calendar(field: str, moment: datetime) -> None:
    if not EARLIEST <= moment <= LATEST:
        raise _wrong(field, f"outside of the years {EARLIEST.year} to {LATEST.year}")


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise _wrong("time_zone", "no such IANA time zone") from None


def _wrong(field: str, description: str) -> InvalidArgument:
    violation = FieldViolation(field=field, description=description, reason="INVALID_VALUE")
    return InvalidArgument(description, violations=[violation])
