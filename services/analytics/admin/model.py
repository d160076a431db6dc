"""What administrators ask for and are told."""

from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from shared.errors import Conflict, FailedPrecondition


class RebuildRunning(Conflict):
    """Another one is building the projection anew."""

    reason = "REBUILD_RUNNING"


class RebuildWouldLose(FailedPrecondition):
    """Figures would be lost: their facts have been emptied, and the feed tells them no more."""

    reason = "REBUILD_WOULD_LOSE"


class RebuildState(Enum):
    """What is being done."""

    READING_FEED = "reading_feed"
    TAKING_OVER = "taking_over"
    DONE = "done"


@dataclass(slots=True)
class RebuildProgress:
    """How far a projection is that is built anew."""

    generation: int
    state: RebuildState = RebuildState.READING_FEED
    events_read: int = 0
    facts_taken_over: int = 0
    facts_lost: int = 0


@dataclass(frozen=True, slots=True)
class Receipt:
    """What was changed or deleted when a user was forgotten."""

    facts: int
    figures: int
    sessions: int
    analyses: int
    dead_letters: int
    time: datetime
