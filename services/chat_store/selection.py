"""What a caller may see and which part of it is asked for."""

import enum
import re
from dataclasses import dataclass, replace
from datetime import datetime

from services.chat_store.entries import Entry, EntryKind
from services.chat_store.model import Conversation, ConversationStatus, Message, MessageType
from services.chat_store.words import Word

_CONVERSATION_ID = re.compile(r"[A-Za-z0-9._~-]{1,128}")
LISTED = frozenset({ConversationStatus.ACTIVE, ConversationStatus.FINALIZED})


def is_conversation_id(text: str) -> bool:
    """Whether a conversation could bear this id."""
    return _CONVERSATION_ID.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Reach:
    """What a caller may see: one tenant's conversations, of one user ("" = anonymous), or of all (None).

    `deleted`: reading also shows deleted conversations that are still kept, for those who have a right to all of it.
    """

    tenant_id: str
    user_id: str | None
    deleted: bool = False

    def covers(self, conversation: Conversation) -> bool:
        """Whether the conversation lies within it."""
        return conversation.tenant_id == self.tenant_id and self.user_id in (None, conversation.user_id)

    def shows(self, conversation: Conversation, at: datetime) -> bool:
        """Whether reading finds the conversation."""
        gone = conversation.expired(at) if self.deleted else conversation.gone(at)
        return self.covers(conversation) and not gone


@dataclass(frozen=True, slots=True)
class Period:
    """Times from `start` on and before `end`; None = no bound."""

    start: datetime | None = None
    end: datetime | None = None

    def holds(self, moment: datetime) -> bool:
        """Whether the moment is within it."""
        return (self.start is None or moment >= self.start) and (self.end is None or moment < self.end)


@dataclass(frozen=True, slots=True)
class Window:
    """Messages wanted: `after_seq` < seq < `before_seq` (0 = no bound), at most `limit`."""

    after_seq: int = 0
    before_seq: int = 0
    newest_first: bool = False
    limit: int = 50

    def holds(self, seq: int) -> bool:
        """Whether a message at `seq` is wanted."""
        return seq > self.after_seq and (not self.before_seq or seq < self.before_seq)

    def beyond(self, seq: int) -> "Window":
        """What is left of it after the message at `seq` was listed."""
        return replace(self, before_seq=seq) if self.newest_first else replace(self, after_seq=seq)


@dataclass(frozen=True, slots=True)
class Page:
    """Messages in the order asked for; `more` when the window holds others."""

    messages: tuple[Message, ...]
    more: bool


@dataclass(frozen=True, slots=True)
class Version:
    """What a conversation is at, as fresh as the last acknowledged write: equal versions have equal messages.

    `since` is when it was created (an id can be used again), `first_seq` and `last_seq` bound what is kept.
    """

    since: datetime
    first_seq: int
    last_seq: int
    revision: int


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a list that is ordered by both, the latest first."""

    time: datetime
    id: str


@dataclass(frozen=True, slots=True)
class Selection:
    """Conversations wanted within a reach: "" = any, `after` None = from the newest, at most `limit`.

    Expired ones are never among them; deleted ones only when `statuses` says so.
    """

    assistant_id: str = ""
    team_id: str = ""
    statuses: frozenset[ConversationStatus] = LISTED
    created: Period = Period()
    active: Period = Period()
    after: Place | None = None
    limit: int = 50


@dataclass(frozen=True, slots=True)
class EntrySelection:
    """Entries of one kind wanted of a conversation, newest first (by creation, then id): `label` "" = any."""

    kind: EntryKind
    label: str = ""
    after: Place | None = None
    limit: int = 50


@dataclass(frozen=True, slots=True)
class Entries:
    """Entries in their order; `more` when there are others."""

    entries: tuple[Entry, ...]
    more: bool


class SearchOrder(enum.Enum):
    """By how well a message fits, or the newest first."""

    RELEVANCE = "relevance"
    RECENCY = "recency"


@dataclass(frozen=True, slots=True)
class HitPlace:
    """A place in the results: by score (in RELEVANCE order), then time, then conversation and seq, each falling."""

    score: float
    time: datetime
    conversation_id: str
    seq: int


@dataclass(frozen=True, slots=True)
class Search:
    """Messages wanted within a reach that have all the `words`, and the conversations and types that they may be of."""

    words: tuple[Word, ...]
    conversation_id: str = ""
    assistant_id: str = ""
    team_id: str = ""
    statuses: frozenset[ConversationStatus] = LISTED
    types: frozenset[MessageType] = frozenset(MessageType)
    created: Period = Period()
    order: SearchOrder = SearchOrder.RELEVANCE
    after: HitPlace | None = None
    limit: int = 20


@dataclass(frozen=True, slots=True)
class Hit:
    """A message found. In RECENCY order `score` is 0."""

    conversation_id: str
    message: Message
    score: float

    @property
    def place(self) -> HitPlace:
        """Where it stands in the results."""
        return HitPlace(self.score, self.message.create_time, self.conversation_id, self.message.seq)


@dataclass(frozen=True, slots=True)
class Found:
    """Hits in the order asked for. `partial`: so many messages have the words that only the newest were ranked."""

    hits: tuple[Hit, ...]
    more: bool
    partial: bool
