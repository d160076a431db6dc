"""The ends of active conversations in this process, as the objects they are: nothing is asked for and nothing decoded.

What is read twice is the same object twice. Tails leave in the order in which the engine last confirmed them: when that
is longer ago than their time to live, or when they are too many or too large together. An append extends a tail and
confirms nothing: what another replica erased is not kept alive by what is said afterwards.
"""

import asyncio
import sys
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from services.chat_store.engines.tails import TAIL_BYTES, TAIL_MESSAGES, concerns
from services.chat_store.model import Message
from services.chat_store.selection import Page, Version, Window

MAX_TAILS = 10_000
# What objects take beside their texts, rounded up; and a tail without messages.
MESSAGE_BYTES = 1024
TAIL_OVERHEAD_BYTES = 1024


@dataclass(frozen=True, slots=True)
class OwnHeld:
    """A page out of this process; giving it out confirms its tail."""

    version: Version
    _page: Page
    _confirm: Callable[[], None]

    def page(self) -> Page:
        """See Held.page."""
        self._confirm()
        return self._page


class OwnTails:
    """Tails of this process: at most `max_bytes` by estimate, for `ttl_seconds` after they were last confirmed."""

    level = "process"
    available = True

    def __init__(self, *, max_bytes: int, ttl_seconds: float, max_tails: int = MAX_TAILS) -> None:
        self._max_bytes = max_bytes
        self._max_tails = max_tails
        self._ttl_seconds = ttl_seconds
        # The one whose confirmation is the longest ago comes first.
        self._tails = OrderedDict[tuple[str, str], _Tail]()
        self._leaving: asyncio.TimerHandle | None = None
        self.size_bytes = 0
        self.times_forgotten = 0

    def __len__(self) -> int:
        return len(self._tails)

    async def page(self, tenant_id: str, conversation_id: str, window: Window) -> OwnHeld | None:
        """See Tails.page."""
        key = (tenant_id, conversation_id)
        tail = self._tails.get(key)
        page = tail.cut(window) if tail is not None else None
        if tail is None or page is None:
            return None
        return OwnHeld(tail.version, page, lambda: self._confirm(key))

    async def keep(self, tenant_id: str, conversation_id: str, version: Version, newest: Sequence[Message]) -> None:
        """See Tails.keep."""
        key = (tenant_id, conversation_id)
        self._drop(key)
        tail = self._tails[key] = _Tail(version)
        tail.add(newest[:TAIL_MESSAGES][::-1])
        self.size_bytes += tail.size_bytes
        self._confirm(key)
        self._make_room()

    async def extend(self, tenant_id: str, conversation_id: str, appended: Sequence[Message]) -> None:
        """See Tails.extend."""
        tail = self._tails.get((tenant_id, conversation_id))
        if tail is None or tail.version.last_seq != appended[0].seq - 1:
            return
        self.size_bytes -= tail.size_bytes
        tail.version = replace(tail.version, last_seq=appended[-1].seq)
        tail.add(appended)
        self.size_bytes += tail.size_bytes
        self._make_room()

    async def forget(self, tenant_id: str, conversation_id: str) -> int:
        """See Tails.forget."""
        self.times_forgotten += 1
        return self._drop((tenant_id, conversation_id))

    async def forget_all(self, tenant_id: str) -> int:
        """See Tails.forget_all."""
        self.times_forgotten += 1
        return sum([self._drop(key) for key in list(self._tails) if key[0] == tenant_id])

    async def count_by(self, tenant_id: str, user_id: str) -> int:
        """See Tails.count_by."""
        tails = [tail for key, tail in self._tails.items() if key[0] == tenant_id]
        return sum(concerns(message, user_id) for tail in tails for message in tail.messages)

    def close(self) -> None:
        """Holds nothing any more."""
        self._tails.clear()
        self.size_bytes = 0
        if self._leaving is not None:
            self._leaving.cancel()

    def _drop(self, key: tuple[str, str]) -> int:
        tail = self._tails.pop(key, None)
        self.size_bytes -= tail.size_bytes if tail is not None else 0
        return int(tail is not None)

    def _make_room(self) -> None:
        while self.size_bytes > self._max_bytes or len(self._tails) > self._max_tails:
            self._drop(next(iter(self._tails)))

    def _confirm(self, key: tuple[str, str]) -> None:
        """The engine says now that the tail is as the conversation is."""
        tail = self._tails.get(key)
        if tail is None:
            return
        tail.confirmed = asyncio.get_running_loop().time()
        self._tails.move_to_end(key)
        if self._leaving is None:
            self._wait_for_the_first()

    def _wait_for_the_first(self) -> None:
        """Nobody has to come by for a tail to leave in time."""
        loop = asyncio.get_running_loop()
        first = next(iter(self._tails.values()), None)
        self._leaving = None if first is None else loop.call_at(first.confirmed + self._ttl_seconds, self._expire)

    def _expire(self) -> None:
        last_confirmed = asyncio.get_running_loop().time() - self._ttl_seconds
        while self._tails and next(iter(self._tails.values())).confirmed <= last_confirmed:
            self._drop(next(iter(self._tails)))
        self._wait_for_the_first()


class _Tail:
    """The messages that end at `version.last_seq`, the oldest first."""

    __slots__ = ("_sizes", "confirmed", "messages", "size_bytes", "version")

    def __init__(self, version: Version) -> None:
        self.version = version
        self.confirmed = 0.0
        self.messages: list[Message] = []
        self.size_bytes = TAIL_OVERHEAD_BYTES
        self._sizes: list[int] = []

    def add(self, appended: Sequence[Message]) -> None:
        """At the end; the oldest leave when the tail has grown too long."""
        sizes = [_size_of(message) for message in appended]
        self.messages += appended
        self._sizes += sizes
        self.size_bytes += sum(sizes)
        leaving, excess = max(len(self.messages) - TAIL_MESSAGES, 0), self.size_bytes - TAIL_BYTES
        left = sum(self._sizes[:leaving])
        while left < excess:
            left += self._sizes[leaving]
            leaving += 1
        self.size_bytes -= left
        del self.messages[:leaving], self._sizes[:leaving]

    def cut(self, window: Window) -> Page | None:
        """The page of the window; None when it begins before the tail."""
        start = self.version.last_seq - len(self.messages) + 1
        low = max(window.after_seq + 1, self.version.first_seq)
        high = min(window.before_seq - 1, self.version.last_seq) if window.before_seq else self.version.last_seq
        if low > high:
            return Page((), more=False)
        if window.newest_first:
            oldest, newest = max(low, high - window.limit + 1), high
        else:
            oldest, newest = low, min(high, low + window.limit - 1)
        if oldest < start:
            return None
        messages = self.messages[oldest - start : newest - start + 1]
        if window.newest_first:
            messages.reverse()
        return Page(tuple(messages), more=(oldest, newest) != (low, high))


def _size_of(message: Message) -> int:
    """About what the message takes here, and once more in the form in which it goes out."""
    return sys.getsizeof(message.draft.text) + message.draft.size_bytes + MESSAGE_BYTES
