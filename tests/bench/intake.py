"""Events into figures: our pipeline beside the naive one (LPUSH each, BRPOP, one insert per event).

All sides run in this process on the same MongoDB and Redis, take turns, and wait for a majority. Ours goes the whole
way: over gRPC from a client or from the feed, through the stream, to facts, sums, series and sessions, exactly once.
`python -m tests.bench.intake`.
"""

import asyncio
import json
import statistics
import sys
import tempfile
import time
from asyncio.subprocess import PIPE
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import grpc
from pydantic import SecretStr

from deploy.local.engine import running_engine
from deploy.local.engines import Mongo, Redis
from deploy.local.ports import free_port
from prosa.analytics.v1 import metrics_service_pb2 as metrics_pb
from prosa.analytics.v1.metrics_service_pb2_grpc import MetricsServiceStub
from prosa.chat_store.v1 import feed_service_pb2 as feed_pb
from services.analytics.config import Config
from services.analytics.intake.feed import Feed
from services.analytics.intake.feed_positions import FeedPositions
from services.analytics.intake.handlers import metrics_endpoint
from services.analytics.intake.pipeline import Intake, intake_of, running
from services.analytics.intake.worker import OBJECTS_AT_ONCE
from services.analytics.rollups.projection import Projection
from shared.clock import SystemClock
from shared.identifiers import new_id
from shared.mongo import MongoDatabase, open_mongo
from shared.redis_streams import open_redis
from shared.server import keep_for_good, run
from shared.steadily import in_background
from tests.analytics.events import NOON, many_events
from tests.analytics.feed_source import FeedSource, feed_stub, served
from tests.bench.table import Row, publish
from tests.house.in_process import as_caller, token
from tests.house.signing import SigningKeys, new_signing_keys

EVENTS = 20_000
# Of the feed, and where workers are killed: one after a third of them, another one after two thirds.
MANY_EVENTS = 100_000
NAIVE_EVENTS = 1_000
TURNS = 3
CLIENT_BATCH = 500
USERS = 300
# Live events are of the present hour; a few are late.
HOURS = 3
# How often it is looked whether all is done: a look costs a thousandth of a second of the same two cores.
LOOK_SECONDS = 0.05
CHECKED = ("input_tokens", "cost_micros")


@dataclass(frozen=True)
class Engines:
    """What one run works on: a database and a Redis of its own."""

    database: MongoDatabase
    redis: Any


# Returns how many seconds it took from the first event told to the last one counted.
Pipeline = Callable[[Engines], Awaitable[float]]


def main() -> list[Row]:
    """Measures, prints and keeps the table."""
    rows: list[Row] = []

    async def measure() -> None:
        rows.extend(await _measure())

    run(measure)
    publish("intake", rows)
    return rows


async def _measure() -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="prosa-bench-") as name:
        directory = Path(name)
        mongo, redis = Mongo(directory / "mongo", free_port()), Redis(directory / "redis", free_port())
        with running_engine(mongo), running_engine(redis):
            events, few = _events(EVENTS), _events(NAIVE_EVENTS)
            many = _events(MANY_EVENTS)
            told, much_told = _by_tenant(events), _by_tenant(many)
            urls = mongo.url(), redis.url()
            keep_for_good(OBJECTS_AT_ONCE)
            naive, recorded, recorded_and_killed, fed, fed_and_killed = [], [], [], [], []
            for _ in range(TURNS):
                naive.append(await _rate(mongo, redis, partial(_naive, few), few))
                recorded.append(await _rate(mongo, redis, partial(_recorded, told), events))
                recorded_and_killed.append(
                    await _rate(mongo, redis, partial(_recorded_and_killed, urls, much_told), many)
                )
                fed.append(await _rate(mongo, redis, partial(_fed, many), many))
                fed_and_killed.append(await _rate(mongo, redis, partial(_fed_and_killed, urls, many), many))
    return [
        _row("RecordExecution (500 a call) to rollups, beside LPUSH, BRPOP, insert_one", recorded, naive, bar=20.0),
        _row("the same, worker in a process of its own, two killed with -9", recorded_and_killed, naive, bar=20.0),
        _row("the feed (its server in this process) to rollups", fed, naive, bar=20.0),
        _row("the same, worker in a process of its own, two killed with -9", fed_and_killed, naive, bar=20.0),
    ]


def _events(count: int) -> list[feed_pb.Event]:
    """Turns of some hundred people, each with one assistant of one tenant; of the present hour, one in twenty late."""
    events = many_events(count, hours=1)
    since = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - NOON
    for number, event in enumerate(events):
        person = number * 7919 % USERS
        late = timedelta(hours=1 + number % HOURS) if number % 20 == 0 else timedelta()
        event.tenant_id = ("acme", "beta")[person % 2]
        event.conversation_id = f"c{person}-{number // (USERS * 8)}"
        event.messages_appended.user_id = f"u{person}"
        for message in event.messages_appended.messages:
            message.user_id, message.assistant_id = f"u{person}", f"helper-{person % 4}"
            message.create_time.FromDatetime(message.create_time.ToDatetime(UTC) + since - late)
            message.latency_ms = 200 + number * 7919 % 9000
    return events


def _row(case: str, ours: Sequence[float], naive: Sequence[float], *, bar: float | None) -> Row:
    ratio = statistics.median(mine / theirs for mine, theirs in zip(ours, naive, strict=True))
    holds = bar is None or ratio >= bar
    return Row(case, statistics.median(ours), statistics.median(naive), "events/s", ratio, bar, holds)


async def _rate(mongo: Mongo, redis: Redis, pipeline: Pipeline, events: Sequence[feed_pb.Event]) -> float:
    async with _engines(mongo, redis) as engines:
        took = await pipeline(engines)
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
        yield Engines(database, client)
        await database.client.drop_database(name)


async def _naive(events: Sequence[feed_pb.Event], engines: Engines) -> float:
    async def produce() -> None:
        for event in events:
            await engines.redis.lpush("metrics", json.dumps(_plain(event)))

    async def consume() -> None:
        for _ in events:
            _, text = await engines.redis.brpop(["metrics"])
            await engines.database["metrics"].insert_one(json.loads(text))

    began = time.perf_counter()
    await asyncio.gather(produce(), consume())
    return time.perf_counter() - began


def _plain(event: feed_pb.Event) -> dict[str, Any]:
    messages = event.messages_appended.messages
    return {
        "tenant": event.tenant_id,
        "model": messages[0].model,
        "tokens": [message.usage.input_tokens + message.usage.output_tokens for message in messages],
        "time": messages[0].create_time.ToMilliseconds(),
    }


async def _recorded(told: dict[str, list[metrics_pb.Execution]], engines: Engines) -> float:
    """Client batches over gRPC, its server in this process too."""
    keys = new_signing_keys()
    intake = intake_of(engines.database, engines.redis, Projection(engines.database), consumer="bench")
    await intake.prepare()
    async with (
        served([metrics_endpoint(intake.inbox, SystemClock())], keys) as port,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
        running(intake, Config()),
    ):
        stub: Any = MetricsServiceStub(channel)
        began = time.perf_counter()
        await asyncio.gather(*(_record(stub, keys, tenant, each) for tenant, each in told.items()))
        await _finished(engines)
        return time.perf_counter() - began


async def _recorded_and_killed(
    urls: tuple[str, str], told: dict[str, list[metrics_pb.Execution]], engines: Engines
) -> float:
    """As _recorded, with the worker in a process of its own, of which two are killed."""
    keys, total = new_signing_keys(), sum(map(len, told.values()))
    intake = intake_of(engines.database, engines.redis, Projection(engines.database), consumer="bench")
    async with AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(_worker(urls, engines.database.name)) for _ in range(3)]
        port = await stack.enter_async_context(served([metrics_endpoint(intake.inbox, SystemClock())], keys))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))
        stub: Any = MetricsServiceStub(channel)
        began = time.perf_counter()
        telling = asyncio.gather(*(_record(stub, keys, tenant, each) for tenant, each in told.items()))
        await _two_killed(workers, engines, total)
        await telling
        await _finished(engines)
        return time.perf_counter() - began


async def _two_killed(workers: Sequence[Any], engines: Engines, events: int) -> None:
    """One works after the other, and all but the last are killed on the way."""
    for place, worker in enumerate(workers, 1):
        worker.stdin.write(b"go\n")
        if place < len(workers):
            await _counted(engines, events * place // len(workers))
            worker.kill()


async def _counted(engines: Engines, events: int) -> None:
    """About so many have been counted; what a killed worker leaves behind makes the number a guess."""
    while await engines.database["facts"].estimated_document_count() < events:  # noqa: ASYNC110
        await asyncio.sleep(LOOK_SECONDS)


async def _finished(engines: Engines) -> None:
    """All that was accepted has been counted."""
    while await engines.database["inbox"].count_documents({}, limit=1):  # noqa: ASYNC110
        await asyncio.sleep(LOOK_SECONDS)


@asynccontextmanager
async def _worker(urls: tuple[str, str], database: str) -> AsyncIterator[Any]:
    mongo_url, redis_url = urls
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.bench.intake_worker", mongo_url, database, redis_url, stdin=PIPE, stdout=PIPE
    )
    assert process.stdout is not None
    await process.stdout.readline()
    # What it logs has to go somewhere, else it stops when the pipe is full.
    draining = asyncio.create_task(process.stdout.read())
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await draining


async def _record(stub: Any, keys: SigningKeys, tenant: str, executions: Sequence[metrics_pb.Execution]) -> None:
    metadata = as_caller(token(keys, tenant_id=tenant, scopes=["metrics.write"]))
    for first in range(0, len(executions), CLIENT_BATCH):
        request = metrics_pb.RecordExecutionRequest(executions=executions[first : first + CLIENT_BATCH])
        await stub.RecordExecution(request, metadata=metadata, timeout=60)


def _by_tenant(events: Sequence[feed_pb.Event]) -> dict[str, list[metrics_pb.Execution]]:
    tenants: dict[str, list[metrics_pb.Execution]] = {}
    for event in events:
        tenants.setdefault(event.tenant_id, []).append(_execution(event))
    return tenants


def _execution(event: feed_pb.Event) -> metrics_pb.Execution:
    """The last message of the event, told by somebody outside."""
    message = event.messages_appended.messages[-1]
    return metrics_pb.Execution(
        event_id=event.event_id,
        create_time=message.create_time,
        conversation_id=event.conversation_id,
        user_id=message.user_id or event.messages_appended.user_id,
        assistant_id=message.assistant_id,
        channel="web",
        model=message.model,
        rag=message.rag,
        usage=message.usage,
        cost_micros=message.cost_micros,
        latency_ms=message.latency_ms,
        time_to_first_token_ms=message.time_to_first_token_ms,
    )


async def _fed(events: Sequence[feed_pb.Event], engines: Engines) -> float:
    intake = intake_of(engines.database, engines.redis, Projection(engines.database), consumer="bench")
    await intake.prepare()
    async with running(intake, Config()), _follower(events, intake, engines) as followed:
        return await followed()


async def _fed_and_killed(urls: tuple[str, str], events: Sequence[feed_pb.Event], engines: Engines) -> float:
    """As _fed, with the worker in a process of its own, of which two are killed."""
    intake = intake_of(engines.database, engines.redis, Projection(engines.database), consumer="bench")
    async with AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(_worker(urls, engines.database.name)) for _ in range(3)]
        followed = await stack.enter_async_context(_follower(events, intake, engines))
        took, _ = await asyncio.gather(followed(), _two_killed(workers, engines, len(events)))
        return took


@asynccontextmanager
async def _follower(
    events: Sequence[feed_pb.Event], intake: Intake, engines: Engines
) -> AsyncIterator[Callable[[], Awaitable[float]]]:
    """The follower as the service sets it up; what this gives follows the feed to its end and returns the seconds."""
    keys, config = new_signing_keys(), Config()
    positions = FeedPositions(engines.database, Projection(engines.database))

    async def followed() -> float:
        feed = Feed(
            stub,
            intake.streams,
            intake.turns,
            positions,
            holder="bench",
            batch_size=config.feed_batch_size,
            max_in_flight=config.feed_max_in_flight,
        )
        began = time.perf_counter()
        async with in_background(feed.run()):
            while (await positions.read()).token != f"at-{len(events)}":  # noqa: ASYNC110 the end of the whole way
                await asyncio.sleep(LOOK_SECONDS)
            return time.perf_counter() - began

    async with served([FeedSource(events).endpoint()], keys) as port, feed_stub(port, keys) as stub:
        yield followed


async def _check(engines: Engines, events: Sequence[feed_pb.Event]) -> None:
    """A fast wrong answer is no figure."""
    if naive := await engines.database["metrics"].count_documents({}):
        assert naive == len(events)
        return
    sums: Counter[str] = Counter()
    async for cell in engines.database["rollups"].find():
        sums.update({name: cell.get(name, 0) for name in CHECKED})
    series: Counter[str] = Counter()
    async for each in engines.database["series"].find({"_id.axis": "total", "_id.step": "day"}):
        series.update({name: each.get(name, 0) for name in CHECKED})
    whole, last = Counter[str](), Counter[str]()
    for event in events:
        for place, message in enumerate(event.messages_appended.messages, 1):
            amounts = {"input_tokens": message.usage.input_tokens, "cost_micros": message.cost_micros}
            whole.update(amounts)
            if place == len(event.messages_appended.messages):
                last.update(amounts)
    assert sums == series, (sums, series)
    assert sums in (whole, last), (sums, whole, last)


if __name__ == "__main__":
    main()
