"""Pages of messages, found by the place of their append: what is read depends on the page, not on the length."""

from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

from services.chat_store.engines.mongo.codec import Document, read
from services.chat_store.engines.mongo.documents import (
    AFTER_COLON,
    APPENDS,
    FACTS,
    apart_in,
    append_key,
    appends_of,
    present_in,
    said_in,
)
from services.chat_store.engines.mongo.headers import MongoHeaders
from services.chat_store.limits import PAGE_BYTES
from services.chat_store.model import Message
from services.chat_store.selection import Page, Window
from shared.mongo import MongoCollection, MongoSession, aggregate

PLACE_FIELDS = {"first_seq": 1, "n": 1}
MESSAGE_FIELDS = {"tenant_id": 1, "conversation_id": 1, "first_seq": 1, "create_time": 1, "messages": 1, "changed": 1}


async def read_page(headers: MongoHeaders, key: str, window: Window) -> tuple[Document | None, Page]:
    """The header of the conversation of that key and the first page of the window: one query, because two cost more."""
    found = aggregate(headers.durable, await _pipeline(headers, key, window))
    header: Document | None = None
    page: list[Message] = []
    size = 0
    async with aclosing(found):
        async for document in found:
            if document["_id"] == key:
                header = document
                continue
            changed = "changed" in document
            messages = await messages_now(headers.changes, document) if changed else said_in(document)
            for message in reversed(messages) if window.newest_first else messages:
                if not window.holds(message.seq):
                    continue
                size += message.draft.size_bytes
                if page and (len(page) == window.limit or size > PAGE_BYTES):
                    return header, Page(tuple(page), more=True)
                page.append(message)
            if window.newest_first and document["first_seq"] <= window.after_seq + 1:
                break
    return header, Page(tuple(page), more=False)


async def messages_now(
    changes: MongoCollection, append: Mapping[str, Any], session: MongoSession = None
) -> list[Message]:
    """The messages of an append as they are now."""
    apart: dict[int, Message] = {}
    if wanted := apart_in(append):
        of_conversation = {name: append[name] for name in ("tenant_id", "conversation_id")}
        either = [{"message_id": message_id, "message_revision": revision} for message_id, revision in wanted]
        for change in await changes.find({**of_conversation, "$or": either}, session=session).to_list(None):
            message = read(Message, change["state"])
            apart[message.seq] = message
    return present_in(append, apart)


async def append_holding(
    appends: MongoCollection, key: str, seq: int, fields: Mapping[str, int] = PLACE_FIELDS
) -> Document | None:
    """What the append that holds `seq`, or the last one before it, says of its place."""
    reaching = {"_id": {**appends_of(key)["_id"], "$lte": append_key(key, seq)}}
    found = await appends.find(reaching, fields).sort("_id", -1).limit(1).to_list(None)
    return found[0] if found else None


async def _pipeline(headers: MongoHeaders, key: str, window: Window) -> list[Document]:
    order = {"_id": -1 if window.newest_first else 1}
    # One append more than messages, to tell whether there are others; and a seal holds none.
    wanted = [{"$match": await _range(headers.appends, key, window)}, {"$sort": order}, {"$limit": window.limit + 2}]
    appends = {"coll": APPENDS, "pipeline": [*wanted, {"$project": MESSAGE_FIELDS}]}
    return [{"$match": {"_id": key}}, {"$project": FACTS}, {"$unionWith": appends}]


async def _range(appends: MongoCollection, key: str, window: Window) -> Document:
    high = append_key(key, window.before_seq) if window.before_seq else f"{key}{AFTER_COLON}"
    low = f"{key}:"
    if window.after_seq and not window.newest_first:
        holding = await append_holding(appends, key, window.after_seq + 1)
        low = holding["_id"] if holding else append_key(key, window.after_seq + 1)
    return {"_id": {"$gte": low, "$lt": high}}
