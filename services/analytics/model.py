"""Facts, figures and rollups: what is counted, and where it is counted."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum, StrEnum
from functools import lru_cache
from operator import add
from typing import NamedTuple

HOUR = timedelta(hours=1)
# What the rollups' 64-bit sums can take for longer than anybody will watch.
MAX_TOKENS = 10**12
MAX_COST_MICROS = 10**15


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
    """Sums. Token components are disjoint: their total is the sum of the four. Cost in micro-units.

    `timed_turns` are the turns whose latency is known; `latency_ms` and `timed_output_tokens` (output, reasoning) are
    sums over them. `streamed_turns` are those whose time to first token is known, `time_to_first_token_ms` its sum.
    """

    turns: int = 0
    rag_turns: int = 0
    errors: int = 0
    user_messages: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cost_micros: int = 0
    interrupted_turns: int = 0
    timed_turns: int = 0
    latency_ms: int = 0
    timed_output_tokens: int = 0
    streamed_turns: int = 0
    time_to_first_token_ms: int = 0

    def plus(self, other: "Figures") -> "Figures":
        """Both together."""
        return Figures(*map(add, self, other))


FIGURE_NAMES = Figures._fields


class MessageFact(NamedTuple):
    """What is kept of one message: everything but its words. A tuple, because it is made for every message."""

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
        # By position, in the order of Figures: this is made for every message.
        if not speaks or self.ending is Ending.ERROR:
            return Figures(
                0,
                0,
                int(speaks or self.speaker is Speaker.ERROR),
                int(self.speaker is Speaker.USER),
                self.input_tokens,
                self.cached_input_tokens,
                self.output_tokens,
                self.reasoning_tokens,
                self.cost_micros,
            )
        timed, streamed = self.latency_ms > 0, self.time_to_first_token_ms > 0
        return Figures(
            1,
            int(self.rag),
            0,
            0,
            self.input_tokens,
            self.cached_input_tokens,
            self.output_tokens,
            self.reasoning_tokens,
            self.cost_micros,
            int(self.ending is Ending.INTERRUPTED),
            int(timed),
            self.latency_ms if timed else 0,
            self.output_tokens + self.reasoning_tokens if timed else 0,
            int(streamed),
            self.time_to_first_token_ms if streamed else 0,
        )


class Subject(StrEnum):
    """What a statement is about."""

    FEEDBACK = "feedback"
    SESSION = "session"
    CONTENT = "content"


@dataclass(frozen=True, slots=True)
class Statement:
    """How something is, as of a revision; the newest one counts and takes the place of the one before.

    `subject_id` names it within the tenant. `counts` are added at `time` to the series of its dimensions; `measures`
    are values for the distributions of that name; `places` are further axes and values to count at. `event_id` makes
    it count once, and settles which of two statements of the same revision is the newer one.
    """

    event_id: str
    tenant_id: str
    subject: Subject
    subject_id: str
    revision: int
    time: datetime
    counts: Mapping[str, int]
    measures: Mapping[str, int] = field(default_factory=dict)
    places: tuple[tuple[str, str], ...] = ()
    conversation_id: str = ""
    user_id: str = ""
    assistant_id: str = ""
    team_id: str = ""
    channel: str = ""
    model: str = ""
    outside: bool = False


class Fact(NamedTuple):
    """What one event says. `event_id` is what makes it count once; `outside`: the feed does not tell it.

    `statements` came with its messages: feedback that stored history tells along with them.
    """

    event_id: str
    tenant_id: str
    conversation_id: str
    channel: str
    messages: tuple[MessageFact, ...]
    outside: bool = False
    statements: tuple[Statement, ...] = ()


@dataclass(frozen=True, slots=True)
class Finalized:
    """A conversation was finalized: its session is over, however short a time ago somebody spoke."""

    event_id: str
    tenant_id: str
    conversation_id: str
    time: datetime


@dataclass(frozen=True, slots=True)
class Purged:
    """Nothing is kept of a conversation any more: its words go here too. What was counted stays."""

    event_id: str
    tenant_id: str
    conversation_id: str
    time: datetime


@dataclass(frozen=True, slots=True)
class Wish:
    """A conversation is to be analysed: somebody asked for it, or it has come to its end."""

    event_id: str
    tenant_id: str
    conversation_id: str


class RollupKey(NamedTuple):
    """Where figures are summed: one tenant, one hour (UTC, its first moment), one combination of the dimensions."""

    tenant_id: str
    hour: datetime
    model: str
    user_id: str
    assistant_id: str
    team_id: str = ""
    channel: str = ""


class Axis(StrEnum):
    """What a series follows, one value at a time; the values of an axis sum up to TOTAL, save for the last four."""

    TOTAL = "total"
    MODEL = "model"
    ASSISTANT = "assistant"
    TEAM = "team"
    USER = "user"
    CHANNEL = "channel"
    ERROR = "error"
    TOPIC = "topic"
    CATEGORY = "category"
    FEEDBACK_CATEGORY = "feedback_category"


class Step(StrEnum):
    """How long a document of a series reaches, UTC."""

    HOUR = "hour"
    DAY = "day"


class SeriesKey(NamedTuple):
    """One document of a series: the figures of one value of one axis in the step that begins at `start`."""

    tenant_id: str
    axis: Axis
    step: Step
    value: str
    start: datetime


@dataclass(frozen=True, slots=True)
class Position:
    """How far the feed has been counted: all events up to `token`; in time, up to `counted_until` where known."""

    token: str = ""
    counted_until: datetime | None = None


def hour_of(moment: datetime) -> datetime:
    """The first moment of the hour (UTC) in which `moment` lies."""
    utc = moment.astimezone(UTC)
    return _hour(utc.year, utc.month, utc.day, utc.hour)


@lru_cache
def _hour(year: int, month: int, day: int, hour: int) -> datetime:
    """One and the same, whose hash is reckoned once: it is part of many keys."""
    return datetime(year, month, day, hour, tzinfo=UTC)


def day_of(moment: datetime) -> datetime:
    """The first moment of the day (UTC) in which `moment` lies."""
    utc = moment.astimezone(UTC)
    return _hour(utc.year, utc.month, utc.day, 0)
