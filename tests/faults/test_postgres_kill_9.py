"""The conversations' PostgreSQL is killed while appends go on and the feed is followed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import SecretStr

from deploy.local.engine import start
from deploy.local.engines import Postgres
from services.chat_store.batch import Batch
from services.chat_store.config import Config
from services.chat_store.engines import open_store, prepare
from services.chat_store.happenings import Appended
from services.chat_store.model import Draft, Message, MessageType, NewConversation
from services.chat_store.selection import Reach, Window
from services.chat_store.store import ChatStore
from shared.errors import Conflict, Unavailable
from shared.identifiers import new_id
from tests.faults.killing import PATIENCE_SECONDS, killed
from tests.house.ports import own_port
from tests.house.waiting import until

WRITERS = 4
KILLS = 2
REACH = Reach("t", "ana")
RETRY_SECONDS = 0.05


@dataclass
class Writer:
    """Appends pairs to one conversation, each under one request_id until it is acknowledged."""

    store: ChatStore
    conversation_id: str
    acknowledged: dict[str, list[Message]] = field(default_factory=dict)
    failures: int = 0

    async def write(self, stop: asyncio.Event) -> None:
        """Until told to stop; the last pair is seen through."""
        while not stop.is_set():
            request_id = f"{self.conversation_id}-{len(self.acknowledged)}"
            drafts = [Draft(type=kind, text=f"{request_id} {kind.value}") for kind in _PAIR]
            self.acknowledged[request_id] = await self._append(Batch.of(drafts, request_id, new_id))

    async def _append(self, batch: Batch) -> list[Message]:
        while True:
            try:
                return await self.store.append(REACH, self.conversation_id, batch)
            except (Unavailable, Conflict):
                self.failures += 1
                await asyncio.sleep(RETRY_SECONDS)

    async def check(self) -> None:
        """Acknowledged ⊆ stored, no duplicates, dense seq, the sums right."""
        stored: list[Message] = []
        while page := (await self.store.read(REACH, self.conversation_id, Window(len(stored), limit=1000))).messages:
            stored += page
        assert [message.seq for message in stored] == list(range(1, len(stored) + 1))
        assert len({message.draft.text for message in stored}) == len(stored), "a retry made a duplicate"
        assert all(stored[each.seq - 1] == each for pair in self.acknowledged.values() for each in pair)
        assert (await self.store.get(REACH, self.conversation_id)).totals.messages == len(stored)


_PAIR = (MessageType.USER, MessageType.ASSISTANT)


async def test_no_acknowledged_append_is_lost_and_the_feed_misses_none_when_postgres_is_killed(
    engine_directory: Path,
) -> None:
    engine = Postgres(engine_directory / "killed", own_port())
    child = await asyncio.to_thread(start, engine)
    config = Config(engine="postgres", database_url=SecretStr(engine.url("postgres")), feed_idle_seconds=0.5)
    try:
        await prepare(config)
        async with open_store(config) as store:
            token = await store.position(REACH.tenant_id)
            async with _writing(store) as writers:
                for _ in range(KILLS):
                    await _written_by_all(writers)
                    await asyncio.to_thread(killed, child)
                    child = await asyncio.to_thread(start, engine)
                await _written_by_all(writers)
            assert any(writer.failures for writer in writers), "nobody noticed"
            for writer in writers:
                await writer.check()
            assert await _told(store, token, writers) == {each.conversation_id: _seqs(each) for each in writers}
    finally:
        await asyncio.to_thread(child.stop, PATIENCE_SECONDS)


@asynccontextmanager
async def _writing(store: ChatStore) -> AsyncIterator[list[Writer]]:
    """Writers at work inside the block; stopped and seen through at its end."""
    stop = asyncio.Event()
    names = [new_id() for _ in range(WRITERS)]
    writers = [Writer(store, (await store.create(REACH, NewConversation(n, "ana"))).conversation_id) for n in names]
    async with asyncio.TaskGroup() as writing:
        for writer in writers:
            writing.create_task(writer.write(stop))
        yield writers
        stop.set()


async def _written_by_all(writers: list[Writer], pairs: int = 20) -> None:
    wanted = [len(writer.acknowledged) + pairs for writer in writers]
    await until(lambda: all(len(each.acknowledged) >= count for each, count in zip(writers, wanted, strict=True)))


def _seqs(writer: Writer) -> list[int]:
    return [message.seq for pair in writer.acknowledged.values() for message in pair]


async def _told(store: ChatStore, token: str, writers: list[Writer]) -> dict[str, list[int]]:
    """What the feed tells of each conversation, in its order, up to its present end."""
    told: dict[str, list[int]] = {writer.conversation_id: [] for writer in writers}
    async with asyncio.timeout(PATIENCE_SECONDS), aclosing(store.watch(REACH.tenant_id, token)) as feed:
        async for event in feed:
            if event.what is None:
                break
            if isinstance(event.what, Appended):
                told[event.conversation_id] += [message.seq for message in event.what.messages]
    return told
