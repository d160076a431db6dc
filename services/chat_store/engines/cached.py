"""A store whose active conversations end in Redis too: the same law, fewer pages out of the engine.

Redis never decides anything. A page from it is given out only when the engine says, at the same time, that the
conversation is within reach and at exactly the version that the page was read at; so it does not matter what Redis
forgot, kept, or was not told. What is written to Redis is written after the answer, and may fail.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr

from services.chat_store.batch import Batch
from services.chat_store.engines.redis_tails import PATIENCE_SECONDS, Held, Tails, open_tails
from services.chat_store.model import Conversation, Message, NewConversation
from services.chat_store.selection import Page, Reach, Version, Window, is_conversation_id
from services.chat_store.snapshot import KeptConversation, Piece
from services.chat_store.store import ChatStore, Upkeep
from shared.errors import NotFound, Unavailable
from shared.telemetry import counter

PLACE = "cache"
# So many tails may wait to be written; beyond that the conversations stay uncached.
MAX_WAITING = 256
CLOSING_SECONDS = 1.0

_reads = counter("prosa.cache.reads")


@dataclass(frozen=True, slots=True)
class CacheStatus:
    """Pages read since the process started: from the cache, past it, and while it was away; whether it answers now."""

    hits: int
    misses: int
    unavailable: int
    available: bool


@asynccontextmanager
async def open_cached(
    store: ChatStore, url: SecretStr, *, ttl_seconds: float, patience_seconds: float = PATIENCE_SECONDS
) -> AsyncIterator["CachedChatStore"]:
    """The store with a cache in the Redis at that URL, for the length of the block. Redis need not be there."""
    async with open_tails(url, ttl_seconds=ttl_seconds, patience_seconds=patience_seconds) as tails:
        cached = CachedChatStore(store, tails)
        try:
            yield cached
        finally:
            await cached.close()


class CachedChatStore:
    """ChatStore over another one, with the ends of conversations in Redis. Close it before its `tails`."""

    def __init__(self, store: ChatStore, tails: Tails) -> None:
        self._store = store
        self._tails = tails
        self._counts = dict.fromkeys(("hit", "miss", "unavailable"), 0)
        self._waiting = set[asyncio.Task[None]]()
        self.upkeep: Upkeep = CachedUpkeep(store.upkeep, tails)
        # Where the cache has no part, there is nothing in between.
        self.entries, self.audit = store.entries, store.audit
        self.get, self.version, self.select, self.act = store.get, store.version, store.select, store.act
        self.message, self.revise, self.revisions = store.message, store.revise, store.revisions
        self.text, self.search, self.watch = store.text, store.search, store.watch
        self.position, self.ready = store.position, store.ready

    def status(self) -> CacheStatus:
        """How much the cache was worth."""
        counts = self._counts
        return CacheStatus(counts["hit"], counts["miss"], counts["unavailable"], self._tails.available)

    async def create(self, reach: Reach, new: NewConversation) -> Conversation:
        """Starts the tail of a new conversation, so that its first messages come into the cache as they are said."""
        made = await self._store.create(reach, new)
        if not made.totals.messages and made.first_seq == 1:
            version = Version(made.create_time, 1, 0, made.revision)
            self._later(lambda: self._tails.keep(reach.tenant_id, made.conversation_id, version, ()))
        return made

    async def append(self, reach: Reach, conversation_id: str, batch: Batch) -> list[Message]:
        """Stores the batch, then lets the tail follow: reading follows most appends."""
        stored = await self._store.append(reach, conversation_id, batch)
        self._later(lambda: self._tails.extend(reach.tenant_id, conversation_id, stored))
        return stored

    async def read(self, reach: Reach, conversation_id: str, window: Window) -> Page:
        """A page of the end from the cache if it is there as of now; any other only if the cache has it at hand."""
        if not is_conversation_id(conversation_id):
            return await self._store.read(reach, conversation_id, window)
        if not self._tails.available:
            return await self._past(reach, conversation_id, window, "unavailable")
        if window.newest_first and not window.before_seq:
            return await self._end(reach, conversation_id, window)
        held = await self._held(reach, conversation_id, window)
        if held is None:
            return await self._past(reach, conversation_id, window)
        version = await self._store.version(reach, conversation_id)
        return self._hit(held, version) or await self._past(reach, conversation_id, window)

    async def settled(self) -> None:
        """Returns when all that waits to be written to Redis is written, or has failed."""
        while self._waiting:
            await asyncio.wait(self._waiting)

    async def close(self) -> None:
        """Leaves unwritten what takes long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSING_SECONDS):
                await self.settled()
        for task in self._waiting:
            task.cancel()
        await self.settled()

    async def _end(self, reach: Reach, conversation_id: str, window: Window) -> Page:
        version, held = await asyncio.gather(
            self._store.version(reach, conversation_id), self._held(reach, conversation_id, window)
        )
        page = self._hit(held, version)
        if page is None:
            page = await self._past(reach, conversation_id, window)
            self._later(lambda: self._fill(reach, conversation_id, version, page.messages))
        return page

    async def _held(self, reach: Reach, conversation_id: str, window: Window) -> Held | None:
        try:
            return await self._tails.page(reach.tenant_id, conversation_id, window)
        except Unavailable:
            return None

    def _hit(self, held: Held | None, version: Version) -> Page | None:
        """The page that is held, if the conversation is at that version."""
        if held is None or held.version != version:
            return None
        try:
            page = held.page()
        except ValueError:  # not as we write it: whoever did, the engine knows better
            return None
        self._count("hit")
        return page

    async def _past(self, reach: Reach, conversation_id: str, window: Window, outcome: str = "miss") -> Page:
        self._count(outcome if self._tails.available else "unavailable")
        return await self._store.read(reach, conversation_id, window)

    async def _fill(self, reach: Reach, conversation_id: str, version: Version, newest: Sequence[Message]) -> None:
        """Keeps what was read after the version was, if that is the end of it.

        A purge in between found nothing to remove, so whoever fills looks again.
        """
        if (newest[0].seq if newest else version.first_seq - 1) != version.last_seq:
            return
        await self._tails.keep(reach.tenant_id, conversation_id, version, newest)
        try:
            still = await self._store.version(reach, conversation_id) == version
        except NotFound:
            still = False
        if not still:
            await self._tails.forget(reach.tenant_id, conversation_id)

    def _later(self, write: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """After the answer: nobody waits for it, and it may fail."""
        if not self._tails.available or len(self._waiting) >= MAX_WAITING:
            return

        async def written() -> None:
            try:
                await write()
            except Unavailable:  # of Redis, which has said so already, or of the engine, whose next caller will hear it
                return

        task = asyncio.create_task(written())
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)

    def _count(self, outcome: str) -> None:
        self._counts[outcome] += 1
        _reads.add(1, {"outcome": outcome})


class CachedUpkeep:
    """Upkeep that takes from the cache what it takes from the store, as far as Redis can be reached.

    While it cannot, a tail stays there for its time to live at most; it is given out to nobody.
    """

    def __init__(self, upkeep: Upkeep, tails: Tails) -> None:
        self._upkeep = upkeep
        self._tails = tails
        self.policy, self.set_policy, self.policies = upkeep.policy, upkeep.set_policy, upkeep.policies
        self.leaving, self.idle, self.dump = upkeep.leaving, upkeep.idle, upkeep.dump

    async def purge(
        self, tenant_id: str, conversation_id: str, when: Callable[[Conversation], bool] | None = None
    ) -> Mapping[str, int]:
        """Also from the cache, whether or not the store still had anything."""
        removed = await self._upkeep.purge(tenant_id, conversation_id, when)
        forgotten = await self._forgotten(tenant_id, conversation_id) if removed or when is None else 0
        return {**removed, PLACE: forgotten} if forgotten else removed

    async def trim(self, tenant_id: str, conversation_id: str, keep_from: int) -> int:
        """Also from the cache."""
        trimmed = await self._upkeep.trim(tenant_id, conversation_id, keep_from)
        if trimmed:
            await self._forgotten(tenant_id, conversation_id)
        return trimmed

    async def forget_author(self, tenant_id: str, user_id: str) -> Mapping[str, int]:
        """All of the tenant's tails go: whose words they hold is not known by their keys."""
        forgotten = await self._upkeep.forget_author(tenant_id, user_id)
        try:
            tails = await self._tails.forget_all(tenant_id)
        except Unavailable:
            return forgotten
        return {**forgotten, PLACE: tails}

    async def residue(self, tenant_id: str, user_id: str) -> Mapping[str, int]:
        """Also in the cache; Unavailable while it cannot be looked into, for then nothing can be said of it."""
        in_cache = await self._tails.count_by(tenant_id, user_id)
        return {**await self._upkeep.residue(tenant_id, user_id), PLACE: in_cache}

    async def load(self, pieces: Sequence[Piece]) -> None:
        """What is loaded may bear the versions of what was there before."""
        await self._upkeep.load(pieces)
        for piece in pieces:
            if isinstance(piece, KeptConversation):
                await self._forgotten(piece.conversation.tenant_id, piece.conversation.conversation_id)

    async def _forgotten(self, tenant_id: str, conversation_id: str) -> int:
        try:
            return await self._tails.forget(tenant_id, conversation_id)
        except Unavailable:
            return 0
