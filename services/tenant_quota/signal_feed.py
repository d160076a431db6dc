"""Signals while they happen: one listener and one reader for all who watch in this process.

    LISTEN ─► whose tenant has news ─► read once per tenant ─► the inboxes of its followers ─► each at its own pace

A signal's id and its commit follow one order within a tenant, so "after the last one read" misses nothing. What a lost
connection does not tell, the poll finds.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import asyncpg

from services.tenant_quota.signal_model import Signal
from services.tenant_quota.signal_store import SignalStore
from shared.errors import Unavailable
from shared.postgres import ACQUIRE_TIMEOUT_SECONDS, postgres_errors
from shared.steadily import in_background, steadily

# What record_signals notifies; the payload is the tenant's id.
CHANNEL = "tenant_quota_signals"
POLL_SECONDS = 5.0
AGAIN_SECONDS = 0.5
PAGE = 500
# A follower that lets more than this gather is told to come again; the store remembers for it.
MOST_UNREAD = 1_000
STOPPING = "the service is stopping"


@dataclass(slots=True, eq=False)
class _Inbox:
    signals: deque[Signal] = field(default_factory=deque)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    failure: Unavailable | None = None

    def tell(self, signal: Signal) -> None:
        if len(self.signals) < MOST_UNREAD:
            self.signals.append(signal)
            self.news.set()
        else:
            self.fail("the stream is read too slowly")

    def fail(self, why: str) -> None:
        self.failure = self.failure or Unavailable(why)
        self.news.set()


@dataclass(slots=True, eq=False)
class _Watched:
    """A tenant with followers here; `position` is the last signal read, None before the first reading."""

    followers: int = 0
    position: int | None = None
    inboxes: set[_Inbox] = field(default_factory=set)


class SignalFeed:
    """What is watched in this process."""

    def __init__(self, pool: asyncpg.Pool, store: SignalStore, *, poll_seconds: float = POLL_SECONDS) -> None:
        self._pool = pool
        self._store = store
        self._poll_seconds = poll_seconds
        self._watched: dict[str, _Watched] = {}
        self._news: set[str] = set()
        # Whoever enters begins where the reader stands, so both wait for each other.
        self._reading = asyncio.Lock()
        self._bell = asyncio.Event()
        self._bells: list[Callable[[], None]] = [self._bell.set]
        self._closed = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Listens inside the block."""
        listening = steadily("signal_listener", self._listen, AGAIN_SECONDS)
        reading = steadily("signal_reader", self._read_news, self._poll_seconds, self._bell)
        async with in_background(listening, reading):
            yield

    def on_news(self, ring: Callable[[], None]) -> None:
        """Calls it whenever somebody has a signal or a delivery; not on what only the poll finds."""
        self._bells.append(ring)

    def close(self) -> None:
        """Ends every stream with Unavailable: a service that stops waits for nobody who might watch for ever."""
        self._closed = True
        for watched in self._watched.values():
            for inbox in watched.inboxes:
                inbox.fail(STOPPING)

    @asynccontextmanager
    async def following(
        self, tenant_id: str, user_id: str | None, after: int | None
    ) -> AsyncIterator[AsyncGenerator[Signal, None]]:
        """What comes from the beginning of the block on, behind what is stored after `after` (None: nothing of it).

        Only the user's signals unless None. The generator raises Unavailable when it cannot go on.
        """
        if self._closed:
            raise Unavailable(STOPPING)
        watched = self._watched.setdefault(tenant_id, _Watched())
        watched.followers += 1
        inbox = _Inbox()
        try:
            begin = await self._entered(tenant_id, watched, inbox)
            yield self._signals(tenant_id, user_id, begin if after is None else after, begin, inbox)
        finally:
            watched.inboxes.discard(inbox)
            watched.followers -= 1
            if not watched.followers:
                del self._watched[tenant_id]

    async def _entered(self, tenant_id: str, watched: _Watched, inbox: _Inbox) -> int:
        async with self._reading:
            if watched.position is None:
                watched.position = await self._store.last(tenant_id)
            watched.inboxes.add(inbox)
            if self._closed:
                inbox.fail(STOPPING)
            return watched.position

    async def _signals(
        self, tenant_id: str, user_id: str | None, after: int, begin: int, inbox: _Inbox
    ) -> AsyncGenerator[Signal, None]:
        told = after
        while stored := await self._store.stored(tenant_id, user_id, told, begin, PAGE):
            for signal in stored:
                yield signal
            told = stored[-1].signal_id
        while True:
            while inbox.signals:
                signal = inbox.signals.popleft()
                if signal.signal_id > told and signal.concerns(user_id):
                    yield signal
            if inbox.failure is not None:
                raise inbox.failure
            inbox.news.clear()
            await inbox.news.wait()

    async def _listen(self) -> None:
        """Until the connection is lost."""
        lost = asyncio.Event()

        def lose(_connection: object) -> None:
            lost.set()

        with postgres_errors():
            async with self._pool.acquire(timeout=ACQUIRE_TIMEOUT_SECONDS) as connection:
                connection.add_termination_listener(lose)
                await connection.add_listener(CHANNEL, self._hear)
                try:
                    while not lost.is_set():
                        self._news.update(self._watched)
                        self._ring()
                        with suppress(TimeoutError):
                            await asyncio.wait_for(lost.wait(), self._poll_seconds)
                        # A peer that vanished without a word is noticed only by asking.
                        await connection.fetchval("SELECT 1", timeout=self._poll_seconds)
                finally:
                    # It would have to be asked to listen no more, and may be gone: nobody else needs it.
                    connection.terminate()

    def _hear(self, _connection: object, _pid: int, _channel: str, tenant_id: object) -> None:
        if tenant_id in self._watched:
            self._news.add(str(tenant_id))
        self._ring()

    def _ring(self) -> None:
        for ring in self._bells:
            ring()

    async def _read_news(self) -> None:
        """Of the tenants told of; of all when the poll's time has come."""
        tenants = (self._news or set(self._watched)) & self._watched.keys()
        self._news = set()
        async with self._reading:
            positions = {each: self._watched[each].position for each in tenants if each in self._watched}
            after = {tenant_id: position for tenant_id, position in positions.items() if position is not None}
            for signal in await self._store.news(after) if after else ():
                self._deliver(signal)

    def _deliver(self, signal: Signal) -> None:
        watched = self._watched.get(signal.tenant_id)
        if watched is not None:
            watched.position = signal.signal_id
            for inbox in watched.inboxes:
                inbox.tell(signal)
