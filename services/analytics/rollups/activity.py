"""When conversations were active, as facts tell it; in any order it comes to the same."""

from collections import defaultdict
from collections.abc import Iterable

from services.analytics.model import Ending, Fact, Speaker
from services.analytics.rollups.commits import Update, upsert

_ANSWERING = (Speaker.ASSISTANT, Speaker.TEAM)


def activity(facts: Iterable[Fact]) -> list[Update]:
    """What the facts add to the sessions of their conversations."""
    told: defaultdict[tuple[str, str], list[Fact]] = defaultdict(list)
    for fact in facts:
        if fact.conversation_id and fact.messages:
            told[fact.tenant_id, fact.conversation_id].append(fact)
    return [_addition(*names, mine) for names, mine in told.items()]


def _addition(tenant_id: str, conversation_id: str, facts: list[Fact]) -> Update:
    messages = [message for fact in facts for message in fact.messages]
    times = [message.create_time for message in messages]
    least = {
        "start": min(times),
        "channel": min([fact.channel for fact in facts]),
        "user_id": min([message.user_id for message in messages]),
        "assistant_id": min([message.assistant_id for message in messages]),
        "team_id": min([message.team_id for message in messages]),
    }
    answers = [message for message in messages if message.speaker in _ANSWERING and message.ending is not Ending.ERROR]
    return upsert(
        {"tenant_id": tenant_id, "conversation_id": conversation_id},
        {
            "$min": least,
            "$max": {"end": max(times)},
            "$inc": {"messages": len(messages), "turns": len(answers)},
            "$set": {"open": True},
        },
    )
