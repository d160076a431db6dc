"""Conversations in the memory of one process: for development and tests. What is kept ends with the process.

It keeps all of the law but durability. Several stores over one Memory are replicas of each other.
"""

from collections.abc import AsyncGenerator
from dataclasses import replace

from services.chat_store.acts import ConversationAct, EntryAct, MessageAct
from services.chat_store.audit_chain import AuditLink
from services.chat_store.batch import Batch
from services.chat_store.engines.memory.acts import MemoryActs
from services.chat_store.engines.memory.feed import MemoryFeed
from services.chat_store.engines.memory.kept import Append, Memory, Talk, append_of, moment
from services.chat_store.engines.memory.pages import page_of, revisions_of, select_conversations, select_entries
from services.chat_store.engines.memory.search import MemorySearch
from services.chat_store.engines.memory.upkeep import MemoryUpkeep
from services.chat_store.entries import Entry, EntryKind
from services.chat_store.happenings import Event, Shard
from services.chat_store.limits import BODY_CHUNK_BYTES
from services.chat_store.model import Conversation, ConversationClosed, Message, NewConversation
from services.chat_store.selection import (
    Entries,
    EntrySelection,
    Found,
    Page,
    Reach,
    Search,
    Selection,
    Version,
    Window,
)
from services.chat_store.snapshot import KeptPurge
from services.chat_store.store import WHOLE_FEED
from shared.clock import Clock, SystemClock
from shared.errors import AlreadyExists, NotFound, RequestIdReused


class MemoryChatStore:
    """ChatStore over a Memory."""

    def __init__(
        self, memory: Memory | None = None, *, feed_idle_seconds: float = 10.0, clock: Clock | None = None
    ) -> None:
        self._memory = Memory() if memory is None else memory
        self._clock = clock or SystemClock()
        self._acts = MemoryActs(self._memory, self._clock)
        self._search = MemorySearch(self._memory, self._clock)
        self._feed = MemoryFeed(self._memory, self._clock, idle_seconds=feed_idle_seconds)
        self.entries = MemoryEntries(self._memory, self._clock, self._acts)
        self.audit = MemoryAudit(self._memory)
        self.upkeep = MemoryUpkeep(self._memory, self._clock)

    async def ready(self) -> None:
        """Always."""

    async def create(self, reach: Reach, new: NewConversation) -> Conversation:
        """Makes or gets a conversation; one that has expired makes room."""
        now = moment(self._clock)
        talk = self._memory.talk(reach.tenant_id, new.conversation_id)
        if talk is not None and talk.conversation.expired(now):
            self._memory.purge(talk, KeptPurge(*talk.key, talk.conversation.create_time, now))
            talk = None
        if talk is None:
            at = self._memory.first_moment(reach.tenant_id, new.conversation_id, now)
            talk = Talk(new.made(reach.tenant_id, at), new.request_id, new.fingerprint)
            self._memory.create(talk)
            return talk.conversation
        self._found(reach, new.conversation_id)
        if new.request_id and new.request_id == talk.request_id and new.fingerprint != talk.fingerprint:
            raise RequestIdReused
        return talk.conversation

    async def get(self, reach: Reach, conversation_id: str) -> Conversation:
        """See ChatStore.get."""
        return self._found(reach, conversation_id).conversation

    async def version(self, reach: Reach, conversation_id: str) -> Version:
        """See ChatStore.version."""
        return self._found(reach, conversation_id).version

    async def select(self, reach: Reach, selection: Selection) -> tuple[list[Conversation], bool]:
        """See ChatStore.select."""
        return select_conversations(self._memory, reach, selection, moment(self._clock))

    async def act(self, reach: Reach, conversation_id: str, act: ConversationAct) -> Conversation:
        """See ChatStore.act."""
        return self._acts.on_conversation(reach, conversation_id, act)

    async def append(self, reach: Reach, conversation_id: str, batch: Batch) -> list[Message]:
        """See ChatStore.append."""
        talk = self._found(replace(reach, deleted=False), conversation_id)
        known = _said_before(talk, batch)
        if known is not None:
            return list(known.said)
        before = talk.conversation
        if before.closed:
            raise ConversationClosed("the conversation was finalized: it takes no more messages")
        at = max(moment(self._clock), before.last_activity_time)
        append = append_of(batch, before.totals.messages + 1, at)
        totals = before.totals.after(batch.drafts)
        self._memory.update(talk, replace(before, totals=totals, last_activity_time=at, preview=batch.preview))
        talk.bodies |= batch.bodies
        self._memory.append(talk, append)
        return list(append.said)

    async def read(self, reach: Reach, conversation_id: str, window: Window) -> Page:
        """See ChatStore.read."""
        return page_of(self._memory, self._found(reach, conversation_id), window)

    async def message(self, reach: Reach, conversation_id: str, message_id: str) -> Message:
        """See ChatStore.message."""
        return self._memory.message_of(self._found(reach, conversation_id), message_id)

    async def revise(self, reach: Reach, conversation_id: str, message_id: str, act: MessageAct) -> Message:
        """See ChatStore.revise."""
        return self._acts.on_message(reach, conversation_id, message_id, act)

    async def revisions(
        self, reach: Reach, conversation_id: str, message_id: str, after: int, limit: int
    ) -> tuple[list[Message], bool]:
        """See ChatStore.revisions."""
        talk = self._found(reach, conversation_id)
        found = revisions_of(talk, self._memory.message_of(talk, message_id), after)
        return found[:limit], len(found) > limit

    async def text(self, reach: Reach, conversation_id: str, message_id: str) -> AsyncGenerator[bytes, None]:
        """See ChatStore.text."""
        talk = self._found(reach, conversation_id)
        draft = self._memory.message_of(talk, message_id).draft
        content = draft.text.encode() if draft.body is None else talk.bodies[draft.body.sha256]
        for begin in range(0, len(content), BODY_CHUNK_BYTES):
            yield content[begin : begin + BODY_CHUNK_BYTES]

    async def search(self, reach: Reach, search: Search) -> Found:
        """See ChatStore.search."""
        return self._search.find(reach, search)

    def watch(self, tenant_id: str, resume_token: str, shard: Shard = WHOLE_FEED) -> AsyncGenerator[Event, None]:
        """See ChatStore.watch."""
        return self._feed.watch(tenant_id, resume_token, shard)

    async def position(self, tenant_id: str) -> str:
        """See ChatStore.position."""
        return self._feed.position(tenant_id, WHOLE_FEED)

    def _found(self, reach: Reach, conversation_id: str) -> Talk:
        return self._memory.found(reach, conversation_id, moment(self._clock))


class MemoryEntries:
    """EntryStore over a Memory."""

    def __init__(self, memory: Memory, clock: Clock, acts: MemoryActs) -> None:
        self._memory = memory
        self._clock = clock
        self._acts = acts

    async def act(self, reach: Reach, conversation_id: str, kind: EntryKind, entry_id: str, act: EntryAct) -> Entry:
        """See EntryStore.act."""
        return self._acts.on_entry(reach, conversation_id, kind, entry_id, act)

    async def get(self, reach: Reach, conversation_id: str, kind: EntryKind, entry_id: str) -> Entry:
        """See EntryStore.get."""
        entry = self._found(reach, conversation_id).entries.get((kind, entry_id))
        if entry is None:
            raise NotFound(kind.value, entry_id)
        return entry

    async def select(self, reach: Reach, conversation_id: str, selection: EntrySelection) -> Entries:
        """See EntryStore.select."""
        return select_entries(self._found(reach, conversation_id), selection)

    def _found(self, reach: Reach, conversation_id: str) -> Talk:
        return self._memory.found(reach, conversation_id, moment(self._clock))


class MemoryAudit:
    """AuditStore over a Memory."""

    def __init__(self, memory: Memory) -> None:
        self._links = memory.links

    async def add(self, link: AuditLink) -> bool:
        """See AuditStore.add."""
        kept = self._links.setdefault(link.tenant_id, {})
        if link.number in kept:
            return False
        kept[link.number] = link
        return True

    async def last(self, tenant_id: str) -> AuditLink | None:
        """See AuditStore.last."""
        found = await self.read_back(tenant_id, 0, 1)
        return found[0] if found else None

    async def read(self, tenant_id: str, after_number: int, limit: int) -> list[AuditLink]:
        """See AuditStore.read."""
        kept = self._links.get(tenant_id, {})
        return [kept[number] for number in sorted(kept) if number > after_number][:limit]

    async def read_back(self, tenant_id: str, before_number: int, limit: int) -> list[AuditLink]:
        """See AuditStore.read_back."""
        kept = self._links.get(tenant_id, {})
        return [kept[number] for number in sorted(kept, reverse=True) if number < (before_number or number + 1)][:limit]


def _said_before(talk: Talk, batch: Batch) -> Append | None:
    """What an earlier try of the batch stored; RequestIdReused, AlreadyExists."""
    if batch.request_id in talk.appended:
        append = talk.appended[batch.request_id]
        if append.fingerprint != batch.fingerprint:
            raise RequestIdReused
        return append
    taken = [draft.message_id for draft in batch.drafts if draft.message_id in talk.seqs]
    if not taken:
        return None
    append = talk.append_of(talk.seqs[taken[0]])
    if append.fingerprint != batch.fingerprint or append.request_id != batch.request_id:
        raise AlreadyExists("message", taken[0])
    return append
