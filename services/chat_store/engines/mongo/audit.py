"""The audit chains: one document per link, its place in its `_id`, so that each place is taken once."""

from datetime import datetime
from typing import Any

from pymongo.errors import DuplicateKeyError

from services.chat_store.audit_chain import AuditEntry, AuditLink
from services.chat_store.engines.mongo import documents
from services.chat_store.engines.mongo.codec import Document
from shared.mongo import MongoDatabase, mongo_errors


class MongoAudit:
    """AuditStore over one Mongo database."""

    def __init__(self, database: MongoDatabase) -> None:
        self._links = database.get_collection(documents.AUDIT)

    async def add(self, link: AuditLink) -> bool:
        """See AuditStore.add."""
        with mongo_errors():
            try:
                await self._links.insert_one(link_document(link))
            except DuplicateKeyError:
                return False
        return True

    async def last(self, tenant_id: str) -> AuditLink | None:
        """See AuditStore.last."""
        links = await self.read_back(tenant_id, 0, 1)
        return links[0] if links else None

    async def read(self, tenant_id: str, after_number: int, limit: int) -> list[AuditLink]:
        """See AuditStore.read."""
        key = documents.append_key(tenant_id, after_number)
        return await self._read(tenant_id, {"$gt": key}, 1, limit)

    async def read_back(self, tenant_id: str, before_number: int, limit: int) -> list[AuditLink]:
        """See AuditStore.read_back."""
        bound = {"$lt": documents.append_key(tenant_id, before_number)} if before_number else {}
        return await self._read(tenant_id, bound, -1, limit)

    async def _read(self, tenant_id: str, bound: Document, direction: int, limit: int) -> list[AuditLink]:
        place = {**documents.everything_of(tenant_id)["_id"], **bound}
        with mongo_errors():
            found = self._links.find({"_id": place}).sort("_id", direction).limit(limit)
            return [link_of(document) for document in await found.to_list(None)]


def link_document(link: AuditLink) -> Document:
    """Times as text: what the hash covers must come back to the microsecond."""
    return {
        "_id": documents.append_key(link.tenant_id, link.number),
        "tenant_id": link.tenant_id,
        "number": link.number,
        "first_entry": link.first_entry,
        "entries": [[each.time.isoformat(), *map(each.__getattribute__, _FACTS)] for each in link.entries],
        "previous_hash": link.previous_hash,
        "hash": link.hash,
    }


def link_of(document: Any) -> AuditLink:
    """The link of a document."""
    facts = {name: document[name] for name in ("tenant_id", "number", "first_entry", "previous_hash", "hash")}
    entries = tuple(AuditEntry(datetime.fromisoformat(time), *said) for time, *said in document["entries"])
    return AuditLink(**facts, entries=entries)


_FACTS = AuditEntry.__slots__[1:]
