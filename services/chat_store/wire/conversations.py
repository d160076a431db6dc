"""Conversations: proto ↔ model."""

from collections.abc import Iterable

from prosa.chat_store.v1 import conversation_service_pb2 as pb
from services.chat_store.acts import Describe
from services.chat_store.model import Conversation, ConversationStatus, Description, NewConversation
from services.chat_store.selection import LISTED, Place, Selection
from services.chat_store.wire.messages import usage_to_proto
from services.chat_store.wire.values import (
    changed_fields,
    duration_to_proto,
    json_of,
    period_of,
    seconds_of,
    set_time,
    struct_of,
    timestamp_to_proto,
)
from shared.identifiers import derived_id, new_id

_STATUSES = {
    pb.CONVERSATION_STATUS_ACTIVE: ConversationStatus.ACTIVE,
    pb.CONVERSATION_STATUS_ARCHIVED: ConversationStatus.ARCHIVED,
    pb.CONVERSATION_STATUS_FINALIZED: ConversationStatus.FINALIZED,
    pb.CONVERSATION_STATUS_DELETED: ConversationStatus.DELETED,
}
_STATUSES_OUT = {status: number for number, status in _STATUSES.items()}
_CHANGEABLE = ("title", "context", "metadata", "ttl")
_TIMES = ("expire_time", "archive_time", "finalize_time", "delete_time", "purge_time")


def new_conversation(
    request: pb.CreateConversationRequest, tenant_id: str, user_id: str, default_ttl_seconds: int
) -> NewConversation:
    """What the caller wants; without an id, a request_id gives the same one each time, for this user."""
    derived = derived_id("conversation", tenant_id, user_id, request.request_id) if request.request_id else ""
    wanted = request.HasField("ttl")
    return NewConversation(
        conversation_id=request.conversation_id or derived or new_id(),
        user_id=user_id,
        assistant_id=request.assistant_id,
        team_id=request.team_id,
        channel=request.channel,
        description=Description(
            title=request.title,
            context=json_of(request.context, "context"),
            metadata=json_of(request.metadata, "metadata"),
            ttl_seconds=seconds_of(request.ttl) if wanted else default_ttl_seconds,
        ),
        request_id=request.request_id,
        has_default_ttl=not wanted,
    )


def changes_of(request: pb.UpdateConversationRequest, actor: str) -> Describe:
    """The fields that the mask names, with their new values."""
    sent = request.conversation
    paths = changed_fields(sent, request.update_mask.paths, _CHANGEABLE, "conversation")
    return Describe(
        actor=actor,
        request_id=request.request_id,
        title=sent.title if "title" in paths else None,
        context=json_of(sent.context, "conversation.context") if "context" in paths else None,
        metadata=json_of(sent.metadata, "conversation.metadata") if "metadata" in paths else None,
        ttl_seconds=seconds_of(sent.ttl) if "ttl" in paths else None,
        revision=request.revision if request.HasField("revision") else None,
    )


def selection_of(request: pb.ListConversationsRequest, after: Place | None, limit: int) -> Selection:
    """The conversations asked for, from that place on."""
    return Selection(
        assistant_id=request.assistant_id,
        team_id=request.team_id,
        statuses=statuses_of(request.statuses),
        created=period_of(request, "create_time"),
        active=period_of(request, "activity_time"),
        after=after,
        limit=limit,
    )


def statuses_of(sent: Iterable[pb.ConversationStatus.ValueType]) -> frozenset[ConversationStatus]:
    """The states asked for; without any, those of conversations that people see in a list."""
    return frozenset(_STATUSES[each] for each in sent) or LISTED


def conversation_to_proto(kept: Conversation) -> pb.Conversation:
    """A conversation as clients see it."""
    description = kept.description
    sent = pb.Conversation(
        conversation_id=kept.conversation_id,
        user_id=kept.user_id,
        assistant_id=kept.assistant_id,
        team_id=kept.team_id,
        title=description.title,
        channel=kept.channel,
        status=_STATUSES_OUT[kept.status],
        metadata=struct_of(description.metadata),
        message_count=kept.totals.messages,
        usage=usage_to_proto(kept.totals.tokens),
        cost_micros=kept.totals.cost_micros,
        last_message_preview=kept.preview,
        create_time=timestamp_to_proto(kept.create_time),
        last_activity_time=timestamp_to_proto(kept.last_activity_time),
        context=struct_of(description.context),
        revision=kept.revision,
        ttl=duration_to_proto(description.ttl_seconds),
        finalize_reason=kept.finalize_reason,
        analysis_ids=kept.analysis_ids,
        first_seq=kept.first_seq,
    )
    for name in _TIMES:
        set_time(sent, name, getattr(kept, name))
    return sent


def stats_to_proto(kept: Conversation) -> pb.ConversationStats:
    """What a conversation sums up to."""
    totals = kept.totals
    return pb.ConversationStats(
        conversation_id=kept.conversation_id,
        message_count=totals.messages,
        usage=usage_to_proto(totals.tokens),
        cost_micros=totals.cost_micros,
        response_count=totals.responses,
        average_response_ms=round(totals.response_ms / totals.responses) if totals.responses else 0,
        create_time=timestamp_to_proto(kept.create_time),
        last_activity_time=timestamp_to_proto(kept.last_activity_time),
    )
