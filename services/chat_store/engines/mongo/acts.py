"""What is done to conversations, messages and entries: each act is one transaction.

It begins by taking the next revision in the header, so that of two acts one waits or tries again, and appends wait with
their update of the header. What an act left is kept as one change: told by the feed, a revision of a message, and how
a retry is known.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TypeAlias, TypeVar

from services.chat_store.acts import Act, ConversationAct, EntryAct, MessageAct
from services.chat_store.engines.mongo import documents
from services.chat_store.engines.mongo.bodies import beginnings
from services.chat_store.engines.mongo.changes import change_document, target_of
from services.chat_store.engines.mongo.codec import Document, document_of, read
from services.chat_store.engines.mongo.headers import MongoHeaders
from services.chat_store.engines.mongo.pages import messages_now
from services.chat_store.engines.mongo.texts import with_texts
from services.chat_store.engines.mongo.words import terms_in
from services.chat_store.entries import Entry, EntryKind
from services.chat_store.model import Conversation, Message
from services.chat_store.selection import Reach
from services.chat_store.snapshot import KeptChange
from shared.errors import NotFound, RequestIdReused
from shared.mongo import MongoSession, insist, mongo_errors, transaction

State = TypeVar("State", Conversation, Message, Entry)


@dataclass(frozen=True, slots=True)
class Scene:
    """A conversation in the hands of one transaction: `stored` is its header before the act, revision included."""

    session: MongoSession
    stored: Document
    conversation: Conversation
    at: datetime

    @property
    def key(self) -> str:
        """Of the conversation."""
        return str(self.stored["_id"])

    @property
    def own(self) -> Document:
        """What is of this conversation, for indexes that begin so."""
        return {name: self.stored[name] for name in ("tenant_id", "conversation_id")}


# What an act leaves: the state to be kept, or None with the state that it did not change.
Outcome: TypeAlias = tuple[State, bool]


class MongoActs:
    """Acts on what one Mongo database keeps."""

    def __init__(self, headers: MongoHeaders) -> None:
        self._headers = headers

    async def on_conversation(self, reach: Reach, conversation_id: str, act: ConversationAct) -> Conversation:
        """See ChatStore.act."""
        target = target_of(Conversation)

        async def change(scene: Scene) -> Outcome[Conversation]:
            if not act.reaches(scene.conversation, scene.at):
                raise NotFound("conversation", conversation_id)
            after = act.applied(scene.conversation, scene.at)
            if after == scene.conversation:
                return after, False
            return await self._keep_conversation(scene, after), True

        return await self._done(reach, conversation_id, act, target, Conversation, change)

    async def on_message(self, reach: Reach, conversation_id: str, message_id: str, act: MessageAct) -> Message:
        """See ChatStore.revise."""
        target = target_of(Message, message_id)

        async def change(scene: Scene) -> Outcome[Message]:
            _check_present(scene)
            append = await self._headers.appends.find_one(
                {**scene.own, "messages.message_id": message_id}, session=scene.session
            )
            if append is None:
                raise NotFound("message", message_id)
            messages = await messages_now(self._headers.changes, append, scene.session)
            before = next(message for message in messages if message.message_id == message_id)
            at = max(scene.at, before.update_time or scene.at)
            after = act.applied(scene.conversation, before, at)
            if after == before:
                return before, False
            return await self._keep_message(scene, append, before, replace(after, update_time=at)), True

        async def done() -> list[Message]:
            return [await self._done(reach, conversation_id, act, target, Message, change)]

        if not act.bodies:
            return (await done())[0]
        with mongo_errors():
            header = await self._headers.find_kept(reach, conversation_id)
            return (await with_texts(self._headers, header, act.bodies, done))[0]

    async def on_entry(
        self, reach: Reach, conversation_id: str, kind: EntryKind, entry_id: str, act: EntryAct
    ) -> Entry:
        """See EntryStore.act."""
        target = target_of(Entry, entry_id, kind)

        async def change(scene: Scene) -> Outcome[Entry]:
            _check_present(scene)
            place = {"_id": entry_key(scene.key, kind, entry_id)}
            found = await self._headers.entries.find_one(place, session=scene.session)
            before = None if found is None else read(Entry, found)
            at = scene.at if before is None else max(scene.at, before.update_time)
            after = act.applied(kind, entry_id, before, at)
            if after == before:
                return after, False
            return await self._keep_entry(scene, before, after), True

        return await self._done(reach, conversation_id, act, target, Entry, change)

    async def _done(
        self,
        reach: Reach,
        conversation_id: str,
        act: Act,
        target: Document,
        kind: type[State],
        change: Callable[[Scene], Awaitable[Outcome[State]]],
    ) -> State:
        """One transaction, tried again while others are in the way."""
        await self._headers.ensure_indexes()
        with mongo_errors():
            header = await self._headers.find_kept(reach, conversation_id)
            async with self._headers.turn(header["_id"]):
                return await insist(lambda: self._once(header, act, target, kind, change))

    async def _once(
        self,
        header: Document,
        act: Act,
        target: Document,
        kind: type[State],
        change: Callable[[Scene], Awaitable[Outcome[State]]],
    ) -> State:
        async with transaction(self._headers.database) as session:
            scene = await enter(self._headers, header["tenant_id"], header["conversation_id"], session)
            if scene is None or scene.conversation.expired(scene.at):
                raise NotFound("conversation", header["conversation_id"])
            known = await self._known(scene, act, target)
            if known is not None:
                await session.abort_transaction()
                return read(kind, known["state"])
            state, changed = await change(scene)
            if not changed:
                await session.abort_transaction()
                return state
            await self._headers.changes.insert_one(_change(scene, act, state), session=session)
            return state

    async def _known(self, scene: Scene, act: Act, target: Document) -> Document | None:
        if not act.request_id:
            return None
        wanted = {**scene.own, "request_id": act.request_id}
        known: Document | None = await self._headers.changes.find_one(wanted, session=scene.session)
        if known is not None:
            same = all(known.get(name) == value for name, value in target.items())
            if not same or known["fingerprint"] != act.fingerprint:
                raise RequestIdReused
        return known

    async def _keep_conversation(self, scene: Scene, after: Conversation) -> Conversation:
        state = replace(after, revision=scene.conversation.revision + 1)
        if state.closed and not scene.conversation.closed:
            closed = {**scene.stored, **documents.state_of(state), "last_seq": state.totals.messages}
            await self._headers.appends.insert_one(documents.new_seal(closed), session=scene.session)
        update = _update(scene.stored, state)
        await self._headers.conversations.update_one({"_id": scene.key}, update, session=scene.session)
        return state

    async def _keep_message(self, scene: Scene, append: Document, before: Message, after: Message) -> Message:
        state = replace(after, revision=before.revision + 1)
        kept: Document = {f"changed.{state.seq}": documents.overlay_of(state)}
        if (state.draft.words, state.draft.body) != (before.draft.words, before.draft.body):
            index = state.seq - append["first_seq"]
            others = (len(each["terms"]) for place, each in enumerate(append["words"]) if place != index)
            terms = await self._terms_of(scene, state)
            kept[f"words.{index}"] = documents.words_in(state, terms, documents.MAX_TERMS - sum(others))
        if state.seq == documents.last_seq_of(append):
            kept["preview"] = state.draft.preview
        update: Document = {"$set": kept}
        # Who is no longer named stays: earlier revisions name them.
        if guests := documents.guests_in([state], append["user_id"]):
            update["$addToSet"] = {"guests": {"$each": guests}}
        await self._headers.appends.update_one({"_id": append["_id"]}, update, session=scene.session)
        if state.seq == scene.conversation.totals.messages:
            shown = {"$set": {"preview": state.draft.preview}}
            await self._headers.conversations.update_one({"_id": scene.key}, shown, session=scene.session)
        return state

    async def _terms_of(self, scene: Scene, message: Message) -> list[str]:
        """Also those of a text that was kept apart before this act."""
        created = scene.stored["create_time"]
        bodies = await beginnings(self._headers.bodies, scene.key, created, [message.draft], scene.session)
        (terms,) = await terms_in([message.draft], bodies)
        return terms

    async def _keep_entry(self, scene: Scene, before: Entry | None, after: Entry) -> Entry:
        state = after if before is None else replace(after, revision=before.revision + 1)
        place = {"_id": entry_key(scene.key, state.kind, state.entry_id)}
        if state.removed:
            await self._headers.entries.delete_one(place, session=scene.session)
        else:
            entry = entry_document(scene.stored, state)
            await self._headers.entries.replace_one(place, entry, upsert=True, session=scene.session)
        return state


async def enter(headers: MongoHeaders, tenant_id: str, conversation_id: str, session: MongoSession) -> Scene | None:
    """Takes the conversation's next revision, and with it the conversation, until the transaction ends."""
    key = documents.conversation_key(tenant_id, conversation_id)
    wanted = {"_id": key, "tenant_id": tenant_id}
    stored = await headers.conversations.find_one_and_update(wanted, {"$inc": {"revision": 1}}, session=session)
    if stored is None:
        return None
    last = await headers.last_append(key, session)
    ahead = last is not None and documents.last_seq_of(last) > stored["last_seq"]
    now = {**stored, **documents.header_after(last)} if last is not None and ahead else stored
    conversation = documents.conversation_of(now)
    return Scene(session, stored, conversation, max(headers.now(), conversation.last_activity_time))


def entry_key(conversation: str, kind: EntryKind, entry_id: str) -> str:
    """`_id` of an entry of the conversation of that key."""
    return f"{conversation}:{kind.value}:{entry_id}"


def entry_document(header: Document, entry: Entry) -> Document:
    """An entry as it is kept."""
    own = {name: header[name] for name in ("tenant_id", "conversation_id", "user_id")}
    key = entry_key(header["_id"], entry.kind, entry.entry_id)
    return {"_id": key, **own, "since": header["create_time"], **document_of(entry)}


def _check_present(scene: Scene) -> None:
    if scene.conversation.gone(scene.at):
        raise NotFound("conversation", scene.conversation.conversation_id)


def _update(stored: Document, state: Conversation) -> Document:
    """What of the header is not as the state wants it; its revision was taken when the transaction began."""
    wanted = {**documents.state_of(state), "last_seq": state.totals.messages}
    wanted.pop("revision")
    names = {*Conversation.__slots__, "status", "leave_time"} - {"revision", *wanted}
    update: Document = {"$set": {name: value for name, value in wanted.items() if stored.get(name) != value}}
    if left := {name: "" for name in names if name in stored}:
        update["$unset"] = left
    return update


def _change(scene: Scene, act: Act, state: Conversation | Message | Entry) -> Document:
    kept = KeptChange.of(scene.conversation, scene.conversation.revision + 1, act, scene.at, state)
    return change_document(scene.stored, kept)
