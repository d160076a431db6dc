"""Pages of messages, found by the place of their append: what is read depends on the page, not on the length."""

from typing import Any

from services.chat_store.engines.mongo_documents import (
    AFTER_COLON,
    append_key,
    appends_of,
    messages_of,
)
from services.chat_store.model import PAGE_BYTES, Message, Page, Window
from shared.mongo import MongoCollection


async def read_page(appends: MongoCollection, key: str, window: Window) -> tuple[Page, str | None]:
    """The first page of the window in the conversation of that key, and whose it is; None when nothing was read."""
    found = appends.find(await _range(appends, key, window))
    cursor = found.sort("_id", -1 if window.newest_first else 1).limit(window.limit + 1)
    page: list[Message] = []
    owner: str | None = None
    size = 0
    try:
        async for append in cursor:
            owner = append["user_id"]
            messages = messages_of(append)
            for message in reversed(messages) if window.newest_first else messages:
                if not window.holds(message.seq):
                    continue
                size += message.draft.size_bytes
                if page and (len(page) == window.limit or size > PAGE_BYTES):
                    return Page(tuple(page), more=True), owner
                page.append(message)
            if window.newest_first and append["first_seq"] <= window.after_seq + 1:
                break
    finally:
        # 0 when one reply held everything: there is nothing to close then, and Motor would ask a thread for it.
        if cursor.cursor_id:
            await cursor.close()
    return Page(tuple(page), more=False), owner


async def _range(appends: MongoCollection, key: str, window: Window) -> dict[str, Any]:
    high = append_key(key, window.before_seq) if window.before_seq else f"{key}{AFTER_COLON}"
    low = f"{key}:"
    if window.after_seq and not window.newest_first:
        low = await _append_holding(appends, key, window.after_seq + 1)
    return {"_id": {"$gte": low, "$lt": high}}


async def _append_holding(appends: MongoCollection, key: str, seq: int) -> str:
    """The key of the append that holds `seq`, or of the last one before it; else the place of `seq` itself."""
    place = append_key(key, seq)
    reaching = {"_id": {**appends_of(key)["_id"], "$lte": place}}
    found = await appends.find(reaching, {"_id": 1}).sort("_id", -1).limit(1).to_list(None)
    return str(found[0]["_id"]) if found else place
