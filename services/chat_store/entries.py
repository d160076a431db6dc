"""What stands in a conversation beside its messages."""

import enum
from dataclasses import dataclass
from datetime import datetime


class EntryKind(enum.Enum):
    """What stands in a conversation beside its messages."""

    TASK = "task"
    EVENT = "event"


class TaskStatus(enum.Enum):
    """How far a task is."""

    PENDING = "pending"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"


@dataclass(frozen=True, slots=True)
class Entry:
    """A task or an event of a conversation. `label` is the task's status or the event's type.

    `actor` is who or what caused an event; `text` describes a task; `content` is the client's JSON.
    """

    kind: EntryKind
    entry_id: str
    create_time: datetime
    update_time: datetime
    label: str
    text: str = ""
    actor: str = ""
    content: str = ""
    revision: int = 0
    removed: bool = False
