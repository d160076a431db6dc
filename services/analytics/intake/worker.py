"""From the stream into the rollups: take a batch, commit it, only then acknowledge it.

Whatever kills the worker in between, the entries are taken over by another one and the facts tell what was counted.
What can never be counted goes to the dead letters; the rest of its batch does not wait for it.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from services.analytics.intake.patience import Patience
from services.analytics.intake.wire import fact_of
from services.analytics.model import Fact, UncountableEventError
from services.analytics.rollups.rollup_store import RollupStore
from shared.errors import ServiceError, Unavailable
from shared.redis_streams import Entry, Stream, Stuck
from shared.telemetry import get_logger

EVENT = b"event"
# Entries that failed before are tried alone; so few at a time that new ones hardly wait for them.
SUSPECTS_AT_ONCE = 20
# How long a consumer is remembered that is given nothing.
ABSENT_SECONDS = 3600.0

log = get_logger()


class Worker:
    """One consumer of the stream; any number may run, in one process or many."""

    def __init__(
        self,
        stream: Stream,
        store: RollupStore,
        *,
        batch_size: int = 1000,
        block_ms: int = 1000,
        claim_idle_seconds: float = 60.0,
        max_deliveries: int = 5,
    ) -> None:
        self._stream = stream
        self._store = store
        self._batch_size = batch_size
        self._block_ms = block_ms
        self._claim_idle_seconds = claim_idle_seconds
        self._max_deliveries = max_deliveries
        self._next_rescue = 0.0
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Works until `stop`; outages of the engines are waited out."""
        patience, prepared = Patience(), False
        while not self._stopping.is_set():
            try:
                if not prepared:
                    await self._store.prepare()
                    await self._stream.forget_absent(ABSENT_SECONDS)
                    prepared = True
                await self.step()
            except Exception as error:
                _complain("worker_waits", error)
                await patience.wait(self._stopping)
            else:
                patience.reset()
        with suppress(Unavailable):
            await self._stream.leave()

    def stop(self) -> None:
        """Lets the batch in hand end and takes no other."""
        self._stopping.set()

    async def step(self) -> int:
        """Takes over what others left, now and then, and one batch of what is new; returns its length."""
        now = asyncio.get_running_loop().time()
        if now >= self._next_rescue:
            self._next_rescue = now + self._claim_idle_seconds / 4
            await self.rescue()
        entries = await self._stream.read(self._batch_size, self._block_ms)
        await self._process(entries)
        return len(entries)

    async def rescue(self) -> None:
        """Takes over entries that a consumer took too long ago.

        Those that failed once are tried together. One that has failed more often may be what kills workers, so it is
        taken alone: only its own count grows.
        """
        # Taking an entry counts as a delivery: not while the store is down, which is no fault of the entry.
        await self._store.ready()
        stuck = await self._stream.stuck(self._claim_idle_seconds, self._batch_size)
        once = [each for each in stuck if each.deliveries <= 1]
        suspects = [each for each in stuck if each.deliveries > 1]
        if once:
            await self._process(await self._stream.claim(once, self._claim_idle_seconds))
        for suspect in suspects[:SUSPECTS_AT_ONCE]:
            await self._try_alone(suspect)

    async def _try_alone(self, suspect: Stuck) -> None:
        for entry in await self._stream.claim([suspect], self._claim_idle_seconds):
            if suspect.deliveries >= self._max_deliveries:
                await self._bury(entry, f"not done after {suspect.deliveries} deliveries")
            else:
                await self._process([entry])

    async def _process(self, entries: Sequence[Entry]) -> None:
        readable: list[tuple[Entry, Fact]] = []
        for entry in entries:
            try:
                readable.append((entry, fact_of(entry.fields.get(EVENT, b""))))
            except UncountableEventError as error:
                await self._bury(entry, str(error))
        if not readable:
            return
        try:
            await self._commit([fact for _, fact in readable])
        except Exception as error:
            await self._process_singly(readable, error)
        else:
            await self._stream.done([entry for entry, _ in readable])

    async def _process_singly(self, readable: Sequence[tuple[Entry, Fact]], error: Exception) -> None:
        """One of them cannot be stored: the others are, and it is left for another try or buried."""
        log.warning("batch_refused", entries=len(readable), error=repr(error))
        for entry, fact in readable:
            try:
                await self._commit([fact])
            except Exception as own_error:
                await self._refuse(entry, own_error)
            else:
                await self._stream.done([entry])

    async def _refuse(self, entry: Entry, error: Exception) -> None:
        log.warning("entry_refused", entry_id=entry.entry_id, deliveries=entry.deliveries, error=repr(error))
        if entry.deliveries >= self._max_deliveries:
            await self._bury(entry, f"{type(error).__name__}: {error}")

    async def _commit(self, facts: Sequence[Fact]) -> None:
        """Commits, however long the store is away; raises only when these facts cannot be stored."""
        patience = Patience()
        while True:
            try:
                await self._store.commit(facts)
            except ServiceError as error:
                _complain("commit_waits", error)
                await patience.wait()
            else:
                return

    async def _bury(self, entry: Entry, reason: str) -> None:
        """First the mark, by which the feed goes past the event, then the letter: a crash in between repeats both."""
        log.error("entry_buried", entry_id=entry.entry_id, reason=reason, deliveries=entry.deliveries)
        event_id, tenant_id = _names(entry)
        if event_id:
            await self._store.give_up(event_id, tenant_id, reason)
        await self._stream.bury(entry, reason)


def _names(entry: Entry) -> tuple[str, str]:
    """The event's id and tenant as far as they can be read."""
    try:
        fact = fact_of(entry.fields.get(EVENT, b""))
    except UncountableEventError as error:
        return error.event_id, error.tenant_id
    return fact.event_id, fact.tenant_id


def _complain(event: str, error: Exception) -> None:
    if isinstance(error, Unavailable):
        log.warning(event, dependency=error.metadata.get("dependency", ""), error=str(error))
    else:
        log.error(event, exc_info=error)
