"""Events that could not be counted, kept in MongoDB with the reason until somebody replays them.

A letter is named after what it holds, so that a crash between burying and acknowledging buries it once.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, Self

from pymongo import ASCENDING, DESCENDING
from pymongo.errors import DuplicateKeyError

from services.analytics.intake.inbox import Inbox
from services.analytics.intake.streams import Kind
from services.analytics.rollups.commits import committed
from services.analytics.rollups.projection import Projection
from shared.mongo import MongoDatabase, MongoSession, mongo_errors

DEAD_LETTERS = "dead_letters"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One event that could not be counted. `outside`: its tenant sent it, the feed did not tell it."""

    letter_id: str
    kind: Kind
    tenant_id: str
    event_id: str
    item: bytes
    reason: str
    deliveries: int
    create_time: datetime
    outside: bool

    @classmethod
    def of(
        cls, kind: Kind, item: bytes, *, tenant_id: str, event_id: str, reason: str, deliveries: int, outside: bool
    ) -> Self:
        """The letter of an item that is given up now."""
        digest = blake2b(b"\0".join([kind.encode(), tenant_id.encode(), item]), digest_size=16).hexdigest()
        return cls(digest, kind, tenant_id, event_id, item, reason, deliveries, datetime.now(UTC), outside)

    @property
    def sender(self) -> str:
        """Whose item it is when it came from outside; empty for the feed's."""
        return self.tenant_id if self.outside else ""


class DeadLetters:
    """The only writer of dead letters."""

    def __init__(self, database: MongoDatabase, projection: Projection, inbox: Inbox) -> None:
        self._database = database
        self._letters = database[DEAD_LETTERS]
        self._projection = projection
        self._inbox = inbox

    async def prepare(self) -> None:
        """Creates the index by which letters are listed."""
        with mongo_errors():
            await self._letters.create_index(
                [("tenant_id", ASCENDING), ("create_time", DESCENDING), ("_id", DESCENDING)], name="tenant_newest"
            )

    async def bury(self, letter: DeadLetter) -> None:
        """Keeps the letter and marks its event as dealt with, so that the feed may go past it."""
        document = {name: getattr(letter, name) for name in DeadLetter.__slots__ if name != "letter_id"}
        document |= {"_id": letter.letter_id, "kind": letter.kind.value, "item": _searchable(letter.item)}
        facts = (await self._projection.current()).facts
        mark = {"_id": letter.event_id, "tenant_id": letter.tenant_id, "dead": letter.reason}
        with mongo_errors():
            await self._letters.replace_one({"_id": letter.letter_id}, document, upsert=True)
            if letter.event_id:
                try:
                    await facts.insert_one(mark)
                except DuplicateKeyError:
                    return

    async def listed(
        self, tenant_id: str, kind: Kind | None, behind: tuple[datetime, str] | None, count: int
    ) -> list[DeadLetter]:
        """Letters of a tenant, newest first, from the one behind (create_time, letter_id) on."""
        asked: dict[str, Any] = {"tenant_id": tenant_id} | ({"kind": kind.value} if kind else {})
        if behind:
            time, letter_id = behind
            asked["$or"] = [{"create_time": {"$lt": time}}, {"create_time": time, "_id": {"$lt": letter_id}}]
        with mongo_errors():
            cursor = self._letters.find(asked).sort([("create_time", DESCENDING), ("_id", DESCENDING)]).limit(count)
            return [_letter(document) async for document in cursor]

    async def of(self, tenant_id: str, letter_ids: Collection[str]) -> list[DeadLetter]:
        """Those of the tenant among these."""
        with mongo_errors():
            cursor = self._letters.find({"_id": {"$in": list(letter_ids)}, "tenant_id": tenant_id})
            return [_letter(document) async for document in cursor]

    async def replay(self, letter: DeadLetter) -> bool:
        """Sends the event once more; False when somebody else did. Mark, letter and inbox change in one commit."""
        inbox_id = await committed(self._database, lambda session: self._revive(letter, session))
        if inbox_id:
            await self._inbox.send(letter.kind, letter.sender, inbox_id, [letter.item])
        return bool(inbox_id)

    async def _revive(self, letter: DeadLetter, session: MongoSession) -> str:
        facts = (await self._projection.current()).facts
        gone = await self._letters.delete_one({"_id": letter.letter_id}, session=session)
        if not gone.deleted_count:
            return ""
        await facts.delete_one({"_id": letter.event_id, "dead": {"$exists": True}}, session=session)
        return await self._inbox.keep(letter.kind, letter.sender, [letter.item], session=session)

    async def forget(self, tenant_id: str, user_id: str) -> int:
        """Deletes the tenant's letters that name the user anywhere in their bytes; returns how many."""
        named = {"$gte": [{"$indexOfBytes": ["$item", {"$literal": _searchable(user_id.encode())}]}, 0]}
        with mongo_errors():
            await self._make_searchable(tenant_id)
            gone = await self._letters.delete_many({"tenant_id": tenant_id, "$expr": named})
        return int(gone.deleted_count)

    async def _make_searchable(self, tenant_id: str) -> None:
        """Letters of earlier releases hold bytes, in which MongoDB looks for nothing."""
        bytes_kept = {"tenant_id": tenant_id, "item": {"$type": "binData"}}
        async for letter in self._letters.find(bytes_kept, {"item": 1}):
            await self._letters.update_one({"_id": letter["_id"]}, {"$set": {"item": _searchable(letter["item"])}})


def _searchable(item: bytes) -> str:
    """A character for each byte: MongoDB can look for a text in a text only."""
    return item.decode("latin-1")


def _bytes_of(kept: str | bytes) -> bytes:
    return kept.encode("latin-1") if isinstance(kept, str) else bytes(kept)


def _letter(document: Mapping[str, Any]) -> DeadLetter:
    kept = {name: document[name] for name in DeadLetter.__slots__ if name != "letter_id"}
    return DeadLetter(document["_id"], **kept | {"kind": Kind(document["kind"]), "item": _bytes_of(document["item"])})
