"""What people said in the conversations of others: forgotten in every place of a memory, and searched for."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace

from services.chat_store.engines.memory.kept import Append, Memory, State, Talk
from services.chat_store.entries import Entry
from services.chat_store.model import Conversation, Message, MessageType
from services.chat_store.snapshot import KeptChange


def forget_author(memory: Memory, tenant_id: str, user_id: str) -> Mapping[str, int]:
    """See Upkeep.forget_author."""
    forgotten = Counter[str]()
    for talk in list(memory.talks.get(tenant_id, {}).values()):
        if talk.conversation.user_id != user_id:
            forgotten += _Forgetting(memory, talk, user_id).all()
    return dict(forgotten)


def residue(memory: Memory, tenant_id: str, user_id: str) -> Mapping[str, int]:
    """See Upkeep.residue."""
    found = dict.fromkeys(("conversations", "messages", "changes", "entries"), 0)
    for talk in memory.talks.get(tenant_id, {}).values():
        said = [message for append in talk.appends.values() for message in append.said]
        found["conversations"] += talk.conversation.user_id == user_id
        found["messages"] += sum(_names(each, user_id) for each in (*said, *talk.messages.values()))
        found["changes"] += sum(_says(change, user_id) for change in talk.changes.values())
        found["entries"] += sum(_names(entry, user_id) for entry in talk.entries.values())
    return found


class _Forgetting:
    """One user leaves one conversation of somebody else."""

    def __init__(self, memory: Memory, talk: Talk, user_id: str) -> None:
        self._memory = memory
        self._talk = talk
        self._user_id = user_id
        self._previews = {message.draft.preview for message in self._said() if self._is_by(message)}

    def all(self) -> Counter[str]:
        """Blanks all that the user said, did and caused there; how much of what that was."""
        shown = list(self._talk.messages.values())
        opinions = [each for each in shown if each.feedback and each.feedback.user_id == self._user_id]
        counts = Counter(messages=sum(map(self._is_by, shown)), feedback=len(opinions))
        for append in list(self._talk.appends.values()):
            self._forget_append(append)
        for message in shown:
            if (after := self._forgotten(message)) != message:
                self._memory.show(self._talk, after)
        counts["changes"] = sum(map(self._forget_change, list(self._talk.changes.values())))
        for place, entry in self._talk.entries.items():
            if entry.actor == self._user_id:
                self._talk.entries[place] = replace(entry, actor="")
                counts["entries"] += 1
        self._memory.drop_unsaid_texts(self._talk)
        before = self._talk.conversation
        revision = before.revision + bool(+counts)
        self._memory.update(self._talk, replace(before, preview=self._preview(before), revision=revision))
        return +counts

    def _forget_append(self, append: Append) -> None:
        append.said = tuple(self._forgotten(message) for message in append.said)

    def _forget_change(self, change: KeptChange) -> bool:
        actor = "" if change.actor == self._user_id else change.actor
        after = replace(change, state=self._forgotten_state(change.state), actor=actor)
        self._talk.changes[change.revision] = after
        if after.request_id:
            self._talk.acted[after.request_id] = after
        return after != change

    def _forgotten_state(self, state: State) -> State:
        if isinstance(state, Message):
            return self._forgotten(state)
        if isinstance(state, Conversation):
            return replace(state, preview=self._preview(state))
        return replace(state, actor="") if state.actor == self._user_id else state

    def _forgotten(self, message: Message) -> Message:
        if self._is_by(message):
            draft = replace(message.draft, text="", user_id="", references=(), metadata="", parts=(), body=None)
            message = replace(message, draft=draft)
        if message.feedback is not None and message.feedback.user_id == self._user_id:
            message = replace(message, feedback=None)
        return message

    def _preview(self, conversation: Conversation) -> str:
        return "" if conversation.preview in self._previews else conversation.preview

    def _said(self) -> Iterator[Message]:
        """All messages at all their revisions."""
        for append in self._talk.appends.values():
            yield from append.said
        for change in self._talk.changes.values():
            if isinstance(change.state, Message):
                yield change.state

    def _is_by(self, message: Message) -> bool:
        return _is_by(message, self._user_id)


def _says(change: KeptChange, user_id: str) -> bool:
    return change.actor == user_id or _names(change.state, user_id)


def _names(state: State, user_id: str) -> bool:
    if isinstance(state, Message):
        return _is_by(state, user_id) or (state.feedback is not None and state.feedback.user_id == user_id)
    return (state.actor if isinstance(state, Entry) else state.user_id) == user_id


def _is_by(message: Message, user_id: str) -> bool:
    return message.draft.type is MessageType.USER and message.draft.user_id == user_id
