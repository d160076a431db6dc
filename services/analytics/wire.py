"""Between the contracts and the model: events in, questions in, reports out."""

from datetime import UTC, datetime
from typing import Literal

from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

from prosa.analytics.v1 import report_service_pb2 as pb
from prosa.chat_store.v1 import conversation_service_pb2 as chat_pb
from prosa.chat_store.v1 import feed_service_pb2 as feed_pb
from prosa.common.v1 import usage_pb2
from services.analytics.model import (
    HOUR,
    LATEST,
    MAX_COST_MICROS,
    MAX_TOKENS,
    Dimension,
    Ending,
    Fact,
    Figures,
    Grain,
    MessageFact,
    Speaker,
    UncountableEventError,
    UsageQuery,
    UsageReport,
    UsageRow,
)

_SPEAKERS = {
    chat_pb.MESSAGE_TYPE_USER: Speaker.USER,
    chat_pb.MESSAGE_TYPE_ASSISTANT: Speaker.ASSISTANT,
    chat_pb.MESSAGE_TYPE_TEAM: Speaker.TEAM,
    chat_pb.MESSAGE_TYPE_SYSTEM: Speaker.SYSTEM,
    chat_pb.MESSAGE_TYPE_ERROR: Speaker.ERROR,
}
_ENDINGS = {
    chat_pb.MESSAGE_STATUS_UNSPECIFIED: Ending.COMPLETE,
    chat_pb.MESSAGE_STATUS_COMPLETE: Ending.COMPLETE,
    chat_pb.MESSAGE_STATUS_INTERRUPTED: Ending.INTERRUPTED,
    chat_pb.MESSAGE_STATUS_ERROR: Ending.ERROR,
}
_SOURCES = {
    usage_pb2.USAGE_SOURCE_PROVIDER: "provider",
    usage_pb2.USAGE_SOURCE_PARTIAL: "partial",
    usage_pb2.USAGE_SOURCE_ESTIMATED: "estimated",
}
_DIMENSIONS = {
    pb.DIMENSION_MODEL: Dimension.MODEL,
    pb.DIMENSION_USER: Dimension.USER,
    pb.DIMENSION_ASSISTANT: Dimension.ASSISTANT,
}


def countable(event: feed_pb.Event) -> bool:
    """Whether the event has an effect on the rollups: not what changes later, nor what a newer chat_store tells."""
    return event.WhichOneof("payload") == "messages_appended"


def entry_bytes(event: feed_pb.Event) -> bytes:
    """The event as it travels in the stream: without anybody's words, which no figure needs."""
    for message in event.messages_appended.messages:
        for field in ("text", "parts", "references", "metadata"):
            message.ClearField(field)
    return event.SerializeToString()


def fact_of(entry: bytes) -> Fact:
    """The fact in a stream entry; UncountableEventError when there is none."""
    try:
        event = feed_pb.Event.FromString(entry)
    except DecodeError:
        raise UncountableEventError("undecodable") from None
    try:
        return _fact(event)
    except ValueError as error:
        raise UncountableEventError(str(error), event_id=event.event_id, tenant_id=event.tenant_id) from None


def _fact(event: feed_pb.Event) -> Fact:
    for field in ("event_id", "tenant_id"):
        if not getattr(event, field):
            raise ValueError(f"no {field}")
    if not countable(event):
        raise ValueError("nothing to count")
    appended = event.messages_appended
    return Fact(
        event_id=event.event_id,
        tenant_id=event.tenant_id,
        conversation_id=event.conversation_id,
        channel=appended.channel,
        messages=tuple(_message(message, appended) for message in appended.messages),
    )


def _message(message: chat_pb.Message, appended: feed_pb.MessagesAppended) -> MessageFact:
    if message.type not in _SPEAKERS or message.status not in _ENDINGS:
        raise ValueError("a message of unknown type or status")
    if not message.HasField("create_time"):
        raise ValueError("a message without create_time")
    usage = message.usage
    return MessageFact(
        message_id=message.message_id,
        seq=message.seq,
        speaker=_SPEAKERS[message.type],
        ending=_ENDINGS[message.status],
        create_time=moment_of(message.create_time),
        user_id=message.user_id or appended.user_id,
        assistant_id=message.assistant_id or appended.assistant_id,
        team_id=message.team_id or appended.team_id,
        model=message.model,
        rag=message.rag,
        input_tokens=_within(usage.input_tokens, MAX_TOKENS),
        cached_input_tokens=_within(usage.cached_input_tokens, MAX_TOKENS),
        output_tokens=_within(usage.output_tokens, MAX_TOKENS),
        reasoning_tokens=_within(usage.reasoning_tokens, MAX_TOKENS),
        usage_source=_SOURCES.get(message.usage_source, ""),
        cost_micros=_within(message.cost_micros, MAX_COST_MICROS),
        latency_ms=message.latency_ms,
        time_to_first_token_ms=message.time_to_first_token_ms,
        finish_reason=message.finish_reason,
        error_reason=message.error_reason,
    )


def _within(amount: int, most: int) -> int:
    if not 0 <= amount <= most:
        raise ValueError(f"an amount of {amount}")
    return amount


def moment_of(timestamp: Timestamp) -> datetime:
    """The moment, UTC; ValueError when it is outside the calendar."""
    try:
        return timestamp.ToDatetime(UTC)
    except (ValueError, OverflowError):
        raise ValueError("a time outside the calendar") from None


def _asked_moment(request: pb.GetUsageReportRequest, field: Literal["start_time", "end_time"]) -> datetime | None:
    try:
        return moment_of(getattr(request, field)) if request.HasField(field) else None
    except ValueError:
        return LATEST + HOUR  # the model refuses it, naming the field


def query_of(request: pb.GetUsageReportRequest, tenant_id: str, now: datetime) -> UsageQuery:
    """The question asked, defaults filled in; InvalidArgument when it makes no sense."""
    return UsageQuery.of(
        tenant_id,
        start=_asked_moment(request, "start_time"),
        end=_asked_moment(request, "end_time"),
        grain=Grain.HOUR if request.grain == pb.GRAIN_HOUR else Grain.DAY,
        group_by=[_DIMENSIONS[dimension] for dimension in request.group_by],
        time_zone=request.time_zone,
        now=now,
    )


def report_out(report: UsageReport) -> pb.GetUsageReportResponse:
    """The answer as the contract has it."""
    response = pb.GetUsageReportResponse(
        rows=[_row(row, report.group_by) for row in report.rows],
        total=_figures(report.total),
        documents_examined=report.documents_examined,
    )
    if report.counted_until:
        response.counted_until_time.FromDatetime(report.counted_until)
    return response


def _row(row: UsageRow, group_by: tuple[Dimension, ...]) -> pb.UsageRow:
    shown = _figures(row.figures)
    shown.start_time.FromDatetime(row.start)
    for dimension, value in zip(group_by, row.split, strict=True):
        setattr(shown, dimension.value, value)
    return shown


def _figures(figures: Figures) -> pb.UsageRow:
    return pb.UsageRow(
        turns=figures.turns,
        rag_turns=figures.rag_turns,
        errors=figures.errors,
        user_messages=figures.user_messages,
        usage=usage_pb2.TokenUsage(
            input_tokens=figures.input_tokens,
            cached_input_tokens=figures.cached_input_tokens,
            output_tokens=figures.output_tokens,
            reasoning_tokens=figures.reasoning_tokens,
        ),
        cost_micros=figures.cost_micros,
    )
