"""From chat_store's change feed into the stream.

The rule that nothing is missing rests on MongoDB alone: the kept position passes an event only when the event's fact is
there. Whatever Redis loses on the way is sent again from that position, and known facts drop what comes twice.
"""

import asyncio
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import dropwhile
from typing import Any, NamedTuple, TypeAlias

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from prosa.chat_store.v1 import feed_service_pb2 as feed_pb
from services.analytics.chat_feed import watched
from services.analytics.intake.entries import fields_of
from services.analytics.intake.feed_positions import FeedPositions
from services.analytics.intake.patience import Patience
from services.analytics.intake.streams import Kind, Lanes
from services.analytics.intake.wire import entry_bytes, kind_of
from services.analytics.model import Position
from services.analytics.rollups.rollup_store import RollupStore
from shared.errors import ServiceError, error_of
from shared.redis_streams import Stream
from shared.telemetry import get_logger

WATCH_SECONDS = 3600.0
RELEASE_SECONDS = 1.0
ASKED_AT_ONCE = 1000
PACKED = 100
# How long a batch may grow once its first event is there: an entry of one event costs as much as one of a hundred.
GATHERING_SECONDS = 0.01


class Arrival(NamedTuple):
    """An event that is to be counted, as it travels."""

    kind: Kind
    tenant_id: str
    event_id: str
    item: bytes


# What came in one message, and the feed's position behind it.
Arrivals: TypeAlias = "asyncio.Queue[tuple[list[Arrival], Position]]"
# The stream an entry is in, and its id there.
Place: TypeAlias = tuple[Stream, str]

log = get_logger()


class EntriesLostError(Exception):
    """The stream has lost entries that were not counted: they have to be sent again."""


class LeaseLostError(Exception):
    """Another replica follows the feed now."""


class _Sent(NamedTuple):
    place: Place
    before: Position


class Window:
    """Events between the feed and the rollups. `position` is what may be kept: everything before it is settled."""

    def __init__(self, start: Position) -> None:
        self._tail = start
        self._sent: dict[str, _Sent] = {}
        self._settled = asyncio.Event()

    def __len__(self) -> int:
        return len(self._sent)

    @property
    def position(self) -> Position:
        """The end of what is settled without a gap."""
        return next(iter(self._sent.values())).before if self._sent else self._tail

    def send(self, places: Mapping[str, Place], after: Position) -> None:
        """These events have entered the stream; `after` is the feed's position behind them and those without effect."""
        for event_id, place in places.items():
            self._sent.setdefault(event_id, _Sent(place, self._tail))
        self._tail = Position(after.token, after.counted_until or self._tail.counted_until)

    def settle(self, event_ids: Collection[str]) -> None:
        """These events have been dealt with."""
        for event_id in event_ids:
            self._sent.pop(event_id, None)
        self._settled.set()

    async def room(self, most: int) -> None:
        """Returns when fewer than `most` events are on their way."""
        while len(self) >= most:
            self._settled.clear()
            await self._settled.wait()

    def unsettled(self) -> list[str]:
        """Ids of the events on their way, oldest first."""
        return list(self._sent)

    def oldest(self) -> tuple[str, Stream, str] | None:
        """The oldest one on its way: its event id, its stream and its entry's id there."""
        return next(((event_id, *sent.place) for event_id, sent in self._sent.items()), None)


class Feed:
    """Follows the feed while it holds the lease; any number may run, one of them works."""

    def __init__(
        self,
        source: Any,
        streams: Mapping[Kind, Lanes],
        store: RollupStore,
        positions: FeedPositions,
        *,
        holder: str,
        batch_size: int = 500,
        max_in_flight: int = 10_000,
        checkpoint_seconds: float = 0.5,
        lease_seconds: float = 15.0,
    ) -> None:
        """`source` is a FeedServiceStub."""
        self._source = source
        self._streams = streams
        self._store = store
        self._positions = positions
        self._holder = holder
        self._batch_size = batch_size
        self._max_in_flight = max_in_flight
        self._checkpoint_seconds = checkpoint_seconds
        self._lease_seconds = lease_seconds

    async def run(self) -> None:
        """Follows the feed until cancelled; whatever goes wrong, it starts again from the kept position."""
        patience = Patience()
        try:
            while True:
                try:
                    await self._follow(patience)
                except* (ServiceError, EntriesLostError, LeaseLostError) as errors:
                    log.warning("feed_starts_again", reasons=[str(error) for error in errors.exceptions])
                except* Exception as errors:
                    log.error("feed_failed", exc_info=errors)  # noqa: TRY400 it goes on
                await patience.wait()
        finally:
            # A lease that cannot be given back now ends by itself.
            with suppress(ServiceError, TimeoutError):
                async with asyncio.timeout(RELEASE_SECONDS):
                    await self._positions.release(self._holder)

    async def _follow(self, patience: Patience) -> None:
        await self._streams[Kind.EXECUTION].quick.ready()
        if not await self._positions.acquire(self._holder, self._lease_seconds):
            await asyncio.sleep(self._lease_seconds / 3)
            return
        window = Window(await self._positions.read())
        arrived: Arrivals = asyncio.Queue(self._batch_size)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._receive(window.position, arrived, patience))
            tasks.create_task(self._forward(window, arrived))
            tasks.create_task(self._checkpoint(window))

    async def _receive(self, start: Position, arrived: Arrivals, patience: Patience) -> None:
        """Events as they come; when the feed breaks off it is taken up again behind the last one.

        With them goes the time until which everything has been told.
        """
        token, told_until = start.token, start.counted_until
        while True:
            try:
                watching = watched(self._source, timeout=WATCH_SECONDS, resume_token=token, together=self._batch_size)
                async with watching as told:
                    async for events in told:
                        token, told_until = events[-1].resume_token, _told_until(told_until, events)
                        await arrived.put((_arrivals(events), Position(token, told_until)))
                        patience.reset()
            except (grpc.RpcError, ServiceError) as broken:
                error = error_of(broken) if isinstance(broken, grpc.RpcError) else broken
                log.warning("feed_broken_off", error=str(error), reason=error.reason)
                if error.reason == "RESUME_TOKEN_INVALID":
                    token, told_until = "", None  # another store than before: known facts drop what comes again
            await patience.wait()

    async def _forward(self, window: Window, arrived: Arrivals) -> None:
        while True:
            batch, after = await arrived.get()
            if len(batch) < self._batch_size:
                await asyncio.sleep(GATHERING_SECONDS)
            while len(batch) < self._batch_size and not arrived.empty():
                more, after = arrived.get_nowait()
                batch += more
            await window.room(self._max_in_flight)
            window.send(await self._sent(batch), after)

    async def _sent(self, batch: Sequence[Arrival]) -> dict[str, Place]:
        """Puts the batch into the streams and says where each event is.

        What goes the same way is packed: a batch of events costs Redis as much as a single one.
        """
        lanes: defaultdict[Stream, list[Arrival]] = defaultdict(list)
        for arrival in batch:
            lanes[self._streams[arrival.kind].lane(arrival.tenant_id, 1)].append(arrival)
        places: dict[str, Place] = {}
        for stream, arrivals in lanes.items():
            packs = [arrivals[first : first + PACKED] for first in range(0, len(arrivals), PACKED)]
            entry_ids = await stream.add([fields_of([each.item for each in pack]) for pack in packs])
            for entry_id, pack in zip(entry_ids, packs, strict=True):
                # Without an id nothing could ever settle it; the worker buries it.
                places |= {each.event_id: (stream, entry_id) for each in pack if each.event_id}
        return places

    async def _checkpoint(self, window: Window) -> None:
        """Lets the kept position follow the commits, and the lease go on."""
        kept, kept_at = window.position, self._time()
        while True:
            await asyncio.sleep(self._checkpoint_seconds)
            await self._settle(window)
            await self._check_oldest(window)
            if window.position == kept and self._time() - kept_at < self._lease_seconds / 3:
                continue
            kept, kept_at = window.position, self._time()
            if not await self._positions.keep(self._holder, kept, self._lease_seconds):
                raise LeaseLostError("another replica follows the feed")

    async def _settle(self, window: Window) -> None:
        """Asks from the oldest on, as long as all are settled: what is behind a gap cannot move the position anyway."""
        waiting = window.unsettled()
        for first in range(0, len(waiting), ASKED_AT_ONCE):
            asked = waiting[first : first + ASKED_AT_ONCE]
            settled = await self._store.settled(asked)
            window.settle(settled)
            if not settled:
                return

    async def _check_oldest(self, window: Window) -> None:
        """Asks the stream first, the facts second: a worker commits before it takes an entry out of the stream."""
        oldest = window.oldest()
        if oldest is None:
            return
        event_id, stream, entry_id = oldest
        if not await stream.holds(entry_id) and not await self._store.settled([event_id]):
            raise EntriesLostError("the stream has lost entries")

    @staticmethod
    def _time() -> float:
        return asyncio.get_running_loop().time()


def _arrivals(events: Sequence[feed_pb.Event]) -> list[Arrival]:
    """What is to be counted of these."""
    return [
        Arrival(kind, event.tenant_id, event.event_id, entry_bytes(event))
        for event in events
        if (kind := kind_of(event)) is not None
    ]


def _told_until(before: datetime | None, events: Sequence[feed_pb.Event]) -> datetime | None:
    """The time until which everything has been told; None before the first mark of the feed.

    Stored history does not come by time: it says nothing until the mark at its end. From there on events do, and marks
    when nothing happens.
    """
    telling = events if before else list(dropwhile(lambda event: event.event_id, events))
    timed = [event.event_time for event in telling if event.HasField("event_time")]
    if not timed:
        return before
    latest = max(timed, key=Timestamp.ToNanoseconds).ToDatetime(UTC)
    return max(before, latest) if before else latest
