"""The nouns and rules of quotas: limits, reservations, what a limit refuses and how a reservation may end.

States, kinds and windows carry the numbers of the contract, which are also what the tables keep.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum

from services.tenant_quota.model import Replay
from shared.errors import FailedPrecondition, FieldViolation, InvalidArgument, QuotaExceeded, QuotaViolation

DEFAULT_LEASE_SECONDS = 60


class Enforcement(IntEnum):
    """What happens at a limit."""

    HARD = 1
    SOFT = 2


class Window(IntEnum):
    """A stretch of time at whose end a counter begins again."""

    DAY = 1
    MONTH = 2


class State(IntEnum):
    """Where a reservation is in its life."""

    HELD = 1
    COMMITTED = 2
    RELEASED = 3
    EXPIRED = 4


@dataclass(frozen=True, slots=True)
class Quota:
    """Limits in tokens; None is no limit. `user_id` is "" for the tenant as a whole."""

    tenant_id: str
    user_id: str
    tokens_per_day: int | None = None
    tokens_per_month: int | None = None
    enforcement: Enforcement = Enforcement.HARD


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """Tokens in disjoint components."""

    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    reasoning_tokens: int

    @property
    def total(self) -> int:
        """What is charged."""
        return self.input_tokens + self.cached_input_tokens + self.output_tokens + self.reasoning_tokens


@dataclass(frozen=True, slots=True)
class Reservation:
    """Tokens held for one piece of work, and what became of them."""

    reservation_id: str
    user_id: str
    state: State
    granted: int
    create_time: datetime
    expire_time: datetime
    usage: TokenUsage | None = None
    usage_source: int = 0
    cost_micros: int = 0


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One movement of the counters; kinds have the numbers of the contract."""

    entry_id: int
    kind: int
    reservation_id: str
    user_id: str
    key_id: str
    model: str
    conversation_id: str
    assistant_id: str
    held_delta: int
    used_delta: int
    usage: TokenUsage | None
    usage_source: int
    cost_micros: int
    create_time: datetime


@dataclass(frozen=True, slots=True)
class Usage:
    """A counter and its limit in the current period."""

    window: Window
    user_id: str
    limit_tokens: int | None
    used_tokens: int
    held_tokens: int
    start_time: datetime
    end_time: datetime


@dataclass(frozen=True, slots=True)
class Wish:
    """Tokens somebody wants held, as one item of a batch."""

    tenant_id: str
    user_id: str
    key_id: str
    reservation_id: str
    tokens: int
    minimum: int
    lease_seconds: int
    model: str = ""
    conversation_id: str = ""
    assistant_id: str = ""
    replay: Replay | None = None

    def __post_init__(self) -> None:
        if self.minimum > self.tokens:
            text = "must not be more than `tokens`"
            raise InvalidArgument(violations=[FieldViolation("minimum_tokens", text, "minimum_tokens.lte_tokens")])


@dataclass(frozen=True, slots=True)
class Settlement:
    """The end of a reservation, as one item of a batch: COMMITTED with what was used, or RELEASED."""

    tenant_id: str
    reservation_id: str
    target: State
    usage: TokenUsage | None = None
    usage_source: int = 0
    cost_micros: int = 0
    model: str = ""

    def judge(self, now: Reservation, *, moved: bool) -> Reservation:
        """The answer, given what the reservation is after the attempt; `moved`: by this very attempt.

        FailedPrecondition: RESERVATION_EXPIRED for a commit that came too late, RESERVATION_SETTLED for one that
        contradicts an earlier commit.
        """
        if moved and now.state is self.target:
            return now
        if self.target is State.COMMITTED:
            if now.state is not State.COMMITTED:
                raise FailedPrecondition("the reservation has expired", reason="RESERVATION_EXPIRED")
            settled = (now.usage, now.usage_source, now.cost_micros)
            if settled != (self.usage, self.usage_source, self.cost_micros):
                raise FailedPrecondition("the reservation is settled", reason="RESERVATION_SETTLED")
        elif now.state is State.COMMITTED:
            raise FailedPrecondition("the reservation is settled", reason="RESERVATION_SETTLED")
        return now


@dataclass(frozen=True, slots=True)
class Level:
    """A limit as a denied request met it."""

    subject: str
    window: Window
    limit: int | None
    used: int
    held: int
    end_time: datetime

    def refuses(self, tokens: int) -> bool:
        """Whether so many tokens do not fit."""
        return self.limit is not None and self.limit - self.used - self.held < tokens


def denial(wanted: int, levels: Sequence[Level], now: datetime) -> QuotaExceeded:
    """Names every limit without room for `wanted` tokens; retrying makes sense when the last of their windows ends."""
    full = [level for level in levels if level.refuses(wanted)]
    last = max(full, key=lambda level: level.end_time)
    seconds = math.ceil((last.end_time - now).total_seconds() * 1000) / 1000
    return QuotaExceeded(
        "the quota is used up",
        violations=[
            QuotaViolation(
                level.subject,
                f"{level.limit} tokens per {level.window.name.lower()}: {level.used} used, {level.held} held",
            )
            for level in full
        ],
        metadata={
            "subject": last.subject,
            "window": last.window.name.lower(),
            "limit": str(last.limit),
            "used": str(last.used),
            "held": str(last.held),
            "wanted": str(wanted),
        },
        retry_after_seconds=seconds,
    )
