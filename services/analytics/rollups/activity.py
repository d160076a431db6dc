"""When conversations were active, as facts tell it; in any order it comes to the same."""

from collections import defaultdict
from collections.abc import Iterable

from services.analytics.model import Ending, Fact, MessageFact, Speaker
from services.analytics.rollups.commits import Update, upsert

_ANSWERING = (Speaker.ASSISTANT, Speaker.TEAM)


def activity(facts: Iterable[Fact]) -> list[Update]:
    """What the facts add to the sessions of their conversations."""
    told: defaultdict[tuple[str, str], list[tuple[str, MessageFact]]] = defaultdict(list)
    for fact in facts:
        if fact.conversation_id and fact.messages:
            told[fact.tenant_id, fact.conversation_id] += [(fact.channel, message) for message in fact.messages]
    return [_addition(*names, messages) for names, messages in told.items()]


def _addition(tenant_id: str, conversation_id: str, messages: list[tuple[str, MessageFact]]) -> Update:
    said = [message for _, message in messages]
    times = [message.create_time for message in said]
    least = {
        "start": min(times),
        "channel": min(channel for channel, _ in messages),
        "user_id": min(message.user_id for message in said),
        "assistant_id": min(message.assistant_id for message in said),
        "team_id": min(message.team_id for message in said),
    }
    turns = sum(message.speaker in _ANSWERING and message.ending is not Ending.ERROR for message in said)
    return upsert(
        {"tenant_id": tenant_id, "conversation_id": conversation_id},
        {
            "$min": least,
            "$max": {"end": max(times)},
            "$inc": {"messages": len(said), "turns": turns},
            "$set": {"open": True},
        },
    )
