"""The steps of a team's turn. Pure."""

import enum
from dataclasses import dataclass

from services.document_rag.assistants.model import TokenCount, UsageSource


class StepRole(enum.Enum):
    """Whose work a step is."""

    LEADER = "leader"
    MEMBER = "member"


class StepKind(enum.Enum):
    """What is done in a step."""

    ROUTE = "route"
    PLAN = "plan"
    ANSWER = "answer"
    COMPOSE = "compose"


class StepState(enum.Enum):
    """How far a step has come."""

    STARTED = "started"
    FINISHED = "finished"
    FAILED = "failed"


_NO_TOKENS = TokenCount()


@dataclass(frozen=True, slots=True)
class Step:
    """A step as it is told and kept. `text` is its task when it starts, what came of it when it has finished.

    `reservation_id`: what pays for it; "" when no model was asked. `error_reason`: why it failed.
    """

    number: int
    role: StepRole
    kind: StepKind
    state: StepState
    assistant_id: str = ""
    display_name: str = ""
    text: str = ""
    model: str = ""
    tokens: TokenCount = _NO_TOKENS
    usage_source: UsageSource = UsageSource.ESTIMATED
    cost_micros: int = 0
    latency_ms: int = 0
    error_reason: str = ""
    reservation_id: str = ""
