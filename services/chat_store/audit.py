"""Who did what, kept in each tenant's chain: written in groups, so that being watched costs a call next to nothing.

    call ends ─► entry waits ─► (FLUSH_SECONDS, or at once for an act) ─► one link of the tenant's chain ─► the store

The place in the chain is the lock: of two replicas one takes it, the other reads the end again and takes the next.

What kill -9 loses: the entries of reads, and of what was added (conversations, messages, tasks, events), of the last
FLUSH_SECONDS; of a little longer while the store is slower than the calls come. Of what changes, removes or hands out
something nothing is lost: its answer waits until its entry is durable. SIGTERM loses nothing that the store takes
within DRAIN_SECONDS. While the store is away entries wait, MOST_WAITING of all tenants together; what comes then is
counted as lost, in a metric and in the log, and calls go on.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice

from services.chat_store.audit_chain import AuditEntry, AuditLink, next_link
from services.chat_store.store import AuditStore
from shared.errors import ServiceError, Unavailable
from shared.telemetry import counter, get_logger

FLUSH_SECONDS = 0.1
AGAIN_SECONDS = 1.0
DRAIN_SECONDS = 5.0
MOST_WAITING = 50_000
MOST_IN_A_LINK = 500
# So many tenants' links are written at once: more would take the store's connections from the calls.
WRITERS = 4
CHAINS_REMEMBERED = 10_000

_log = get_logger()
_lost = counter("prosa.audit.entries_lost")


@dataclass(slots=True)
class _Waiting:
    entry: AuditEntry
    durable: asyncio.Future[None] | None


@dataclass(slots=True)
class _Chain:
    """A tenant's entries that wait, in their order, and what is known of the chain's end."""

    tenant_id: str
    waiting: deque[_Waiting] = field(default_factory=deque)
    end: AuditLink | None = None
    end_known: bool = False
    # A link of which nobody knows whether the store took it; only asking for the same one again tells.
    attempt: AuditLink | None = None
    pressing: asyncio.Event = field(default_factory=asyncio.Event)
    writing: asyncio.Task[None] | None = None


class Audit:
    """Takes entries at any time and keeps them in the order in which they came; one in each replica.

    `waiting` is how many are not written yet.
    """

    def __init__(self, store: AuditStore) -> None:
        self._store = store
        self._chains: dict[str, _Chain] = {}
        self._writers = asyncio.Semaphore(WRITERS)
        self.waiting = 0
        self._lost_in_a_row = 0
        self._closing = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """At the end of the block what still waits is written, for DRAIN_SECONDS at most."""
        try:
            yield
        finally:
            self._closing = True
            await self._drained()

    def note(self, tenant_id: str, entry: AuditEntry) -> None:
        """Takes an entry that may be written a little later."""
        self._take(tenant_id, _Waiting(entry, None))

    async def keep(self, tenant_id: str, entry: AuditEntry) -> None:
        """Returns when the entry is durable. Unavailable when it is not yet: then it waits like any other."""
        durable: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if not self._take(tenant_id, _Waiting(entry, durable)):
            raise Unavailable("the audit takes no more entries until its store is back", dependency="audit")
        self._chains[tenant_id].pressing.set()
        await durable

    def _take(self, tenant_id: str, waiting: _Waiting) -> bool:
        if self.waiting >= MOST_WAITING:
            self._lose(1)
            return False
        chain = self._chains.get(tenant_id)
        if chain is None:
            chain = self._chains[tenant_id] = _Chain(tenant_id)
        chain.waiting.append(waiting)
        self.waiting += 1
        if chain.writing is None:
            chain.writing = asyncio.create_task(self._write_out(chain))
        return True

    async def _write_out(self, chain: _Chain) -> None:
        if not self._closing:
            with suppress(TimeoutError):
                await asyncio.wait_for(chain.pressing.wait(), FLUSH_SECONDS)
        while chain.waiting:
            chain.pressing.clear()
            try:
                async with self._writers:
                    await self._write_link(chain)
            except ServiceError as error:
                _log.warning("audit_not_written", tenant=chain.tenant_id, reason=error.reason, waiting=self.waiting)
                await self._put_off(chain)
            except Exception:
                # A writer that died silently would lose all that comes after.
                _log.exception("audit_not_written", tenant=chain.tenant_id)
                await self._put_off(chain)
        chain.writing = None
        if len(self._chains) > CHAINS_REMEMBERED:
            del self._chains[chain.tenant_id]

    async def _write_link(self, chain: _Chain) -> None:
        if not chain.end_known:
            chain.end, chain.end_known = await self._store.last(chain.tenant_id), True
        if chain.attempt is None:
            entries = [each.entry for each in islice(chain.waiting, MOST_IN_A_LINK)]
            chain.attempt = next_link(chain.tenant_id, chain.end, entries)
        link = chain.attempt
        if await self._store.add(link) or await self._is_kept(link):
            self._written(chain, link)
        else:
            chain.end_known = False
        chain.attempt = None

    async def _is_kept(self, link: AuditLink) -> bool:
        """Whether the one who took the place was this very link, whose answer got lost on its way."""
        kept = await self._store.read(link.tenant_id, link.number - 1, 1)
        return [each.hash for each in kept] == [link.hash]

    def _written(self, chain: _Chain, link: AuditLink) -> None:
        chain.end = link
        for _ in link.entries:
            durable = chain.waiting.popleft().durable
            if durable is not None and not durable.done():
                durable.set_result(None)
        self.waiting -= len(link.entries)
        if self._lost_in_a_row:
            _log.error("audit_entries_lost", count=self._lost_in_a_row)
            self._lost_in_a_row = 0

    async def _put_off(self, chain: _Chain) -> None:
        """Those who wait for an answer hear that there is none; the entries are tried again."""
        for waiting in chain.waiting:
            if waiting.durable is not None and not waiting.durable.done():
                waiting.durable.set_exception(Unavailable("the audit cannot be written", dependency="audit"))
        with suppress(TimeoutError):
            await asyncio.wait_for(chain.pressing.wait(), AGAIN_SECONDS)

    def _lose(self, count: int) -> None:
        if not self._lost_in_a_row:
            _log.error("audit_loses_entries", waiting=self.waiting)
        self._lost_in_a_row += count
        _lost.add(count)

    async def _drained(self) -> None:
        writing = [chain.writing for chain in self._chains.values() if chain.writing is not None]
        for chain in self._chains.values():
            chain.pressing.set()
        if not writing:
            return
        _, late = await asyncio.wait(writing, timeout=DRAIN_SECONDS)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        if self.waiting:
            self._lose(self.waiting)
