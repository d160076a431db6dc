"""Single messages: as they are now, as they were, and their whole texts."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from services.chat_store.engines.mongo import documents
from services.chat_store.engines.mongo.bodies import body_chunks
from services.chat_store.engines.mongo.codec import Document, read
from services.chat_store.engines.mongo.headers import MongoHeaders
from services.chat_store.engines.mongo.pages import messages_now
from services.chat_store.limits import BODY_CHUNK_BYTES
from services.chat_store.model import Message
from services.chat_store.selection import Reach
from shared.errors import NotFound
from shared.mongo import mongo_errors


class MongoMessages:
    """The messages of one Mongo database, one at a time."""

    def __init__(self, headers: MongoHeaders) -> None:
        self._headers = headers

    async def get(self, reach: Reach, conversation_id: str, message_id: str) -> Message:
        """See ChatStore.message."""
        with mongo_errors():
            append = await self._append(await self._header(reach, conversation_id), message_id)
            return _of(message_id, await messages_now(self._headers.changes, append))

    async def revisions(
        self, reach: Reach, conversation_id: str, message_id: str, after: int, limit: int
    ) -> tuple[list[Message], bool]:
        """What was said is in the append, all later revisions are in the change log."""
        with mongo_errors():
            append = await self._append(await self._header(reach, conversation_id), message_id)
            said = [_of(message_id, documents.said_in(append))] if after < 0 else []
            wanted = {
                "tenant_id": append["tenant_id"],
                "conversation_id": append["conversation_id"],
                "message_id": message_id,
                "message_revision": {"$gt": max(after, 0)},
            }
            changes = self._headers.changes.find(wanted, {"state": 1}).sort("message_revision", 1)
            later = await changes.limit(limit + 1 - len(said)).to_list(None) if limit + 1 > len(said) else []
        found = [*said, *(read(Message, change["state"]) for change in later)]
        return found[:limit], len(found) > limit

    async def text(self, reach: Reach, conversation_id: str, message_id: str) -> AsyncGenerator[bytes, None]:
        """See ChatStore.text."""
        with mongo_errors():
            header = await self._header(reach, conversation_id)
            append = await self._append(header, message_id)
            draft = _of(message_id, await messages_now(self._headers.changes, append)).draft
            if draft.body is None:
                whole = draft.text.encode()
                for begin in range(0, len(whole), BODY_CHUNK_BYTES):
                    yield whole[begin : begin + BODY_CHUNK_BYTES]
                return
            chunks = body_chunks(self._headers.bodies, header["_id"], header["create_time"], draft.body.sha256)
            lacking = draft.body.size_bytes
            async with aclosing(chunks):
                async for chunk in chunks:
                    lacking -= len(chunk)
                    yield chunk
            if lacking:
                raise NotFound("message", message_id)  # it went while it was read

    async def _header(self, reach: Reach, conversation_id: str) -> Document:
        return await self._headers.find(reach, conversation_id)

    async def _append(self, header: Document, message_id: str) -> Document:
        wanted = {
            "tenant_id": header["tenant_id"],
            "conversation_id": header["conversation_id"],
            "messages.message_id": message_id,
        }
        append: Document | None = await self._headers.appends.find_one(wanted, {"words": 0})
        if append is None:
            raise NotFound("message", message_id)
        return append


def _of(message_id: str, messages: list[Message]) -> Message:
    return next(message for message in messages if message.message_id == message_id)
