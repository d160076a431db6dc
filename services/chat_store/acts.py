# ruff: noqa: ARG002 every act is asked the same way, whatever it needs to know
"""What may be done to a conversation, to its messages and to its entries: the rules, without any store.

A store reads the state, asks the act what becomes of it, and keeps the answer in one step. An act that changes nothing
leaves no trace. `revision`, where an act has one, is the revision that the caller saw: RevisionMismatch if the state is
at another.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from services.chat_store.entries import Entry, EntryKind, TaskStatus
from services.chat_store.fingerprints import digest_of
from services.chat_store.limits import MAX_ANALYSES, MAX_BATCH_BYTES, MAX_REVISIONS, broken
from services.chat_store.model import (
    Body,
    Conversation,
    ConversationClosed,
    Description,
    Draft,
    Feedback,
    Message,
    Part,
    RevisionMismatch,
    TaskTransitionInvalid,
    TooMany,
)
from shared.errors import AlreadyExists, NotFound

_TRANSITIONS = {
    TaskStatus.PENDING.value: {TaskStatus.IN_PROGRESS.value, TaskStatus.COMPLETED.value},
    TaskStatus.IN_PROGRESS.value: {TaskStatus.PENDING.value, TaskStatus.COMPLETED.value},
    TaskStatus.COMPLETED.value: set[str](),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """Something that somebody does: `actor` is the user or service, `request_id` "" = a retry is another act."""

    actor: str = ""
    request_id: str = ""

    @property
    def fingerprint(self) -> str:
        """What a retry with the same request_id must repeat."""
        return digest_of([repr(replace(self, actor="", request_id=""))])


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationAct(Act):
    """Something done to a conversation."""

    def reaches(self, conversation: Conversation, at: datetime) -> bool:
        """Whether the conversation exists for this act."""
        return not conversation.gone(at)

    def applied(self, conversation: Conversation, at: datetime) -> Conversation:
        """The conversation afterwards, its revision not yet counted; typed errors when it may not be done."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class Describe(ConversationAct):
    """Changes the description; None leaves a field as it is."""

    title: str | None = None
    context: str | None = None
    metadata: str | None = None
    ttl_seconds: int | None = None
    revision: int | None = None

    def applied(self, conversation: Conversation, at: datetime) -> Conversation:
        """ConversationClosed is no matter here: a title may change at any time."""
        _check_revision(self.revision, conversation.revision)
        wanted = {name: getattr(self, name) for name in Description.__slots__ if getattr(self, name) is not None}
        description = replace(conversation.description, **wanted)
        return conversation if description == conversation.description else conversation.described(description)


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive(ConversationAct):
    """Takes the conversation out of the list; it can still be read and continued."""

    def applied(self, conversation: Conversation, at: datetime) -> Conversation:
        """The first time counts."""
        return replace(conversation, archive_time=conversation.archive_time or at)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unarchive(ConversationAct):
    """Puts it back into the list."""

    def applied(self, conversation: Conversation, at: datetime) -> Conversation:
        """As it was before it was archived."""
        return replace(conversation, archive_time=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finalize(ConversationAct):
    """Closes the conversation for good."""

    reason: str

    def applied(self, conversation: Conversation, at: datetime) -> Conversation:
        """Once: finalizing again for the same reason changes nothing, for another one ConversationClosed."""
        if not conversation.closed:
            return replace(conversation, finalize_time=at, finalize_reason=self.reason)
        if conversation.finalize_reason != self.reason:
            raise ConversationClosed("the conversation was finalized for another reason")
        return conversation


@dataclass(frozen=True, slots=True, kw_only=True)
class Delete(ConversationAct):
    """Hides the conversation; after `purge_after_days` nothing of it is kept."""

    purge_after_days: int = field(repr=False)
    """By the tenant's policy, which may change before a retry: no part of the fingerprint."""

    def applied(self, conversation: Conversation, at: datetime) -> Conversation:
        """What was deleted before looks missing, so this is the first time."""
        return replace(conversation, delete_time=at, purge_time=at + timedelta(days=self.purge_after_days))


@dataclass(frozen=True, slots=True, kw_only=True)
class Undelete(ConversationAct):
    """Brings back a deleted conversation that is still kept."""

    def reaches(self, conversation: Conversation, at: datetime) -> bool:
        """One that is not deleted is brought back already."""
        return not conversation.expired(at)

    def applied(self, conversation: Conversation, at: datetime) -> Conversation:
        """As it was before it was deleted."""
        return replace(conversation, delete_time=None, purge_time=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkAnalysis(ConversationAct):
    """Notes an analysis of the conversation that is kept elsewhere."""

    analysis_id: str

    def applied(self, conversation: Conversation, at: datetime) -> Conversation:
        """TooMany above MAX_ANALYSES."""
        return replace(conversation, analysis_ids=_linked(conversation.analysis_ids, self.analysis_id))


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageAct(Act):
    """Something done to a message. `bodies` are texts to be kept apart, as in Batch."""

    bodies: Mapping[str, bytes] = field(default_factory=dict, repr=False)

    def applied(self, conversation: Conversation, message: Message, at: datetime) -> Message:
        """The message afterwards, its revision and update_time not yet set; typed errors when it may not be done."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class EditMessage(MessageAct):
    """Changes what a message says; None leaves a field as it is. With a text comes its `body`, if it has one."""

    text: str | None = None
    body: Body | None = None
    parts: tuple[Part, ...] | None = None
    metadata: str | None = None
    revision: int | None = None

    def applied(self, conversation: Conversation, message: Message, at: datetime) -> Message:
        """ConversationClosed, RevisionMismatch; TooMany above MAX_REVISIONS, for each is kept."""
        if conversation.closed:
            raise ConversationClosed("the conversation was finalized: its messages stay as they are")
        _check_revision(self.revision, message.revision)
        draft = self._edited(message.draft)
        if draft == message.draft:
            return message
        if message.revision >= MAX_REVISIONS:
            raise TooMany(f"a message has at most {MAX_REVISIONS} revisions")
        if draft.size_bytes > MAX_BATCH_BYTES:
            raise broken("message", f"must be at most {MAX_BATCH_BYTES} bytes, its text apart", "message.max_bytes")
        return replace(message, draft=draft, edits=message.edits + 1)

    def _edited(self, draft: Draft) -> Draft:
        if self.text is not None:
            draft = replace(draft, text=self.text, body=self.body)
        wanted = {name: getattr(self, name) for name in ("parts", "metadata") if getattr(self, name) is not None}
        return replace(draft, **wanted)


@dataclass(frozen=True, slots=True, kw_only=True)
class SetFeedback(MessageAct):
    """Sets or changes the feedback; its time is that of the act."""

    feedback: Feedback

    def applied(self, conversation: Conversation, message: Message, at: datetime) -> Message:
        """Also on a closed conversation: opinions come late. The same opinion again changes nothing."""
        before = message.feedback
        if before is not None and replace(before, time=None) == replace(self.feedback, time=None):
            return message
        return replace(message, feedback=replace(self.feedback, time=at))


@dataclass(frozen=True, slots=True, kw_only=True)
class ClearFeedback(MessageAct):
    """Takes the feedback away."""

    def applied(self, conversation: Conversation, message: Message, at: datetime) -> Message:
        """Nothing to take away is no error."""
        return replace(message, feedback=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkMessageAnalysis(MessageAct):
    """Notes an analysis of the message that is kept elsewhere."""

    analysis_id: str

    def applied(self, conversation: Conversation, message: Message, at: datetime) -> Message:
        """TooMany above MAX_ANALYSES."""
        return replace(message, analysis_ids=_linked(message.analysis_ids, self.analysis_id))


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryAct(Act):
    """Something done to a task or an event; `entry` None = there is none of that kind and id (or it was removed)."""

    def applied(self, kind: EntryKind, entry_id: str, entry: Entry | None, at: datetime) -> Entry:
        """The entry afterwards, its revision not yet counted; typed errors when it may not be done."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class AddEntry(EntryAct):
    """Makes a task or an event."""

    label: str
    text: str = ""
    content: str = ""
    by: str = ""
    """Who or what caused the event."""

    def applied(self, kind: EntryKind, entry_id: str, entry: Entry | None, at: datetime) -> Entry:
        """The same again is a retry; AlreadyExists for another one of that id."""
        made = Entry(kind, entry_id, at, at, label=self.label, text=self.text, actor=self.by, content=self.content)
        if entry is None:
            return made
        asked = replace(made, create_time=entry.create_time, update_time=entry.update_time, revision=entry.revision)
        if entry != asked:
            raise AlreadyExists(kind.value, entry_id)
        return entry


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateTask(EntryAct):
    """Changes a task; None leaves a field as it is."""

    status: TaskStatus | None = None
    description: str | None = None
    metadata: str | None = None
    revision: int | None = None

    def applied(self, kind: EntryKind, entry_id: str, entry: Entry | None, at: datetime) -> Entry:
        """NotFound, RevisionMismatch, TaskTransitionInvalid (a completed task stays completed)."""
        if entry is None:
            raise NotFound(kind.value, entry_id)
        _check_revision(self.revision, entry.revision)
        status = entry.label if self.status is None else self.status.value
        if status != entry.label and status not in _TRANSITIONS[entry.label]:
            raise TaskTransitionInvalid(f"a task does not go from {entry.label} to {status}")
        text = entry.text if self.description is None else self.description
        content = entry.content if self.metadata is None else self.metadata
        after = replace(entry, label=status, text=text, content=content)
        return entry if after == entry else replace(after, update_time=at)


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveEntry(EntryAct):
    """Takes a task or an event away; its id may be used again."""

    def applied(self, kind: EntryKind, entry_id: str, entry: Entry | None, at: datetime) -> Entry:
        """NotFound. What it said is gone at once."""
        if entry is None:
            raise NotFound(kind.value, entry_id)
        return replace(entry, text="", actor="", content="", update_time=at, removed=True)


def _check_revision(seen: int | None, now: int) -> None:
    if seen is not None and seen != now:
        raise RevisionMismatch(f"it is at revision {now} by now", metadata={"revision": str(now)})


def _linked(known: tuple[str, ...], analysis_id: str) -> tuple[str, ...]:
    if not analysis_id:
        raise broken("analysis_id", "must not be empty", "string.min_len")
    if analysis_id in known:
        return known
    if len(known) >= MAX_ANALYSES:
        raise TooMany(f"at most {MAX_ANALYSES} analyses can be linked")
    return (*known, analysis_id)
