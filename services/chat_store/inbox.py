"""What the feed told of a conversation and one follower has not taken yet. It never grows: it forgets and says so."""

import asyncio
from collections import deque
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

from services.chat_store.entries import Entry
from services.chat_store.happenings import Appended, Changed, Event
from services.chat_store.model import Conversation, Message

MOST_MESSAGES = 64
MOST_CHANGES = 64

State: TypeAlias = Conversation | Message | Entry


@dataclass(frozen=True, slots=True)
class News:
    """What came: first the messages in their order, then what changed, each as it is now.

    `behind`: messages are missing, the store has them. `lost`: changes are missing, anything may be different.
    """

    messages: tuple[Message, ...]
    changes: tuple[State, ...]
    behind: bool
    lost: bool


class Inbox:
    """One follower's. `doubtful`: the conversation may be gone, or another one of its id may be in its place."""

    def __init__(self) -> None:
        self.doubtful = False
        self._behind = False
        self._lost = False
        self._broken: BaseException | None = None
        self._since: datetime | None = None
        self._messages: deque[Message] = deque()
        self._changes: dict[tuple[str, ...], State] = {}
        self._news = asyncio.Event()

    def begin(self, since: datetime) -> None:
        """To be called once the follower has looked; what is of before `since` is left out from now on.

        What came while they looked they may have seen or not, so they look again.
        """
        self._forget()
        self._lost = self._news.is_set()
        self._since = since

    @property
    def held(self) -> int:
        """How many messages and changes it holds."""
        return len(self._messages) + len(self._changes)

    def tell(self, event: Event) -> None:
        """Takes an event of the conversation."""
        if self._since is not None and event.time is not None and event.time < self._since:
            return  # of an earlier conversation of the same id
        match event.what:
            case Appended(messages=messages):
                self._messages.extend(messages)
                self._behind = self._behind or len(self._messages) > MOST_MESSAGES
            case Changed(state=state):
                self._changes.pop(_name(state), None)
                self._changes[_name(state)] = state
                self._lost = self._lost or len(self._changes) > MOST_CHANGES
            case _:
                self.doubtful = True
        if self._behind:
            self._messages.clear()
        if self._lost:
            self._changes.clear()
        self._news.set()

    def lose(self) -> None:
        """To be called when the feed itself missed something."""
        self._lost = self.doubtful = True
        self._news.set()

    def fail(self, error: BaseException) -> None:
        """To be called when there is no feed any more."""
        self._broken = error
        self._news.set()

    async def news(self, within_seconds: float | None) -> None:
        """Returns when there is something, or after that time; raises what broke the feed."""
        try:
            async with asyncio.timeout(within_seconds):
                await self._news.wait()
        except TimeoutError:
            self.doubtful = True
        self._news.clear()
        if self._broken is not None:
            raise self._broken

    def take(self) -> News:
        """All of it, at one moment."""
        taken = News(tuple(self._messages), tuple(self._changes.values()), self._behind, self._lost)
        self._forget()
        return taken

    def _forget(self) -> None:
        self._behind = self._lost = False
        self._messages.clear()
        self._changes.clear()


def _name(state: State) -> tuple[str, ...]:
    match state:
        case Conversation():
            return ("conversation",)
        case Message():
            return ("message", state.message_id)
        case Entry():
            return (state.kind.value, state.entry_id)
