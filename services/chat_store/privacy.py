"""A person's data: handed out whole, and removed for good (LGPD, articles 18 II and 18 VI).

erase:  purge what is over ─► purge the user's conversations ─► blank what they said in those of others
        ─► scan for what still says something of them ─► again, while it finds something and somebody writes
"""

from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeAlias

from services.chat_store.entries import Entry
from services.chat_store.limits import broken
from services.chat_store.model import Conversation, ConversationStatus, Message
from services.chat_store.retention import Retention
from services.chat_store.selection import Period, Reach, Selection
from services.chat_store.store import ChatStore
from services.chat_store.text_chunks import text_chunks
from services.chat_store.walks import AT_ONCE, all_conversations, all_entries, all_messages
from shared.clock import Clock, SystemClock
from shared.errors import NotFound

ALL_STATUSES = frozenset(ConversationStatus)
MOST_ROUNDS = 5
# The clocks of replicas differ by less.
OVERLAP = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class TextPiece:
    """A part of a message's text that is kept apart: where it begins in the UTF-8, and the part."""

    message_id: str
    offset_bytes: int
    text: str


@dataclass(frozen=True, slots=True)
class Record:
    """Something of a conversation; a message whose text is kept apart is followed by its pieces."""

    conversation_id: str
    what: Conversation | Message | Entry | TextPiece


Counts: TypeAlias = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Receipt:
    """What an erasure did: how many of what were removed or blanked, and what a scan still found, by place.

    The audit goes on naming the user by id, as somebody who did things and was erased: that is what proves it.
    """

    user_id: str
    erase_time: datetime
    items: Counts
    residue: Counts

    @property
    def verified(self) -> bool:
        """Whether the scan found nothing. If not, somebody wrote meanwhile: erase again."""
        return not any(self.residue.values())


async def export(
    store: ChatStore, tenant_id: str, user_id: str, clock: Clock | None = None
) -> AsyncGenerator[Record | Counts, None]:
    """All that is kept of the user's conversations, deleted ones included; at the end how many of what there were."""
    _check(user_id)
    reach, counts = Reach(tenant_id, user_id, deleted=True), Counter[str]()
    async for conversation in _conversations(store, reach, clock or SystemClock()):
        async for record in _records(store, reach, conversation):
            counts[_name(record)] += 1
            yield record
    yield {name: counts[name] for name in ("conversations", "messages", "tasks", "events")}


async def erase(
    store: ChatStore, retention: Retention, tenant_id: str, user_id: str, clock: Clock | None = None
) -> Receipt:
    """Removes all that is kept of the user, everywhere; doing it again does no harm. Unavailable: do it again."""
    _check(user_id)
    items, residue, now = Counter[str](), dict[str, int](), (clock or SystemClock()).now()
    for _ in range(MOST_ROUNDS):
        # Expired conversations are in no list any more.
        await retention.purge_leaving()
        items += await _purge_all(store, tenant_id, user_id)
        forgotten = await store.upkeep.forget_author(tenant_id, user_id)
        items += Counter({f"others_{place}": count for place, count in forgotten.items()})
        residue = dict(await store.upkeep.residue(tenant_id, user_id))
        if not any(residue.values()):
            break
    return Receipt(user_id, now, dict(items), residue)


async def _purge_all(store: ChatStore, tenant_id: str, user_id: str) -> Counter[str]:
    removed, wanted = Counter[str](), Selection(statuses=ALL_STATUSES, limit=AT_ONCE)
    more = True
    while more:
        found, more = await store.select(Reach(tenant_id, user_id), wanted)
        before = removed.total()
        for conversation in found:
            removed += Counter(await store.upkeep.purge(tenant_id, conversation.conversation_id))
        more = more and removed.total() > before
    return removed


async def _conversations(store: ChatStore, reach: Reach, clock: Clock) -> AsyncGenerator[Conversation, None]:
    """Each once. What is written to meanwhile moves to the front of the list, so that is looked at again."""
    seen, since, more = set[str](), None, True
    while more:
        began, more = clock.now(), False
        wanted = Selection(statuses=ALL_STATUSES, active=Period(start=since))
        async for conversation in all_conversations(store, reach, wanted):
            if conversation.conversation_id not in seen:
                seen.add(conversation.conversation_id)
                more = True
                yield conversation
        since = began - OVERLAP


async def _records(store: ChatStore, reach: Reach, conversation: Conversation) -> AsyncGenerator[Record, None]:
    conversation_id = conversation.conversation_id
    yield Record(conversation_id, conversation)
    # A conversation that is purged while it is read ends here.
    with suppress(NotFound):
        async for message in all_messages(store, reach, conversation_id):
            yield Record(conversation_id, message)
            if message.draft.body is not None:
                async for piece in _pieces(store, reach, conversation_id, message.message_id):
                    yield Record(conversation_id, piece)
        async for entry in all_entries(store, reach, conversation_id):
            yield Record(conversation_id, entry)


async def _pieces(
    store: ChatStore, reach: Reach, conversation_id: str, message_id: str
) -> AsyncGenerator[TextPiece, None]:
    # A message that is trimmed while it is read takes nothing else of its conversation with it.
    with suppress(NotFound):
        async for offset, text in text_chunks(store.text(reach, conversation_id, message_id)):
            yield TextPiece(message_id, offset, text)


def _name(record: Record) -> str:
    match record.what:
        case Conversation():
            return "conversations"
        case Message():
            return "messages"
        case Entry(kind=kind):
            return f"{kind.value}s"
        case TextPiece():
            return "pieces"


def _check(user_id: str) -> None:
    """Without a name it would be everybody who has none."""
    if not user_id:
        raise broken("user_id", "must not be empty", "string.min_len")
