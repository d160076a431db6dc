"""Turns in MongoDB. A batch is one commit: facts (`_id` = the event's id) and the sums they add.

An event whose fact is there has been dealt with; that is the only mark, and it is made in the commit that counts.
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from itertools import chain, repeat

from pymongo.errors import DuplicateKeyError

from services.analytics.model import FIGURE_NAMES, Fact, Figures, RollupKey
from services.analytics.rollups.activity import activity
from services.analytics.rollups.commits import Update, committed, inserted, known, updated, upsert
from services.analytics.rollups.documents import fact_document
from services.analytics.rollups.projection import Generation, Projection
from services.analytics.rollups.series import add_to_series, combined, folded, series_of
from services.analytics.rollups.statements import supersede
from shared.mongo import MongoDatabase, MongoSession, mongo_errors, mongo_ready


class RollupStore:
    """The only writer of turns and of what they add up to."""

    def __init__(self, database: MongoDatabase, projection: Projection | None = None) -> None:
        self._database = database
        self.projection = projection or Projection(database)

    async def prepare(self) -> None:
        """Creates the indexes that bound what a report reads; again and again is fine."""
        await (await self.projection.current()).prepare()

    async def ready(self) -> None:
        """Answers within seconds or raises Unavailable."""
        await mongo_ready(self._database)

    async def commit(self, facts: Sequence[Fact]) -> int:
        """Counts the facts that are not known yet, all or none; returns how many were new. The first of its id counts.

        Unavailable and Conflict pass by themselves; anything else means that these facts cannot be stored.
        """
        distinct = list({fact.event_id: fact for fact in reversed(facts)}.values())
        generation = await self.projection.current()
        # Hardly any event comes twice, and the index tells: the known ones are looked for from the second try on.
        tries = chain((_add,), repeat(_add_fresh))
        return await committed(self._database, lambda session: next(tries)(generation, distinct, session))

    async def settled(self, event_ids: Collection[str]) -> set[str]:
        """Which of the events have been dealt with: counted, or given up as dead letters."""
        generation = await self.projection.current()
        with mongo_errors():
            return await known(generation.facts, list(event_ids), None)

    async def mark(self, event_id: str, tenant_id: str, time: datetime) -> None:
        """Marks an event without a fact as dealt with; again and again is fine."""
        facts = (await self.projection.current()).facts
        try:
            with mongo_errors():
                await facts.insert_one({"_id": event_id, "tenant_id": tenant_id, "time": time})
        except DuplicateKeyError:
            return


async def _add_fresh(generation: Generation, facts: Sequence[Fact], session: MongoSession) -> int:
    before = await known(generation.facts, [fact.event_id for fact in facts], session)
    return await _add(generation, [fact for fact in facts if fact.event_id not in before], session)


async def _add(generation: Generation, facts: Sequence[Fact], session: MongoSession) -> int:
    if not facts:
        return 0
    # What rivals meet in comes first: whoever has to try again has done little.
    if cells := folded(facts):
        additions = [_addition(key, figures) for key, figures in combined(cells).items()]
        await updated(generation.rollups, additions, session)
        await add_to_series(generation.series, series_of(cells), session)
    if told := [statement for fact in facts for statement in fact.statements]:
        await supersede(generation, told, session)
    if active := activity(facts):
        await updated(generation.sessions, active, session)
    await inserted(generation.facts, [fact_document(fact) for fact in facts], session)
    return len(facts)


def _addition(key: RollupKey, figures: Figures) -> Update:
    names = key._asdict()
    amounts = {name: amount for name, amount in zip(FIGURE_NAMES, figures, strict=True) if amount}
    return upsert(names, {"$inc": amounts, "$setOnInsert": names})
