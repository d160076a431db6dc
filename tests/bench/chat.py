"""Appending a pair of messages and reading the last 50, beside a conversation kept as one growing document.

Both sides run in this process on the same MongoDB, take turns, and wait for a majority.
"""

import asyncio
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import uvloop
from pydantic import SecretStr

from deploy.local.engine import running_engine
from deploy.local.engines import Mongo
from deploy.local.ports import free_port
from services.chat_store.engines import mongo_documents as documents
from services.chat_store.engines.mongo import MongoChatStore
from services.chat_store.model import Batch, Draft, MessageType, NewConversation, Reach, Tokens, Totals, Window
from shared.identifiers import new_id
from shared.mongo import MongoDatabase, MongoDriver, open_mongo
from tests.bench.table import Row, at_most, publish

LENGTHS = (1_000, 20_000)
CLIENTS = 8
ROUNDS = 7
TURN_SECONDS = 0.6
APPEND, READ = "append a pair", "read last 50"
# Calls per second beside the growing document at the greater length; our own cost there beside the shorter one's.
BARS = {APPEND: 10.0, READ: 3.0}
GROWTH = 1.3
LAST = 50
TEXT = ("Qual é o prazo para pagar o IPTU deste ano, e onde encontro a segunda via do boleto? " * 5)[:400]
REACH = Reach("bench", "ana")


class Side(Protocol):
    """One way to keep conversations."""

    name: str

    async def fill(self, conversation_id: str, messages: int) -> None:
        """Makes a conversation of this length."""

    async def append(self, conversation_id: str) -> None:
        """Appends a pair, durably."""

    async def read(self, conversation_id: str) -> int:
        """Reads the last messages; how many there were."""


class Ours:
    """The engine as the service uses it."""

    name = "prosa"

    def __init__(self, database: MongoDatabase) -> None:
        self._database = database
        self._store = MongoChatStore(database)

    async def fill(self, conversation_id: str, messages: int) -> None:
        await self._store.create(REACH, NewConversation(conversation_id, "ana"))
        key = documents.conversation_key(REACH.tenant_id, conversation_id)
        header = await self._database[documents.CONVERSATIONS].find_one({"_id": key})
        totals, appends = Totals(), []
        for _ in range(messages // 2):
            batch = _pair()
            appends.append(documents.new_append(header, totals, batch, datetime.now(UTC)))
            totals = totals.after(batch.drafts)
        await self._database[documents.APPENDS].insert_many(appends, ordered=False)
        await self._store.get(REACH, conversation_id)

    async def append(self, conversation_id: str) -> None:
        await self._store.append(REACH, conversation_id, _pair())

    async def read(self, conversation_id: str) -> int:
        window = Window(newest_first=True, limit=LAST)
        return len((await self._store.read(REACH, conversation_id, window)).messages)


class EmbeddedArray:
    """The usual design: all messages of a conversation in one document, `$push`ed."""

    name = "embedded array"

    def __init__(self, database: MongoDatabase) -> None:
        self._conversations = database["embedded"]

    async def fill(self, conversation_id: str, messages: int) -> None:
        kept = [_message(number) for number in range(messages)]
        await self._conversations.insert_one({"_id": conversation_id, "messages": kept, "count": messages})

    async def append(self, conversation_id: str) -> None:
        push = {"$push": {"messages": {"$each": [_message(0), _message(1)]}}, "$inc": {"count": 2}}
        await self._conversations.update_one({"_id": conversation_id}, push)

    async def read(self, conversation_id: str) -> int:
        found = await self._conversations.find_one({"_id": conversation_id}, {"messages": {"$slice": -LAST}})
        return len(found["messages"])


@dataclass(frozen=True)
class Figure:
    """What one side did in one round: median of a lone client, and calls per second of all clients together."""

    alone_ms: float
    per_second: float


@dataclass(frozen=True)
class Case:
    """One side at one length, with a conversation for each client."""

    side: Side
    length: int
    names: list[str]

    def act(self, call: str) -> Callable[[str], Awaitable[object]]:
        return self.side.append if call == APPEND else self.side.read


def main() -> list[Row]:
    """Measures, prints, writes .prosa/bench/chat.json."""
    with tempfile.TemporaryDirectory(prefix="prosa-bench-") as directory:
        Path(directory).chmod(0o755)
        engine = Mongo(Path(directory) / "mongo", free_port())
        with running_engine(engine):
            rows = uvloop.run(_measure(engine.url()))
    publish("chat", rows)
    return rows


async def _measure(url: str) -> list[Row]:
    async with _database(url, "motor") as database:
        sides: list[Side] = [Ours(database), EmbeddedArray(database)]
        cases = [await _filled(side, length) for length in LENGTHS for side in sides]
        return [row for call in (APPEND, READ) for row in _rows(call, await _rounds(call, cases))]


async def _filled(side: Side, length: int) -> Case:
    names = [new_id() for _ in range(CLIENTS)]
    for name in names:
        await side.fill(name, length)
    return Case(side, length, names)


async def _rounds(call: str, cases: list[Case]) -> list[list[Figure]]:
    """By round, by case: in every round each case has its turn, so that a busy machine hurts all alike."""
    return [[await _turn(case.act(call), case.names) for case in cases] for _ in range(ROUNDS)]


async def _turn(act: Callable[[str], Awaitable[object]], names: list[str]) -> Figure:
    alone = await _client(act, names[0])
    begin = time.perf_counter()
    together = await asyncio.gather(*(_client(act, name) for name in names))
    calls_per_second = sum(map(len, together)) / (time.perf_counter() - begin)
    return Figure(statistics.median(alone) * 1000, calls_per_second)


async def _client(act: Callable[[str], Awaitable[object]], name: str) -> list[float]:
    took: list[float] = []
    end = time.perf_counter() + TURN_SECONDS
    while (begin := time.perf_counter()) < end:
        await act(name)
        took.append(time.perf_counter() - begin)
    return took


def _rows(call: str, rounds: list[list[Figure]]) -> list[Row]:
    short, peer_short, long, peer_long = zip(*rounds, strict=True)
    return [
        _beside(f"{call}, {LENGTHS[0]} messages, {CLIENTS} clients", short, peer_short, None),
        _beside(f"{call}, {LENGTHS[1]} messages, {CLIENTS} clients", long, peer_long, BARS[call]),
        _growth(f"{call}, p50 alone: {LENGTHS[1]} messages beside {LENGTHS[0]}", long, short),
    ]


def _beside(case: str, ours: Sequence[Figure], peer: Sequence[Figure], bar: float | None) -> Row:
    ratio = statistics.median(a.per_second / b.per_second for a, b in zip(ours, peer, strict=True))
    mine, theirs = (statistics.median(each.per_second for each in side) for side in (ours, peer))
    return Row(case, mine, theirs, "calls/s", ratio, bar, bar is None or ratio >= bar)


def _growth(case: str, long: Sequence[Figure], short: Sequence[Figure]) -> Row:
    """Our own cost at two lengths; "peer" is the short conversation."""
    ratio = statistics.median(a.alone_ms / b.alone_ms for a, b in zip(long, short, strict=True))
    slow, fast = (statistics.median(each.alone_ms for each in side) for side in (long, short))
    return at_most(case, slow, fast, "ms", GROWTH, ratio=ratio)


@asynccontextmanager
async def _database(url: str, driver: MongoDriver) -> AsyncIterator[MongoDatabase]:
    name = f"bench_{new_id()[-12:]}"
    async with open_mongo(SecretStr(url), name, driver=driver, timeout_ms=60_000) as database:
        await MongoChatStore(database).ready()
        yield database
        await database.client.drop_database(name)


def _pair() -> Batch:
    answer = Draft(MessageType.ASSISTANT, TEXT, tokens=Tokens(input=100, output=50), rag=True)
    return Batch.of([Draft(MessageType.USER, TEXT), answer], new_id(), new_id)


def _message(number: int) -> dict[str, object]:
    kind = "assistant" if number % 2 else "user"
    return {"message_id": new_id(), "type": kind, "text": TEXT, "create_time": datetime.now(UTC)}


if __name__ == "__main__":
    main()
