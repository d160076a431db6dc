"""A store whose active conversations end in a cache too: the same law, fewer pages out of the engine.

The cache has two levels, this process and Redis, and neither decides anything. A page from either is given out only
when the engine says, at the same time, that the conversation is within reach and at exactly the version that the page
was read at; so it does not matter what a level forgot, kept, or was not told. What is written to Redis is written after
the answer, and may fail.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from pydantic import SecretStr

from services.chat_store.batch import Batch
from services.chat_store.engines.own_tails import OwnTails
from services.chat_store.engines.redis_tails import PATIENCE_SECONDS, open_tails
from services.chat_store.engines.tails import Held, Tails
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
# Nobody can tell another replica's process to forget: what was erased there may be in its memory for so long.
OWN_TTL_SECONDS = 300.0

_reads = counter("prosa.cache.reads")


@dataclass(frozen=True, slots=True)
class CacheStatus:
    """Pages read since the process started: from it, from Redis, past both, and past it while Redis was away.

    `available`: whether all levels answer now.
    """

    process_hits: int
    redis_hits: int
    misses: int
    unavailable: int
    available: bool

    @property
    def hits(self) -> int:
        """Pages that the engine did not have to read."""
        return self.process_hits + self.redis_hits


@asynccontextmanager
async def open_cached(
    store: ChatStore,
    url: SecretStr | None,
    *,
    process_bytes: int,
    ttl_seconds: float,
    patience_seconds: float = PATIENCE_SECONDS,
) -> AsyncIterator["CachedChatStore"]:
    """The store with a cache in this process and, with a URL, in the Redis there, which need not be up."""
    own = OwnTails(max_bytes=process_bytes, ttl_seconds=min(ttl_seconds, OWN_TTL_SECONDS))
    async with AsyncExitStack() as stack:
        stack.callback(own.close)
        shared: Tails | None = None
        if url is not None:
            opened = open_tails(url, ttl_seconds=ttl_seconds, patience_seconds=patience_seconds)
            shared = await stack.enter_async_context(opened)
        cached = CachedChatStore(store, own, shared)
        stack.push_async_callback(cached.close)
        yield cached


class CachedChatStore:
    """ChatStore over another one, with the ends of conversations in this process and in Redis.

    Close it before the levels.
    """

    def __init__(self, store: ChatStore, own: OwnTails, shared: Tails | None) -> None:
        self._store = store
        self._own = own
        self._shared = shared
        self._counts = Counter[tuple[str, str]]()
        self._waiting = set[asyncio.Task[None]]()
        # What is written to Redis last of each conversation that anything waits for.
        self._last_of = dict[tuple[str, str], asyncio.Task[None]]()
        self.upkeep: Upkeep = CachedUpkeep(store.upkeep, [shared, own] if shared is not None else [own])
        # Where the cache has no part, there is nothing in between.
        self.entries, self.audit = store.entries, store.audit
        self.get, self.version, self.select, self.act = store.get, store.version, store.select, store.act
        self.message, self.revise, self.revisions = store.message, store.revise, store.revisions
        self.text, self.search, self.watch = store.text, store.search, store.watch
        self.position, self.ready = store.position, store.ready

    def status(self) -> CacheStatus:
        """How much the cache was worth."""
        counts = self._counts
        return CacheStatus(
            process_hits=counts["hit", "process"],
            redis_hits=counts["hit", "redis"],
            misses=counts["miss", "engine"],
            unavailable=counts["unavailable", "engine"],
            available=self._shared is None or self._shared.available,
        )

    async def create(self, reach: Reach, new: NewConversation) -> Conversation:
        """Starts the tail of a new conversation, so that its first messages come into the cache as they are said."""
        made = await self._store.create(reach, new)
        if not made.totals.messages and made.first_seq == 1:
            key, version = (reach.tenant_id, made.conversation_id), Version(made.create_time, 1, 0, made.revision)
            await self._own.keep(*key, version, ())
            self._later(key, lambda shared: shared.keep(*key, version, ()))
        return made

    async def append(self, reach: Reach, conversation_id: str, batch: Batch) -> list[Message]:
        """Stores the batch, then lets the tails follow: reading follows most appends."""
        stored = await self._store.append(reach, conversation_id, batch)
        key = (reach.tenant_id, conversation_id)
        await self._own.extend(*key, stored)
        self._later(key, lambda shared: shared.extend(*key, stored))
        return stored

    async def read(self, reach: Reach, conversation_id: str, window: Window) -> Page:
        """A page out of the process for the price of a version; else out of Redis if it has it, or the engine."""
        if not is_conversation_id(conversation_id):
            return await self._store.read(reach, conversation_id, window)
        held = await self._own.page(reach.tenant_id, conversation_id, window)
        version = None if held is None else await self._store.version(reach, conversation_id)
        return self._hit(self._own, held, version) or await self._beyond(reach, conversation_id, window, version)

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

    async def _beyond(self, reach: Reach, conversation_id: str, window: Window, version: Version | None) -> Page:
        """What the process does not have at that version (None: it has nothing). The end is kept from then on.

        A version that was asked for before the page was read never says more of it than is so.
        """
        is_end, times_forgotten = window.newest_first and not window.before_seq, self._own.times_forgotten
        if is_end and version is None:
            asked = self._store.version(reach, conversation_id), self._held(reach, conversation_id, window)
            version, held = await asyncio.gather(*asked)
        else:
            held = await self._held(reach, conversation_id, window)
            version = await self._store.version(reach, conversation_id) if version is None and held else version
        hit = self._hit(self._shared, held, version)
        page = hit or await self._past(reach, conversation_id, window)
        if is_end and version is not None and _ends(page, version):
            key = (reach.tenant_id, conversation_id)
            if self._own.times_forgotten == times_forgotten:
                await self._own.keep(*key, version, page.messages)
            # Behind what waits it would be out of date before it was written, and end the tail.
            if hit is None and key not in self._last_of:
                self._later(key, lambda shared: self._fill(shared, reach, conversation_id, version, page.messages))
        return page

    async def _held(self, reach: Reach, conversation_id: str, window: Window) -> Held | None:
        if self._shared is None or not self._shared.available:
            return None
        try:
            return await self._shared.page(reach.tenant_id, conversation_id, window)
        except Unavailable:
            return None

    def _hit(self, level: Tails | None, held: Held | None, version: Version | None) -> Page | None:
        """The page that is held, if the conversation is at that version."""
        if level is None or held is None or held.version != version:
            return None
        try:
            page = held.page()
        except ValueError:  # not as we write it: whoever did, the engine knows better
            return None
        self._count("hit", level.level)
        return page

    async def _past(self, reach: Reach, conversation_id: str, window: Window) -> Page:
        is_whole = self._shared is None or self._shared.available
        self._count("miss" if is_whole else "unavailable", "engine")
        return await self._store.read(reach, conversation_id, window)

    async def _fill(
        self, shared: Tails, reach: Reach, conversation_id: str, version: Version, newest: Sequence[Message]
    ) -> None:
        """A purge while the page was read found nothing to remove, so whoever fills looks again."""
        await shared.keep(reach.tenant_id, conversation_id, version, newest)
        try:
            still = await self._store.version(reach, conversation_id) == version
        except NotFound:
            still = False
        if not still:
            await shared.forget(reach.tenant_id, conversation_id)

    def _later(self, key: tuple[str, str], write: Callable[[Tails], Coroutine[Any, Any, None]]) -> None:
        """To Redis, after the answer: nobody waits for it, and it may fail. In order within a conversation.

        A tail that is extended before it is kept is without what it was extended by.
        """
        shared, before = self._shared, self._last_of.get(key)
        if shared is None or not shared.available or len(self._waiting) >= MAX_WAITING:
            return

        async def written() -> None:
            if before is not None:
                await asyncio.wait([before])
            try:
                await write(shared)
            except Unavailable:  # of Redis, which has said so already, or of the engine, whose next caller will hear it
                return

        task = self._last_of[key] = asyncio.create_task(written())
        self._waiting.add(task)
        task.add_done_callback(partial(self._written, key))

    def _written(self, key: tuple[str, str], task: asyncio.Task[None]) -> None:
        self._waiting.discard(task)
        if self._last_of.get(key) is task:
            del self._last_of[key]

    def _count(self, outcome: str, level: str) -> None:
        self._counts[outcome, level] += 1
        _reads.add(1, {"outcome": outcome, "level": level})


class CachedUpkeep:
    """Upkeep that takes from all levels of the cache what it takes from the store, as far as Redis can be reached.

    While it cannot, a tail stays there for its time to live at most, and so it does in the processes of other replicas;
    it is given out to nobody.
    """

    def __init__(self, upkeep: Upkeep, levels: Sequence[Tails]) -> None:
        """The process comes last, so that it takes over nothing from a level that is yet to forget."""
        self._upkeep = upkeep
        self._levels = levels
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
        return {**forgotten, PLACE: await self._removed(lambda level: level.forget_all(tenant_id))}

    async def residue(self, tenant_id: str, user_id: str) -> Mapping[str, int]:
        """Also in the cache; Unavailable while it cannot be looked into, for then nothing can be said of it."""
        in_cache = sum([await level.count_by(tenant_id, user_id) for level in self._levels])
        return {**await self._upkeep.residue(tenant_id, user_id), PLACE: in_cache}

    async def load(self, pieces: Sequence[Piece]) -> None:
        """What is loaded may bear the versions of what was there before."""
        await self._upkeep.load(pieces)
        for piece in pieces:
            if isinstance(piece, KeptConversation):
                await self._forgotten(piece.conversation.tenant_id, piece.conversation.conversation_id)

    async def _forgotten(self, tenant_id: str, conversation_id: str) -> int:
        return await self._removed(lambda level: level.forget(tenant_id, conversation_id))

    async def _removed(self, remove: Callable[[Tails], Coroutine[Any, Any, int]]) -> int:
        removed = 0
        for level in self._levels:
            with suppress(Unavailable):
                removed += await remove(level)
        return removed


def _ends(page: Page, version: Version) -> bool:
    """Whether the page, newest first, is of the end that the version speaks of."""
    return (page.messages[0].seq if page.messages else version.first_seq - 1) == version.last_seq
