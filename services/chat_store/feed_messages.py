"""What a watcher of the feed is sent: events that can be told at the same time are one message."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from prosa.chat_store.v1 import feed_service_pb2 as pb
from services.chat_store.happenings import Event
from services.chat_store.wire.feed import happening_to_proto
from shared.steadily import in_background

# Several events are one message up to here: every client takes as much.
MOST_BYTES = 1024 * 1024


async def feed_messages(events: AsyncGenerator[Event, None], most: int) -> AsyncGenerator[pb.Event, None]:
    """The events, up to `most` in one message; none waits for the next one. Raises what `events` raise; closes them."""
    coming = _Coming(most)
    async with in_background(coming.fill(events)):
        while message := await coming.take():
            yield message


class _Coming:
    """The message that is filled while the one before is on its way."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._events: list[pb.Event] = []
        self._bytes = 0
        self._filled = asyncio.Event()
        self._taken = asyncio.Event()
        self._ended = False

    async def fill(self, events: AsyncGenerator[Event, None]) -> None:
        try:
            async with aclosing(events):
                async for event in events:
                    await self._add(happening_to_proto(event))
        finally:
            self._ended = True
            self._filled.set()

    async def _add(self, event: pb.Event) -> None:
        size = event.ByteSize()
        while self._events and (len(self._events) == self._most or self._bytes + size > MOST_BYTES):
            self._taken.clear()
            await self._taken.wait()
        self._events.append(event)
        self._bytes += size
        self._filled.set()

    async def take(self) -> pb.Event | None:
        """The next message, once there is an event; None at the end."""
        await self._filled.wait()
        if not self._events:
            return None
        first, *later = self._events
        first.later_events.extend(later)
        self._events, self._bytes = [], 0
        self._taken.set()
        if not self._ended:
            self._filled.clear()
        return first
