"""One commit for all that a batch changes: marks, facts, sums. Rivals are waited for, dead ones are not."""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias, TypeVar

from pymongo.errors import BulkWriteError

from services.analytics.rollups.abandoned import end_abandoned
from shared.errors import Conflict
from shared.mongo import MongoCollection, MongoDatabase, MongoSession, insist, mongo_errors, transaction

_DUPLICATE_KEY = 11000
_WRITE_CONFLICT = 112
_Result = TypeVar("_Result")

Update: TypeAlias = dict[str, Any]


async def committed(database: MongoDatabase, write: Callable[[MongoSession], Awaitable[_Result]]) -> _Result:
    """What `write` returns, done all or not at all; it may be called several times, the last one counts.

    Unavailable and Conflict pass by themselves; anything else means that this can never be written.
    """
    return await insist(partial(_once, database, write))


async def _once(database: MongoDatabase, write: Callable[[MongoSession], Awaitable[_Result]]) -> _Result:
    try:
        with mongo_errors():
            async with transaction(database) as session:
                with _races():
                    return await write(session)
    except Conflict:
        await end_abandoned(database)
        raise


@contextmanager
def _races() -> Iterator[None]:
    """Conflict, when another worker stored the same event or the same rollup first: the next try sees what it did."""
    try:
        yield
    except BulkWriteError as error:
        codes = {each["code"] for each in (error.details or {}).get("writeErrors", [])}
        if codes and codes <= {_DUPLICATE_KEY, _WRITE_CONFLICT}:
            raise Conflict("another worker was first") from error
        raise


async def known(facts: MongoCollection, event_ids: Sequence[str], session: MongoSession) -> set[str]:
    """Which of the events have a mark."""
    cursor = facts.find({"_id": {"$in": list(event_ids)}}, {"_id": 1}, batch_size=len(event_ids) + 1, session=session)
    return {document["_id"] async for document in cursor}


def upsert(document_id: Any, change: dict[str, Any]) -> Update:
    """A change of one document, made if it is not there."""
    return {"q": {"_id": document_id}, "u": change, "upsert": True}


async def updated(collection: MongoCollection, updates: Sequence[Update], session: MongoSession) -> None:
    """Makes the changes. The plain command: the driver's own objects cost as much CPU as all the rest of a commit."""
    await _done({"update": collection.name, "updates": updates, "ordered": False}, collection, session)


async def inserted(collection: MongoCollection, documents: Sequence[dict[str, Any]], session: MongoSession) -> None:
    """Inserts the documents."""
    await _done({"insert": collection.name, "documents": documents, "ordered": False}, collection, session)


async def _done(command: dict[str, Any], collection: MongoCollection, session: MongoSession) -> None:
    """Raises what the answer for a document says, as the driver would."""
    answer = await collection.database.command(command, session=session)
    if answer.get("writeErrors"):
        raise BulkWriteError({"writeErrors": answer["writeErrors"], "writeConcernErrors": []})
