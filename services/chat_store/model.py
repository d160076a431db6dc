"""What a conversation, a message and a batch of messages are, and the rules that need no store to decide.

Times are UTC with millisecond precision, so that what is returned is what was stored. Client data (`metadata`) is
JSON text: its keys never become keys of a store.
"""

import enum
import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from shared.errors import FieldViolation, InvalidArgument

MAX_METADATA_BYTES = 64 * 1024
# The stored messages come back in one response and in one event of the feed, each at most 4 MiB on the wire.
MAX_BATCH_BYTES = 3_500_000
MAX_BATCH_MESSAGES = 100
# A page of messages ends before it would pass this; a larger single message is a page of its own.
PAGE_BYTES = 2 * 1024 * 1024
PREVIEW_CHARACTERS = 200
# Sums over a conversation stay far inside 64 bits.
MAX_AMOUNT = 10**12
# What a message takes beside its texts, rounded up.
MESSAGE_OVERHEAD_BYTES = 256
REFERENCE_OVERHEAD_BYTES = 64

_CONVERSATION_ID = re.compile(r"[A-Za-z0-9._~-]{1,128}")


class MessageType(enum.Enum):
    """Who or what a message is from."""

    USER = "user"
    ASSISTANT = "assistant"
    TEAM = "team"
    SYSTEM = "system"
    ERROR = "error"


class MessageStatus(enum.Enum):
    """How a message came to its end."""

    COMPLETE = "complete"
    INTERRUPTED = "interrupted"
    ERROR = "error"


class UsageSource(enum.Enum):
    """How the tokens of a message are known; UNSTATED where there are none."""

    UNSTATED = ""
    PROVIDER = "provider"
    PARTIAL = "partial"
    ESTIMATED = "estimated"


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens in disjoint components: none is counted twice, their sum is the total."""

    input: int = 0
    cached_input: int = 0
    output: int = 0
    reasoning: int = 0

    def __add__(self, other: "Tokens") -> "Tokens":
        return Tokens(
            self.input + other.input,
            self.cached_input + other.cached_input,
            self.output + other.output,
            self.reasoning + other.reasoning,
        )


@dataclass(frozen=True, slots=True)
class Reference:
    """A cited passage, frozen as it was when it was cited. `page` 0 = no pages; characters count from 0."""

    number: int
    document_id: str
    document_version: int
    title: str
    chunk_id: str
    page: int
    char_start: int
    char_end: int
    quote: str
    score: float


@dataclass(frozen=True, slots=True)
class Draft:
    """A message as its author sends it: no place in a conversation yet. `message_id` "" = any.

    `cost_micros` is in millionths of the tenant's currency.
    """

    type: MessageType
    text: str = ""
    message_id: str = ""
    user_id: str = ""
    assistant_id: str = ""
    team_id: str = ""
    status: MessageStatus = MessageStatus.COMPLETE
    rag: bool = False
    references: tuple[Reference, ...] = ()
    tokens: Tokens = Tokens()
    usage_source: UsageSource = UsageSource.UNSTATED
    cost_micros: int = 0
    model: str = ""
    latency_ms: int = 0
    time_to_first_token_ms: int = 0
    finish_reason: str = ""
    error_reason: str = ""
    metadata: str = ""

    @property
    def size_bytes(self) -> int:
        """About what the message takes on the wire; never less than its texts."""
        texts = len(self.text.encode()) + len(self.metadata.encode())
        quotes = sum(
            len(each.quote.encode()) + len(each.title.encode()) + REFERENCE_OVERHEAD_BYTES for each in self.references
        )
        return texts + quotes + MESSAGE_OVERHEAD_BYTES


@dataclass(frozen=True, slots=True)
class Message:
    """A stored message: its draft, with an id, at its place."""

    seq: int
    create_time: datetime
    draft: Draft

    @property
    def message_id(self) -> str:
        """Unique in the conversation."""
        return self.draft.message_id


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over a conversation up to one of its messages; `messages` is that message's `seq` too."""

    messages: int = 0
    tokens: Tokens = Tokens()
    cost_micros: int = 0

    def after(self, drafts: Sequence[Draft]) -> "Totals":
        """The sums once `drafts` have been appended."""
        tokens = sum((draft.tokens for draft in drafts), self.tokens)
        cost = sum((draft.cost_micros for draft in drafts), self.cost_micros)
        return Totals(self.messages + len(drafts), tokens, cost)


@dataclass(frozen=True, slots=True)
class NewConversation:
    """A conversation as somebody wants it."""

    conversation_id: str
    user_id: str
    assistant_id: str = ""
    team_id: str = ""
    title: str = ""
    channel: str = ""
    metadata: str = ""
    request_id: str = ""

    def __post_init__(self) -> None:
        check_metadata(self.metadata, "metadata")

    @property
    def fingerprint(self) -> str:
        """What a retry with the same request_id must repeat."""
        wanted = (self.assistant_id, self.team_id, self.title, self.channel, self.metadata)
        return _digest([self.conversation_id, *wanted])


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation without its messages."""

    conversation_id: str
    tenant_id: str
    user_id: str
    assistant_id: str
    team_id: str
    title: str
    channel: str
    metadata: str
    create_time: datetime
    last_activity_time: datetime
    totals: Totals = field(default_factory=Totals)
    preview: str = ""

    def as_created(self) -> "Conversation":
        """As it was before its first message."""
        return replace(self, last_activity_time=self.create_time, totals=Totals(), preview="")


@dataclass(frozen=True, slots=True)
class Batch:
    """Messages to be appended in one step, each with its id. Make one with `Batch.of`."""

    drafts: tuple[Draft, ...]
    request_id: str
    fingerprint: str

    @classmethod
    def of(cls, drafts: Sequence[Draft], request_id: str, new_id: Callable[[], str]) -> "Batch":
        """Checks the drafts and names the nameless; InvalidArgument when together they break a rule."""
        _check_batch(drafts)
        fingerprint = _digest([_facts(draft) for draft in drafts])
        named = tuple(draft if draft.message_id else replace(draft, message_id=new_id()) for draft in drafts)
        return cls(named, request_id, fingerprint)

    def placed(self, first_seq: int, at: datetime) -> list[Message]:
        """The messages at their places, from `first_seq` on."""
        return [Message(first_seq + offset, at, draft) for offset, draft in enumerate(self.drafts)]

    @property
    def preview(self) -> str:
        """The beginning of the last message."""
        return self.drafts[-1].text[:PREVIEW_CHARACTERS]


@dataclass(frozen=True, slots=True)
class Reach:
    """What a caller may see: one tenant's conversations, of one user ("" = anonymous), or of all (None)."""

    tenant_id: str
    user_id: str | None

    def covers(self, conversation: Conversation) -> bool:
        """Whether the conversation lies within it."""
        return conversation.tenant_id == self.tenant_id and self.user_id in (None, conversation.user_id)


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
class Place:
    """A place in the list of conversations, which is ordered by both, the latest first."""

    last_activity_time: datetime
    conversation_id: str


@dataclass(frozen=True, slots=True)
class Selection:
    """Conversations wanted within a reach: "" = any assistant, `after` None = from the newest, at most `limit`."""

    assistant_id: str = ""
    after: Place | None = None
    limit: int = 50


@dataclass(frozen=True, slots=True)
class Appended:
    """Messages that were appended in one step, and whose conversation they belong to."""

    messages: tuple[Message, ...]
    user_id: str
    assistant_id: str
    team_id: str
    channel: str


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened. `what` None: all that happened until `time`, at `resume_token`, has been told."""

    resume_token: str
    event_id: str = ""
    tenant_id: str = ""
    conversation_id: str = ""
    time: datetime | None = None
    what: Conversation | Appended | None = None


def is_conversation_id(text: str) -> bool:
    """Whether a conversation could bear this id."""
    return _CONVERSATION_ID.fullmatch(text) is not None


def check_metadata(text: str, path: str) -> None:
    """InvalidArgument when the JSON text is larger than a store keeps inline."""
    if len(text.encode()) > MAX_METADATA_BYTES:
        raise _broken(path, f"must be at most {MAX_METADATA_BYTES} bytes as JSON", "metadata.max_bytes")


def to_milliseconds(moment: datetime) -> datetime:
    """The moment as stores keep it."""
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def _check_batch(drafts: Sequence[Draft]) -> None:
    if not 1 <= len(drafts) <= MAX_BATCH_MESSAGES:
        raise _broken("messages", f"must be 1 to {MAX_BATCH_MESSAGES}", "repeated.items")
    if sum(draft.size_bytes for draft in drafts) > MAX_BATCH_BYTES:
        raise _broken("messages", f"must be at most {MAX_BATCH_BYTES} bytes together", "messages.max_bytes")
    named = [draft.message_id for draft in drafts if draft.message_id]
    if len(set(named)) < len(named):
        raise _broken("messages", "must not repeat a message_id", "messages.unique")
    for index, draft in enumerate(drafts):
        check_metadata(draft.metadata, f"messages[{index}].metadata")
        _check_amounts(draft, f"messages[{index}]")


def _check_amounts(draft: Draft, path: str) -> None:
    tokens = draft.tokens
    for amount in (tokens.input, tokens.cached_input, tokens.output, tokens.reasoning):
        if not 0 <= amount <= MAX_AMOUNT:
            raise _broken(f"{path}.usage", f"must be from 0 to {MAX_AMOUNT}", "int64.range")
    if not 0 <= draft.cost_micros <= MAX_AMOUNT:
        raise _broken(f"{path}.cost_micros", f"must be from 0 to {MAX_AMOUNT}", "int64.range")


def _facts(draft: Draft) -> list[object]:
    """Everything the author said, in an order that never changes."""
    tokens = draft.tokens
    return [
        draft.type.value,
        draft.text,
        draft.message_id,
        draft.user_id,
        draft.assistant_id,
        draft.team_id,
        draft.status.value,
        draft.rag,
        [[getattr(each, name) for name in Reference.__slots__] for each in draft.references],
        [tokens.input, tokens.cached_input, tokens.output, tokens.reasoning],
        draft.usage_source.value,
        draft.cost_micros,
        draft.model,
        draft.latency_ms,
        draft.time_to_first_token_ms,
        draft.finish_reason,
        draft.error_reason,
        draft.metadata,
    ]


def _digest(facts: Sequence[object]) -> str:
    return hashlib.sha256(json.dumps(facts, separators=(",", ":")).encode()).hexdigest()


def _broken(path: str, description: str, rule: str) -> InvalidArgument:
    return InvalidArgument(f"{path} {description}", violations=[FieldViolation(path, description, rule)])
