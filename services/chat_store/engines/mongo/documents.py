"""How the Mongo engine writes conversations and messages down: keys, documents, and what they mean.

Ids contain no ":", so every key of a conversation starts with "tenant:conversation:"; appends sort by `seq`, changes
behind them by revision. Client text is only ever a value.
"""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import bson

from services.chat_store.batch import Batch
from services.chat_store.engines.mongo.codec import Document, document_of, read
from services.chat_store.happenings import SLOTS, slot_of
from services.chat_store.model import Conversation, Draft, Message, MessageType, Totals
from services.chat_store.selection import Version
from services.chat_store.snapshot import KeptAppend, KeptConversation, KeptPurge

CONVERSATIONS = "conversations"
APPENDS = "appends"
CHANGES = "changes"
ENTRIES = "entries"
BODIES = "bodies"
PURGES = "purges"
POLICIES = "policies"
AUDIT = "audit"

# The next character after ":", so that it ends the range of everything under a key.
AFTER_COLON = ";"
LAST_NUMBER = 10**12 - 1
# The term of a message with too many of them: it may have any word, so it is looked through when it is found.
ANY_TERM = "*"
MAX_TERMS = 20_000
# A changed message larger than this is kept in the change log only, so that an append stays far below 16 MiB.
OVERLAY_BYTES = 16 * 1024

# What a page or an append must know of a header; descriptions can be large.
FACTS = {"request_id": 0, "fingerprint": 0, "description.context": 0, "description.metadata": 0, "created_as": 0}
# What an append knows of its conversation, which never changes.
_OF_CONVERSATION = ("tenant_id", "conversation_id", "user_id", "assistant_id", "team_id", "channel")


def to_milliseconds(moment: datetime) -> datetime:
    """What of the moment is kept."""
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def milliseconds_of(moment: datetime) -> int:
    """The moment as it stands in keys and in the ids of events."""
    return round(moment.timestamp() * 1000)


def conversation_key(tenant_id: str, conversation_id: str) -> str:
    """`_id` of a header."""
    return f"{tenant_id}:{conversation_id}"


def append_key(conversation: str, first_seq: int) -> str:
    """`_id` of the append that starts at `first_seq`, in the conversation of that key."""
    return f"{conversation}:{min(first_seq, LAST_NUMBER):012d}"


def change_key(conversation: str, revision: int) -> str:
    """`_id` of the change that made this revision: behind all appends of the conversation of that key."""
    return f"{conversation}:~{min(revision, LAST_NUMBER):012d}"


def everything_of(conversation: str) -> Document:
    """All that a collection holds of the conversation of that key, as a range of `_id`."""
    return {"_id": {"$gt": f"{conversation}:", "$lt": f"{conversation}{AFTER_COLON}"}}


def appends_of(conversation: str) -> Document:
    """All appends of the conversation of that key, as a range of `_id`."""
    return everything_of(conversation)


def user_slot(user_id: str) -> int:
    """A small number for a user, to tell most others apart in an index."""
    return zlib.crc32(user_id.encode()) % SLOTS


def new_header(kept: KeptConversation) -> Document:
    """The header of a conversation."""
    conversation = kept.conversation
    request = {"request_id": kept.request_id, "fingerprint": kept.fingerprint} if kept.request_id else {}
    return {
        "_id": conversation_key(conversation.tenant_id, conversation.conversation_id),
        **state_of(conversation),
        **request,
        "last_seq": conversation.totals.messages,
        "slot": slot_of(conversation.tenant_id, conversation.conversation_id),
    }


def state_of(conversation: Conversation) -> Document:
    """The conversation with what indexes need to know of its state."""
    leaves = {} if conversation.leave_time is None else {"leave_time": conversation.leave_time}
    return {**document_of(conversation), "status": conversation.status.value, **leaves}


def facts_of(header: Mapping[str, Any]) -> Document:
    """What everything in a conversation knows of it."""
    facts = {name: header[name] for name in _OF_CONVERSATION}
    return {**facts, "since": header["create_time"], "slot": header["slot"]}


def new_append(
    header: Mapping[str, Any], before: Totals, batch: Batch, at: datetime, terms: Sequence[Sequence[str]]
) -> Document:
    """The append of `batch` after `before`; it knows all that the header can be brought up to date with.

    `terms` are those of each message.
    """
    first_seq = before.messages + 1
    said = batch.placed(first_seq, at)
    request = {"request_id": batch.request_id} if batch.request_id else {}
    return {
        "_id": append_key(header["_id"], first_seq),
        **facts_of(header),
        "first_seq": first_seq,
        "n": len(said),
        **request,
        "fingerprint": batch.fingerprint,
        "create_time": at,
        "totals": document_of(before.after(batch.drafts)),
        "preview": batch.preview,
        "messages": [document_of(draft) for draft in batch.drafts],
        **found_by(said, terms, header["user_id"]),
    }


def kept_append(
    header: Mapping[str, Any], kept: KeptAppend, totals: Totals, terms: Sequence[Sequence[str]]
) -> Document:
    """An append that was kept elsewhere; `totals` are the sums after it, `terms` those of each message as it is now."""
    batch = Batch(tuple(message.draft for message in kept.said), kept.request_id, kept.fingerprint)
    before = Totals(messages=kept.said[0].seq - 1)
    append = new_append(header, before, batch, kept.said[0].create_time, terms)
    append["totals"] = document_of(replace(totals, messages=kept.said[-1].seq))
    if kept.changed:
        append["changed"] = {str(message.seq): overlay_of(message) for message in kept.changed}
        append |= found_by(kept.present, terms, header["user_id"])
        append["preview"] = kept.present[-1].draft.preview
    return append


def new_seal(header: Mapping[str, Any]) -> Document:
    """What stands at the end of a finalized conversation: whoever wants to append collides with it."""
    last_seq = header["last_seq"]
    return {
        "_id": append_key(header["_id"], last_seq + 1),
        **facts_of(header),
        "first_seq": last_seq + 1,
        "n": 0,
        "create_time": header["last_activity_time"],
        "totals": header.get("totals", {}),
        "preview": header.get("preview", ""),
        "messages": [],
    }


def last_seq_of(append: Mapping[str, Any]) -> int:
    """The place of its last message; of a seal, that of the last one before it."""
    return int(append["first_seq"] + append["n"] - 1)


def header_after(append: Mapping[str, Any]) -> Document:
    """The fields of the header once the append is its last one."""
    return {
        "last_seq": last_seq_of(append),
        "last_activity_time": append["create_time"],
        "totals": append["totals"],
        "preview": append["preview"],
    }


def advance_to(append: Mapping[str, Any]) -> list[Document]:
    """The update that brings the header up to the append; acts may change its time to live meanwhile."""
    said = {name: {"$literal": value} for name, value in header_after(append).items()}
    ttl = {"startDate": "$last_activity_time", "unit": "second", "amount": "$description.ttl_seconds"}
    leaves = {"$ifNull": [{"$min": [{"$dateAdd": ttl}, "$purge_time"]}, "$$REMOVE"]}
    return [{"$set": said}, {"$set": {"leave_time": leaves}}]


def conversation_of(header: Mapping[str, Any]) -> Conversation:
    """The conversation of a header."""
    return read(Conversation, header)


def version_of(header: Mapping[str, Any], end: int = 0) -> Version:
    """What the conversation of a header is at; `end` is the place of the last message, if more is known of it."""
    last_seq = max(header["last_seq"], end)
    return Version(header["create_time"], header.get("first_seq", 1), last_seq, header.get("revision", 0))


def totals_of(document: Mapping[str, Any]) -> Totals:
    """The sums that a header or an append says."""
    return read(Totals, document.get("totals", {}))


def said_in(append: Mapping[str, Any]) -> list[Message]:
    """The messages of an append as they were said."""
    at = append["create_time"]
    return [Message(seq, at, read(Draft, each)) for seq, each in enumerate(append["messages"], append["first_seq"])]


def overlay_of(message: Message) -> Document:
    """What became of a message, to be kept beside what was said; a large one says only where it is."""
    overlay = document_of(message)
    if not message.edits:
        del overlay["draft"]
    return overlay if len(bson.encode(overlay)) <= OVERLAY_BYTES else {"apart": message.revision}


def present_in(append: Mapping[str, Any], apart: Mapping[int, Message]) -> list[Message]:
    """The messages of an append as they are now; `apart` are those of `apart_in`, by place."""
    changed: Mapping[str, Document] = append.get("changed", {})
    return [_present(said, changed.get(str(said.seq)), apart) for said in said_in(append)]


def apart_in(append: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Message id and revision of those whose present state is in the change log only."""
    messages, first = append["messages"], append["first_seq"]
    return [
        (messages[int(seq) - first]["message_id"], overlay["apart"])
        for seq, overlay in append.get("changed", {}).items()
        if "apart" in overlay
    ]


def found_by(messages: Sequence[Message], terms: Sequence[Sequence[str]], user_id: str) -> Document:
    """What the messages of an append are found by: their terms, and authors other than the conversation's user."""
    words, room = list[Document](), MAX_TERMS
    for message, own in zip(messages, terms, strict=True):
        words.append(words_in(message, own, room))
        room -= len(words[-1]["terms"])
    guests = guests_in(messages, user_id)
    return {"words": words, "user_slot": user_slot(user_id), **({"guests": guests} if guests else {})}


def words_in(message: Message, terms: Sequence[str], room: int) -> Document:
    """What a message of those terms is found by, in an append that has room for so many."""
    kept = terms if len(terms) <= room else [ANY_TERM]
    return {"seq": message.seq, "type": message.draft.type.value, "terms": kept}


def guests_in(messages: Iterable[Message], user_id: str) -> list[str]:
    """Authors of messages and feedback other than the conversation's user."""
    return sorted({author for message in messages for author in _authors(message)} - {user_id, ""})


def _authors(message: Message) -> Iterable[str]:
    if message.draft.type is MessageType.USER:
        yield message.draft.user_id
    if message.feedback is not None:
        yield message.feedback.user_id


def _present(said: Message, overlay: Document | None, apart: Mapping[int, Message]) -> Message:
    if overlay is None:
        return said
    if "apart" in overlay:
        return apart[said.seq]
    if "draft" in overlay:
        return read(Message, overlay)
    return replace(read(Message, {**overlay, "draft": {"type": said.draft.type.value}}), draft=said.draft)


def purge_document(purge: KeptPurge, *, unfinished: bool = False) -> Document:
    """A purge, before every conversation of its tenant; `unfinished` until all is gone."""
    place = f"{purge.tenant_id}:!{purge.conversation_id}@{milliseconds_of(purge.since)}"
    slot = slot_of(purge.tenant_id, purge.conversation_id)
    return {"_id": place, **document_of(purge), "slot": slot, **({"unfinished": True} if unfinished else {})}
