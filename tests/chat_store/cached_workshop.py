"""What a test must be able to do to an engine whose conversations are cached."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pydantic import SecretStr

from services.chat_store.engines.cached import CachedChatStore
from services.chat_store.engines.own_tails import OwnTails
from services.chat_store.engines.redis_tails import open_tails
from services.chat_store.engines.tails import Tails
from services.chat_store.store import ChatStore
from shared.clock import Clock
from tests.chat_store.workshop import Work, Workshop

# A busy machine must not turn hits into misses: the work for a call is counted.
PATIENCE_SECONDS = 60.0
TTL_SECONDS = 600.0
OWN_BYTES = 64 * 1024 * 1024


class CachedWorkshop:
    """Another workshop with a cache over it; what is done behind the store's back is done behind the cache's.

    Each store has tails of its own, as each process would, and all of them share those in Redis.
    """

    def __init__(self, inner: Workshop, tails: Tails) -> None:
        self._tails = tails
        self._inner = inner
        self._stores: list[CachedChatStore] = []
        self._own: list[OwnTails] = []
        self.store: ChatStore = self._cached(inner.store)
        self.crash_after_storing, self.load = inner.crash_after_storing, inner.load
        self.forget_the_log, self.open_feeds = inner.forget_the_log, inner.open_feeds

    async def another_replica(self) -> ChatStore:
        return self._cached(await self._inner.another_replica())

    def store_at(self, clock: Clock) -> ChatStore:
        return self._cached(self._inner.store_at(clock))

    async def start_measuring(self) -> None:
        await self.settled()
        await self._inner.start_measuring()

    async def work(self) -> Work:
        await self.settled()
        return await self._inner.work()

    async def settled(self) -> None:
        """What follows an answer belongs to the call."""
        for store in self._stores:
            await store.settled()

    async def close(self) -> None:
        """Nothing is left to be written or to expire."""
        await self.settled()
        for own in self._own:
            own.close()

    def _cached(self, store: ChatStore) -> ChatStore:
        self._own.append(OwnTails(max_bytes=OWN_BYTES, ttl_seconds=TTL_SECONDS))
        self._stores.append(CachedChatStore(store, self._own[-1], self._tails))
        return self._stores[-1]


@asynccontextmanager
async def cached(inner: Workshop, redis_url: str) -> AsyncIterator[Workshop]:
    """The workshop with a cache over it, in a Redis database that only caches use."""
    url = SecretStr(redis_url.rsplit("/", 1)[0] + "/11")
    async with open_tails(url, ttl_seconds=TTL_SECONDS, patience_seconds=PATIENCE_SECONDS) as tails:
        workshop = CachedWorkshop(inner, tails)
        yield workshop
        await workshop.close()
