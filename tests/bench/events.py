"""Events into figures: our pipeline beside the naive one (LPUSH each, BRPOP, one insert per event).

All sides run in this process on the same MongoDB and Redis, take turns, and wait for a majority.
`python -m tests.bench.events`.
"""

import asyncio
import json
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from deploy.local.engine import running_engine
from deploy.local.engines import Mongo, Redis
from deploy.local.ports import free_port
from prosa.chat_store.v1 import feed_service_pb2 as feed_pb
from services.analytics.intake.feed import Feed
from services.analytics.intake.feed_positions import FeedPositions
from services.analytics.intake.wire import entry_bytes
from services.analytics.intake.worker import EVENT, Worker
from services.analytics.rollups.rollup_store import RollupStore
from shared.identifiers import new_id
from shared.mongo import MongoDatabase, open_mongo
from shared.redis_streams import Stream, open_redis
from shared.server import run
from tests.analytics.events import COUNTED, many_events, oracle
from tests.analytics.feed_source import FeedSource, feed_stub, served
from tests.bench.table import Row, publish
from tests.house.signing import new_signing_keys

EVENTS = 20_000
NAIVE_EVENTS = 1_000
TURNS = 3
PIPELINE = 500
# Live events are of the present hour; a few are late.
HOURS = 3


@dataclass(frozen=True)
class Engines:
    """What one run works on: a database and a Redis of its own."""

    database: MongoDatabase
    redis: Any


Pipeline = Callable[[Engines, Sequence[feed_pb.Event]], Awaitable[None]]


def main() -> list[Row]:
    """Measures, prints and keeps the table."""
    rows: list[Row] = []

    async def measure() -> None:
        rows.extend(await _measure())

    run(measure)
    publish("events", rows)
    return rows


async def _measure() -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="prosa-bench-") as name:
        directory = Path(name)
        mongo, redis = Mongo(directory / "mongo", free_port()), Redis(directory / "redis", free_port())
        with running_engine(mongo), running_engine(redis):
            events, few = many_events(EVENTS, hours=HOURS), many_events(NAIVE_EVENTS, hours=HOURS)
            naive, ours, fed = [], [], []
            for _ in range(TURNS):
                naive.append(await _rate(mongo, redis, _naive, few))
                ours.append(await _rate(mongo, redis, _stream_and_worker, events))
                fed.append(await _rate(mongo, redis, _feed_stream_and_worker, events))
    return [
        _row("stream, worker, rollups exactly once, beside LPUSH, BRPOP, insert_one", ours, naive, bar=20.0),
        _row("the same with the feed before it (gRPC, its server in this process)", fed, naive, bar=None),
    ]


def _row(case: str, ours: Sequence[float], naive: Sequence[float], *, bar: float | None) -> Row:
    ratio = statistics.median(mine / theirs for mine, theirs in zip(ours, naive, strict=True))
    holds = bar is None or ratio >= bar
    return Row(case, statistics.median(ours), statistics.median(naive), "events/s", ratio, bar, holds)


async def _rate(mongo: Mongo, redis: Redis, pipeline: Pipeline, events: Sequence[feed_pb.Event]) -> float:
    async with _engines(mongo, redis) as engines:
        began = time.perf_counter()
        await pipeline(engines, events)
        took = time.perf_counter() - began
        await _check(engines, events)
        return len(events) / took


@asynccontextmanager
async def _engines(mongo: Mongo, redis: Redis) -> AsyncIterator[Engines]:
    name = f"bench_{new_id()[-12:]}"
    async with (
        open_mongo(SecretStr(mongo.url()), name, timeout_ms=60_000) as database,
        open_redis(SecretStr(redis.url())) as client,
    ):
        await client.flushall()
        await RollupStore(database).prepare()
        yield Engines(database, client)
        await database.client.drop_database(name)


async def _naive(engines: Engines, events: Sequence[feed_pb.Event]) -> None:
    async def produce() -> None:
        for event in events:
            await engines.redis.lpush("metrics", json.dumps(_plain(event)))

    async def consume() -> None:
        for _ in events:
            _, text = await engines.redis.brpop(["metrics"])
            await engines.database["metrics"].insert_one(json.loads(text))

    await asyncio.gather(produce(), consume())


def _plain(event: feed_pb.Event) -> dict[str, Any]:
    messages = event.messages_appended.messages
    return {
        "tenant": event.tenant_id,
        "model": messages[0].model,
        "tokens": [message.usage.input_tokens + message.usage.output_tokens for message in messages],
        "time": messages[0].create_time.ToMilliseconds(),
    }


async def _stream_and_worker(engines: Engines, events: Sequence[feed_pb.Event]) -> None:
    async def produce() -> None:
        stream = _stream(engines)
        for first in range(0, len(events), PIPELINE):
            await stream.add([{EVENT: entry_bytes(event)} for event in events[first : first + PIPELINE]])

    async def consume() -> None:
        worker, done = Worker(_stream(engines), RollupStore(engines.database), block_ms=100), 0
        while done < len(events):
            done += await worker.step()

    await asyncio.gather(produce(), consume())


async def _feed_stream_and_worker(engines: Engines, events: Sequence[feed_pb.Event]) -> None:
    keys = new_signing_keys()
    positions, store = FeedPositions(engines.database), RollupStore(engines.database)
    async with AsyncExitStack() as stack:
        port = await stack.enter_async_context(served([FeedSource(events).endpoint()], keys))
        stub = await stack.enter_async_context(feed_stub(port, keys))
        worker = Worker(_stream(engines), store, block_ms=100)
        feed = Feed(stub, _stream(engines), store, positions, holder="bench")
        working, feeding = asyncio.create_task(worker.run()), asyncio.create_task(feed.run())
        while (await positions.read()).token != f"at-{len(events)}":  # noqa: ASYNC110 the end of the whole way
            await asyncio.sleep(0.05)
        worker.stop()
        feeding.cancel()
        await asyncio.gather(working, feeding, return_exceptions=True)


def _stream(engines: Engines) -> Stream:
    return Stream(engines.redis, "metrics:execution", group="rollups", consumer="bench")


async def _check(engines: Engines, events: Sequence[feed_pb.Event]) -> None:
    """A fast wrong answer is no figure."""
    if naive := await engines.database["metrics"].count_documents({}):
        assert naive == len(events)
        return
    counted: Counter[str] = Counter()
    async for rollup in engines.database["rollups"].find():
        counted.update({name: rollup.get(name, 0) for name in COUNTED})
    expected: Counter[str] = Counter()
    for sums in oracle(events).values():
        expected.update(sums)
    assert counted == expected, (counted, expected)


if __name__ == "__main__":
    main()
