"""Facts as they lie in MongoDB, and back."""

from collections.abc import Mapping
from datetime import datetime
from itertools import compress
from typing import Any

from services.analytics.model import Ending, Fact, MessageFact, Speaker


def fact_document(fact: Fact) -> dict[str, Any]:
    """The document of a fact; `_id` is what makes it count once, `time` is when its first message was stored."""
    document: dict[str, Any] = {
        "_id": fact.event_id,
        "tenant_id": fact.tenant_id,
        "conversation_id": fact.conversation_id,
        "channel": fact.channel,
        "messages": [_message_document(message) for message in fact.messages],
    }
    if fact.messages:
        document["time"] = fact.messages[0].create_time
    if fact.outside:
        document["outside"] = True
    return document


def _message_document(message: MessageFact) -> dict[str, Any]:
    kept = dict(compress(zip(MessageFact._fields, message, strict=True), message))
    kept["speaker"], kept["ending"] = message.speaker.value, message.ending.value
    return kept


def fact_in(document: Mapping[str, Any]) -> Fact:
    """The fact in such a document, which must hold its messages."""
    return Fact(
        event_id=document["_id"],
        tenant_id=document["tenant_id"],
        conversation_id=document["conversation_id"],
        channel=document["channel"],
        messages=tuple(_message_in(message) for message in document["messages"]),
        outside=document.get("outside", False),
    )


def _message_in(document: Mapping[str, Any]) -> MessageFact:
    kept = dict(document)
    speaker, ending = Speaker(kept.pop("speaker")), Ending(kept.pop("ending"))
    create_time: datetime = kept.pop("create_time")
    return MessageFact(
        kept.pop("message_id", ""), kept.pop("seq", 0), speaker=speaker, ending=ending, create_time=create_time, **kept
    )
