"""What a store keeps, in pieces that any engine can give out and take in: backups, and moves between engines."""

from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

from services.chat_store.acts import Act
from services.chat_store.audit_chain import AuditLink
from services.chat_store.entries import Entry
from services.chat_store.model import Conversation, Message
from services.chat_store.policy import Policy
from services.chat_store.selection import Version


@dataclass(frozen=True, slots=True)
class KeptConversation:
    """A conversation with what recognises a retry of its creation: both "" when it was made without a request_id."""

    conversation: Conversation
    request_id: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class KeptAppend:
    """Messages as they were appended, and those of them that have changed as they are now."""

    tenant_id: str
    conversation_id: str
    since: datetime
    """When the conversation was created."""

    request_id: str
    fingerprint: str
    said: tuple[Message, ...]
    changed: tuple[Message, ...]

    @property
    def present(self) -> list[Message]:
        """The messages as they are now."""
        changed = {message.seq: message for message in self.changed}
        return [changed.get(message.seq, message) for message in self.said]


@dataclass(frozen=True, slots=True)
class KeptChange:
    """What an act left: the change with that revision of the conversation."""

    tenant_id: str
    conversation_id: str
    since: datetime
    revision: int
    time: datetime
    actor: str
    request_id: str
    fingerprint: str
    state: Conversation | Message | Entry

    @classmethod
    def of(
        cls, conversation: Conversation, revision: int, act: Act, at: datetime, state: Conversation | Message | Entry
    ) -> "KeptChange":
        """The change that brought the conversation to that revision."""
        return cls(
            tenant_id=conversation.tenant_id,
            conversation_id=conversation.conversation_id,
            since=conversation.create_time,
            revision=revision,
            time=at,
            actor=act.actor,
            request_id=act.request_id,
            fingerprint=act.fingerprint,
            state=state,
        )


@dataclass(frozen=True, slots=True)
class KeptEntry:
    """A task or an event that was not removed."""

    tenant_id: str
    conversation_id: str
    entry: Entry


@dataclass(frozen=True, slots=True)
class KeptBody:
    """A text that is kept apart from its message, UTF-8."""

    tenant_id: str
    conversation_id: str
    sha256: str
    content: bytes


@dataclass(frozen=True, slots=True)
class KeptPurge:
    """That nothing is kept of a conversation which was created at `since`."""

    tenant_id: str
    conversation_id: str
    since: datetime
    time: datetime


@dataclass(frozen=True, slots=True)
class KeptPolicy:
    """A tenant's policy."""

    tenant_id: str
    policy: Policy


Piece: TypeAlias = (
    KeptConversation | KeptAppend | KeptChange | KeptEntry | KeptBody | KeptPurge | KeptPolicy | AuditLink
)


def belongs(piece: KeptAppend | KeptChange, at: Version) -> bool:
    """Whether a conversation that is kept at that version has room for the piece.

    It has none for what is of another conversation of its id, comes after what it is at, or has left it: two states of
    a conversation must not be mixed, or its next message would find its place taken.
    """
    if piece.since != at.since:
        return False
    if isinstance(piece, KeptAppend):
        return bool(piece.said) and at.first_seq <= piece.said[0].seq and piece.said[-1].seq <= at.last_seq
    has_left = isinstance(piece.state, Message) and piece.state.seq < at.first_seq
    return piece.revision <= at.revision and not has_left
