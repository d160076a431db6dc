"""The nouns and rules of quotas: limits, reservations, what a limit refuses and how a reservation may end.

States, kinds and windows carry the numbers of the contract, which are also what the tables keep.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from typing import TypeAlias

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


class Level(IntEnum):
    """Whose limit it is, and whose counter."""

    TENANT = 1
    USER = 2
    KEY = 3


class UnpricedModels(IntEnum):
    """What to do with a model without a price where a cost is limited."""

    REFUSE = 1
    ADMIT = 2


class State(IntEnum):
    """Where a reservation is in its life."""

    HELD = 1
    COMMITTED = 2
    RELEASED = 3
    EXPIRED = 4


@dataclass(frozen=True, slots=True)
class Quota:
    """Limits of a tenant, of one of its users or of one of its keys; None is the plan's, or none."""

    tenant_id: str
    user_id: str
    tokens_per_day: int | None = None
    tokens_per_month: int | None = None
    enforcement: Enforcement = Enforcement.HARD
    key_id: str = ""
    cost_micros_per_month: int | None = None
    requests_per_minute: int | None = None
    threshold_percents: tuple[int, ...] = ()
    unlimited: bool = False
    unpriced_models: UnpricedModels | None = None
    fair_share_borrow_percent: int | None = None
    fair_share_weight: int = 0

    def __post_init__(self) -> None:
        limits = (self.tokens_per_day, self.tokens_per_month, self.cost_micros_per_month)
        wrong = {
            "key_id": bool(self.user_id and self.key_id),
            "quota.unlimited": self.unlimited and any(limit is not None for limit in limits),
            "quota.unpriced_models": self.unpriced_models is not None and self.level is not Level.TENANT,
            "quota.fair_share_borrow_percent": self.fair_share_borrow_percent is not None
            and self.level is not Level.TENANT,
            "quota.fair_share_weight": bool(self.fair_share_weight) and self.level is not Level.USER,
        }
        text = "contradicts the other fields or the level of the quota"
        violations = [FieldViolation(name, text, "quota.level") for name, is_wrong in wrong.items() if is_wrong]
        if violations:
            raise InvalidArgument(violations=violations)

    @property
    def level(self) -> Level:
        """Whose limits they are."""
        return level_of(self.user_id, self.key_id)[0]

    @property
    def subject(self) -> str:
        """The user or key; "" for the tenant as a whole."""
        return self.user_id or self.key_id


def level_of(user_id: str, key_id: str) -> tuple[Level, str]:
    """The level and the subject that a request means by these two."""
    if user_id and key_id:
        text = "must not be named together with a user"
        raise InvalidArgument(violations=[FieldViolation("key_id", text, "quota.level")])
    if key_id:
        return Level.KEY, key_id
    return (Level.USER, user_id) if user_id else (Level.TENANT, "")


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
    parent_reservation_id: str = ""
    child_tokens: int = 0
    granted_cost_micros: int = 0
    priced: bool = False
    model: str = ""


@dataclass(frozen=True, slots=True)
class TopUp:
    """Tokens given to a tenant beyond its limits."""

    top_up_id: str
    tenant_id: str
    tokens: int
    used: int
    held: int
    priority: int
    reason: str
    expire_time: datetime | None
    create_time: datetime


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
    issued_delta: int
    available_delta: int
    parent_reservation_id: str
    top_up_id: str
    key_display_name: str
    priced: bool


@dataclass(frozen=True, slots=True)
class Usage:
    """A counter and its limit in the current period; a cost is limited and counted by the month."""

    window: Window
    user_id: str
    limit_tokens: int | None
    used_tokens: int
    held_tokens: int
    start_time: datetime
    end_time: datetime
    key_id: str = ""
    limit_cost_micros: int | None = None
    used_cost_micros: int = 0
    held_cost_micros: int = 0
    topped_up_tokens: int = 0


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
    parent_reservation_id: str = ""

    def __post_init__(self) -> None:
        _require_possible(self.tokens, self.minimum)


@dataclass(frozen=True, slots=True)
class Extension:
    """More tokens that somebody wants held for a reservation, as one item of a batch; 0 only renews its lease."""

    tenant_id: str
    reservation_id: str
    tokens: int
    minimum: int
    lease_seconds: int
    replay: Replay | None = None

    def __post_init__(self) -> None:
        _require_possible(self.tokens, self.minimum)


Holding: TypeAlias = Wish | Extension


def _require_possible(tokens: int, minimum: int) -> None:
    if minimum > tokens:
        text = "must not be more than `tokens`"
        raise InvalidArgument(violations=[FieldViolation("minimum_tokens", text, "minimum_tokens.lte_tokens")])


def over(state: State) -> FailedPrecondition:
    """Why nothing can be done any more with a reservation in that state."""
    if state is State.COMMITTED:
        return FailedPrecondition("the reservation is settled", reason="RESERVATION_SETTLED")
    return FailedPrecondition("the reservation has expired", reason="RESERVATION_EXPIRED")


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
                raise over(now.state)
            # The cost of a priced one is the price book's, whatever its holder reported; no model is the one it had.
            cost_micros = now.cost_micros if now.priced else self.cost_micros
            told = (self.usage, self.usage_source, cost_micros, self.model or now.model)
            if (now.usage, now.usage_source, now.cost_micros, now.model) != told:
                raise over(now.state)
        elif now.state is State.COMMITTED:
            raise over(now.state)
        return now


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit as a denied request met it; `unit` is "tokens" or "micros" of the currency.

    `seconds_left` of its window; None when the request has no room in the next one either.
    """

    subject: str
    window: Window
    unit: str
    limit: int
    used: int
    held: int
    seconds_left: float | None
    is_full: bool


def denial(wanted: int, limits: Sequence[Limit]) -> QuotaExceeded:
    """Names every full limit; retrying makes sense when the last of their windows ends, if at all."""
    full = [limit for limit in limits if limit.is_full]
    last = max(full, key=lambda limit: math.inf if limit.seconds_left is None else limit.seconds_left)
    return QuotaExceeded(
        "the quota is used up",
        violations=[
            QuotaViolation(
                limit.subject,
                f"{limit.limit} {limit.unit} per {limit.window.name.lower()}: {limit.used} used, {limit.held} held",
            )
            for limit in full
        ],
        metadata={
            "subject": last.subject,
            "window": last.window.name.lower(),
            "limit": str(last.limit),
            "used": str(last.used),
            "held": str(last.held),
            "wanted": str(wanted),
            "unit": last.unit,
        },
        retry_after_seconds=None if last.seconds_left is None else math.ceil(last.seconds_left * 1000) / 1000,
    )
