"""The facts behind a figure: by the same hours and the same dimensions, one per message, those stored last first."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pymongo import DESCENDING

from services.analytics.model import Fact, MessageFact
from services.analytics.reports.calendar import next_hour
from services.analytics.rollups.documents import fact_in
from services.analytics.rollups.projection import Projection
from shared.mongo import mongo_errors

# What one page may read: a filter that hardly anything passes must not read a tenant's whole past in one call.
MOST_EXAMINED = 5_000
BATCH = 500
# The messages of one append are stored together; their fact has the time of the first.
SPREAD = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class FactQuery:
    """Whose messages, of which hours; an empty text means all."""

    tenant_id: str
    start: datetime
    end: datetime
    model: str = ""
    user_id: str = ""
    assistant_id: str = ""
    team_id: str = ""
    channel: str = ""
    conversation_id: str = ""
    errors_only: bool = False

    def wants(self, fact: Fact, message: MessageFact) -> bool:
        """Whether the message is one of those."""
        asked = (
            (self.model, message.model),
            (self.user_id, message.user_id),
            (self.assistant_id, message.assistant_id),
            (self.team_id, message.team_id),
            (self.channel, fact.channel),
            (self.conversation_id, fact.conversation_id),
        )
        return (
            next_hour(self.start) <= message.create_time < next_hour(self.end)
            and all(wanted in ("", found) for wanted, found in asked)
            and (not self.errors_only or bool(message.figures().errors))
        )


@dataclass(frozen=True, slots=True)
class Place:
    """Behind which fact a page ended: its time and its id."""

    time: datetime
    event_id: str


@dataclass(frozen=True, slots=True)
class FactPage:
    """Facts with their messages; where to go on, None at the end; what it cost."""

    found: Sequence[tuple[Fact, MessageFact]]
    place: Place | None
    documents_examined: int


class FactList:
    """The only reader of facts on behalf of people."""

    def __init__(self, projection: Projection) -> None:
        self._projection = projection

    async def page(self, query: FactQuery, after: Place | None, size: int) -> FactPage:
        """The next facts, `size` messages or a little more, because an append stays together."""
        facts = (await self._projection.current()).facts
        cursor = facts.find(_filter(query, after), batch_size=BATCH, limit=MOST_EXAMINED)
        found: list[tuple[Fact, MessageFact]] = []
        examined, place = 0, None
        with mongo_errors():
            async for document in cursor.sort([("time", DESCENDING), ("_id", DESCENDING)]):
                examined, place = examined + 1, Place(document["time"], document["_id"])
                if "messages" in document:
                    fact = fact_in(document)
                    wanted = [message for message in reversed(fact.messages) if query.wants(fact, message)]
                    found += [(fact, message) for message in wanted]
                if len(found) >= size:
                    return FactPage(found, place, examined)
        return FactPage(found, place if examined == MOST_EXAMINED else None, examined)


def _filter(query: FactQuery, after: Place | None) -> dict[str, Any]:
    earliest, latest = next_hour(query.start) - SPREAD, next_hour(query.end)
    wanted: dict[str, Any] = {"tenant_id": query.tenant_id, "time": {"$gte": earliest, "$lt": latest}}
    if after is not None:
        wanted["time"] = {"$gte": earliest, "$lte": after.time}
        wanted["$or"] = [{"time": {"$lt": after.time}}, {"time": after.time, "_id": {"$lt": after.event_id}}]
    return wanted
