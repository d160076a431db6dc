"""How the Mongo engine writes things down: keys, indexes, and model ↔ documents.

`appends` holds one immutable document per append, `conversations` one header per conversation. Ids contain no ":", so
every key of a conversation starts with "tenant:conversation:" and sorts by `seq`.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields
from datetime import datetime
from typing import Any, TypeAlias

from pymongo import ASCENDING, DESCENDING, IndexModel

from services.chat_store.model import (
    Appended,
    Batch,
    Conversation,
    Draft,
    Event,
    Message,
    MessageStatus,
    MessageType,
    NewConversation,
    Reference,
    Tokens,
    Totals,
    UsageSource,
)

Document: TypeAlias = dict[str, Any]

CONVERSATIONS = "conversations"
APPENDS = "appends"
# The next character after ":", so that it ends the range of everything under a key.
AFTER_COLON = ";"
LAST_SEQ = 10**12 - 1

REQUEST_INDEX = "request"
MESSAGE_INDEX = "message"

CONVERSATION_INDEXES = [
    IndexModel(
        [("tenant_id", ASCENDING), ("user_id", ASCENDING), ("last_activity_time", DESCENDING), ("_id", DESCENDING)],
        name="of_user",
    ),
    IndexModel(
        [("tenant_id", ASCENDING), ("last_activity_time", DESCENDING), ("_id", DESCENDING)],
        name="of_tenant",
    ),
    IndexModel(
        [
            ("tenant_id", ASCENDING),
            ("assistant_id", ASCENDING),
            ("last_activity_time", DESCENDING),
            ("_id", DESCENDING),
        ],
        name="of_assistant",
        partialFilterExpression={"assistant_id": {"$gt": ""}},
    ),
]
APPEND_INDEXES = [
    IndexModel(
        [("tenant_id", ASCENDING), ("conversation_id", ASCENDING), ("request_id", ASCENDING)],
        name=REQUEST_INDEX,
        unique=True,
        partialFilterExpression={"request_id": {"$exists": True}},
    ),
    IndexModel(
        [("tenant_id", ASCENDING), ("conversation_id", ASCENDING), ("messages.message_id", ASCENDING)],
        name=MESSAGE_INDEX,
        unique=True,
    ),
]

# What a message need not say when it is so.
_DEFAULTS: Document = {
    field.name: field.default for field in fields(Draft) if field.name not in ("type", "text", "message_id")
}


def conversation_key(tenant_id: str, conversation_id: str) -> str:
    """`_id` of a header."""
    return f"{tenant_id}:{conversation_id}"


def append_key(conversation: str, first_seq: int) -> str:
    """`_id` of the append that starts at `first_seq`, in the conversation of that key."""
    return f"{conversation}:{min(first_seq, LAST_SEQ):012d}"


def appends_of(conversation: str) -> Document:
    """All appends of the conversation of that key, as a range of `_id`."""
    return {"_id": {"$gt": f"{conversation}:", "$lt": f"{conversation}{AFTER_COLON}"}}


def new_header(new: NewConversation, tenant_id: str, at: datetime) -> Document:
    """The header of a conversation without messages."""
    request = {"request_id": new.request_id, "fingerprint": new.fingerprint} if new.request_id else {}
    return {
        "_id": conversation_key(tenant_id, new.conversation_id),
        "tenant_id": tenant_id,
        "conversation_id": new.conversation_id,
        "user_id": new.user_id,
        "assistant_id": new.assistant_id,
        "team_id": new.team_id,
        "title": new.title,
        "channel": new.channel,
        "metadata": new.metadata,
        "create_time": at,
        **request,
        "last_seq": 0,
        "last_activity_time": at,
        "totals": _totals_document(Totals()),
        "preview": "",
    }


def new_append(header: Mapping[str, Any], before: Totals, batch: Batch, at: datetime) -> Document:
    """The append of `batch` after `before`; it knows all that the header can be brought up to date with."""
    first_seq = before.messages + 1
    request = {"request_id": batch.request_id} if batch.request_id else {}
    return {
        "_id": append_key(header["_id"], first_seq),
        "tenant_id": header["tenant_id"],
        "conversation_id": header["conversation_id"],
        "first_seq": first_seq,
        "n": len(batch.drafts),
        **request,
        "fingerprint": batch.fingerprint,
        "create_time": at,
        "totals": _totals_document(before.after(batch.drafts)),
        "preview": batch.preview,
        "user_id": header["user_id"],
        "assistant_id": header["assistant_id"],
        "team_id": header["team_id"],
        "channel": header["channel"],
        "messages": [_message_document(draft) for draft in batch.drafts],
    }


def header_after(append: Mapping[str, Any]) -> Document:
    """The fields of the header once the append is its last one."""
    return {
        "last_seq": append["totals"]["messages"],
        "last_activity_time": append["create_time"],
        "totals": append["totals"],
        "preview": append["preview"],
    }


def conversation_of(header: Mapping[str, Any]) -> Conversation:
    """The conversation of a header."""
    return Conversation(
        conversation_id=header["conversation_id"],
        tenant_id=header["tenant_id"],
        user_id=header["user_id"],
        assistant_id=header["assistant_id"],
        team_id=header["team_id"],
        title=header["title"],
        channel=header["channel"],
        metadata=header["metadata"],
        create_time=header["create_time"],
        last_activity_time=header["last_activity_time"],
        totals=totals_of(header["totals"]),
        preview=header["preview"],
    )


def messages_of(append: Mapping[str, Any]) -> list[Message]:
    """The messages of an append at their places."""
    at = append["create_time"]
    return [Message(seq, at, _draft_of(each)) for seq, each in enumerate(append["messages"], append["first_seq"])]


def event_of(collection: str, document: Mapping[str, Any], resume_token: str) -> Event:
    """What the insertion of the document tells the feed: its id is the document's, so it never changes."""
    return Event(
        resume_token=resume_token,
        event_id=document["_id"],
        tenant_id=document["tenant_id"],
        conversation_id=document["conversation_id"],
        time=document["create_time"],
        what=conversation_of(document).as_created() if collection == CONVERSATIONS else _appended_of(document),
    )


def totals_of(document: Mapping[str, Any]) -> Totals:
    """Sums as they were written down."""
    return Totals(document["messages"], _tokens_of(document["tokens"]), document["cost_micros"])


def _appended_of(append: Mapping[str, Any]) -> Appended:
    return Appended(
        messages=tuple(messages_of(append)),
        user_id=append["user_id"],
        assistant_id=append["assistant_id"],
        team_id=append["team_id"],
        channel=append["channel"],
    )


def _totals_document(totals: Totals) -> Document:
    return {
        "messages": totals.messages,
        "tokens": _tokens_document(totals.tokens),
        "cost_micros": totals.cost_micros,
    }


def _message_document(draft: Draft) -> Document:
    document: Document = {"message_id": draft.message_id, "type": draft.type.value, "text": draft.text}
    for name, default in _DEFAULTS.items():
        value = getattr(draft, name)
        if value != default:
            document[name] = _WRITERS[name](value) if name in _WRITERS else value
    return document


def _draft_of(document: Mapping[str, Any]) -> Draft:
    """The names in the document are those of the draft; what it leaves out is as the draft has it by default."""
    facts = dict(document)
    for name, read in _READERS.items():
        if name in facts:
            facts[name] = read(facts[name])
    return Draft(**facts)


def _reference_document(reference: Reference) -> Document:
    return {name: getattr(reference, name) for name in Reference.__slots__}


def _tokens_document(tokens: Tokens) -> Document:
    return {name: getattr(tokens, name) for name in Tokens.__slots__}


def _tokens_of(document: Mapping[str, int]) -> Tokens:
    return Tokens(**document)


# Looking a member up by its value in a dict takes a fifth of what asking the enum takes.
_READERS: dict[str, Callable[[Any], Any]] = {
    "type": {kind.value: kind for kind in MessageType}.__getitem__,
    "status": {status.value: status for status in MessageStatus}.__getitem__,
    "usage_source": {source.value: source for source in UsageSource}.__getitem__,
    "tokens": _tokens_of,
    "references": lambda documents: tuple(Reference(**each) for each in documents),
}
_WRITERS: dict[str, Callable[[Any], Any]] = {
    "status": lambda status: status.value,
    "usage_source": lambda source: source.value,
    "tokens": _tokens_document,
    "references": lambda references: [_reference_document(each) for each in references],
}
