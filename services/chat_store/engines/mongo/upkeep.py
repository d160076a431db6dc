"""What the service does by itself, in MongoDB: policies, what is due, purges, trimming."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from services.chat_store.engines.mongo import documents
from services.chat_store.engines.mongo.acts import enter
from services.chat_store.engines.mongo.authors import MongoAuthors
from services.chat_store.engines.mongo.codec import Document, document_of, read
from services.chat_store.engines.mongo.dump import dump, load
from services.chat_store.engines.mongo.headers import MongoHeaders
from services.chat_store.engines.mongo.trimming import trim
from services.chat_store.model import Conversation
from services.chat_store.policy import Policy
from services.chat_store.snapshot import KeptPurge, Piece
from shared.mongo import insist, mongo_errors, transaction

PLACES = (documents.CHANGES, documents.ENTRIES, documents.BODIES, documents.APPENDS)


@dataclass(frozen=True, slots=True)
class Traces:
    """When the conversation was created of which something is `left`, and when the one that was purged last."""

    left: datetime | None
    purged: datetime | None


class MongoUpkeep:
    """Upkeep over one Mongo database."""

    def __init__(self, headers: MongoHeaders) -> None:
        self._headers = headers
        self._authors = MongoAuthors(headers)
        self._policies = headers.database.get_collection(documents.POLICIES)

    async def policy(self, tenant_id: str) -> Policy:
        """See Upkeep.policy."""
        with mongo_errors():
            found = await self._policies.find_one({"_id": tenant_id})
        return Policy() if found is None else read(Policy, found)

    async def set_policy(self, tenant_id: str, policy: Policy) -> None:
        """See Upkeep.set_policy."""
        with mongo_errors():
            await self._policies.replace_one({"_id": tenant_id}, document_of(policy), upsert=True)

    async def policies(self) -> list[tuple[str, Policy]]:
        """See Upkeep.policies."""
        with mongo_errors():
            found = await self._policies.find({}).sort("_id", 1).to_list(None)
        return [(each["_id"], read(Policy, each)) for each in found]

    async def leaving(self, at: datetime, limit: int) -> list[tuple[str, str]]:
        """What is due, and before it what a crash left of a purge: that was due already."""
        names = {"tenant_id": 1, "conversation_id": 1}
        with mongo_errors():
            unfinished = await self._headers.purges.find({"unfinished": True}, names).limit(limit).to_list(None)
            due = self._headers.conversations.find({"leave_time": {"$lte": at}}, names).sort("leave_time", 1)
            found = [*unfinished, *await due.limit(limit).to_list(None)]
        return [(each["tenant_id"], each["conversation_id"]) for each in found[:limit]]

    async def idle(self, tenant_id: str, before: datetime, limit: int) -> list[str]:
        """See Upkeep.idle; all statuses, in the order of an index."""
        statuses = {"$in": ["active", "archived", "deleted", "finalized"]}
        wanted = {"tenant_id": tenant_id, "status": statuses, "last_activity_time": {"$lt": before}}
        with mongo_errors():
            found = self._headers.conversations.find(wanted, {"conversation_id": 1})
            idle = await found.sort([("last_activity_time", 1), ("_id", 1)]).limit(limit).to_list(None)
        return [each["conversation_id"] for each in idle]

    async def purge(
        self, tenant_id: str, conversation_id: str, when: Callable[[Conversation], bool] | None = None
    ) -> Mapping[str, int]:
        """The header goes with the word that it went, in one step; what it held follows, also after a crash."""
        await self._headers.ensure_indexes()
        key = documents.conversation_key(tenant_id, conversation_id)
        with mongo_errors():
            if not await self._has_header(key):
                return await self.sweep_left(key)
            async with self._headers.turn(key):
                since = await insist(lambda: self._taken_out(tenant_id, conversation_id, when))
            return {} if since is None else {documents.CONVERSATIONS: 1, **await self._sweep(key, since)}

    async def sweep_left(self, key: str) -> Mapping[str, int]:
        """Removes what a crash, or a writer that came too late, left of a conversation without a header."""
        since = (await self.traces(key)).left
        # Looked for after what is left was seen: else it could be what was said in a new conversation.
        if since is None or await self._has_header(key):
            return {}
        return await self._sweep(key, since)

    async def traces(self, key: str) -> Traces:
        """What there still is of conversations of that key that have no header."""
        append, purge = await asyncio.gather(
            self._headers.newest_appends.find_one(documents.appends_of(key), {"since": 1}),
            self._headers.purges.find_one(_purges_of(key), {"since": 1, "unfinished": 1}, sort=[("_id", -1)]),
        )
        unfinished = [purge] if purge is not None and purge.get("unfinished") else []
        left = max((each["since"] for each in (append, *unfinished) if each is not None), default=None)
        return Traces(left, purge["since"] if purge is not None else None)

    async def trim(self, tenant_id: str, conversation_id: str, keep_from: int) -> int:
        """See trimming."""
        with mongo_errors():
            return await trim(self._headers, documents.conversation_key(tenant_id, conversation_id), keep_from)

    async def forget_author(self, tenant_id: str, user_id: str) -> Mapping[str, int]:
        """See MongoAuthors."""
        return await self._authors.forget(tenant_id, user_id)

    async def residue(self, tenant_id: str, user_id: str) -> Mapping[str, int]:
        """See MongoAuthors."""
        return await self._authors.residue(tenant_id, user_id)

    def dump(self) -> AsyncGenerator[Piece, None]:
        """See dump."""
        return dump(self._headers)

    async def load(self, pieces: Sequence[Piece]) -> None:
        """See dump."""
        await load(self._headers, pieces)

    async def _taken_out(
        self, tenant_id: str, conversation_id: str, when: Callable[[Conversation], bool] | None
    ) -> datetime | None:
        """When the conversation was created that has no header any more; None when it stays."""
        async with transaction(self._headers.database) as session:
            scene = await enter(self._headers, tenant_id, conversation_id, session)
            if scene is None:
                return None
            if when is not None and not when(scene.conversation):
                await session.abort_transaction()
                return None
            since = scene.conversation.create_time
            purge = KeptPurge(tenant_id, conversation_id, since, max(scene.at, self._headers.now()))
            await self._headers.conversations.delete_one({"_id": scene.key}, session=session)
            await self._headers.purges.insert_one(documents.purge_document(purge, unfinished=True), session=session)
            return since

    async def _sweep(self, key: str, until: datetime) -> Mapping[str, int]:
        """Removes what was said in conversations of that key that were created at `until` or before."""
        removed = dict[str, int]()
        for place in PLACES:
            left = {**documents.everything_of(key), "since": {"$lte": until}}
            deleted = (await self._headers.database[place].delete_many(left)).deleted_count
            removed |= {place: deleted} if deleted else {}
        finished = {**_purges_of(key), "since": {"$lte": until}, "unfinished": True}
        await self._headers.purges.update_many(finished, {"$unset": {"unfinished": ""}})
        return removed

    async def _has_header(self, key: str) -> bool:
        return await self._headers.conversations.find_one({"_id": key}, {"_id": 1}) is not None


def _purges_of(key: str) -> Document:
    tenant_id, conversation_id = key.split(":", 1)
    # The next character after "@" ends the range.
    return {"_id": {"$gt": f"{tenant_id}:!{conversation_id}@", "$lt": f"{tenant_id}:!{conversation_id}A"}}
