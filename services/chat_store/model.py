"""What a conversation, a message and the things beside them are.

Times are UTC with millisecond precision, so that what is returned is what was stored. Client data (`metadata`,
`context`, `data`, `content`) is JSON text, "" for none: its keys never become keys of a store.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from services.chat_store.fingerprints import digest_of
from services.chat_store.limits import PREVIEW_CHARACTERS, check_metadata
from shared.errors import FailedPrecondition

# What a message takes beside its texts, rounded up.
MESSAGE_OVERHEAD_BYTES = 256
PIECE_OVERHEAD_BYTES = 64


class ConversationClosed(FailedPrecondition):
    """The conversation was finalized: it takes no messages and no edits."""

    reason = "CONVERSATION_CLOSED"


class RevisionMismatch(FailedPrecondition):
    """Somebody else changed it since the caller read it."""

    reason = "REVISION_MISMATCH"


class TaskTransitionInvalid(FailedPrecondition):
    """A task does not go from its status to the one wanted."""

    reason = "TASK_TRANSITION_INVALID"


class TooMany(FailedPrecondition):
    """A conversation or a message holds no more of this."""

    reason = "TOO_MANY"


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


class Sentiment(enum.Enum):
    """What a feedback says between the lines."""

    UNSTATED = ""
    POSITIVE = "positive"
    NEUTRAL = "neutral"
    NEGATIVE = "negative"


class PartKind(enum.Enum):
    """What a part of a message holds."""

    TEXT = "text"
    DATA = "data"
    FILE = "file"


class ConversationStatus(enum.Enum):
    """What may be done with a conversation; of several that hold, the last named here."""

    ACTIVE = "active"
    FINALIZED = "finalized"
    ARCHIVED = "archived"
    DELETED = "deleted"


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
class Part:
    """A piece of a message beside its text: more text, JSON data, or the mention of a file that is kept elsewhere."""

    kind: PartKind
    text: str = ""
    data: str = ""
    uri: str = ""
    name: str = ""
    mime_type: str = ""
    size_bytes: int = 0
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Body:
    """The whole of a text that is kept apart from its message."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Feedback:
    """What somebody thinks of a message. `rating` 1 (bad) to 5 (good); `user_id` is who said it."""

    rating: int
    category: str = ""
    comment: str = ""
    sentiment: Sentiment = Sentiment.UNSTATED
    auto_generated: bool = False
    user_id: str = ""
    time: datetime | None = None


@dataclass(frozen=True, slots=True)
class Draft:
    """A message as its author sends it: no place in a conversation yet. `message_id` "" = any.

    `cost_micros` is in millionths of the tenant's currency. With a `body`, `text` is only its beginning.
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
    parts: tuple[Part, ...] = ()
    reply_to: str = ""
    body: Body | None = None

    @property
    def size_bytes(self) -> int:
        """About what the message takes on the wire; never less than its texts."""
        texts = [self.text, self.metadata]
        for reference in self.references:
            texts += [reference.quote, reference.title]
        for part in self.parts:
            texts += [part.text, part.data, part.uri, part.name]
        pieces = len(self.references) + len(self.parts)
        return sum(len(text.encode()) for text in texts) + pieces * PIECE_OVERHEAD_BYTES + MESSAGE_OVERHEAD_BYTES

    @property
    def preview(self) -> str:
        """What its conversation shows of it in lists while it is the last message."""
        return self.text[:PREVIEW_CHARACTERS]

    @property
    def words(self) -> str:
        """What of it search looks through."""
        return "\n".join([self.text, *(part.text for part in self.parts if part.text)])


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Message:
    """A stored message: its draft, with an id, at its place, and what became of it since.

    `revision` counts the changes of any kind, `edits` those of what it says.
    """

    seq: int
    create_time: datetime
    draft: Draft
    revision: int = 0
    edits: int = 0
    update_time: datetime | None = None
    feedback: Feedback | None = None
    analysis_ids: tuple[str, ...] = ()

    @property
    def message_id(self) -> str:
        """Unique in the conversation."""
        return self.draft.message_id


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over a conversation up to one of its messages; `messages` is that message's `seq` too.

    `responses` are the answers whose latency is known, `response_ms` the sum of these latencies.
    """

    messages: int = 0
    tokens: Tokens = Tokens()
    cost_micros: int = 0
    responses: int = 0
    response_ms: int = 0

    def after(self, drafts: Sequence[Draft]) -> "Totals":
        """The sums once `drafts` have been appended."""
        timed = [draft.latency_ms for draft in drafts if draft.latency_ms]
        return Totals(
            messages=self.messages + len(drafts),
            tokens=sum((draft.tokens for draft in drafts), self.tokens),
            cost_micros=sum((draft.cost_micros for draft in drafts), self.cost_micros),
            responses=self.responses + len(timed),
            response_ms=self.response_ms + sum(timed),
        )


@dataclass(frozen=True, slots=True)
class Description:
    """What of a conversation its owner may change. `ttl_seconds` after its last activity it expires; 0 = never."""

    title: str = ""
    context: str = ""
    metadata: str = ""
    ttl_seconds: int = 0

    def __post_init__(self) -> None:
        check_metadata(self.metadata, "metadata")
        check_metadata(self.context, "context")


@dataclass(frozen=True, slots=True)
class NewConversation:
    """A conversation as somebody wants it; `has_default_ttl` when its ttl is the tenant's and not theirs."""

    conversation_id: str
    user_id: str
    assistant_id: str = ""
    team_id: str = ""
    channel: str = ""
    description: Description = Description()
    request_id: str = ""
    has_default_ttl: bool = False

    @property
    def fingerprint(self) -> str:
        """What a retry with the same request_id must repeat."""
        described = self.description
        wanted = (self.assistant_id, self.team_id, self.channel, described.title, described.context, described.metadata)
        return digest_of([self.conversation_id, *wanted, None if self.has_default_ttl else described.ttl_seconds])

    def made(self, tenant_id: str, at: datetime) -> "Conversation":
        """The conversation as it begins."""
        return Conversation(
            conversation_id=self.conversation_id,
            tenant_id=tenant_id,
            user_id=self.user_id,
            assistant_id=self.assistant_id,
            team_id=self.team_id,
            channel=self.channel,
            description=self.description,
            create_time=at,
            last_activity_time=at,
        )


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation without its messages.

    `revision` counts the changes to it, to its messages and to its entries (appending is none). `first_seq` is the
    oldest message that is kept. `created_as` is its description as created, once that has changed.
    """

    conversation_id: str
    tenant_id: str
    user_id: str
    assistant_id: str
    team_id: str
    channel: str
    description: Description
    create_time: datetime
    last_activity_time: datetime
    totals: Totals = field(default_factory=Totals)
    preview: str = ""
    revision: int = 0
    first_seq: int = 1
    analysis_ids: tuple[str, ...] = ()
    archive_time: datetime | None = None
    finalize_time: datetime | None = None
    finalize_reason: str = ""
    delete_time: datetime | None = None
    purge_time: datetime | None = None
    created_as: Description | None = None

    @property
    def status(self) -> ConversationStatus:
        """What may be done with it."""
        if self.delete_time is not None:
            return ConversationStatus.DELETED
        if self.archive_time is not None:
            return ConversationStatus.ARCHIVED
        return ConversationStatus.FINALIZED if self.closed else ConversationStatus.ACTIVE

    @property
    def closed(self) -> bool:
        """Whether it takes no more messages."""
        return self.finalize_time is not None

    @property
    def expire_time(self) -> datetime | None:
        """When it is over unless something is said before."""
        ttl_seconds = self.description.ttl_seconds
        return self.last_activity_time + timedelta(seconds=ttl_seconds) if ttl_seconds else None

    @property
    def leave_time(self) -> datetime | None:
        """From when on nothing of it needs to be kept."""
        return min((time for time in (self.expire_time, self.purge_time) if time is not None), default=None)

    def expired(self, at: datetime) -> bool:
        """Whether it is over; then it looks like one that never was."""
        return self.expire_time is not None and self.expire_time <= at

    def gone(self, at: datetime) -> bool:
        """Whether it looks like one that does not exist."""
        return self.delete_time is not None or self.expired(at)

    def as_created(self) -> "Conversation":
        """As it was before its first message and its first change."""
        return Conversation(
            conversation_id=self.conversation_id,
            tenant_id=self.tenant_id,
            user_id=self.user_id,
            assistant_id=self.assistant_id,
            team_id=self.team_id,
            channel=self.channel,
            description=self.created_as or self.description,
            create_time=self.create_time,
            last_activity_time=self.create_time,
        )

    def described(self, description: Description) -> "Conversation":
        """With another description; what it was created with is not forgotten."""
        return replace(self, description=description, created_as=self.created_as or self.description)
