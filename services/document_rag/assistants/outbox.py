"""What a turn has to tell its reader, between the task that answers and the stream that is read."""

import asyncio
import time
from collections import deque
from contextlib import suppress
from typing import Generic, TypeVar

from services.document_rag.assistants.providers import Delta

_MOST_WAITING = 256
# How long, in all, a reader who does not read may keep a turn waiting: the answer costs money while it stands still.
PATIENCE_SECONDS = 30.0
# How long what comes after an answer lets the answer go first.
MOMENT_SECONDS = 0.05

Event = TypeVar("Event")


class Outbox(Generic[Event]):
    """Hands events over in order and knows what was delivered. Pieces of text that wait together become one."""

    def __init__(self, patience_seconds: float = PATIENCE_SECONDS, moment_seconds: float = MOMENT_SECONDS) -> None:
        self._patience_seconds = patience_seconds
        self._moment_seconds = moment_seconds
        self._handed: Event | Delta | None = None
        self._waiting: deque[Event | Delta] = deque()
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._nothing_waits = asyncio.Event()
        self._nothing_waits.set()
        self._closed = False
        self._delivered: list[str] = []
        self.reader_left = asyncio.Event()

    @property
    def delivered_text(self) -> str:
        """The text that was handed to the reader's connection, exactly."""
        return "".join(self._delivered)

    async def put(self, event: Event | Delta) -> None:
        """Adds an event; waits while a slow reader has too many before it, and forgets it when there is none.

        A reader who kept it waiting for too long has left, with what was handed out last.
        """
        if not (self.reader_left.is_set() or self._room.is_set()):
            await self._wait_for_the_reader()
        if not self.reader_left.is_set():
            self._waiting.append(event)
            self._update()

    async def next(self) -> Event | Delta | None:
        """The next event; None at the end."""
        while not self._waiting and not self._closed:
            self._changed.clear()
            await self._changed.wait()
        if not self._waiting:
            return None
        event = self._waiting.popleft()
        if isinstance(event, Delta):
            event = Delta(event.text + self._text_waiting())
        self._handed = event
        self._update()
        return event

    def confirm(self, event: Event | Delta) -> None:
        """The event was written to the reader's connection."""
        if not self.reader_left.is_set():
            self._count(event)
            self._update()

    async def heard(self) -> None:
        """Waits for a moment until the reader's connection has taken all that was put."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._moment_seconds):
                await self._nothing_waits.wait()

    def leave(self) -> None:
        """The reader is gone: nothing waits for it any more. What was being written may have been read, and counts."""
        if self._handed is not None:
            self._count(self._handed)
        self.reader_left.set()
        self._waiting.clear()
        self._update()

    def close(self) -> None:
        """There will be no more events."""
        self._closed = True
        self._update()

    async def _wait_for_the_reader(self) -> None:
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._patience_seconds):
                await self._room.wait()
        except TimeoutError:
            self.leave()
        finally:
            self._patience_seconds -= time.monotonic() - began

    def _count(self, event: Event | Delta) -> None:
        self._handed = None
        if isinstance(event, Delta):
            self._delivered.append(event.text)

    def _text_waiting(self) -> str:
        texts = []
        while self._waiting and isinstance(self._waiting[0], Delta):
            piece = self._waiting.popleft()
            texts.append(piece.text if isinstance(piece, Delta) else "")
        return "".join(texts)

    def _update(self) -> None:
        self._changed.set()
        if len(self._waiting) < _MOST_WAITING:
            self._room.set()
        else:
            self._room.clear()
        if self._waiting or self._handed is not None:
            self._nothing_waits.clear()
        else:
            self._nothing_waits.set()
