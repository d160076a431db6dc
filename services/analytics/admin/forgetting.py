"""A user who wants to be forgotten: what was theirs becomes an anonymous user's, and every sum stays."""

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from services.analytics.admin.model import Receipt
from services.analytics.intake.dead_letters import DeadLetters
from services.analytics.model import FIGURE_NAMES, Axis
from services.analytics.rollups.commits import committed, updated, upsert
from services.analytics.rollups.projection import Generation, Projection
from shared.mongo import MongoCollection, MongoDatabase, MongoSession, mongo_errors

AT_ONCE = 500
ANONYMOUS = ""

# Deletes the analyses of a tenant's user; returns how many.
ForgetAnalyses = Callable[[str, str], Awaitable[int]]


class Forgetting:
    """Erases a user from everything that analytics keeps."""

    def __init__(
        self, database: MongoDatabase, projection: Projection, letters: DeadLetters, forget_analyses: ForgetAnalyses
    ) -> None:
        self._database = database
        self._projection = projection
        self._letters = letters
        self._forget_analyses = forget_analyses

    async def forget(self, tenant_id: str, user_id: str) -> Receipt:
        """What was changed. What is said about the user while this runs may stay: doing it again finds it."""
        generation = await self._projection.current()
        analyses = await self._forget_analyses(tenant_id, user_id)
        with mongo_errors():
            facts = await _anonymous_facts(generation.facts, tenant_id, user_id)
            sessions = await _anonymous_sessions(generation, tenant_id, user_id)
        figures = await self._move(generation.rollups, {"tenant_id": tenant_id, "user_id": user_id}, _anonymous_cell)
        theirs = {"_id.tenant_id": tenant_id, "_id.axis": Axis.USER.value, "_id.value": user_id}
        figures += await self._move(generation.series, theirs, _anonymous_series)
        letters = await self._letters.forget(tenant_id, user_id)
        return Receipt(facts, figures, sessions, analyses, letters, datetime.now(UTC))

    async def _move(
        self,
        collection: MongoCollection,
        theirs: Mapping[str, Any],
        anonymous: Callable[[dict[str, Any]], dict[str, Any]],
    ) -> int:
        """Adds the user's sums to the anonymous users' and deletes them, some hundred in each commit."""

        async def move(session: MongoSession) -> int:
            found = [each async for each in collection.find(theirs, session=session).limit(AT_ONCE)]
            if found:
                await updated(collection, [anonymous(each) for each in found], session)
                gone = {"_id": {"$in": [each["_id"] for each in found]}}
                await collection.delete_many(gone, session=session)
            return len(found)

        moved = 0
        while more := await committed(self._database, move):
            moved += more
        return moved


async def _anonymous_facts(facts: MongoCollection, tenant_id: str, user_id: str) -> int:
    said = await facts.update_many(
        {"tenant_id": tenant_id, "messages.user_id": user_id},
        {"$unset": {"messages.$[theirs].user_id": ""}},
        array_filters=[{"theirs.user_id": user_id}],
    )
    stated = await facts.update_many(
        {"tenant_id": tenant_id, "statement.user_id": user_id}, {"$unset": {"statement.user_id": ""}}
    )
    return int(said.modified_count + stated.modified_count)


async def _anonymous_sessions(generation: Generation, tenant_id: str, user_id: str) -> int:
    sessions = await generation.sessions.update_many(
        {"_id.tenant_id": tenant_id, "user_id": user_id}, {"$set": {"user_id": ANONYMOUS}}
    )
    statements = await generation.statements.update_many(
        {"tenant_id": tenant_id, "user_id": user_id}, {"$unset": {"user_id": ""}}
    )
    return int(sessions.modified_count + statements.modified_count)


def _anonymous_cell(cell: dict[str, Any]) -> dict[str, Any]:
    names = {**cell["_id"], "user_id": ANONYMOUS}
    return upsert(names, {"$inc": _sums(cell), "$setOnInsert": names})


def _anonymous_series(series: dict[str, Any]) -> dict[str, Any]:
    return upsert({**series["_id"], "value": ANONYMOUS}, {"$inc": _sums(series)})


def _sums(document: Mapping[str, Any]) -> dict[str, int]:
    return {name: document[name] for name in FIGURE_NAMES if document.get(name)}
