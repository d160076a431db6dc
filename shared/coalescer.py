"""Requests of one event-loop tick become one statement; while statements run, the next ones gather.

A lone request is not held back: it leaves at the end of the tick in which it came.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import Generic, TypeVar

from shared.errors import Unavailable

Item = TypeVar("Item")
Answer = TypeVar("Answer")


# From so many at once on, the next ones are worth gathering; so many are enough.
BUSY_BATCH, LARGE_BATCH = 4, 32


@dataclass(slots=True)
class _Waiting(Generic[Item, Answer]):
    item: Item
    answer: asyncio.Future[Answer]


class Coalescer(Generic[Item, Answer]):
    """Runs `carry_out` on batches; each caller gets the answer to its own item.

    Two items with the same `identity` never share a batch: the second follows when the first is done. None is nobody's.
    """

    def __init__(
        self,
        carry_out: Callable[[Sequence[Item]], Awaitable[Sequence[Answer]]],
        identity: Callable[[Item], Hashable | None] = lambda _: None,
        *,
        largest_batch: int = 256,
        most_in_flight: int = 2,
        patience_seconds: float | None = None,
        pace_seconds: float = 0.0,
    ) -> None:
        """A batch that takes longer than the patience holds up no other one any more.

        After a batch of BUSY_BATCH, the next one leaves no sooner than the pace later, unless LARGE_BATCH wait: who
        comes meanwhile shares what a batch costs. Where few come at once, nobody waits.
        """
        self._carry_out = carry_out
        self._identity = identity
        self._largest_batch = largest_batch
        self._most_in_flight = most_in_flight
        self._patience_seconds = patience_seconds
        self._pace_seconds = pace_seconds
        self._not_before = 0.0
        self._waiting: deque[_Waiting[Item, Answer]] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._slow: set[asyncio.Task[None]] = set()
        self._identities: set[Hashable] = set()
        self._tick: asyncio.Handle | None = None
        self._pause: asyncio.TimerHandle | None = None
        self._closed = False

    async def submit(self, item: Item) -> Answer:
        """The answer to this item. A caller that is cancelled before its batch leaves takes its item with it."""
        if self._closed:
            raise Unavailable("the service is stopping")
        loop = asyncio.get_running_loop()
        waiting = _Waiting[Item, Answer](item, loop.create_future())
        self._waiting.append(waiting)
        self._at_end_of_tick()
        return await waiting.answer

    async def close(self) -> None:
        """Refuses new items and waits for those that are in."""
        self._closed = True
        while self._waiting or self._running:
            self._leave()
            await asyncio.wait(self._running) if self._running else await asyncio.sleep(0)

    def _at_end_of_tick(self) -> None:
        if self._tick is not None or not self._has_room():
            return
        loop = asyncio.get_running_loop()
        # A context of its own: a batch belongs to nobody's trace and acts for no single caller.
        if len(self._waiting) >= LARGE_BATCH or loop.time() >= self._not_before:
            self._tick = loop.call_soon(self._leave, context=Context())
        elif self._pause is None:
            self._pause = loop.call_at(self._not_before, self._leave, context=Context())

    def _leave(self) -> None:
        self._tick = None
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        loop = asyncio.get_running_loop()
        while self._waiting and self._has_room():
            batch = self._next_batch()
            if not batch:
                return
            self._not_before = loop.time() + self._pace_seconds if len(batch) >= BUSY_BATCH else 0.0
            task = loop.create_task(self._answer(batch), context=Context())
            self._running.add(task)
            task.add_done_callback(self._returned)
            if self._patience_seconds is not None:
                loop.call_later(self._patience_seconds, self._is_slow, task)

    def _has_room(self) -> bool:
        return len(self._running) - len(self._slow) < self._most_in_flight

    def _is_slow(self, task: "asyncio.Task[None]") -> None:
        if task in self._running:
            self._slow.add(task)
            if self._waiting:
                self._at_end_of_tick()

    def _next_batch(self) -> list[_Waiting[Item, Answer]]:
        batch: list[_Waiting[Item, Answer]] = []
        later: list[_Waiting[Item, Answer]] = []
        while self._waiting and len(batch) < self._largest_batch:
            waiting = self._waiting.popleft()
            if waiting.answer.done():
                continue
            identity = self._identity(waiting.item)
            if identity is not None and identity in self._identities:
                later.append(waiting)
                continue
            if identity is not None:
                self._identities.add(identity)
            batch.append(waiting)
        self._waiting.extendleft(reversed(later))
        return batch

    def _returned(self, task: "asyncio.Task[None]") -> None:
        self._running.discard(task)
        self._slow.discard(task)
        if self._waiting:
            self._at_end_of_tick()

    async def _answer(self, batch: list[_Waiting[Item, Answer]]) -> None:
        try:
            await self._answer_together(batch)
        finally:
            self._identities.difference_update(self._identity(waiting.item) for waiting in batch)
            # Cancelled from within by a library, or answered too little: nobody may wait for ever.
            _refuse(batch, Unavailable("the statement was broken off"))

    async def _answer_together(self, batch: list[_Waiting[Item, Answer]]) -> None:
        try:
            answers = await self._carry_out([waiting.item for waiting in batch])
        except Unavailable as error:
            _refuse(batch, error)
        except Exception as error:
            # One item that the database cannot take, or has locked away, must not fail the others.
            if len(batch) == 1:
                _refuse(batch, error)
                return
            for waiting in batch:
                await self._answer_together([waiting])
        else:
            for waiting, answer in zip(batch, answers, strict=True):
                if not waiting.answer.done():
                    waiting.answer.set_result(answer)


def _refuse(batch: "list[_Waiting[Item, Answer]]", error: Exception) -> None:
    for waiting in batch:
        if not waiting.answer.done():
            waiting.answer.set_exception(error)
