"""What is true until told otherwise: feedback, sessions, the content of a conversation.

The newest statement about a subject counts. When another takes its place, what the one before had added to the series
is taken away in the same commit, so the series always hold the sum over the newest statements, in whatever order they
came.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pymongo import ReplaceOne

from services.analytics.model import Axis, SeriesKey, Statement, Step, Subject, hour_of
from services.analytics.rollups.commits import committed, known
from services.analytics.rollups.projection import Generation, Projection
from services.analytics.rollups.series import Growth, Growths, add_to_series, with_days
from services.analytics.rollups.sketches import bucket_of, digest_of
from shared.mongo import MongoDatabase, MongoSession

# Where it matters how many people are behind a figure. A set only grows: who was taken away is still counted.
WITH_USERS = (Axis.TOPIC, Axis.CATEGORY)
_NAMES = tuple(Statement.__slots__)


class StatementStore:
    """The only writer of statements and of what they add to the series."""

    def __init__(self, database: MongoDatabase, projection: Projection | None = None) -> None:
        self._database = database
        self.projection = projection or Projection(database)

    async def commit(self, statements: Sequence[Statement]) -> int:
        """Takes in the statements whose events are not known yet, all or none; returns how many were new.

        Those without `event_id` follow from what is kept already: they need no mark.
        """
        distinct = list(
            {(each.event_id, each.subject, each.subject_id): each for each in reversed(statements)}.values()
        )
        generation = await self.projection.current()
        return await committed(self._database, lambda session: _write(generation, distinct, session))


async def _write(generation: Generation, statements: Sequence[Statement], session: MongoSession) -> int:
    marked = [each.event_id for each in statements if each.event_id]
    before = await known(generation.facts, marked, session) if marked else set()
    fresh = [each for each in statements if each.event_id not in before]
    if marks := [_mark(each) for each in fresh if each.event_id]:
        await generation.facts.insert_many(marks, ordered=False, session=session)
    await supersede(generation, fresh, session)
    return len(fresh)


def _mark(statement: Statement) -> dict[str, Any]:
    mark = {
        "_id": statement.event_id,
        "tenant_id": statement.tenant_id,
        "time": statement.time,
        "statement": statement_document(statement),
    }
    return mark | ({"outside": True} if statement.outside else {})


def _newest(statements: Sequence[Statement]) -> dict[tuple[str, str, str], Statement]:
    newest: dict[tuple[str, str, str], Statement] = {}
    for each in statements:
        key = (each.subject.value, each.tenant_id, each.subject_id)
        if key not in newest or _age(each) > _age(newest[key]):
            newest[key] = each
    return newest


def _age(statement: Statement) -> tuple[int, str]:
    return statement.revision, statement.event_id


async def supersede(generation: Generation, statements: Sequence[Statement], session: MongoSession) -> None:
    """Puts the newest of them in the place of what was said before, inside the session's transaction."""
    newest = _newest(statements)
    grown: Growths = {}
    replaced = []
    kept = await _kept(generation, newest, session)
    for key, statement in newest.items():
        before = kept.get(key)
        if before is not None and _age(before) >= _age(statement):
            continue
        if before is not None:
            _contribute(grown, before, -1)
        _contribute(grown, statement, 1)
        replaced.append(ReplaceOne({"_id": _document_id(key)}, statement_document(statement), upsert=True))
    if replaced:
        with_days(grown)
        await generation.statements.bulk_write(replaced, ordered=False, session=session)
        await add_to_series(generation.series, grown, session)


async def _kept(
    generation: Generation, newest: Mapping[tuple[str, str, str], Statement], session: MongoSession
) -> dict[tuple[str, str, str], Statement]:
    ids = [_document_id(key) for key in newest]
    cursor = generation.statements.find({"_id": {"$in": ids}}, batch_size=len(ids) + 1, session=session)
    return {_key(document["_id"]): statement_in(document) async for document in cursor}


def _contribute(grown: Growths, statement: Statement, sign: int) -> None:
    """Adds what the statement says to the hours of its dimensions, or takes it away."""
    growth = Growth({name: sign * amount for name, amount in statement.counts.items()})
    for name, value in statement.measures.items():
        if value > 0:
            growth.distributions[name] = {bucket_of(value): sign}
    start = hour_of(statement.time)
    for axis, place in _places(statement):
        mine = grown.setdefault(SeriesKey(statement.tenant_id, axis, Step.HOUR, place, start), Growth())
        mine.add(growth)
        if axis in WITH_USERS and sign > 0:
            # Somebody without a name is somebody else in each conversation.
            mine.users.add(digest_of(statement.user_id or statement.conversation_id))


def _places(statement: Statement) -> list[tuple[Axis, str]]:
    places = [
        (Axis.TOTAL, ""),
        (Axis.ASSISTANT, statement.assistant_id),
        (Axis.TEAM, statement.team_id),
        (Axis.CHANNEL, statement.channel),
    ]
    if statement.subject is Subject.FEEDBACK:
        places.append((Axis.MODEL, statement.model))
    return places + [(Axis(axis), value) for axis, value in statement.places]


def statement_document(statement: Statement) -> dict[str, Any]:
    """The statement as it lies in MongoDB, without what is empty."""
    document = {name: getattr(statement, name) for name in _NAMES}
    kept = {name: value for name, value in document.items() if value not in ("", 0, False, {}, ())}
    kept["subject"] = statement.subject.value
    return kept | ({"places": [list(place) for place in statement.places]} if statement.places else {})


def statement_in(document: Mapping[str, Any]) -> Statement:
    """The statement in such a document."""
    kept = {name: value for name, value in document.items() if name in _NAMES}
    kept["subject"] = Subject(kept["subject"])
    kept["places"] = tuple((axis, value) for axis, value in kept.get("places", ()))
    return Statement(**{"event_id": "", "revision": 0, "counts": {}, **kept})


def _document_id(key: tuple[str, str, str]) -> dict[str, str]:
    subject, tenant_id, subject_id = key
    return {"subject": subject, "tenant_id": tenant_id, "subject_id": subject_id}


def _key(document_id: Mapping[str, str]) -> tuple[str, str, str]:
    return document_id["subject"], document_id["tenant_id"], document_id["subject_id"]
