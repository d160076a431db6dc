"""Texts that are kept apart stay as long as something in their conversation says them, and no longer.

A text is kept before what says it, and touched once that is written; who drops one looks and deletes in one
transaction. So of somebody who says a text again and somebody who drops it, one sees what the other did.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime
from functools import partial

from services.chat_store.batch import Bodies
from services.chat_store.engines.mongo import documents
from services.chat_store.engines.mongo.bodies import body_range, keep_bodies, touch_body
from services.chat_store.engines.mongo.codec import Document
from services.chat_store.engines.mongo.headers import MongoHeaders
from services.chat_store.model import Message
from shared.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from shared.mongo import insist, transaction

# After any other error nobody knows whether what says the texts was written.
REFUSALS = (AlreadyExists, FailedPrecondition, InvalidArgument, NotFound)


async def with_texts(
    headers: MongoHeaders, header: Document, bodies: Bodies, write: Callable[[], Awaitable[list[Message]]]
) -> list[Message]:
    """The messages that `write` wrote, their texts kept; of what was refused, or says them no more, nothing is left."""
    await keep_bodies(headers.bodies, header, bodies)
    try:
        written = await write()
    except REFUSALS:
        await drop_texts(headers, header["_id"], header["create_time"], bodies)
        raise
    said = {message.draft.body.sha256 for message in written if message.draft.body is not None}
    for sha256 in said & bodies.keys():
        if not await touch_body(headers.bodies, header, sha256):
            await keep_bodies(headers.bodies, header, {sha256: bodies[sha256]})
    await drop_texts(headers, header["_id"], header["create_time"], bodies.keys() - said)
    return written


async def drop_texts(
    headers: MongoHeaders, key: str, since: datetime, texts: Iterable[str], leaving: Sequence[str] = ()
) -> None:
    """Removes those texts that nothing in the conversation of that key says any more; `leaving` are appends that go."""
    for sha256 in texts:
        await insist(partial(_drop, headers, key, since, sha256, leaving))


async def _drop(headers: MongoHeaders, key: str, since: datetime, sha256: str, leaving: Sequence[str]) -> None:
    said = {"_id": {**documents.appends_of(key)["_id"], "$nin": list(leaving)}, "messages.body.sha256": sha256}
    edited = {**documents.everything_of(key), "state.draft.body.sha256": sha256}
    async with transaction(headers.database) as session:
        for place, wanted in ((headers.appends, said), (headers.changes, edited)):
            if await place.find_one(wanted, {"_id": 1}, session=session):
                return
        await headers.bodies.delete_many(body_range(key, since, sha256), session=session)
