"""What is done to conversations, messages and entries in memory: each act in one step."""

from dataclasses import replace
from datetime import datetime

from services.chat_store.acts import Act, ConversationAct, EntryAct, MessageAct
from services.chat_store.engines.memory.kept import Memory, State, Talk, moment
from services.chat_store.entries import Entry, EntryKind
from services.chat_store.model import Conversation, Message
from services.chat_store.selection import Reach
from services.chat_store.snapshot import KeptChange
from shared.clock import Clock
from shared.errors import NotFound


class MemoryActs:
    """Acts on what a memory keeps."""

    def __init__(self, memory: Memory, clock: Clock) -> None:
        self._memory = memory
        self._clock = clock

    def on_conversation(self, reach: Reach, conversation_id: str, act: ConversationAct) -> Conversation:
        """See ChatStore.act."""
        talk, at = self._entered(reach, conversation_id)
        known = talk.known(act, Conversation)
        if isinstance(known, Conversation):
            return known
        before = talk.conversation
        if not act.reaches(before, at):
            raise NotFound("conversation", conversation_id)
        after = act.applied(before, at)
        if after == before:
            return before
        state = replace(after, revision=before.revision + 1)
        self._memory.update(talk, state)
        self._keep_change(talk, act, at, state)
        return state

    def on_message(self, reach: Reach, conversation_id: str, message_id: str, act: MessageAct) -> Message:
        """See ChatStore.revise."""
        talk, at = self._entered(reach, conversation_id)
        known = talk.known(act, Message, (message_id,))
        if isinstance(known, Message):
            return known
        _check_present(talk, at)
        before = self._memory.message_of(talk, message_id)
        time = max(at, before.update_time or at)
        after = act.applied(talk.conversation, before, time)
        if after == before:
            return before
        state = replace(after, revision=before.revision + 1, update_time=time)
        talk.bodies |= act.bodies
        self._memory.show(talk, state)
        if state.seq == talk.conversation.totals.messages:
            self._memory.update(talk, replace(talk.conversation, preview=state.draft.preview))
        self._count_change(talk, act, at, state)
        return state

    def on_entry(self, reach: Reach, conversation_id: str, kind: EntryKind, entry_id: str, act: EntryAct) -> Entry:
        """See EntryStore.act."""
        talk, at = self._entered(reach, conversation_id)
        known = talk.known(act, Entry, (kind.value, entry_id))
        if isinstance(known, Entry):
            return known
        _check_present(talk, at)
        before = talk.entries.get((kind, entry_id))
        after = act.applied(kind, entry_id, before, at if before is None else max(at, before.update_time))
        if after == before:
            return after
        state = after if before is None else replace(after, revision=before.revision + 1)
        if state.removed:
            del talk.entries[kind, entry_id]
        else:
            talk.entries[kind, entry_id] = state
        self._count_change(talk, act, at, state)
        return state

    def _entered(self, reach: Reach, conversation_id: str) -> tuple[Talk, datetime]:
        """The conversation, though it may be deleted, and the moment of the act."""
        talk = self._memory.found(replace(reach, deleted=True), conversation_id, moment(self._clock))
        return talk, max(moment(self._clock), talk.conversation.last_activity_time)

    def _count_change(self, talk: Talk, act: Act, at: datetime, state: State) -> None:
        """Keeps a change of something in the conversation, which counts as one of the conversation."""
        conversation = talk.conversation
        self._memory.update(talk, replace(conversation, revision=conversation.revision + 1))
        self._keep_change(talk, act, at, state)

    def _keep_change(self, talk: Talk, act: Act, at: datetime, state: State) -> None:
        self._memory.change(talk, KeptChange.of(talk.conversation, talk.conversation.revision, act, at, state))


def _check_present(talk: Talk, at: datetime) -> None:
    if talk.conversation.gone(at):
        raise NotFound("conversation", talk.conversation.conversation_id)
