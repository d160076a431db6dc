"""What the contracts of a store are made of: people, messages, and what a test must be able to do to an engine."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

from services.chat_store.batch import Batch
from services.chat_store.model import Conversation, Description, Draft, Message, MessageType, NewConversation, Tokens
from services.chat_store.selection import Page, Reach, Window
from services.chat_store.store import ChatStore
from shared.clock import Clock
from shared.identifiers import new_id

NO_TOKENS = Tokens()
# What engines, their drivers and their query languages could take for something else than text.
HOSTILE_TEXTS = (
    "nul\0 $inc {$ne: null} a.b $$ROOT",
    "'; drop table messages; -- %s {0} \\ \" \x01\x1b\x7f",
    "\u202eעברית العربية\u202c \u2028\u2029\ufeff\u200d",
    "👩‍👩‍👧‍👦🏛️🇧🇷 e\u0301 \U0010ffff",
)
HOSTILE_JSON = '{"$gt":"","a.b":{"$where":"1"},"":0,"__proto__":1,"_id":{"$oid":"x"}}'
# Ids that a store which takes them apart, or compares them loosely, would get wrong.
HOSTILE_IDS = ("$ne", "a.b", "%", "_", "á", "a\u0301", "x:y", "000000000001", "~1", "a b", "\u2028", "🏛️", "A", "a")


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

    def store_at(self, clock: Clock) -> ChatStore:
        """A store over the same data that lives by this clock."""

    async def crash_after_storing(self, reach: Reach, conversation_id: str, batch: Batch) -> None:
        """Appends, and dies before anything else is brought up to date."""

    async def start_measuring(self) -> None:
        """From now on the work counts."""

    async def work(self) -> Work:
        """The work since `start_measuring`."""

    async def load(self, reach: Reach, conversation_id: str, pairs: int) -> None:
        """Fills an empty conversation with pairs of messages, fast."""

    async def forget_the_log(self) -> None:
        """Makes the engine's log lose all that happened until now, where it has one that can; only if `forgetful`."""

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


async def started(
    store: ChatStore,
    reach: Reach,
    conversation_id: str = "",
    *,
    assistant_id: str = "",
    team_id: str = "",
    channel: str = "",
    title: str = "",
    context: str = "",
    metadata: str = "",
    ttl_seconds: int = 0,
) -> str:
    """A new conversation of the reach's user."""
    description = Description(title, context, metadata, ttl_seconds)
    owner = (reach.user_id or "", assistant_id, team_id, channel)
    new = NewConversation(conversation_id or new_id(), *owner, description)
    return (await store.create(reach, new)).conversation_id


async def talk(store: ChatStore, reach: Reach, *texts: str, conversation_id: str = "") -> tuple[str, list[Message]]:
    """A new conversation in which a user says these texts, one append each."""
    conversation = await started(store, reach, conversation_id)
    appended = [await store.append(reach, conversation, batch_of(said(text))) for text in texts]
    return conversation, [message for each in appended for message in each]


async def everything(store: ChatStore, reach: Reach, conversation_id: str) -> list[Message]:
    window, found = Window(limit=1000), list[Message]()
    while True:
        page = await store.read(reach, conversation_id, window)
        found += page.messages
        assert len({message.seq for message in found}) == len(found)
        if not page.more:
            return found
        window = window.beyond(found[-1].seq)


async def whole(text: AsyncGenerator[bytes, None]) -> bytes:
    """All chunks of a text, together."""
    async with aclosing(text):
        return b"".join([chunk async for chunk in text])


def seqs(page: Page) -> list[int]:
    return [message.seq for message in page.messages]


def names(conversations: list[Conversation]) -> list[str]:
    return [each.conversation_id for each in conversations]
