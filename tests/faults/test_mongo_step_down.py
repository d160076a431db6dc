"""Three mongods lose their primary, then their majority, while appends go on."""

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import pytest
from pydantic import SecretStr

from services.chat_store.batch import Batch
from services.chat_store.engines.mongo.store import MongoChatStore
from services.chat_store.model import Draft, Message, MessageType, NewConversation
from services.chat_store.selection import Reach, Window
from services.chat_store.store import ChatStore
from shared.errors import Conflict, Unavailable
from shared.identifiers import new_id
from shared.mongo import MongoDriver, open_mongo
from tests.faults.replica_set import ReplicaSet, running_replica_set
from tests.house.waiting import until

WRITERS = 4
# An election takes 2 s of silence and a vote; more only because the machine may be busy.
LONGEST_GAP_SECONDS = 30.0
DEADLINE_MS = 2000
REACH = Reach("t", "ana")
DRIVERS = ["pymongo", pytest.param("motor", marks=pytest.mark.long)]


@pytest.fixture
def replica_set(tmp_path: Path) -> Iterator[ReplicaSet]:
    with running_replica_set(tmp_path) as replica_set:
        yield replica_set


@dataclass
class Appender:
    """Appends pairs to one conversation, each under one request_id until it is acknowledged."""

    store: ChatStore
    conversation_id: str
    acknowledged: dict[str, list[Message]] = field(default_factory=dict)
    times: list[float] = field(default_factory=list)

    async def write(self, stop: asyncio.Event) -> None:
        """Until told to stop; the last pair is seen through."""
        while not stop.is_set():
            await self.append(f"{self.conversation_id}-{len(self.acknowledged)}")

    async def append(self, request_id: str) -> None:
        """One pair, as a retrying client appends it."""
        while True:
            try:
                self.acknowledged[request_id] = await self.store.append(REACH, self.conversation_id, _pair(request_id))
            except (Unavailable, Conflict):
                await asyncio.sleep(0.05)
            else:
                self.times.append(time.monotonic())
                return

    @property
    def longest_gap(self) -> float:
        """Seconds between two acknowledgements."""
        return max(after - before for before, after in zip(self.times, self.times[1:], strict=False))

    async def check(self) -> None:
        """Acknowledged ⊆ stored, no duplicates, dense seq, the sums right."""
        stored: list[Message] = []
        while page := await self._page(stored[-1].seq if stored else 0):
            stored += page
        assert [message.seq for message in stored] == list(range(1, len(stored) + 1))
        assert len({message.draft.text for message in stored}) == len(stored), "a retry made a duplicate"
        kept = {message.seq: message for message in stored}
        assert all(kept[each.seq] == each for pair in self.acknowledged.values() for each in pair)
        assert (await self.store.get(REACH, self.conversation_id)).totals.messages == len(stored)

    async def _page(self, after_seq: int) -> list[Message]:
        page = await self.store.read(REACH, self.conversation_id, Window(after_seq=after_seq, limit=1000))
        return list(page.messages)


@pytest.mark.parametrize("driver", DRIVERS)
async def test_no_acknowledged_append_is_lost_when_the_primary_steps_down_or_is_killed(
    replica_set: ReplicaSet, driver: MongoDriver
) -> None:
    async with _store(replica_set, driver) as store, _writing(store) as appenders:
        await _written_by_all(appenders)
        await replica_set.step_down()
        await _written_by_all(appenders)
        await replica_set.kill_primary()
        await _written_by_all(appenders)
    async with _store(replica_set, driver) as store:
        for appender in appenders:
            appender.store = store
            await appender.check()
            assert appender.longest_gap < LONGEST_GAP_SECONDS


@pytest.mark.parametrize("driver", DRIVERS)
async def test_without_a_majority_nothing_is_acknowledged_and_all_heals(
    replica_set: ReplicaSet, driver: MongoDriver
) -> None:
    async with _store(replica_set, driver, DEADLINE_MS) as store:
        appenders = [await _appender(store) for _ in range(WRITERS)]
        await _all(appender.append("before") for appender in appenders)
        with replica_set.minority(await replica_set.primary()):
            for number in range(2):
                asked = time.monotonic()
                await _all(_refused(appender, f"lost-{number}") for appender in appenders)
                assert time.monotonic() - asked < DEADLINE_MS / 1000 + 10
        for request_id in ("lost-0", "lost-1", "after"):
            await _all(appender.append(request_id) for appender in appenders)
        for appender in appenders:
            await appender.check()
            kept = (await store.get(REACH, appender.conversation_id)).totals.messages
            assert len(appender.acknowledged) * 2 == kept


@asynccontextmanager
async def _store(replica_set: ReplicaSet, driver: MongoDriver, timeout_ms: int = 10_000) -> AsyncIterator[ChatStore]:
    async with open_mongo(SecretStr(replica_set.url), "faults", driver=driver, timeout_ms=timeout_ms) as database:
        yield MongoChatStore(database)


@asynccontextmanager
async def _writing(store: ChatStore) -> AsyncIterator[list[Appender]]:
    """Appenders at work inside the block; stopped and seen through at its end."""
    stop = asyncio.Event()
    appenders = [await _appender(store) for _ in range(WRITERS)]
    async with asyncio.TaskGroup() as writing:
        for appender in appenders:
            writing.create_task(appender.write(stop))
        yield appenders
        stop.set()


async def _all(calls: Iterable[Coroutine[object, object, None]]) -> None:
    """All at once, so that they share their commands."""
    await asyncio.gather(*calls)


async def _refused(appender: Appender, request_id: str) -> None:
    with pytest.raises(Unavailable):
        await appender.store.append(REACH, appender.conversation_id, _pair(request_id))


async def _appender(store: ChatStore) -> Appender:
    conversation_id = f"carga-{uuid4()}"
    await store.create(REACH, NewConversation(conversation_id, "ana"))
    return Appender(store, conversation_id)


async def _written_by_all(appenders: list[Appender]) -> None:
    """Returns when each has gone on for a while."""
    wanted = [len(appender.acknowledged) + 20 for appender in appenders]
    await until(
        lambda: all(len(each.acknowledged) >= count for each, count in zip(appenders, wanted, strict=True)),
        within_seconds=90,
    )


def _pair(request_id: str) -> Batch:
    question, answer = (
        Draft(MessageType.USER, f"{request_id} pergunta"),
        Draft(MessageType.ASSISTANT, f"{request_id} re"),
    )
    return Batch.of([question, answer], request_id, new_id)
