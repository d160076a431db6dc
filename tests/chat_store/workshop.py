"""What the contracts of a store are made of: people, messages, and what a test must be able to do to an engine."""

from dataclasses import dataclass
from typing import Protocol

from services.chat_store.model import Batch, Draft, Message, MessageType, NewConversation, Reach, Tokens, Window
from services.chat_store.store import ChatStore
from shared.identifiers import new_id

NO_TOKENS = Tokens()


@dataclass(frozen=True)
class Work:
    """What an engine did for a call: documents it looked at, by kind."""

    conversations: int
    appends: int

    @property
    def documents(self) -> int:
        return self.conversations + self.appends


class Workshop(Protocol):
    """What a test must be able to do to an engine, beside using it."""

    store: ChatStore

    async def another_replica(self) -> ChatStore:
        """A second store over the same data, as another process would have it."""

    async def crash_after_storing(self, reach: Reach, conversation_id: str, batch: Batch) -> None:
        """Appends, and dies before anything else is brought up to date."""

    async def start_measuring(self) -> None:
        """From now on the work counts."""

    async def work(self) -> Work:
        """The work since `start_measuring`."""

    async def load(self, reach: Reach, conversation_id: str, pairs: int) -> None:
        """Fills an empty conversation with pairs of messages, fast."""

    async def forget_the_log(self) -> None:
        """Makes the engine's log lose all that happened until now; only where the engine was set up for it."""

    async def open_feeds(self) -> int:
        """How many feeds hold something of the engine."""


def somebody(user_id: str = "ana") -> Reach:
    """A user of a tenant that no other test knows."""
    return Reach(f"t-{new_id()}", user_id)


def said(text: str, kind: MessageType = MessageType.USER, message_id: str = "", tokens: Tokens = NO_TOKENS) -> Draft:
    return Draft(type=kind, text=text, message_id=message_id, tokens=tokens, cost_micros=tokens.output * 3)


def batch_of(*drafts: Draft, request_id: str = "") -> Batch:
    return Batch.of(drafts, request_id, new_id)


def pair(text: str, request_id: str = "") -> Batch:
    answer = said(f"re: {text}", MessageType.ASSISTANT, tokens=Tokens(input=7, output=5))
    return batch_of(said(text), answer, request_id=request_id)


async def started(store: ChatStore, reach: Reach, **wanted: str) -> str:
    new = NewConversation(**{"conversation_id": new_id(), "user_id": reach.user_id or "", **wanted})
    return (await store.create(reach, new)).conversation_id


async def everything(store: ChatStore, reach: Reach, conversation_id: str) -> list[Message]:
    window, found = Window(limit=1000), list[Message]()
    while True:
        page = await store.read(reach, conversation_id, window)
        found += page.messages
        if not page.more:
            return found
        window = window.beyond(found[-1].seq)
