"""From the feed's events to facts and news."""

from typing import TypeAlias

from google.protobuf.message import DecodeError

from prosa.chat_store.v1 import conversation_service_pb2 as chat_pb
from prosa.chat_store.v1 import feed_service_pb2 as feed_pb
from prosa.common.v1 import usage_pb2
from services.analytics.intake.streams import Kind
from services.analytics.model import (
    MAX_COST_MICROS,
    MAX_TOKENS,
    Axis,
    Ending,
    Fact,
    Finalized,
    MessageFact,
    Purged,
    Speaker,
    Statement,
    Subject,
    UncountableEventError,
)
from services.analytics.rollups.names import GENERATED_RATINGS, RATING, RATINGS
from services.analytics.wire import moment_of

News: TypeAlias = Statement | Finalized | Purged

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
SOURCES = {
    usage_pb2.USAGE_SOURCE_PROVIDER: "provider",
    usage_pb2.USAGE_SOURCE_PARTIAL: "partial",
    usage_pb2.USAGE_SOURCE_ESTIMATED: "estimated",
}


def kind_of(event: feed_pb.Event) -> Kind | None:
    """The stream of an event; None for those without effect: what is not counted, or what a newer chat_store tells."""
    match event.WhichOneof("payload"):
        case "messages_appended":
            return Kind.EXECUTION
        case "message_changed":
            return Kind.SESSION
        case "conversation_changed" if event.conversation_changed.conversation.HasField("finalize_time"):
            return Kind.SESSION
        case "conversation_purged":
            return Kind.SESSION
    return None


def entry_bytes(event: feed_pb.Event) -> bytes:
    """The event as it travels in the stream: without anybody's words."""
    for message in event.messages_appended.messages:
        _without_words(message)
    match event.WhichOneof("payload"):
        case "message_changed":
            _without_words(event.message_changed.message)
        case "conversation_changed":
            finalized = event.conversation_changed.conversation.finalize_time
            event.conversation_changed.CopyFrom(
                feed_pb.ConversationChanged(conversation=chat_pb.Conversation(finalize_time=finalized))
            )
    return event.SerializeToString()


def _without_words(message: chat_pb.Message) -> None:
    for field in ("text", "parts", "references", "metadata"):
        message.ClearField(field)
    if message.HasField("feedback"):
        message.feedback.ClearField("comment")


def fact_of(item: bytes) -> Fact:
    """The fact in an event of the feed; UncountableEventError when there is none."""
    event = _event(item)
    try:
        return _fact(event)
    except ValueError as error:
        raise UncountableEventError(str(error), event_id=event.event_id, tenant_id=event.tenant_id) from None


def news_of(item: bytes) -> News:
    """What an event of the feed says about feedback or a conversation's end; UncountableEventError when nothing."""
    event = _event(item)
    try:
        return _news(event)
    except ValueError as error:
        raise UncountableEventError(str(error), event_id=event.event_id, tenant_id=event.tenant_id) from None


def _event(item: bytes) -> feed_pb.Event:
    try:
        return feed_pb.Event.FromString(item)
    except DecodeError:
        raise UncountableEventError("undecodable") from None


def _named(event: feed_pb.Event) -> None:
    if not event.event_id:
        raise ValueError("no event_id")
    if not event.tenant_id:
        raise ValueError("no tenant_id")


def _fact(event: feed_pb.Event) -> Fact:
    _named(event)
    if event.WhichOneof("payload") != "messages_appended":
        raise ValueError("nothing to count")
    appended = event.messages_appended
    # Once: each walk over a repeated field makes its objects anew.
    messages = list(appended.messages)
    return Fact(
        event.event_id,
        event.tenant_id,
        event.conversation_id,
        appended.channel,
        tuple([_message(message, appended) for message in messages]),
        statements=tuple([_feedback(event, each, appended) for each in messages if each.HasField("feedback")]),
    )


def _news(event: feed_pb.Event) -> News:
    _named(event)
    match event.WhichOneof("payload"):
        case "message_changed":
            return _feedback(event, event.message_changed.message, event.message_changed)
        case "conversation_changed":
            finalized = event.conversation_changed.conversation.finalize_time
            return Finalized(event.event_id, event.tenant_id, event.conversation_id, moment_of(finalized))
        case "conversation_purged":
            return Purged(event.event_id, event.tenant_id, event.conversation_id, moment_of(event.event_time))
    raise ValueError("nothing to count")


def _message(message: chat_pb.Message, owner: feed_pb.MessagesAppended) -> MessageFact:
    speaker, ending = _SPEAKERS.get(message.type), _ENDINGS.get(message.status)
    if speaker is None or ending is None:
        raise ValueError("a message of unknown type or status")
    if not message.HasField("create_time"):
        raise ValueError("a message without create_time")
    usage = message.usage
    # By position, in the order of MessageFact: this is made for every message.
    return MessageFact(
        message.message_id,
        message.seq,
        speaker,
        ending,
        moment_of(message.create_time),
        message.user_id or owner.user_id,
        message.assistant_id or owner.assistant_id,
        message.team_id or owner.team_id,
        message.model,
        message.rag,
        within(usage.input_tokens, MAX_TOKENS),
        within(usage.cached_input_tokens, MAX_TOKENS),
        within(usage.output_tokens, MAX_TOKENS),
        within(usage.reasoning_tokens, MAX_TOKENS),
        SOURCES.get(message.usage_source, ""),
        within(message.cost_micros, MAX_COST_MICROS),
        within(message.latency_ms, MAX_TOKENS),
        within(message.time_to_first_token_ms, MAX_TOKENS),
        message.finish_reason,
        message.error_reason,
    )


def _feedback(
    event: feed_pb.Event, message: chat_pb.Message, owner: feed_pb.MessagesAppended | feed_pb.MessageChanged
) -> Statement:
    """What is thought of a message by now, counted in the hour of the message; nothing when nobody said anything."""
    if not message.HasField("create_time"):
        raise ValueError("a message without create_time")
    category = message.feedback.category
    return Statement(
        event_id=event.event_id,
        tenant_id=event.tenant_id,
        subject=Subject.FEEDBACK,
        subject_id=f"{event.conversation_id}/{message.message_id}",
        revision=message.revision,
        time=moment_of(message.create_time),
        counts=_feedback_counts(message.feedback),
        places=((Axis.FEEDBACK_CATEGORY.value, category),) if category else (),
        conversation_id=event.conversation_id,
        user_id=message.feedback.user_id or owner.user_id,
        assistant_id=message.assistant_id or owner.assistant_id,
        team_id=message.team_id or owner.team_id,
        channel=owner.channel,
        model=message.model,
    )


def _feedback_counts(feedback: chat_pb.Feedback) -> dict[str, int]:
    """By whom it was given decides where it counts: what the house thinks of itself is no rating by a person."""
    if not 1 <= feedback.rating <= 5:
        return {}
    if feedback.auto_generated:
        return {GENERATED_RATINGS: 1}
    return {RATINGS: 1, RATING[feedback.rating - 1]: 1}


def within(amount: int, most: int) -> int:
    """The amount; ValueError outside of 0 to `most`."""
    if not 0 <= amount <= most:
        raise ValueError(f"an amount of {amount}")
    return amount
