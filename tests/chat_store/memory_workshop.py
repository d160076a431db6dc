"""What a test must be able to do to the memory engine."""

from collections.abc import Iterator

from services.chat_store.batch import Batch
from services.chat_store.engines.memory.kept import Memory, Talk
from services.chat_store.engines.memory.store import MemoryChatStore
from services.chat_store.model import Message
from services.chat_store.selection import Place, Reach
from services.chat_store.store import ChatStore
from shared.clock import Clock
from shared.identifiers import new_id
from tests.chat_store.workshop import Work, pair

IDLE_SECONDS = 0.1


class _WatchedMemory(Memory):
    """Counts what is looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.conversations = 0
        self.messages = 0

    def talk(self, tenant_id: str, conversation_id: str) -> Talk | None:
        self.conversations += 1
        return super().talk(tenant_id, conversation_id)

    def listed(self, tenant_id: str, after: Place | None) -> Iterator[Talk]:
        for talk in super().listed(tenant_id, after):
            self.conversations += 1
            yield talk

    def message(self, talk: Talk, seq: int) -> Message:
        self.messages += 1
        return super().message(talk, seq)


class MemoryWorkshop:
    def __init__(self) -> None:
        self._memory = _WatchedMemory()
        self.store: ChatStore = self._opened()

    async def another_replica(self) -> ChatStore:
        return self._opened()

    def store_at(self, clock: Clock) -> ChatStore:
        return self._opened(clock)

    async def crash_after_storing(self, reach: Reach, conversation_id: str, batch: Batch) -> None:
        """Nothing lies between storing and the rest: what a crash can take is the acknowledgement alone."""
        await self.store.append(reach, conversation_id, batch)

    async def start_measuring(self) -> None:
        self._memory.conversations = self._memory.messages = 0

    async def work(self) -> Work:
        return Work(self._memory.conversations, self._memory.messages)

    async def load(self, reach: Reach, conversation_id: str, pairs: int) -> None:
        for number in range(pairs):
            await self.store.append(reach, conversation_id, pair(f"{number}"))

    async def forget_the_log(self) -> None:
        """Another run of the process knows no place of an earlier one."""
        self._memory.run = new_id()

    async def open_feeds(self) -> int:
        return len(self._memory.feeds)

    def _opened(self, clock: Clock | None = None) -> MemoryChatStore:
        return MemoryChatStore(self._memory, feed_idle_seconds=IDLE_SECONDS, clock=clock)
