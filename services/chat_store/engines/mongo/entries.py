"""Tasks and events, one document each; what was removed is only in the change log."""

from services.chat_store.acts import EntryAct
from services.chat_store.engines.mongo.acts import MongoActs, entry_key
from services.chat_store.engines.mongo.codec import Document, read
from services.chat_store.engines.mongo.headers import MongoHeaders
from services.chat_store.entries import Entry, EntryKind
from services.chat_store.selection import Entries, EntrySelection, Reach
from shared.errors import NotFound
from shared.mongo import mongo_errors


class MongoEntries:
    """EntryStore over one Mongo database."""

    def __init__(self, headers: MongoHeaders, acts: MongoActs) -> None:
        self._headers = headers
        self._acts = acts

    async def act(self, reach: Reach, conversation_id: str, kind: EntryKind, entry_id: str, act: EntryAct) -> Entry:
        """See MongoActs."""
        return await self._acts.on_entry(reach, conversation_id, kind, entry_id, act)

    async def get(self, reach: Reach, conversation_id: str, kind: EntryKind, entry_id: str) -> Entry:
        """See EntryStore.get."""
        with mongo_errors():
            header = await self._headers.find(reach, conversation_id)
            found = await self._headers.entries.find_one({"_id": entry_key(header["_id"], kind, entry_id)})
        if found is None:
            raise NotFound(kind.value, entry_id)
        return read(Entry, found)

    async def select(self, reach: Reach, conversation_id: str, selection: EntrySelection) -> Entries:
        """In the order of an index."""
        with mongo_errors():
            header = await self._headers.find(reach, conversation_id)
            found = self._headers.entries.find(_selected(header, selection))
            page = found.sort([("create_time", -1), ("entry_id", -1)]).limit(selection.limit + 1)
            entries = [read(Entry, each) for each in await page.to_list(None)]
        return Entries(tuple(entries[: selection.limit]), len(entries) > selection.limit)


def _selected(header: Document, selection: EntrySelection) -> Document:
    wanted: Document = {
        "tenant_id": header["tenant_id"],
        "conversation_id": header["conversation_id"],
        "kind": selection.kind.value,
    }
    if selection.label:
        wanted["label"] = selection.label
    if selection.after is not None:
        at = selection.after.time
        wanted["create_time"] = {"$lte": at}
        wanted["$or"] = [{"create_time": {"$lt": at}}, {"entry_id": {"$lt": selection.after.id}}]
    return wanted
