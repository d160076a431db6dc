"""Proto ↔ model, both ways."""

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from google.protobuf.struct_pb2 import Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

from prosa.chat_store.v1 import conversation_service_pb2 as pb
from prosa.chat_store.v1 import feed_service_pb2 as feed_pb
from prosa.common.v1 import usage_pb2
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
    UsageSource,
    Window,
)
from shared.errors import FieldViolation, InvalidArgument
from shared.identifiers import derived_id, new_id

_TYPES = {
    pb.MESSAGE_TYPE_USER: MessageType.USER,
    pb.MESSAGE_TYPE_ASSISTANT: MessageType.ASSISTANT,
    pb.MESSAGE_TYPE_TEAM: MessageType.TEAM,
    pb.MESSAGE_TYPE_SYSTEM: MessageType.SYSTEM,
    pb.MESSAGE_TYPE_ERROR: MessageType.ERROR,
}
_STATUSES = {
    pb.MESSAGE_STATUS_UNSPECIFIED: MessageStatus.COMPLETE,
    pb.MESSAGE_STATUS_COMPLETE: MessageStatus.COMPLETE,
    pb.MESSAGE_STATUS_INTERRUPTED: MessageStatus.INTERRUPTED,
    pb.MESSAGE_STATUS_ERROR: MessageStatus.ERROR,
}
_SOURCES = {
    usage_pb2.USAGE_SOURCE_UNSPECIFIED: UsageSource.UNSTATED,
    usage_pb2.USAGE_SOURCE_PROVIDER: UsageSource.PROVIDER,
    usage_pb2.USAGE_SOURCE_PARTIAL: UsageSource.PARTIAL,
    usage_pb2.USAGE_SOURCE_ESTIMATED: UsageSource.ESTIMATED,
}
_TYPES_OUT = {kind: number for number, kind in _TYPES.items()}
_STATUSES_OUT = {status: number for number, status in _STATUSES.items()}
_SOURCES_OUT = {source: number for number, source in _SOURCES.items()}


def new_conversation(request: pb.CreateConversationRequest, tenant_id: str, user_id: str) -> NewConversation:
    """What the caller wants; without an id, a request_id gives the same one each time, for this user."""
    derived = derived_id("conversation", tenant_id, user_id, request.request_id) if request.request_id else ""
    return NewConversation(
        conversation_id=request.conversation_id or derived or new_id(),
        user_id=user_id,
        assistant_id=request.assistant_id,
        team_id=request.team_id,
        title=request.title,
        channel=request.channel,
        metadata=_json_of(request.metadata, "metadata"),
        request_id=request.request_id,
    )


def batch(request: pb.AppendMessagesRequest, user_id: str) -> Batch:
    """The messages to append; a USER message that names nobody is from `user_id`."""
    drafts = [_draft(each, f"messages[{index}]", user_id) for index, each in enumerate(request.messages)]
    return Batch.of(drafts, request.request_id, new_id)


def window(request: pb.ListMessagesRequest, limit: int) -> Window:
    """The messages asked for, before any page token."""
    return Window(
        after_seq=request.after_seq,
        before_seq=request.before_seq,
        newest_first=request.order == pb.MESSAGE_ORDER_NEWEST_FIRST,
        limit=limit,
    )


def conversation(kept: Conversation) -> pb.Conversation:
    """A conversation as clients see it."""
    return pb.Conversation(
        conversation_id=kept.conversation_id,
        user_id=kept.user_id,
        assistant_id=kept.assistant_id,
        team_id=kept.team_id,
        title=kept.title,
        channel=kept.channel,
        status=pb.CONVERSATION_STATUS_ACTIVE,
        metadata=_struct_of(kept.metadata),
        message_count=kept.totals.messages,
        usage=_usage(kept.totals.tokens),
        cost_micros=kept.totals.cost_micros,
        last_message_preview=kept.preview,
        create_time=_timestamp(kept.create_time),
        last_activity_time=_timestamp(kept.last_activity_time),
    )


def messages(kept: Iterable[Message]) -> list[pb.Message]:
    """Messages as clients see them."""
    return [_message(each) for each in kept]


def event(happened: Event) -> feed_pb.Event:
    """An event as consumers see it."""
    sent = feed_pb.Event(
        event_id=happened.event_id,
        resume_token=happened.resume_token,
        tenant_id=happened.tenant_id,
        conversation_id=happened.conversation_id,
    )
    if happened.time is not None:
        sent.event_time.CopyFrom(_timestamp(happened.time))
    match happened.what:
        case Conversation() as created:
            sent.conversation_created.conversation.CopyFrom(conversation(created))
        case Appended() as appended:
            sent.messages_appended.CopyFrom(_appended(appended))
        case None:
            pass
    return sent


def _appended(appended: Appended) -> feed_pb.MessagesAppended:
    return feed_pb.MessagesAppended(
        messages=messages(appended.messages),
        user_id=appended.user_id,
        assistant_id=appended.assistant_id,
        team_id=appended.team_id,
        channel=appended.channel,
    )


def _draft(sent: pb.Message, path: str, user_id: str) -> Draft:
    kind = _TYPES[sent.type]
    return Draft(
        type=kind,
        text=sent.text,
        message_id=sent.message_id,
        user_id=sent.user_id or (user_id if kind is MessageType.USER else ""),
        assistant_id=sent.assistant_id,
        team_id=sent.team_id,
        status=_STATUSES[sent.status],
        rag=sent.rag,
        references=tuple(_reference_of(each) for each in sent.references),
        tokens=Tokens(
            input=sent.usage.input_tokens,
            cached_input=sent.usage.cached_input_tokens,
            output=sent.usage.output_tokens,
            reasoning=sent.usage.reasoning_tokens,
        ),
        usage_source=_SOURCES[sent.usage_source],
        cost_micros=sent.cost_micros,
        model=sent.model,
        latency_ms=sent.latency_ms,
        time_to_first_token_ms=sent.time_to_first_token_ms,
        finish_reason=sent.finish_reason,
        error_reason=sent.error_reason,
        metadata=_json_of(sent.metadata, f"{path}.metadata"),
    )


def _message(kept: Message) -> pb.Message:
    draft = kept.draft
    sent = pb.Message(
        message_id=draft.message_id,
        seq=kept.seq,
        type=_TYPES_OUT[draft.type],
        text=draft.text,
        user_id=draft.user_id,
        assistant_id=draft.assistant_id,
        team_id=draft.team_id,
        status=_STATUSES_OUT[draft.status],
        rag=draft.rag,
        references=[_reference(each) for each in draft.references],
        usage_source=_SOURCES_OUT[draft.usage_source],
        cost_micros=draft.cost_micros,
        model=draft.model,
        latency_ms=draft.latency_ms,
        time_to_first_token_ms=draft.time_to_first_token_ms,
        finish_reason=draft.finish_reason,
        error_reason=draft.error_reason,
        metadata=_struct_of(draft.metadata),
        create_time=_timestamp(kept.create_time),
    )
    if draft.tokens != Tokens() or draft.usage_source is not UsageSource.UNSTATED:
        sent.usage.CopyFrom(_usage(draft.tokens))
    return sent


def _reference_of(sent: pb.Reference) -> Reference:
    return Reference(**{name: getattr(sent, name) for name in Reference.__slots__})


def _reference(kept: Reference) -> pb.Reference:
    return pb.Reference(**{name: getattr(kept, name) for name in Reference.__slots__})


def _usage(tokens: Tokens) -> usage_pb2.TokenUsage:
    return usage_pb2.TokenUsage(
        input_tokens=tokens.input,
        cached_input_tokens=tokens.cached_input,
        output_tokens=tokens.output,
        reasoning_tokens=tokens.reasoning,
    )


def _timestamp(moment: datetime) -> Timestamp:
    sent = Timestamp()
    sent.FromDatetime(moment.astimezone(UTC))
    return sent


def _json_of(sent: Struct, path: str) -> str:
    """The client's data as JSON text, "" for none; InvalidArgument for what JSON cannot say."""
    if not sent.fields:
        return ""
    plain = {key: _plain(value) for key, value in sent.fields.items()}
    try:
        return json.dumps(plain, allow_nan=False, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    except ValueError:
        violation = FieldViolation(path, "must hold only numbers that JSON knows", "metadata.json")
        raise InvalidArgument(violations=[violation]) from None


def _plain(value: Value) -> Any:
    match value.WhichOneof("kind"):
        case "struct_value":
            return {key: _plain(each) for key, each in value.struct_value.fields.items()}
        case "list_value":
            return [_plain(each) for each in value.list_value.values]
        case "number_value":
            return value.number_value
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case _:
            return None


def _struct_of(text: str) -> Struct | None:
    if not text:
        return None
    sent = Struct()
    sent.update(json.loads(text))
    return sent
