"""Messages: proto ↔ model."""

from collections.abc import Iterable
from operator import attrgetter
from typing import Any

from google.protobuf.struct_pb2 import Struct

from prosa.chat_store.v1 import conversation_service_pb2 as pb
from prosa.common.v1 import usage_pb2
from services.chat_store.acts import EditMessage
from services.chat_store.batch import Batch, check_draft, inline_of
from services.chat_store.model import (
    Draft,
    Feedback,
    Message,
    MessageStatus,
    MessageType,
    Part,
    PartKind,
    Reference,
    Sentiment,
    Tokens,
    UsageSource,
)
from services.chat_store.selection import Window
from services.chat_store.wire.identity_memo import IdentityMemo
from services.chat_store.wire.values import changed_fields, json_of, set_time, struct_of, timestamp_to_proto
from shared.identifiers import new_id

MESSAGE_TYPES = {
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
_SENTIMENTS = {
    pb.SENTIMENT_UNSPECIFIED: Sentiment.UNSTATED,
    pb.SENTIMENT_POSITIVE: Sentiment.POSITIVE,
    pb.SENTIMENT_NEUTRAL: Sentiment.NEUTRAL,
    pb.SENTIMENT_NEGATIVE: Sentiment.NEGATIVE,
}
_TYPES_OUT = {kind: number for number, kind in MESSAGE_TYPES.items()}
_STATUSES_OUT = {status: number for number, status in _STATUSES.items()}
_SOURCES_OUT = {source: number for number, source in _SOURCES.items()}
_SENTIMENTS_OUT = {sentiment: number for number, sentiment in _SENTIMENTS.items()}
_CHANGEABLE = ("text", "parts", "metadata")
_NO_TOKENS = Tokens()
# What a draft and its message call the same and say the same way.
_SAID = (
    "message_id",
    "text",
    "user_id",
    "assistant_id",
    "team_id",
    "rag",
    "cost_micros",
    "model",
    "latency_ms",
    "time_to_first_token_ms",
    "finish_reason",
    "error_reason",
    "reply_to",
)
_said = attrgetter(*_SAID)
_FILE_FIELDS = ("uri", "name", "mime_type", "size_bytes", "sha256")


def batch_of(request: pb.AppendMessagesRequest, user_id: str) -> Batch:
    """The messages to append; a USER message that names nobody is from `user_id`."""
    drafts = [_draft(each, f"messages[{index}]", user_id) for index, each in enumerate(request.messages)]
    return Batch.of(drafts, request.request_id, new_id)


def window_of(request: pb.ListMessagesRequest, limit: int) -> Window:
    """The messages asked for, before any page token."""
    return Window(
        after_seq=request.after_seq,
        before_seq=request.before_seq,
        newest_first=request.order == pb.MESSAGE_ORDER_NEWEST_FIRST,
        limit=limit,
    )


def edit_of(request: pb.UpdateMessageRequest, actor: str) -> EditMessage:
    """The fields that the mask names, with their new values."""
    sent = request.message
    paths = changed_fields(sent, request.update_mask.paths, _CHANGEABLE, "message")
    asked = Draft(
        type=MessageType.USER,  # no matter: it is not changed
        text=sent.text if "text" in paths else "",
        parts=_parts(sent.parts, "message") if "parts" in paths else (),
        metadata=json_of(sent.metadata, "message.metadata") if "metadata" in paths else "",
    )
    check_draft(asked, "message")
    kept, bodies = inline_of(asked)
    return EditMessage(
        actor=actor,
        request_id=request.request_id,
        text=kept.text if "text" in paths else None,
        body=kept.body,
        parts=kept.parts if "parts" in paths else None,
        metadata=kept.metadata if "metadata" in paths else None,
        revision=request.revision if request.HasField("revision") else None,
        bodies=bodies,
    )


def feedback_of(sent: pb.Feedback, user_id: str) -> Feedback:
    """What `user_id` thinks of a message."""
    return Feedback(
        rating=sent.rating,
        category=sent.category,
        comment=sent.comment,
        sentiment=_SENTIMENTS[sent.sentiment],
        auto_generated=sent.auto_generated,
        user_id=user_id,
    )


def framed(kept: Iterable[Message]) -> bytes:
    """Messages as the field `messages` of a response that lists them, to be read into one.

    The bytes of a message are kept with it, because a page mostly repeats the last one.
    """
    return b"".join([_frames.of(each) for each in kept])


def messages_to_proto(kept: Iterable[Message]) -> list[pb.Message]:
    """Messages as clients see them."""
    return [message_to_proto(each) for each in kept]


def message_to_proto(kept: Message) -> pb.Message:
    """A message as clients see it."""
    return pb.Message(**_fields(kept))


def _frame(kept: Message) -> bytes:
    page = pb.ListMessagesResponse()
    page.messages.add(**_fields(kept))
    return page.SerializeToString()


_frames = IdentityMemo(_frame)


def _fields(kept: Message) -> dict[str, Any]:
    """A page is many messages, most of which leave most fields empty: setting those too takes longer than the rest."""
    draft = kept.draft
    fields: dict[str, Any] = {name: value for name, value in zip(_SAID, _said(draft), strict=True) if value}
    fields["seq"] = kept.seq
    fields["type"] = _TYPES_OUT[draft.type]
    fields["status"] = _STATUSES_OUT[draft.status]
    fields["create_time"] = timestamp_to_proto(kept.create_time)
    if draft.usage_source is not UsageSource.UNSTATED or draft.tokens != _NO_TOKENS:
        fields["usage_source"] = _SOURCES_OUT[draft.usage_source]
        fields["usage"] = usage_to_proto(draft.tokens)
    if draft.metadata:
        fields["metadata"] = struct_of(draft.metadata)
    if draft.body is not None:
        fields["body"] = pb.Body(size_bytes=draft.body.size_bytes, sha256=draft.body.sha256)
    if draft.references:
        fields["references"] = [_reference_to_proto(each) for each in draft.references]
    if draft.parts:
        fields["parts"] = [_part_to_proto(each) for each in draft.parts]
    return fields | _changes(kept) if kept.revision else fields


def _changes(kept: Message) -> dict[str, Any]:
    return {
        "revision": kept.revision,
        "edit_count": kept.edits,
        "analysis_ids": kept.analysis_ids,
        "feedback": _feedback_to_proto(kept.feedback) if kept.feedback else None,
        "update_time": timestamp_to_proto(kept.update_time) if kept.update_time else None,
    }


def usage_to_proto(tokens: Tokens) -> usage_pb2.TokenUsage:
    """Tokens as clients see them."""
    return usage_pb2.TokenUsage(
        input_tokens=tokens.input,
        cached_input_tokens=tokens.cached_input,
        output_tokens=tokens.output,
        reasoning_tokens=tokens.reasoning,
    )


def _draft(sent: pb.Message, path: str, user_id: str) -> Draft:
    kind = MESSAGE_TYPES[sent.type]
    return Draft(
        type=kind,
        text=sent.text,
        message_id=sent.message_id,
        user_id=sent.user_id or (user_id if kind is MessageType.USER else ""),
        assistant_id=sent.assistant_id,
        team_id=sent.team_id,
        status=_STATUSES[sent.status],
        rag=sent.rag,
        references=tuple(map(_reference_of, sent.references)),
        tokens=_tokens_of(sent.usage) if sent.HasField("usage") else _NO_TOKENS,
        usage_source=_SOURCES[sent.usage_source],
        cost_micros=sent.cost_micros,
        model=sent.model,
        latency_ms=sent.latency_ms,
        time_to_first_token_ms=sent.time_to_first_token_ms,
        finish_reason=sent.finish_reason,
        error_reason=sent.error_reason,
        metadata=json_of(sent.metadata, f"{path}.metadata") if sent.HasField("metadata") else "",
        parts=_parts(sent.parts, path),
        reply_to=sent.reply_to,
    )


def _tokens_of(sent: usage_pb2.TokenUsage) -> Tokens:
    return Tokens(
        input=sent.input_tokens,
        cached_input=sent.cached_input_tokens,
        output=sent.output_tokens,
        reasoning=sent.reasoning_tokens,
    )


def _parts(sent: Iterable[pb.Part], path: str) -> tuple[Part, ...]:
    return tuple(_part(each, f"{path}.parts[{index}]") for index, each in enumerate(sent))


def _part(sent: pb.Part, path: str) -> Part:
    """The contract lets no part through that holds nothing."""
    match sent.WhichOneof("content"):
        case "text":
            return Part(PartKind.TEXT, text=sent.text)
        case "data":
            return Part(PartKind.DATA, data=json_of(sent.data, f"{path}.data"))
        case _:
            return Part(PartKind.FILE, **{name: getattr(sent.file, name) for name in _FILE_FIELDS})


def _part_to_proto(kept: Part) -> pb.Part:
    match kept.kind:
        case PartKind.TEXT:
            return pb.Part(text=kept.text)
        case PartKind.DATA:
            return pb.Part(data=struct_of(kept.data) or Struct())
        case PartKind.FILE:
            return pb.Part(file=pb.FileReference(**{name: getattr(kept, name) for name in _FILE_FIELDS}))


def _feedback_to_proto(kept: Feedback) -> pb.Feedback:
    sent = pb.Feedback(
        rating=kept.rating,
        category=kept.category,
        comment=kept.comment,
        sentiment=_SENTIMENTS_OUT[kept.sentiment],
        auto_generated=kept.auto_generated,
        user_id=kept.user_id,
    )
    set_time(sent, "update_time", kept.time)
    return sent


def _reference_of(sent: pb.Reference) -> Reference:
    return Reference(**{name: getattr(sent, name) for name in Reference.__slots__})


def _reference_to_proto(kept: Reference) -> pb.Reference:
    return pb.Reference(**{name: getattr(kept, name) for name in Reference.__slots__})
