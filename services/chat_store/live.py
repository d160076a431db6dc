"""Following a conversation while it happens: what is stored, then what comes, without a gap and without a repeat.

    one feed per process ─► by conversation ─► the inboxes of its followers ─► each follower at its own pace

The feed is opened with the first follower and left after the last one. A follower is entered before it reads what is
stored, so whatever it does not find there comes through the feed, or makes it look again; `seq` is dense, so a gap in
between shows itself and is read from the store. A feed that breaks goes on from its last token; after a long break it
begins anew, and followers look at everything again. A task or an event that was removed just then is not told: it is
missing there.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from typing import TypeAlias

from services.chat_store.following import Following, Update
from services.chat_store.happenings import Event
from services.chat_store.inbox import Inbox
from services.chat_store.selection import Reach
from services.chat_store.store import ChatStore
from shared.clock import Clock, SystemClock
from shared.errors import ServiceError
from shared.telemetry import get_logger

AGAIN_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 5.0
# A token is taken up again for so long; beyond that, going through all that happened would cost more than looking.
RESUMABLE_SECONDS = 60.0

_Key: TypeAlias = tuple[str, str]

_log = get_logger()


class Live:
    """The conversations that are followed in this process."""

    def __init__(self, store: ChatStore, *, clock: Clock | None = None) -> None:
        self._store = store
        self._clock = clock or SystemClock()
        self._inboxes: dict[_Key, set[Inbox]] = defaultdict(set)
        self._feed: _Feed | None = None

    async def follow(self, reach: Reach, conversation_id: str, after_seq: int) -> AsyncGenerator[Update, None]:
        """Messages after `after_seq`, then what happens to the conversation until it is Gone.

        NotFound before the first update. Raises Unavailable when it cannot go on; then the caller reads what they
        show again and follows anew.
        """
        with self._entered((reach.tenant_id, conversation_id)) as (inbox, feed):
            await feed.opened()
            conversation = await self._store.get(reach, conversation_id)
            inbox.begin(conversation.create_time)
            following = Following(self._store, reach, conversation, after_seq, inbox, self._clock)
            async with aclosing(following.updates()) as updates:
                async for update in updates:
                    yield update

    @contextmanager
    def _entered(self, key: _Key) -> Iterator[tuple[Inbox, "_Feed"]]:
        inbox = Inbox()
        self._inboxes[key].add(inbox)
        if self._feed is None or self._feed.ended:
            self._feed = _Feed(self._store, self._inboxes)
        try:
            yield inbox, self._feed
        finally:
            self._inboxes[key].discard(inbox)
            if not self._inboxes[key]:
                del self._inboxes[key]
            if not self._inboxes and self._feed is not None:
                self._feed.leave()
                self._feed = None


class _Feed:
    """The one feed of the process, told to all inboxes."""

    def __init__(self, store: ChatStore, inboxes: dict[_Key, set[Inbox]]) -> None:
        self._store = store
        self._inboxes = inboxes
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._token = ""
        self._told_at = 0.0
        self._task = asyncio.create_task(self._tell())
        self._task.add_done_callback(self._end)

    @property
    def ended(self) -> bool:
        """Whether it tells nothing any more."""
        return self._task.done()

    async def opened(self) -> None:
        """Returns once it misses nothing that happens from now on; Unavailable."""
        await asyncio.wait((self._opened, self._task), return_when=asyncio.FIRST_COMPLETED)
        if self.ended:
            self._task.result()

    def leave(self) -> None:
        """Frees what it holds."""
        self._task.cancel()

    async def _tell(self) -> None:
        await self._begin()
        self._opened.set_result(None)
        pause = AGAIN_SECONDS
        while True:
            try:
                if time.monotonic() - self._told_at > RESUMABLE_SECONDS:
                    await self._begin()
                    self._lose()
                async with aclosing(self._store.watch("", self._token)) as events:
                    async for event in events:
                        self._deliver(event)
                        pause = AGAIN_SECONDS
            except ServiceError as error:
                _log.warning("live_feed_broken", reason=error.reason, again_in_seconds=pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def _begin(self) -> None:
        self._token = await self._store.position("")
        self._told_at = time.monotonic()

    def _deliver(self, event: Event) -> None:
        self._token, self._told_at = event.resume_token, time.monotonic()
        for inbox in self._inboxes.get((event.tenant_id, event.conversation_id), ()):
            inbox.tell(event)

    def _lose(self) -> None:
        for inboxes in self._inboxes.values():
            for inbox in inboxes:
                inbox.lose()

    def _end(self, task: asyncio.Task[None]) -> None:
        """A feed that could not begin, or met what nobody foresaw, takes its followers with it."""
        error = None if task.cancelled() else task.exception()
        if error is not None:
            for inboxes in self._inboxes.values():
                for inbox in inboxes:
                    inbox.fail(error)
