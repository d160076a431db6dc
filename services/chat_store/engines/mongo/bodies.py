"""Texts that are kept apart from their messages, in chunks, by what they hold: keeping one again changes nothing."""

from collections.abc import AsyncGenerator, Iterable, Mapping
from typing import Any

from pymongo.errors import BulkWriteError

from services.chat_store.batch import SEARCHED_BYTES, Bodies
from services.chat_store.engines.mongo import documents
from services.chat_store.engines.mongo.codec import Document
from services.chat_store.limits import BODY_CHUNK_BYTES
from services.chat_store.model import Draft
from shared.mongo import MongoCollection, MongoSession

DUPLICATE_KEY = 11000
CHUNKS_AT_ONCE = 8
# The chunks of a text that hold what search looks through.
_SEARCHED = range(-(-SEARCHED_BYTES // BODY_CHUNK_BYTES))


async def keep_bodies(collection: MongoCollection, header: Mapping[str, Any], bodies: Bodies) -> None:
    """Keeps the texts, durably, before anything that names them."""
    for sha256, content in bodies.items():
        await insert_absent(collection, _chunks(header, sha256, content))


async def touch_body(collection: MongoCollection, header: Mapping[str, Any], sha256: str) -> bool:
    """Collides with whoever is about to remove the text; False when it is gone."""
    first = f"{_body_key(header['_id'], header['create_time'], sha256)}:{0:04d}"
    return bool((await collection.update_one({"_id": first}, {"$inc": {"touched": 1}})).matched_count)


async def insert_absent(collection: MongoCollection, wanted: Iterable[Document]) -> None:
    """Inserts those that are not there yet."""
    try:
        if missing := list(wanted):
            await collection.insert_many(missing, ordered=False)
    except BulkWriteError as error:
        if any(each["code"] != DUPLICATE_KEY for each in error.details["writeErrors"]):
            raise


async def body_chunks(collection: MongoCollection, key: str, since: Any, sha256: str) -> AsyncGenerator[bytes, None]:
    """The text piece by piece."""
    cursor = collection.find(body_range(key, since, sha256)).sort("_id", 1).batch_size(CHUNKS_AT_ONCE)
    try:
        async for chunk in cursor:
            yield chunk["content"]
    finally:
        await cursor.close()


async def beginnings(
    collection: MongoCollection, key: str, since: Any, drafts: Iterable[Draft], session: MongoSession = None
) -> Bodies:
    """Of the texts that those messages of a conversation have apart, what search looks through."""
    texts = {draft.body.sha256 for draft in drafts if draft.body is not None}
    chunks = [f"{_body_key(key, since, sha256)}:{number:04d}" for sha256 in texts for number in _SEARCHED]
    found = dict.fromkeys(texts, b"")
    if chunks:
        async for chunk in collection.find({"_id": {"$in": chunks}}, session=session).sort("_id", 1):
            found[chunk["sha256"]] += chunk["content"]
    return {sha256: beginning for sha256, beginning in found.items() if beginning}


def body_range(key: str, since: Any, sha256: str) -> Document:
    """All chunks of a text in the conversation of that key which was created at `since`."""
    return documents.everything_of(_body_key(key, since, sha256))


def _body_key(key: str, since: Any, sha256: str) -> str:
    return f"{key}:{documents.milliseconds_of(since)}:{sha256}"


def _chunks(header: Mapping[str, Any], sha256: str, content: bytes) -> Iterable[Document]:
    own = {name: header[name] for name in ("tenant_id", "conversation_id")}
    facts = {**own, "since": header["create_time"], "sha256": sha256}
    key = _body_key(header["_id"], header["create_time"], sha256)
    for number, begin in enumerate(range(0, len(content), BODY_CHUNK_BYTES)):
        yield {"_id": f"{key}:{number:04d}", **facts, "content": content[begin : begin + BODY_CHUNK_BYTES]}
