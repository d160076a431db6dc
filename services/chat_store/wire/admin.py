"""What administrators ask for and are told: proto ↔ model."""

from collections.abc import Mapping
from typing import Any

from prosa.chat_store.v1 import admin_service_pb2 as pb
from services.chat_store.audit_trail import Numbered, Proof, TrailPlace, TrailSelection
from services.chat_store.audited import resource_of
from services.chat_store.entries import Entry, EntryKind
from services.chat_store.model import Conversation, Message
from services.chat_store.pages import LAST_SEQ, Position, edited_token
from services.chat_store.policy import Policy
from services.chat_store.privacy import Counts, Receipt, Record, TextPiece
from services.chat_store.wire.conversations import conversation_to_proto
from services.chat_store.wire.entries import event_to_proto, task_to_proto
from services.chat_store.wire.messages import message_to_proto
from services.chat_store.wire.values import (
    changed_fields,
    duration_to_proto,
    period_of,
    seconds_of,
    timestamp_to_proto,
)
from shared.paging import JSON

_NUMBERS = frozenset({"retention_days", "max_messages", "purge_after_days"})


def policy_changes(request: pb.UpdatePolicyRequest) -> dict[str, int]:
    """The fields of a Policy that the mask names, with their new values."""
    sent = request.policy
    paths = changed_fields(sent, request.update_mask.paths, (*_NUMBERS, "default_ttl"), "policy")
    changes: dict[str, int] = {path: getattr(sent, path) for path in paths & _NUMBERS}
    return changes | ({"ttl_seconds": seconds_of(sent.default_ttl)} if "default_ttl" in paths else {})


def policy_to_proto(policy: Policy) -> pb.RetentionPolicy:
    """A policy as its tenant sees it."""
    return pb.RetentionPolicy(
        retention_days=policy.retention_days,
        max_messages=policy.max_messages,
        default_ttl=duration_to_proto(policy.ttl_seconds),
        purge_after_days=policy.purge_after_days,
    )


def record_to_proto(told: Record | Counts) -> pb.UserRecord:
    """A piece of an export."""
    if not isinstance(told, Record):
        return pb.UserRecord(completed=pb.ExportCompleted(items=_counts_to_proto(told)))
    sent, name = pb.UserRecord(conversation_id=told.conversation_id), told.conversation_id
    match told.what:
        case Conversation() as conversation:
            sent.conversation.CopyFrom(conversation_to_proto(conversation))
        case Message() as message:
            sent.conversation_message.CopyFrom(message_to_proto(message))
        case TextPiece() as piece:
            text = pb.MessageText(message_id=piece.message_id, offset_bytes=piece.offset_bytes, text=piece.text)
            sent.message_text.CopyFrom(text)
        case Entry(kind=EntryKind.TASK) as task:
            sent.task.CopyFrom(task_to_proto(task, name))
        case Entry() as event:
            sent.event.CopyFrom(event_to_proto(event, name))
    return sent


def receipt_to_proto(receipt: Receipt) -> pb.ErasureReceipt:
    """What an erasure did."""
    return pb.ErasureReceipt(
        user_id=receipt.user_id,
        erase_time=timestamp_to_proto(receipt.erase_time),
        items=_counts_to_proto(receipt.items),
        residue=_counts_to_proto(receipt.residue),
        verified=receipt.verified,
    )


def trail_selection(request: pb.ListAuditEntriesRequest, position: Position, limit: int) -> TrailSelection:
    """The entries asked for."""
    return TrailSelection(
        actor=request.actor,
        resource=resource_of(conversation_id=request.conversation_id),
        period=period_of(request, "time"),
        before=_trail_place(position),
        limit=limit,
    )


def trail_position(place: TrailPlace) -> dict[str, JSON]:
    """The position where the rest of the entries begins."""
    return {"l": place.link, "i": place.index}


def audit_entry_to_proto(kept: Numbered) -> pb.AuditEntry:
    """An entry as the audit's readers see it."""
    entry = kept.entry
    return pb.AuditEntry(
        number=kept.number,
        time=timestamp_to_proto(entry.time),
        actor=entry.actor,
        on_behalf_of=entry.on_behalf_of,
        action=entry.action,
        resource=entry.resource,
        outcome=entry.outcome,
    )


def proof_to_proto(proof: Proof) -> pb.AuditProof:
    """How far the chain is proven."""
    return pb.AuditProof(
        entry_count=proof.entries,
        link_count=proof.links,
        done=proof.done,
        intact=proof.done and not proof.broken_entry,
        first_broken_number=proof.broken_entry,
        end_hash=proof.end,
    )


def _counts_to_proto(counts: Mapping[str, int]) -> list[pb.CollectionCount]:
    return [pb.CollectionCount(collection=name, count=count) for name, count in counts.items()]


def _trail_place(position: dict[str, Any] | None) -> TrailPlace | None:
    match position:
        case None:
            return None
        case {"l": int(link), "i": int(index)} if 0 < link <= LAST_SEQ and 0 <= index <= LAST_SEQ:
            return TrailPlace(link, index)
    raise edited_token()
