"""Walking through all that there is of something, a page at a time."""

from collections.abc import AsyncGenerator
from dataclasses import replace

from services.chat_store.entries import Entry, EntryKind
from services.chat_store.model import Conversation, Message
from services.chat_store.selection import EntrySelection, Place, Reach, Selection, Window
from services.chat_store.store import ChatStore

AT_ONCE = 100


async def all_conversations(store: ChatStore, reach: Reach, wanted: Selection) -> AsyncGenerator[Conversation, None]:
    """The conversations of the selection, the latest active first. What moves meanwhile may be missed."""
    more = True
    while more:
        found, more = await store.select(reach, replace(wanted, limit=AT_ONCE))
        for conversation in found:
            yield conversation
        if more:
            wanted = replace(wanted, after=Place(found[-1].last_activity_time, found[-1].conversation_id))


async def all_messages(
    store: ChatStore, reach: Reach, conversation_id: str, after_seq: int = 0
) -> AsyncGenerator[Message, None]:
    """The messages after that one, in their order; NotFound."""
    window, more = Window(after_seq=after_seq, limit=AT_ONCE), True
    while more:
        page = await store.read(reach, conversation_id, window)
        for message in page.messages:
            yield message
        more = page.more
        if more:
            window = window.beyond(page.messages[-1].seq)


async def all_entries(store: ChatStore, reach: Reach, conversation_id: str) -> AsyncGenerator[Entry, None]:
    """The tasks, then the events, each the newest first; NotFound."""
    for kind in EntryKind:
        wanted, more = EntrySelection(kind, limit=AT_ONCE), True
        while more:
            page = await store.entries.select(reach, conversation_id, wanted)
            for entry in page.entries:
                yield entry
            more = page.more
            if more:
                wanted = replace(wanted, after=Place(page.entries[-1].create_time, page.entries[-1].entry_id))
