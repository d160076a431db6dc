"""What concurrent callers of one process ask of MongoDB in one command.

A command costs the driver and the server more than what one caller asks by it: 32 versions take as long together as
four do one by one. What is asked alone leaves at once; while commands run, the next one gathers.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias, TypeVar

import pymongo
from pymongo import UpdateOne
from pymongo.errors import BulkWriteError, DuplicateKeyError, PyMongoError, WriteError

from services.chat_store.engines.mongo import documents
from services.chat_store.engines.mongo.bodies import DUPLICATE_KEY
from services.chat_store.engines.mongo.codec import Document
from shared.coalescer import Coalescer
from shared.mongo import MongoCollection, aggregate, mongo_errors

# The header and the last append of each fit into the first reply to a query, which holds 101 documents.
LARGEST_BATCH = 48
# An append larger than this is inserted alone, so that a batch keeps far from 48 MB and nobody waits for another's.
LARGEST_SHARED_BYTES = 64 * 1024
# Of each kind one command is under way; with two, twice as many leave, each half as full. One that takes longer than
# this holds up no other one.
PATIENCE_SECONDS = 0.1
# What updates of headers in one command may take: one may wait for another replica's act. After that each caller
# is left to itself.
LONGEST_UPDATE_SECONDS = 1.0
PLACE_FIELDS = {"first_seq": 1, "n": 1}

Item = TypeVar("Item")
Answer = TypeVar("Answer")
# Which header to move, and how.
Advance: TypeAlias = tuple[Document, list[Document]]
# The header, if there is one, and the place of the last message that is there.
End: TypeAlias = tuple[Document | None, int]


class Gathered:
    """The commands of an append and of a version, shared by those who ask at the same time.

    What a caller is told was read after it asked. Who goes away takes nothing from the others; an outage is
    Unavailable to all of a batch, any other error is of its caller alone.
    """

    def __init__(
        self, newest: MongoCollection, durable: MongoCollection, hints: MongoCollection, appends: MongoCollection
    ) -> None:
        self._headers = _coalescer(partial(_headers, newest))
        self._ends = _coalescer(partial(_ends, durable))
        self._advances = _coalescer(partial(_advance, hints))
        self._inserts = _coalescer(partial(_insert, appends))
        self._hints = hints
        self._appends = appends

    async def header(self, key: str) -> Document | None:
        """The facts of a header as they were just written, be it acknowledged by a majority or not."""
        return await self._headers.submit(key)

    async def end(self, key: str) -> End:
        """The facts of a header and the end of its appends, both as a majority has them."""
        return await self._ends.submit(key)

    async def advance(self, behind: Document, update: list[Document]) -> bool:
        """Updates the header that the filter finds, without a majority; False when it is not sure that it did."""
        advanced = await self._advances.submit((behind, update))
        return await _advance_one(self._hints, behind, update) if advanced is None else advanced

    async def insert(self, append: Document, size_bytes: int) -> None:
        """Inserts an append by majority; DuplicateKeyError."""
        if size_bytes > LARGEST_SHARED_BYTES:
            await self._appends.insert_one(append)
        elif refusal := await self._inserts.submit(append):
            raise refusal


def _coalescer(carry_out: Callable[[Sequence[Item]], Awaitable[Sequence[Answer]]]) -> Coalescer[Item, Answer]:
    async def carried_out(items: Sequence[Item]) -> Sequence[Answer]:
        with mongo_errors():
            return await carry_out(items)

    return Coalescer(carried_out, largest_batch=LARGEST_BATCH, most_in_flight=1, patience_seconds=PATIENCE_SECONDS)


async def _headers(conversations: MongoCollection, keys: Sequence[str]) -> Sequence[Document | None]:
    if len(keys) == 1:
        return [await conversations.find_one({"_id": keys[0]}, documents.FACTS)]
    found = await conversations.find({"_id": {"$in": list(keys)}}, documents.FACTS).to_list(None)
    headers = {header["_id"]: header for header in found}
    return [headers.get(key) for key in keys]


async def _ends(conversations: MongoCollection, keys: Sequence[str]) -> Sequence[End]:
    wanted = set(keys)
    headers: list[Document] = [{"$match": {"_id": {"$in": list(wanted)}}}, {"$project": documents.FACTS}]
    appends = [{"$unionWith": {"coll": documents.APPENDS, "pipeline": _last_of(key)}} for key in wanted]
    known, ends = dict[str, Document](), dict[str, int]()
    async for found in aggregate(conversations, [*headers, *appends]):
        if "n" in found:
            ends[found["_id"].rpartition(":")[0]] = documents.last_seq_of(found)
        else:
            known[found["_id"]] = found
    return [(known.get(key), ends.get(key, 0)) for key in keys]


def _last_of(key: str) -> list[Document]:
    return [{"$match": documents.appends_of(key)}, {"$sort": {"_id": -1}}, {"$limit": 1}, {"$project": PLACE_FIELDS}]


async def _advance(headers: MongoCollection, advances: Sequence[Advance]) -> Sequence[bool | None]:
    if len(advances) == 1:
        return [await _advance_one(headers, *advances[0])]
    try:
        with pymongo.timeout(LONGEST_UPDATE_SECONDS):
            updated = await headers.bulk_write([UpdateOne(*advance) for advance in advances], ordered=False)
    except PyMongoError as error:
        if not error.timeout:
            raise
        return [None] * len(advances)
    # The server only counts them: when one found nothing, nobody knows whose it was.
    return [updated.matched_count == len(advances)] * len(advances)


async def _advance_one(headers: MongoCollection, behind: Document, update: list[Document]) -> bool:
    return bool((await headers.update_one(behind, update)).matched_count)


async def _insert(appends: MongoCollection, inserted: Sequence[Document]) -> Sequence[WriteError | None]:
    if len(inserted) == 1:
        await appends.insert_one(inserted[0])
        return [None]
    refused: Mapping[int, Mapping[str, Any]] = {}
    try:
        await appends.insert_many(inserted, ordered=False)
    except BulkWriteError as error:
        # Not known of any whether it will last.
        if error.details["writeConcernErrors"]:
            raise
        refused = {each["index"]: each for each in error.details["writeErrors"]}
    return [_refusal(refused[place]) if place in refused else None for place in range(len(inserted))]


def _refusal(error: Mapping[str, Any]) -> WriteError:
    kind = DuplicateKeyError if error["code"] == DUPLICATE_KEY else WriteError
    return kind(error["errmsg"], error["code"], error)
