"""From a stream into MongoDB: take a batch, commit it, only then acknowledge it.

Whatever kills the worker in between, the entries are taken over by another one and the marks tell what was done. What
can never be counted goes to the dead letters; the rest of its batch does not wait for it.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

from services.analytics.intake.dead_letters import DeadLetter, DeadLetters
from services.analytics.intake.entries import INBOX, items_of, tenant_of
from services.analytics.intake.inbox import Inbox
from services.analytics.intake.patience import Patience
from services.analytics.intake.streams import Kind
from services.analytics.intake.works import Item, Work
from services.analytics.model import UncountableEventError
from shared.errors import Conflict, ServiceError, Unavailable
from shared.redis_streams import Entry, Stream, Stuck
from shared.steadily import in_background
from shared.telemetry import get_logger

# Entries that failed before are tried alone; so few at a time that new ones hardly wait for them.
SUSPECTS_AT_ONCE = 20
# Items of several entries that are one commit.
ITEMS_AT_ONCE = 5000
# What the collector sees of those in hand, being committed and read ahead: none of it is worth looking through.
OBJECTS_AT_ONCE = 20 * ITEMS_AT_ONCE
# Entries read at once: each may carry a thousand items.
READ_AT_ONCE = 10
# Longer than any batch takes. Whoever holds on for longer hangs, and others may have what is in his hand.
HELD_SECONDS = 600.0
# Deliveries after which an entry is tried by itself, yet whole.
FIRST_SUSPICION = 2
# How long a consumer is remembered that is given nothing.
ABSENT_SECONDS = 3600.0

log = get_logger()

_Item = TypeVar("_Item", bound=Item)


@dataclass(frozen=True, slots=True)
class Opened(Generic[_Item]):
    """An entry taken apart: its items as they can be read, and the bytes of each."""

    entry: Entry
    items: list[tuple[bytes, _Item]]


@dataclass(frozen=True, slots=True)
class Desk:
    """Where a worker puts what it is done with, and what it cannot do."""

    kind: Kind
    inbox: Inbox
    letters: DeadLetters


class Worker(Generic[_Item]):
    """One consumer of a stream; any number may run, in one process or many."""

    def __init__(
        self,
        stream: Stream,
        work: Work[_Item],
        desk: Desk,
        *,
        batch_size: int = 250,
        block_ms: int = 1000,
        claim_idle_seconds: float = 60.0,
        max_deliveries: int = 5,
    ) -> None:
        self._stream = stream
        self._work = work
        self._desk = desk
        self._batch_size = batch_size
        self._block_ms = block_ms
        self._claim_idle_seconds = claim_idle_seconds
        self._max_deliveries = max_deliveries
        self._next_rescue = 0.0
        self._ahead: list[Opened[_Item]] = []
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Works until `stop`; outages of the engines are waited out."""
        patience, tidied = Patience(), False
        while self._ahead or not self._stopping.is_set():
            try:
                if not tidied:
                    await self._stream.forget_absent(ABSENT_SECONDS)
                    tidied = True
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
        """Takes over what others left, now and then, and one batch of what is new; returns how many entries it had."""
        now = asyncio.get_running_loop().time()
        if now >= self._next_rescue:
            self._next_rescue = now + self._claim_idle_seconds / 4
            await self.rescue()
        taken = self._ahead or await self._taken(self._block_ms)
        self._ahead = []
        if self._stopping.is_set() or not self._enough(taken):
            await self._process(taken)
            return len(taken)
        # There is a backlog: MongoDB works on one batch while this process reads the next.
        async with in_background(ahead := asyncio.ensure_future(self._take_ahead())):
            await self._process(taken)
            await ahead
        return len(taken)

    async def _take_ahead(self) -> None:
        self._ahead = await self._taken(0)

    async def _taken(self, block_ms: int) -> list[Opened[_Item]]:
        """New entries, no more than make one commit: what is in this hand no other worker can do."""
        taken: list[Opened[_Item]] = []
        while not self._enough(taken):
            count = min(READ_AT_ONCE, self._batch_size - len(taken))
            entries = await self._stream.read(count, 0 if taken else block_ms)
            if not entries:
                break
            taken += [await self._open(entry) for entry in entries]
        return taken

    def _enough(self, taken: Sequence[Opened[_Item]]) -> bool:
        return len(taken) >= self._batch_size or sum(len(opened.items) for opened in taken) >= ITEMS_AT_ONCE

    async def rescue(self) -> None:
        """Takes over entries that a consumer took too long ago.

        Those that failed once are tried together. One that has failed more often may be what kills workers, so it is
        taken alone: only its own count grows.
        """
        stuck = await self._stream.stuck(self._claim_idle_seconds, self._batch_size)
        if not stuck:
            return
        # Taking an entry counts as a delivery: not while the store is down, which is no fault of the entry.
        await self._work.ready()
        once = [each for each in stuck if each.deliveries <= 1]
        suspects = [each for each in stuck if each.deliveries > 1]
        together: list[Opened[_Item]] = []
        for first in range(0, len(once), READ_AT_ONCE):
            claimed = await self._stream.claim(once[first : first + READ_AT_ONCE], self._claim_idle_seconds)
            together += [await self._open(entry) for entry in claimed]
            if self._enough(together):
                await self._process(together)
                together = []
        await self._process(together)
        for suspect in suspects[:SUSPECTS_AT_ONCE]:
            await self._try_alone(suspect)

    async def _try_alone(self, suspect: Stuck) -> None:
        """The entry by itself; if that fails too, item by item, and each time from the other end.

        So what lies on either side of a killer is done before it, and an entry whose workers died of something else
        is done as fast as any.
        """
        for entry in await self._stream.claim([suspect], self._claim_idle_seconds):
            opened = await self._open(entry)
            if suspect.deliveries >= self._max_deliveries:
                await self._give_up(opened, f"not done after {suspect.deliveries} deliveries")
            elif suspect.deliveries == FIRST_SUSPICION:
                await self._process([opened])
            else:
                in_turn = opened.items if suspect.deliveries % 2 else opened.items[::-1]
                async with self._in_hand([opened]):
                    await self._process_singly([Opened(entry, in_turn)])

    async def _process(self, taken: Sequence[Opened[_Item]]) -> None:
        """In commits of bounded size."""
        async with self._in_hand(taken):
            batch: list[Opened[_Item]] = []
            for opened in taken:
                batch.append(opened)
                if self._enough(batch):
                    await self._process_together(batch)
                    batch = []
            if batch:
                await self._process_together(batch)

    @asynccontextmanager
    async def _in_hand(self, taken: Sequence[Opened[_Item]]) -> AsyncIterator[None]:
        """Says now and then, inside the block, that they are still worked on: only of the dead is anything taken."""
        async with in_background(self._hold(taken)):
            yield

    async def _hold(self, taken: Sequence[Opened[_Item]]) -> None:
        seconds = self._claim_idle_seconds / 3
        for _ in range(max(1, int(HELD_SECONDS / seconds))):
            await asyncio.sleep(seconds)
            with suppress(Unavailable):
                await self._stream.hold([opened.entry for opened in (*taken, *self._ahead)])

    async def _process_together(self, batch: Sequence[Opened[_Item]]) -> None:
        items = [item for opened in batch for _, item in opened.items]
        try:
            if items:
                await self._commit(items)
        except Exception as error:
            log.warning("batch_refused", entries=len(batch), items=len(items), error=repr(error))
            await self._process_singly(batch)
        else:
            await self._done([opened.entry for opened in batch])

    async def _open(self, entry: Entry) -> Opened[_Item]:
        """The entry's items; what is none is buried at once."""
        sender = tenant_of(entry.fields)
        items: list[tuple[bytes, _Item]] = []
        for item in items_of(entry.fields):
            try:
                items.append((item, self._work.read(item, sender)))
            except UncountableEventError as error:
                await self._bury(entry, item, error.event_id, error.tenant_id or sender, str(error))
        return Opened(entry, items)

    async def _process_singly(self, batch: Sequence[Opened[_Item]]) -> None:
        """One of them cannot be stored: the others are, and it is left for another try or buried."""
        for opened in batch:
            refused = [(item, named, error) for item, named in opened.items if (error := await self._refused(named))]
            for item, named, error in refused:
                entry = opened.entry
                log.warning("item_refused", entry_id=entry.entry_id, deliveries=entry.deliveries, error=repr(error))
                if entry.deliveries >= self._max_deliveries:
                    reason = f"{type(error).__name__}: {error}"
                    await self._bury(entry, item, named.event_id, named.tenant_id, reason)
            if not refused or opened.entry.deliveries >= self._max_deliveries:
                await self._done([opened.entry])

    async def _refused(self, item: _Item) -> Exception | None:
        try:
            await self._commit([item])
        except Exception as error:
            return error
        return None

    async def _commit(self, items: Sequence[_Item]) -> None:
        """Commits; waits out an outage, because nothing else could be done meanwhile."""
        patience = Patience()
        while True:
            try:
                await self._work.commit(items)
            except ServiceError as error:
                if not isinstance(error, Unavailable | Conflict):
                    raise
                _complain("commit_waits", error)
                await patience.wait()
            else:
                return

    async def _give_up(self, opened: Opened[_Item], reason: str) -> None:
        """Buries what has not been done of an entry that was never finished."""
        known = await self._work.settled([item.event_id for _, item in opened.items])
        for item, named in opened.items:
            if named.event_id not in known:
                await self._bury(opened.entry, item, named.event_id, named.tenant_id, reason)
        await self._done([opened.entry])

    async def _bury(self, entry: Entry, item: bytes, event_id: str, tenant_id: str, reason: str) -> None:
        log.error("item_buried", entry_id=entry.entry_id, reason=reason, deliveries=entry.deliveries)
        letter = DeadLetter.of(
            self._desk.kind,
            item,
            tenant_id=tenant_id,
            event_id=event_id,
            reason=reason,
            deliveries=entry.deliveries,
            outside=bool(tenant_of(entry.fields)),
        )
        await self._desk.letters.bury(letter)

    async def _done(self, entries: Sequence[Entry]) -> None:
        """First the inbox: what is in the stream no more must not be looked for."""
        kept = [entry.fields[INBOX].decode() for entry in entries if INBOX in entry.fields]
        await self._desk.inbox.counted(kept)
        await self._stream.done(entries)


def _complain(event: str, error: Exception) -> None:
    if isinstance(error, Unavailable | Conflict):
        log.warning(event, dependency=error.metadata.get("dependency", ""), error=str(error))
    else:
        log.error(event, exc_info=error)
