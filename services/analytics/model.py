"""Facts, figures and rollups: what is counted, and where it is counted."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
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


def hour_of(moment: datetime) -> datetime:
    """The first moment of the hour (UTC) in which `moment` lies."""
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
