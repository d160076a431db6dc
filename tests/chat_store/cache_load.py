"""People who write to and read one conversation through two replicas, and know what every page must show."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from services.chat_store.acts import SetFeedback
from services.chat_store.engines.cached import CachedChatStore
from services.chat_store.model import Feedback, Message
from services.chat_store.selection import Page, Reach, Window
from tests.chat_store.workshop import pair, started
from tests.house.waiting import until

END = Window(newest_first=True, limit=50)
READERS = 4


class Load:
    """A conversation under way. What was acknowledged before a read begins must be in what it reads."""

    def __init__(self, replicas: Sequence[CachedChatStore], reach: Reach, conversation_id: str) -> None:
        self.replicas = replicas
        self.reads = 0
        self._reach = reach
        self._conversation_id = conversation_id
        self._said: list[Message] = []
        self._comments: dict[str, int] = {}

    @property
    def hits(self) -> int:
        return sum(replica.status().hits for replica in self.replicas)

    async def append(self) -> None:
        for number in range(10**9):
            batch = pair(f"pair {number}")
            store = self.replicas[number % len(self.replicas)]
            self._said += await store.append(self._reach, self._conversation_id, batch)
            await asyncio.sleep(0.01)

    async def comment(self) -> None:
        """Changes messages that are on the last page by now."""
        for number in range(1, 10**9):
            await asyncio.sleep(0.02)
            message_id = self._said[-1 - number % 5].message_id if len(self._said) > 5 else ""
            if message_id:
                act = SetFeedback(feedback=Feedback(rating=number % 5 + 1, comment=str(number)))
                store = self.replicas[number % len(self.replicas)]
                await store.revise(self._reach, self._conversation_id, message_id, act)
                self._comments[message_id] = number

    async def read(self, store: CachedChatStore) -> None:
        while True:
            said, comments = len(self._said), dict(self._comments)
            page = await store.read(self._reach, self._conversation_id, END)
            self._check(page, self._said[:said], comments)
            self.reads += 1

    def _check(self, page: Page, said: Sequence[Message], comments: dict[str, int]) -> None:
        seqs = [message.seq for message in page.messages]
        last = seqs[0] if seqs else 0
        assert last >= len(said), "an append is missing"
        assert seqs == list(range(last, max(last - END.limit, 0), -1)), "there is a gap"
        assert page.more == (last > END.limit)
        by_seq = {message.seq: message for message in page.messages}
        for message in said[max(last - END.limit, 0) :]:
            shown = by_seq[message.seq]
            assert shown.draft == message.draft
            comment = shown.feedback.comment if shown.feedback else "0"
            assert int(comment) >= comments.get(message.message_id, 0), "a comment is missing"

    async def until_read(self, more: int) -> None:
        """Returns after so many further reads."""
        wanted = self.reads + more
        await until(lambda: self.reads >= wanted, within_seconds=120)

    async def until_hit(self, more: int) -> None:
        """Returns after so many further reads from the cache."""
        wanted = self.hits + more
        await until(lambda: self.hits >= wanted, within_seconds=120)


@asynccontextmanager
async def under_load(replicas: Sequence[CachedChatStore], reach: Reach) -> AsyncIterator[Load]:
    """The load inside the block; a page that lacks something ends it with what it lacked."""
    load = Load(replicas, reach, await started(replicas[0], reach))
    try:
        async with asyncio.TaskGroup() as group:
            work = [load.append(), load.comment(), *(load.read(replicas[n % len(replicas)]) for n in range(READERS))]
            tasks = [group.create_task(each) for each in work]
            yield load
            for task in tasks:
                task.cancel()
    except* AssertionError as failed:
        raise failed.exceptions[0] from None
