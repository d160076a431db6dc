"""The body of a request, counted and timed as it comes: no header is believed, nobody may dawdle."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from gateway.status import BodyTimeout, BodyTooLarge

Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]


class ClientGoneError(Exception):
    """The client disconnected: there is nobody left to answer."""


class Body:
    """What the client sends: at most `limit` bytes, each piece within `idle_seconds`, all within `total_seconds`."""

    def __init__(
        self, receive: Receive, *, expected: bool, declared: int, limit: int, idle_seconds: float, total_seconds: float
    ) -> None:
        self._receive = receive
        self._declared = declared
        self._limit = limit
        self._idle_seconds = idle_seconds
        self._total_seconds = total_seconds
        self.finished = not expected
        """Whether nothing more is to come."""

    async def chunks(self) -> AsyncIterator[bytes]:
        """The pieces as they come; BodyTooLarge, BodyTimeout, ClientGoneError."""
        if self._declared > self._limit:
            raise BodyTooLarge(self._limit)
        clock = asyncio.get_running_loop()
        ends = clock.time() + self._total_seconds
        taken = 0
        while not self.finished:
            piece = await self._next(min(self._idle_seconds, ends - clock.time()))
            taken += len(piece)
            if taken > self._limit:
                raise BodyTooLarge(self._limit)
            if piece:
                yield piece

    async def drain(self, seconds: float) -> None:
        """Reads on and forgets: a client that is still sending would miss an answer if the connection closed now."""
        try:
            async with asyncio.timeout(seconds):
                while not self.finished:
                    await self._next(seconds)
        except (TimeoutError, BodyTimeout, ClientGoneError):
            return

    async def _next(self, seconds: float) -> bytes:
        try:
            async with asyncio.timeout(seconds):
                message = await self._receive()
        except TimeoutError:
            raise BodyTimeout from None
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        self.finished = not message.get("more_body", False)
        piece: bytes = message.get("body", b"")
        return piece
