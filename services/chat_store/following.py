"""One follower of a conversation: what was told, and what is to be told next."""

from collections import OrderedDict
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from typing import TypeAlias

from services.chat_store.entries import Entry
from services.chat_store.inbox import Inbox, State
from services.chat_store.model import Conversation, Message
from services.chat_store.selection import Reach
from services.chat_store.store import ChatStore
from services.chat_store.walks import all_entries, all_messages
from shared.clock import Clock
from shared.errors import NotFound

# Of so many changed messages a follower remembers which revision it told; of older ones it might tell one again.
REVISIONS_REMEMBERED = 1000
# The store's clock decides what has expired; ours only says when to ask.
LEAST_WAIT_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Gone:
    """The conversation was deleted or purged, or it expired."""


Update: TypeAlias = Conversation | Message | Entry | Gone


class Following:
    """Tells every message after `after_seq` once, and what changed in the conversation since it was read."""

    def __init__(
        self, store: ChatStore, reach: Reach, conversation: Conversation, after_seq: int, inbox: Inbox, clock: Clock
    ) -> None:
        self._store = store
        self._reach = reach
        self._conversation = conversation
        self._first = self._told = after_seq
        self._inbox = inbox
        self._clock = clock
        self._revisions: OrderedDict[str, int] = OrderedDict()

    async def updates(self) -> AsyncGenerator[Update, None]:
        """Ends with Gone."""
        try:
            async for message in self._stored(self._told):
                yield message
            while self._conversation.delete_time is None:
                await self._inbox.news(self._until_expiry())
                if self._inbox.doubtful and not await self._is_still_there():
                    break
                async for update in self._news():
                    yield update
        except NotFound:
            pass
        yield Gone()

    async def _news(self) -> AsyncGenerator[Update, None]:
        news = self._inbox.take()
        if news.lost:
            async for update in self._all_again():
                yield update
        elif news.behind or (news.messages and news.messages[0].seq > self._told + 1):
            async for message in self._stored(self._told):
                yield message
        for state in (*news.messages, *news.changes):
            if self._is_new(state):
                yield state

    async def _stored(self, after_seq: int) -> AsyncGenerator[Message, None]:
        """What the store has after that message and was not told."""
        async for message in all_messages(self._store, self._reach, self._conversation.conversation_id, after_seq):
            if self._is_new(message):
                yield message

    async def _all_again(self) -> AsyncGenerator[Update, None]:
        """Nobody knows what changed: whatever differs from what was told."""
        conversation_id = self._conversation.conversation_id
        conversation = await self._store.get(self._reach, conversation_id)
        if self._is_new(conversation):
            yield conversation
        async for message in self._stored(self._first):
            yield message
        async for entry in all_entries(self._store, self._reach, conversation_id):
            yield entry

    def _is_new(self, state: State) -> bool:
        """Whether this was not told; from now on it was."""
        match state:
            case Conversation():
                new = state.revision > self._conversation.revision
                if new:
                    self._conversation = state
                return new and state.delete_time is None
            case Message():
                return self._is_new_message(state)
            case Entry():
                return True

    def _is_new_message(self, message: Message) -> bool:
        if message.revision <= self._revisions.get(message.message_id, 0) and message.seq <= self._told:
            return False
        if message.revision:
            self._revisions[message.message_id] = message.revision
            self._revisions.move_to_end(message.message_id)
            if len(self._revisions) > REVISIONS_REMEMBERED:
                self._revisions.popitem(last=False)
        self._told = max(self._told, message.seq)
        self._conversation = replace(
            self._conversation,
            last_activity_time=max(self._conversation.last_activity_time, message.create_time),
        )
        return True

    async def _is_still_there(self) -> bool:
        """NotFound, or another one, when it is not."""
        self._inbox.doubtful = False
        kept = await self._store.get(self._reach, self._conversation.conversation_id)
        active = max(kept.last_activity_time, self._conversation.last_activity_time)
        self._conversation = replace(self._conversation, last_activity_time=active)
        return kept.create_time == self._conversation.create_time

    def _until_expiry(self) -> float | None:
        end = self._conversation.expire_time
        return None if end is None else max((end - self._clock.now()).total_seconds(), LEAST_WAIT_SECONDS)
