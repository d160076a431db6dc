"""Pages and lists from memory: what is looked at depends on the page, never on the length."""

from datetime import datetime
from itertools import islice

from services.chat_store.engines.memory.kept import Memory, Talk
from services.chat_store.limits import PAGE_BYTES
from services.chat_store.model import Conversation, Message
from services.chat_store.selection import Entries, EntrySelection, Page, Reach, Selection, Window


def page_of(memory: Memory, talk: Talk, window: Window) -> Page:
    """The first page of the window."""
    conversation = talk.conversation
    first = max(conversation.first_seq, window.after_seq + 1)
    last = min(conversation.totals.messages, (window.before_seq or conversation.totals.messages + 1) - 1)
    page, size = list[Message](), 0
    for seq in range(last, first - 1, -1) if window.newest_first else range(first, last + 1):
        if len(page) == window.limit:
            return Page(tuple(page), more=True)
        message = memory.message(talk, seq)
        size += message.draft.size_bytes
        if page and size > PAGE_BYTES:
            return Page(tuple(page), more=True)
        page.append(message)
    return Page(tuple(page), more=False)


def revisions_of(talk: Talk, message: Message, after: int) -> list[Message]:
    """The message at its revisions above `after`."""
    changes = (change.state for _, change in sorted(talk.changes.items()))
    states = (state for state in changes if isinstance(state, Message) and state.seq == message.seq)
    return [state for state in (talk.said(message.seq), *states) if state.revision > after]


def select_conversations(
    memory: Memory, reach: Reach, selection: Selection, at: datetime
) -> tuple[list[Conversation], bool]:
    """See ChatStore.select."""
    listed = (talk.conversation for talk in memory.listed(reach.tenant_id, selection.after))
    wanted = (each for each in listed if reach.covers(each) and not each.expired(at) and _is_wanted(each, selection))
    found = list(islice(wanted, selection.limit + 1))
    return found[: selection.limit], len(found) > selection.limit


def select_entries(talk: Talk, selection: EntrySelection) -> Entries:
    """See EntryStore.select."""
    of_kind = [
        entry
        for (kind, _), entry in talk.entries.items()
        if kind is selection.kind and selection.label in ("", entry.label)
    ]
    ordered = sorted(of_kind, key=lambda entry: (entry.create_time, entry.entry_id), reverse=True)
    if selection.after is not None:
        place = (selection.after.time, selection.after.id)
        ordered = [entry for entry in ordered if (entry.create_time, entry.entry_id) < place]
    return Entries(tuple(ordered[: selection.limit]), len(ordered) > selection.limit)


def _is_wanted(conversation: Conversation, selection: Selection) -> bool:
    return (
        conversation.status in selection.statuses
        and selection.assistant_id in ("", conversation.assistant_id)
        and selection.team_id in ("", conversation.team_id)
        and selection.created.holds(conversation.create_time)
        and selection.active.holds(conversation.last_activity_time)
    )
