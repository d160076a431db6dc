"""From the feed's events to facts."""

from google.protobuf.message import DecodeError

from prosa.chat_store.v1 import conversation_service_pb2 as chat_pb
from prosa.chat_store.v1 import feed_service_pb2 as feed_pb
from prosa.common.v1 import usage_pb2
from services.analytics.model import (
    MAX_COST_MICROS,
    MAX_TOKENS,
    Ending,
    Fact,
    MessageFact,
    Speaker,
    UncountableEventError,
)
from services.analytics.wire import moment_of

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
