"""What came from outside of the feed, kept in MongoDB until it is counted: no feed would tell it again.

An item is in the inbox before its sender hears that it was accepted, and leaves it after the commit that counts it.
What Redis has lost on the way is put into the stream again from here; known marks drop what comes twice.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from pymongo import ASCENDING

from services.analytics.intake.entries import fields_of
from services.analytics.intake.streams import Kind, Lanes
from shared.errors import Unavailable
from shared.identifiers import new_id
from shared.mongo import MongoDatabase, MongoSession, mongo_errors
from shared.telemetry import get_logger

INBOX = "inbox"
# After so long an entry that is in the inbox and in no backlog has been lost.
LOST_SECONDS = 30.0
BACKLOG = 1000
SENT_AT_ONCE = 200

log = get_logger()


class Inbox:
    """Items of outside producers, from their acceptance to their commit."""

    def __init__(self, database: MongoDatabase, streams: Mapping[Kind, Lanes]) -> None:
        self._inbox = database[INBOX]
        self._streams = streams

    async def prepare(self) -> None:
        """Creates the index by which what was lost is found."""
        with mongo_errors():
            await self._inbox.create_index([("sent", ASCENDING)], name="sent")

    async def accept(self, kind: Kind, tenant_id: str, items: Sequence[bytes]) -> None:
        """Returns when the items will be counted whatever happens; Unavailable when MongoDB is away."""
        inbox_id = await self.keep(kind, tenant_id, items)
        await self.send(kind, tenant_id, inbox_id, items)

    async def keep(
        self,
        kind: Kind,
        tenant_id: str,
        items: Sequence[bytes],
        *,
        session: MongoSession = None,
        sent: datetime | None = None,
    ) -> str:
        """Keeps the items until they are counted and returns the id of what is kept.

        The caller sends it; with `sent` long ago, whoever looks for what was lost does.
        """
        letter = {
            "_id": new_id(),
            "kind": kind.value,
            "tenant_id": tenant_id,
            "items": list(items),
            "sent": sent or datetime.now(UTC),
        }
        with mongo_errors():
            await self._inbox.insert_one(letter, session=session)
        return str(letter["_id"])

    async def counted(self, inbox_ids: Sequence[str]) -> None:
        """These have been counted, or given up: nothing is kept of them any more."""
        if inbox_ids:
            with mongo_errors():
                await self._inbox.delete_many({"_id": {"$in": list(inbox_ids)}})

    async def send_lost(self, lost_seconds: float = LOST_SECONDS) -> int:
        """Puts what was sent too long ago into its stream once more, unless that is merely behind; returns how many."""
        before = datetime.now(UTC) - timedelta(seconds=lost_seconds)
        with mongo_errors():
            waiting = [
                letter
                async for letter in self._inbox.find({"sent": {"$lt": before}}).sort("sent", 1).limit(SENT_AT_ONCE)
            ]
        sent = 0
        for letter in waiting:
            kind = Kind(letter["kind"])
            if await self._streams[kind].length() >= BACKLOG:
                continue
            with mongo_errors():
                await self._inbox.update_one({"_id": letter["_id"]}, {"$set": {"sent": datetime.now(UTC)}})
            await self.send(kind, letter["tenant_id"], letter["_id"], letter["items"])
            sent += 1
        return sent

    async def send(self, kind: Kind, tenant_id: str, inbox_id: str, items: Sequence[bytes]) -> None:
        """Puts what is kept into its stream; when Redis is away it goes there later."""
        lane = self._streams[kind].lane(tenant_id, len(items))
        try:
            await lane.add([fields_of(items, tenant_id=tenant_id, inbox_id=inbox_id)])
        except Unavailable as error:
            log.warning("kept_for_later", items=len(items), error=str(error))
