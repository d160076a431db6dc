"""From `completed` to visible: a chat_store in which 200 turns a second are stored, and who watches the live report.

Everything is real and in this process: chat_store over its engine, the feed, Redis, the worker, MongoDB, the stream of
WatchReport, with the settings they have in production. A turn is completed when chat_store has acknowledged its
messages; the n-th is visible when the report shows n. `python -m tests.bench.live`.
"""

import asyncio
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from pydantic import SecretStr

from deploy.local.engine import running_engine
from deploy.local.engines import Mongo, Redis
from deploy.local.ports import free_port
from prosa.analytics.v1 import report_service_pb2 as pb
from prosa.analytics.v1 import report_service_pb2_grpc as pb_grpc
from prosa.chat_store.v1 import conversation_service_pb2 as chat_pb
from prosa.chat_store.v1 import conversation_service_pb2_grpc as chat_grpc
from services.analytics.__main__ import open_endpoints
from services.analytics.config import Config
from services.chat_store.__main__ import open_endpoints as open_chat_store
from services.chat_store.config import Config as ChatStoreConfig
from shared.server import run
from tests.analytics.events import answer, question
from tests.analytics.feed_source import served
from tests.analytics.test_service import SERVICE_KEY, one_key
from tests.bench.table import Row, at_least, at_most, publish
from tests.house.in_process import as_caller, serving, token
from tests.house.signing import SigningKeys, new_signing_keys

TURNS_A_SECOND = 200
SECONDS = 20
CONVERSATIONS = 50
# Beyond so many at once an overtaxed server refuses; then fewer turns a second are stored, which the table shows.
AT_ONCE = 64
BAR_SECONDS = 2.0


def main() -> list[Row]:
    """Measures, prints and keeps the table."""
    rows: list[Row] = []

    async def measure() -> None:
        rows.extend(await _measure())

    run(measure)
    publish("live", rows)
    return rows


async def _measure() -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="prosa-bench-") as name:
        directory = Path(name)
        mongo, redis = Mongo(directory / "mongo", free_port()), Redis(directory / "redis", free_port())
        with running_engine(mongo), running_engine(redis):
            keys = new_signing_keys()
            async with _services(mongo, redis, keys) as (chat_store, reports):
                completed, visible = await _under_load(chat_store, reports, keys)
    waits = sorted(seen - done for done, seen in zip(sorted(completed), visible, strict=True))
    rate = (len(completed) - 1) / (max(completed) - min(completed))
    p95 = waits[int(0.95 * (len(waits) - 1))]
    return [
        at_least("turns a second that were stored meanwhile", rate, TURNS_A_SECOND, "turns/s", 0.9),
        at_most("from completed to visible, median", statistics.median(waits), BAR_SECONDS, "s", 1.0),
        at_most("from completed to visible, p95", p95, BAR_SECONDS, "s", 1.0),
    ]


@asynccontextmanager
async def _services(mongo: Mongo, redis: Redis, keys: SigningKeys) -> AsyncIterator[tuple[Any, Any]]:
    async with AsyncExitStack() as stack:
        chats = ChatStoreConfig(port=0, mongodb_url=SecretStr(mongo.url()), mongodb_database="chats")
        chat_store = await stack.enter_async_context(open_chat_store(chats))
        port = await stack.enter_async_context(served([*chat_store, one_key(keys)], keys))
        config = Config(
            port=0,
            mongodb_url=SecretStr(mongo.url()),
            mongodb_database="analytics",
            redis_url=SecretStr(redis.url()),
            chat_store_target=f"127.0.0.1:{port}",
            tenant_quota_target=f"127.0.0.1:{port}",
            service_key=SecretStr(SERVICE_KEY),
        )
        endpoints = await stack.enter_async_context(open_endpoints(config))
        analytics = await stack.enter_async_context(serving(endpoints, keys))
        conversations = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))
        yield chat_grpc.ConversationServiceStub(conversations), pb_grpc.ReportServiceStub(analytics)


async def _under_load(chat_store: Any, reports: Any, keys: SigningKeys) -> tuple[list[float], list[float]]:
    """When each turn was completed, and when the report showed so many."""
    turns = TURNS_A_SECOND * SECONDS
    completed: list[float] = []
    visible: list[float] = []
    for number in range(CONVERSATIONS):
        await chat_store.CreateConversation(
            chat_pb.CreateConversationRequest(conversation_id=f"c{number}", assistant_id="helper"), **_caller(keys)
        )
    watching = asyncio.create_task(_watch(reports, keys, turns, visible))
    await asyncio.sleep(3)
    began, slots = time.perf_counter(), asyncio.Semaphore(AT_ONCE)
    async with asyncio.TaskGroup() as group:
        for number in range(turns):
            await asyncio.sleep(max(0.0, began + number / TURNS_A_SECOND - time.perf_counter()))
            await slots.acquire()
            storing = group.create_task(_turn(chat_store, keys, number, completed))
            storing.add_done_callback(lambda _: slots.release())
    async with asyncio.timeout(60):
        await watching
    return completed, visible


async def _turn(chat_store: Any, keys: SigningKeys, number: int, completed: list[float]) -> None:
    messages = [question(), answer()]
    for message in messages:
        message.ClearField("create_time")
    request = chat_pb.AppendMessagesRequest(conversation_id=f"c{number % CONVERSATIONS}", messages=messages)
    await chat_store.AppendMessages(request, **_caller(keys))
    completed.append(time.perf_counter())


async def _watch(reports: Any, keys: SigningKeys, turns: int, visible: list[float]) -> None:
    call = reports.WatchReport(pb.WatchReportRequest(time_zone="UTC"), **_caller(keys))
    async for update in call:
        visible += [time.perf_counter()] * (update.report.today.turns - len(visible))
        if len(visible) >= turns:
            call.cancel()
            return


_CALLERS: dict[int, dict[str, Any]] = {}


def _caller(keys: SigningKeys) -> dict[str, Any]:
    """One token for all: signing one for each turn would be the load."""
    if id(keys) not in _CALLERS:
        scopes = ["reports.read", "conversations.write", "conversations.read"]
        signed = token(keys, tenant_id="acme", user_id="ana", scopes=scopes, lifetime_seconds=600)
        _CALLERS[id(keys)] = {"metadata": as_caller(signed), "timeout": 120}
    return _CALLERS[id(keys)]


if __name__ == "__main__":
    main()
