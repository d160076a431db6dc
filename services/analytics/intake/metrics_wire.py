"""From the items of outside producers to facts, statements and wishes. The tenant is the caller's, never the item's."""

from datetime import datetime
from typing import TypeVar

from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

from prosa.analytics.v1 import metrics_service_pb2 as pb
from services.analytics.intake.wire import SOURCES
from services.analytics.model import (
    Axis,
    Ending,
    Fact,
    MessageFact,
    Speaker,
    Statement,
    Subject,
    UncountableEventError,
    Wish,
)
from services.analytics.rollups.names import ANALYSES, SENTIMENT_NEGATIVE, SENTIMENT_NEUTRAL, SENTIMENT_POSITIVE
from services.analytics.rollups.sessions import session_statement
from services.analytics.wire import moment_of

_ENDINGS = {
    pb.EXECUTION_OUTCOME_INTERRUPTED: Ending.INTERRUPTED,
    pb.EXECUTION_OUTCOME_ERROR: Ending.ERROR,
}
_SENTIMENTS = {
    pb.CONTENT_SENTIMENT_POSITIVE: SENTIMENT_POSITIVE,
    pb.CONTENT_SENTIMENT_NEUTRAL: SENTIMENT_NEUTRAL,
    pb.CONTENT_SENTIMENT_NEGATIVE: SENTIMENT_NEGATIVE,
}
_Item = TypeVar("_Item", pb.Execution, pb.Content, pb.RecordedSession, pb.Classification)


def stamped(item: pb.Execution | pb.Content, now: datetime) -> bytes:
    """The item as it is kept until it is counted; one that does not say when it happened, happens now."""
    if not item.HasField("create_time"):
        item.create_time.FromDatetime(now)
    return item.SerializeToString()


def execution_of(item: bytes, tenant_id: str) -> Fact:
    """The turn as a fact."""
    execution = _decoded(pb.Execution, item, tenant_id)
    at = _moment(execution.create_time, execution.event_id, tenant_id)
    answer = MessageFact(
        message_id="",
        seq=0,
        speaker=Speaker.TEAM if execution.team_id and not execution.assistant_id else Speaker.ASSISTANT,
        ending=_ENDINGS.get(execution.outcome, Ending.COMPLETE),
        create_time=at,
        user_id=execution.user_id,
        assistant_id=execution.assistant_id,
        team_id=execution.team_id,
        model=execution.model,
        rag=execution.rag,
        input_tokens=execution.usage.input_tokens,
        cached_input_tokens=execution.usage.cached_input_tokens,
        output_tokens=execution.usage.output_tokens,
        reasoning_tokens=execution.usage.reasoning_tokens,
        usage_source=SOURCES.get(execution.usage_source, ""),
        cost_micros=execution.cost_micros,
        latency_ms=execution.latency_ms,
        time_to_first_token_ms=execution.time_to_first_token_ms,
        error_reason=execution.error_reason,
    )
    return Fact(
        event_id=outside_id(tenant_id, execution.event_id),
        tenant_id=tenant_id,
        conversation_id=execution.conversation_id,
        channel=execution.channel,
        messages=(_question(execution, at), answer) if execution.asked else (answer,),
        outside=True,
    )


def _question(execution: pb.Execution, at: datetime) -> MessageFact:
    return MessageFact(
        message_id="",
        seq=0,
        speaker=Speaker.USER,
        ending=Ending.COMPLETE,
        create_time=at,
        user_id=execution.user_id,
        assistant_id=execution.assistant_id,
        team_id=execution.team_id,
    )


def session_of(item: bytes, tenant_id: str) -> Statement:
    """The session as a statement."""
    session = _decoded(pb.RecordedSession, item, tenant_id)
    start = _moment(session.start_time, session.event_id, tenant_id)
    end = _moment(session.end_time, session.event_id, tenant_id) if session.HasField("end_time") else start
    return session_statement(
        event_id=outside_id(tenant_id, session.event_id),
        tenant_id=tenant_id,
        session_id=f"outside/{session.session_id}",
        revision=session.revision,
        start=start,
        end=end,
        turns=session.turns,
        user_id=session.user_id,
        assistant_id=session.assistant_id,
        team_id=session.team_id,
        channel=session.channel,
        outside=True,
    )


def content_of(item: bytes, tenant_id: str) -> Statement:
    """What was talked about, as a statement."""
    content = _decoded(pb.Content, item, tenant_id)
    sentiment = _SENTIMENTS.get(content.sentiment)
    places = [(Axis.TOPIC.value, name) for name in _main_topic(content)]
    if content.category:
        places.append((Axis.CATEGORY.value, content.category))
    return Statement(
        event_id=outside_id(tenant_id, content.event_id),
        tenant_id=tenant_id,
        subject=Subject.CONTENT,
        subject_id=f"outside/{content.conversation_id}/{content.message_id}",
        revision=content.revision,
        time=_moment(content.create_time, content.event_id, tenant_id),
        counts={} if content.message_id else {ANALYSES: 1} | ({sentiment: 1} if sentiment else {}),
        places=tuple(places),
        conversation_id=content.conversation_id,
        user_id=content.user_id,
        assistant_id=content.assistant_id,
        channel=content.channel,
        outside=True,
    )


def _main_topic(content: pb.Content) -> list[str]:
    """The topic that counts: most weight times confidence, the alphabet's first among equals. None of a message."""
    if content.message_id or not content.topics:
        return []
    return [min(content.topics, key=lambda topic: (-topic.weight * topic.confidence, topic.name)).name]


def wish_of(item: bytes, tenant_id: str) -> Wish:
    """The wish for an analysis."""
    wish = _decoded(pb.Classification, item, tenant_id)
    return Wish(outside_id(tenant_id, wish.event_id), tenant_id, wish.conversation_id)


def wish_item(event_id: str, conversation_id: str) -> bytes:
    """A wish of our own, as it is kept until it is fulfilled."""
    return pb.Classification(event_id=event_id, conversation_id=conversation_id).SerializeToString()


def outside_id(tenant_id: str, event_id: str) -> str:
    """What names the event among all: producers choose their ids, and must meet neither each other nor the feed."""
    return f"outside:{tenant_id}:{event_id}"


def _decoded(contract: type[_Item], item: bytes, tenant_id: str) -> _Item:
    try:
        decoded = contract.FromString(item)
    except DecodeError:
        raise UncountableEventError("undecodable", tenant_id=tenant_id) from None
    if not decoded.event_id:
        raise UncountableEventError("no event_id", tenant_id=tenant_id)
    return decoded


def _moment(timestamp: Timestamp, event_id: str, tenant_id: str) -> datetime:
    try:
        return moment_of(timestamp)
    except ValueError as error:
        named = outside_id(tenant_id, event_id)
        raise UncountableEventError(str(error), event_id=named, tenant_id=tenant_id) from None
