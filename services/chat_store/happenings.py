"""What the feed tells, and how consumers share it out among themselves."""

import zlib
from dataclasses import dataclass
from datetime import datetime

from services.chat_store.entries import Entry
from services.chat_store.model import Conversation, Message

SLOTS = 65_536


@dataclass(frozen=True, slots=True)
class Appended:
    """Messages that were appended in one step, as they were then, and whose conversation they belong to."""

    messages: tuple[Message, ...]
    user_id: str
    assistant_id: str
    team_id: str
    channel: str


@dataclass(frozen=True, slots=True)
class Changed:
    """A conversation, a message or an entry as a change left it. `actor` is the user or service that changed it."""

    state: Conversation | Message | Entry
    actor: str
    user_id: str
    assistant_id: str
    team_id: str
    channel: str


@dataclass(frozen=True, slots=True)
class Purged:
    """A conversation of which nothing is kept: consumers forget it, as far as they know what was before `time`."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened. `what` None: all that happened until `time`, at `resume_token`, has been told.

    A `what` of type Conversation is its creation.
    """

    resume_token: str
    event_id: str = ""
    tenant_id: str = ""
    conversation_id: str = ""
    time: datetime | None = None
    what: Conversation | Appended | Changed | Purged | None = None


@dataclass(frozen=True, slots=True)
class Shard:
    """The share `index` (from 0) of `count` consumers; a conversation is in one share, whatever happens to it."""

    count: int = 1
    index: int = 0


def slot_of(tenant_id: str, conversation_id: str) -> int:
    """A number below SLOTS that stays with the conversation: it is in the shard with index slot % count."""
    return zlib.crc32(f"{tenant_id}:{conversation_id}".encode()) % SLOTS
