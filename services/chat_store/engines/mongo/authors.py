"""What people said in the conversations of others: forgotten in every place that keeps it, and searched for.

Appends and changes name those whom they mention beside the conversation's user (`guests`), so that forgetting need not
look at everything. The search for what is left does.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from services.chat_store.engines.mongo import documents
from services.chat_store.engines.mongo.acts import Scene, enter
from services.chat_store.engines.mongo.changes import state_of
from services.chat_store.engines.mongo.codec import Document, document_of
from services.chat_store.engines.mongo.headers import MongoHeaders
from services.chat_store.engines.mongo.pages import messages_now
from services.chat_store.engines.mongo.texts import drop_texts
from services.chat_store.entries import Entry
from services.chat_store.model import Message, MessageType
from shared.mongo import insist, mongo_errors, transaction

SCANNED = (documents.CONVERSATIONS, documents.APPENDS, documents.CHANGES, documents.ENTRIES)
_NAMING = frozenset({"user_id", "actor", "guests"})
_NEVER_NAMING = {"words": 0, "preview": 0, "messages.text": 0, "messages.parts": 0, "messages.references": 0}


class MongoAuthors:
    """The authors of one Mongo database."""

    def __init__(self, headers: MongoHeaders) -> None:
        self._headers = headers

    async def forget(self, tenant_id: str, user_id: str) -> Mapping[str, int]:
        """See Upkeep.forget_author. Each step by itself, so a crash leaves what the next call finds."""
        forgotten = Counter[str]()
        named = {"tenant_id": tenant_id, "guests": user_id}
        with mongo_errors():
            while append := await self._headers.newest_appends.find_one(named, {"words": 0}):
                async with self._headers.turn(documents.conversation_key(tenant_id, append["conversation_id"])):
                    forgotten += await insist(partial(self._forget_in_append, append["_id"], user_id))
            async for change in self._headers.changes.find(named):
                forgotten += await self._forget_in_change(change, user_id)
            caused = {"tenant_id": tenant_id, "actor": user_id, "user_id": {"$ne": user_id}}
            cleared = await self._headers.entries.update_many(caused, {"$unset": {"actor": ""}})
            forgotten += Counter({documents.ENTRIES: cleared.modified_count})
        return dict(forgotten)

    async def residue(self, tenant_id: str, user_id: str) -> Mapping[str, int]:
        """See Upkeep.residue: documents that name the user in any field that names somebody."""
        found = dict.fromkeys(SCANNED, 0)
        with mongo_errors():
            for place in SCANNED:
                everything = documents.everything_of(tenant_id)
                async for document in self._headers.database[place].find(everything, _NEVER_NAMING):
                    found[place] += _names(document, user_id)
        return found

    async def _forget_in_append(self, place: str, user_id: str) -> Counter[str]:
        async with transaction(self._headers.database) as session:
            append = await self._headers.appends.find_one({"_id": place}, session=session)
            if append is None:
                return Counter()
            scene = await enter(self._headers, append["tenant_id"], append["conversation_id"], session)
            now = await messages_now(self._headers.changes, append, session)
            said = documents.said_in(append)
            update, counts = _blanking(said, now, user_id)
            await self._headers.appends.update_one({"_id": place}, update, session=session)
            if scene is not None and "preview" in update.get("$set", {}):
                await self._forget_previews(scene, append)
        texts = {each.draft.body.sha256 for each in (*said, *now) if each.draft.body and _is_by(each, user_id)}
        await drop_texts(self._headers, _key(append), append["since"], texts)
        return counts

    async def _forget_previews(self, scene: Scene, append: Document) -> None:
        """The header and what acts left of the conversation show the beginning of its last message, as it was then."""
        last = documents.said_in(append)[-1]
        revisions = {**scene.own, "message_id": last.message_id}
        states = [state_of(each) async for each in self._headers.changes.find(revisions, session=scene.session)]
        drafts = [last.draft, *(state.draft for state in states if isinstance(state, Message))]
        preview = {"$in": [draft.preview for draft in drafts]}
        shown = {"_id": scene.key, "preview": preview}
        await self._headers.conversations.update_one(shown, {"$set": {"preview": ""}}, session=scene.session)
        told = {**documents.everything_of(scene.key), "state.preview": preview}
        await self._headers.changes.update_many(told, {"$unset": {"state.preview": ""}}, session=scene.session)

    async def _forget_in_change(self, change: Document, user_id: str) -> Counter[str]:
        state = state_of(change)
        update: Document = {"$pull": {"guests": user_id}}
        if isinstance(state, Message):
            update["$set"] = {"state": document_of(_forgotten(state, user_id))}
        elif isinstance(state, Entry) and state.actor == user_id:
            update["$unset"] = {"state.actor": ""}
        if change["actor"] == user_id:
            update.setdefault("$set", {})["actor"] = ""
        await self._headers.changes.update_one({"_id": change["_id"]}, update)
        if isinstance(state, Message) and state.draft.body is not None and _is_by(state, user_id):
            await drop_texts(self._headers, _key(change), change["since"], {state.draft.body.sha256})
        return Counter({documents.CHANGES: 1})


def _blanking(said: list[Message], now: list[Message], user_id: str) -> tuple[Document, Counter[str]]:
    """The update that takes the user out of an append, and how much of what that is."""
    kept, counts = Document(), Counter[str]()
    for index, (before, after) in enumerate(zip(said, now, strict=True)):
        if _is_by(before, user_id):
            kept[f"messages.{index}"] = document_of(_forgotten(before, user_id).draft)
            kept[f"words.{index}"] = documents.words_in(after, [], documents.MAX_TERMS)
            counts["messages"] += 1
        if before != after and _forgotten(after, user_id) != after:
            kept[f"changed.{after.seq}"] = documents.overlay_of(_forgotten(after, user_id))
        counts["feedback"] += after.feedback is not None and after.feedback.user_id == user_id
    if f"messages.{len(said) - 1}" in kept:
        kept["preview"] = ""
    return {"$pull": {"guests": user_id}, **({"$set": kept} if kept else {})}, counts


def _forgotten(message: Message, user_id: str) -> Message:
    """The message without what the user said in it and about it."""
    if _is_by(message, user_id):
        draft = replace(message.draft, text="", user_id="", references=(), metadata="", parts=(), body=None)
        message = replace(message, draft=draft)
    if message.feedback is not None and message.feedback.user_id == user_id:
        message = replace(message, feedback=None)
    return message


def _is_by(message: Message, user_id: str) -> bool:
    return message.draft.type is MessageType.USER and message.draft.user_id == user_id


def _key(place: Document) -> str:
    return documents.conversation_key(place["tenant_id"], place["conversation_id"])


def _names(value: Any, user_id: str) -> bool:
    """Whether a field that names people names the user, however deep."""
    if isinstance(value, list):
        return any(_names(each, user_id) for each in value)
    if not isinstance(value, dict):
        return False
    return any(
        (name in _NAMING and (each == user_id or (isinstance(each, list) and user_id in each))) or _names(each, user_id)
        for name, each in value.items()
    )
