"""The oldest messages of a conversation leave in whole appends, with all that was kept because of them."""

from services.chat_store.engines.mongo import documents
from services.chat_store.engines.mongo.codec import Document
from services.chat_store.engines.mongo.headers import MongoHeaders
from services.chat_store.engines.mongo.pages import append_holding
from services.chat_store.engines.mongo.texts import drop_texts

APPENDS_AT_ONCE = 200
_OWN = ("tenant_id", "conversation_id", "since")


async def trim(headers: MongoHeaders, key: str, keep_from: int) -> int:
    """See Upkeep.trim. First the header says what is kept, for good: without appends it alone knows the sums."""
    header = await headers.conversations.find_one({"_id": key}, documents.FACTS)
    holding = None if header is None else await append_holding(headers.newest_appends, key, keep_from)
    if header is None or holding is None:
        return 0
    ends_before = documents.last_seq_of(holding) < keep_from
    first_kept = documents.last_seq_of(holding) + 1 if ends_before else holding["first_seq"]
    header = await headers.healed(header, await headers.last_append(key))
    same = {"_id": key, "create_time": header["create_time"]}
    await headers.durable.update_one(same, {"$max": {"first_seq": first_kept}})
    return await _remove_before(headers, header, documents.append_key(key, first_kept))


async def _remove_before(headers: MongoHeaders, header: Document, end: str) -> int:
    fields = {**dict.fromkeys(_OWN, 1), "n": 1, "messages.message_id": 1, "messages.body": 1, "changed": 1}
    place = {"_id": {**documents.appends_of(header["_id"])["_id"], "$lt": end}, "since": header["create_time"]}
    removed = 0
    while oldest := await headers.appends.find(place, fields).sort("_id", 1).limit(APPENDS_AT_ONCE).to_list(None):
        await _remove_what_hangs_on(headers, header, oldest)
        await headers.appends.delete_many({"_id": {"$in": [each["_id"] for each in oldest]}})
        removed += sum(each["n"] for each in oldest)
    return removed


async def _remove_what_hangs_on(headers: MongoHeaders, header: Document, appends: list[Document]) -> None:
    own = {name: header[name] for name in ("tenant_id", "conversation_id")}
    messages = [message for append in appends for message in append["messages"]]
    texts = {message["body"]["sha256"] for message in messages if "body" in message}
    if any("changed" in append for append in appends):
        of_these = {**own, "message_id": {"$in": [message["message_id"] for message in messages]}}
        texts |= set(await headers.changes.distinct("state.draft.body.sha256", of_these))
        await headers.changes.delete_many(of_these)
    leaving = [append["_id"] for append in appends]
    await drop_texts(headers, header["_id"], header["create_time"], texts, leaving)
