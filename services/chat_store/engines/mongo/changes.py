"""The change log: one document per act, with the state that it left."""

from collections.abc import Mapping
from typing import Any, TypeAlias

from services.chat_store.engines.mongo import documents
from services.chat_store.engines.mongo.codec import Document, document_of, read
from services.chat_store.entries import Entry, EntryKind
from services.chat_store.model import Conversation, Message
from services.chat_store.snapshot import KeptChange

AnyState: TypeAlias = Conversation | Message | Entry

_KINDS: Mapping[str, type[Conversation] | type[Message] | type[Entry]] = {
    "conversation": Conversation,
    "message": Message,
    "entry": Entry,
}


def target_of(kind: type[AnyState], target_id: str = "", entry_kind: EntryKind | None = None) -> Document:
    """What a change is of."""
    if kind is Conversation:
        return {"of": "conversation"}
    if kind is Message:
        return {"of": "message", "message_id": target_id}
    return {"of": "entry", "kind": entry_kind.value if entry_kind else "", "entry_id": target_id}


def change_document(header: Mapping[str, Any], kept: KeptChange) -> Document:
    """A change of the conversation with that header."""
    request = {"request_id": kept.request_id} if kept.request_id else {}
    return {
        "_id": documents.change_key(header["_id"], kept.revision),
        **documents.facts_of(header),
        "revision": kept.revision,
        "time": kept.time,
        "actor": kept.actor,
        **request,
        "fingerprint": kept.fingerprint,
        **_target(kept.state),
        "state": document_of(kept.state),
        **_guests(kept, header["user_id"]),
    }


def kept_change(document: Mapping[str, Any]) -> KeptChange:
    """The change of a document."""
    names = ("tenant_id", "conversation_id", "since", "revision", "time", "actor", "fingerprint")
    facts = {name: document[name] for name in names}
    return KeptChange(**facts, request_id=document.get("request_id", ""), state=state_of(document))


def state_of(change: Mapping[str, Any]) -> AnyState:
    """What the act left."""
    return read(_KINDS[change["of"]], change["state"])


def _target(state: AnyState) -> Document:
    if isinstance(state, Message):
        return {**target_of(Message, state.message_id), "message_revision": state.revision}
    if isinstance(state, Entry):
        return target_of(Entry, state.entry_id, state.kind)
    return target_of(Conversation)


def _guests(kept: KeptChange, user_id: str) -> Document:
    """Whom the change names beside the conversation's user."""
    named = set(documents.guests_in([kept.state], user_id)) if isinstance(kept.state, Message) else set[str]()
    caused = {kept.state.actor} if isinstance(kept.state, Entry) else set[str]()
    guests = sorted((named | caused | {kept.actor}) - {user_id, ""})
    return {"guests": guests} if guests else {}
