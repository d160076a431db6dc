"""Conversations as sessions: a session is counted when it has rested for a while, and anew when it goes on."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from pymongo import UpdateOne

from services.analytics.model import Finalized, Statement, Subject
from services.analytics.rollups.commits import committed, known
from services.analytics.rollups.names import (
    SESSION_SECONDS_SUM,
    SESSION_TURNS_SUM,
    SESSIONS,
    SESSIONS_WITH_LENGTH,
    SESSIONS_WITH_TURNS,
)
from services.analytics.rollups.projection import Generation, Projection
from services.analytics.rollups.series import SESSION_SECONDS, SESSION_TURNS
from services.analytics.rollups.statements import supersede
from shared.mongo import MongoDatabase, MongoSession, mongo_errors

AT_ONCE = 500

# Told of the conversations whose sessions were just closed, inside the commit that closes them.
Closed = Callable[[Sequence[Statement], MongoSession], Awaitable[None]]


async def _nobody(_closed: Sequence[Statement], _session: MongoSession) -> None:
    """Nobody wants to know."""


class SessionStore:
    """Closes sessions: the only one who makes statements about conversations as sessions."""

    def __init__(self, database: MongoDatabase, projection: Projection, *, closed: Closed = _nobody) -> None:
        self._database = database
        self._projection = projection
        self._closed = closed

    async def finalize(self, finalized: Sequence[Finalized]) -> int:
        """Marks the sessions as over; returns how many events were new."""
        generation = await self._projection.current()
        distinct = list({each.event_id: each for each in finalized}.values())
        return await committed(self._database, lambda session: _mark_final(generation, distinct, session))

    async def close_idle(self, before: datetime) -> int:
        """Counts up to 500 sessions in which nothing has happened since, or that are final; returns how many."""
        generation = await self._projection.current()
        with mongo_errors():
            over = [{"end": {"$lt": before}}, {"final": True, "end": {"$exists": True}}]
            cursor = generation.sessions.find({"open": True, "$or": over})
            found = [document["_id"] async for document in cursor.limit(AT_ONCE)]
        if not found:
            return 0
        return await committed(self._database, lambda session: self._close(generation, found, before, session))

    async def _close(
        self, generation: Generation, ids: Sequence[Mapping[str, str]], before: datetime, session: MongoSession
    ) -> int:
        """Reads them once more, inside the transaction: whoever spoke meanwhile makes it start again."""
        cursor = generation.sessions.find({"_id": {"$in": list(ids)}, "open": True}, session=session)
        resting = [each async for each in cursor if "end" in each and (each.get("final") or each["end"] < before)]
        statements = [_statement(document) for document in resting]
        if statements:
            closing = [UpdateOne({"_id": each["_id"]}, {"$unset": {"open": ""}}) for each in resting]
            await generation.sessions.bulk_write(closing, ordered=False, session=session)
            await supersede(generation, statements, session)
            await self._closed(statements, session)
        return len(statements)


async def _mark_final(generation: Generation, finalized: Sequence[Finalized], session: MongoSession) -> int:
    before = await known(generation.facts, [each.event_id for each in finalized], session)
    fresh = [each for each in finalized if each.event_id not in before]
    if not fresh:
        return 0
    marks = [
        {
            "_id": each.event_id,
            "tenant_id": each.tenant_id,
            "time": each.time,
            "finalized": each.conversation_id,
        }
        for each in fresh
    ]
    await generation.facts.insert_many(marks, ordered=False, session=session)
    changes = [
        UpdateOne(
            {"_id": {"tenant_id": each.tenant_id, "conversation_id": each.conversation_id}},
            {"$set": {"final": True, "open": True}},
            upsert=True,
        )
        for each in fresh
    ]
    await generation.sessions.bulk_write(changes, ordered=False, session=session)
    return len(fresh)


def _statement(document: Mapping[str, Any]) -> Statement:
    return session_statement(
        event_id="",
        tenant_id=document["_id"]["tenant_id"],
        session_id=document["_id"]["conversation_id"],
        revision=document["messages"],
        start=document["start"],
        end=document["end"],
        turns=document.get("turns", 0),
        user_id=document.get("user_id", ""),
        assistant_id=document.get("assistant_id", ""),
        team_id=document.get("team_id", ""),
        channel=document.get("channel", ""),
    )


def session_statement(
    *,
    event_id: str,
    tenant_id: str,
    session_id: str,
    revision: int,
    start: datetime,
    end: datetime,
    turns: int,
    user_id: str,
    assistant_id: str,
    team_id: str,
    channel: str,
    outside: bool = False,
) -> Statement:
    """A session, counted in the hour in which it began. Of no length or without a turn, it is in no distribution."""
    seconds = max(0, round((end - start) / timedelta(seconds=1)))
    counts = {SESSIONS: 1}
    if turns:
        counts |= {SESSIONS_WITH_TURNS: 1, SESSION_TURNS_SUM: turns}
    if seconds:
        counts |= {SESSIONS_WITH_LENGTH: 1, SESSION_SECONDS_SUM: seconds}
    return Statement(
        event_id=event_id,
        tenant_id=tenant_id,
        subject=Subject.SESSION,
        subject_id=session_id,
        revision=revision,
        time=start,
        counts=counts,
        measures={SESSION_SECONDS: seconds, SESSION_TURNS: turns},
        conversation_id=session_id,
        user_id=user_id,
        assistant_id=assistant_id,
        team_id=team_id,
        channel=channel,
        outside=outside,
    )
