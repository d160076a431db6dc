"""Composition root: the API, the follower of the feed and a worker, in one process; any number of them may run."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from prosa.chat_store.v1 import feed_service_pb2_grpc
from services.analytics.config import Config
from services.analytics.intake.feed import Feed
from services.analytics.intake.feed_positions import FeedPositions
from services.analytics.intake.worker import Worker
from services.analytics.reports.endpoint import reports_endpoint
from services.analytics.rollups.rollup_store import RollupStore
from shared.caller import TokenVerifier
from shared.channels import ServiceToken, open_channel
from shared.clock import SystemClock
from shared.command_line import command
from shared.mongo import open_mongo
from shared.redis_streams import Stream, consumer_name, open_redis
from shared.server import Endpoint, Ready, serve
from shared.telemetry import get_logger

STREAM = "execution"
GROUP = "rollups"
STOP_SECONDS = 2.0

log = get_logger()


@dataclass(frozen=True)
class Analytics:
    """The running service: what it serves, and the probes of what it cannot serve without.

    Redis and chat_store are not among them: without them reports grow old, but they go on.
    """

    endpoints: list[Endpoint]
    ready: Ready


@asynccontextmanager
async def open_analytics(config: Config) -> AsyncIterator[Analytics]:
    """The service with its worker and its feed running in the background until the end of the block."""
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(
            open_mongo(
                config.mongodb_url,
                config.mongodb_database,
                driver=config.mongodb_driver,
                max_pool_size=config.mongodb_max_pool_size,
                min_pool_size=config.mongodb_min_pool_size,
                timeout_ms=config.mongodb_timeout_ms,
            )
        )
        redis = await stack.enter_async_context(open_redis(config.redis_url))
        name = consumer_name()
        stream = Stream(redis, f"{config.stream_prefix}:{STREAM}", group=GROUP, consumer=name)
        store, positions = RollupStore(database), FeedPositions(database)
        await stack.enter_async_context(_working(_worker(config, stream, store)))
        if config.service_key.get_secret_value():
            feed = await stack.enter_async_context(_feed(config, stream, store, positions, holder=name))
            await stack.enter_async_context(_in_background(feed.run()))
        else:
            log.warning("feed_not_followed", missing="ANALYTICS_SERVICE_KEY")
        yield Analytics(
            [reports_endpoint(store.projection, positions, SystemClock())],
            {"mongodb": store.ready},
        )


@asynccontextmanager
async def open_endpoints(config: Config) -> AsyncIterator[list[Endpoint]]:
    """As open_analytics, for those who need the endpoints only."""
    async with open_analytics(config) as analytics:
        yield analytics.endpoints


def _worker(config: Config, stream: Stream, store: RollupStore) -> Worker:
    return Worker(
        stream,
        store,
        batch_size=config.worker_batch_size,
        block_ms=config.worker_block_ms,
        claim_idle_seconds=config.worker_claim_idle_seconds,
        max_deliveries=config.worker_max_deliveries,
    )


@asynccontextmanager
async def _feed(
    config: Config, stream: Stream, store: RollupStore, positions: FeedPositions, *, holder: str
) -> AsyncIterator[Feed]:
    async with open_channel(config.tenant_quota_target) as tenant_quota:
        token = ServiceToken(tenant_quota, config.service_key)
        async with open_channel(config.chat_store_target, token=token, on_behalf=False) as chat_store:
            yield Feed(
                feed_service_pb2_grpc.FeedServiceStub(chat_store),
                stream,
                store,
                positions,
                holder=holder,
                batch_size=config.feed_batch_size,
                max_in_flight=config.feed_max_in_flight,
                checkpoint_seconds=config.feed_checkpoint_seconds,
                lease_seconds=config.feed_lease_seconds,
            )


@asynccontextmanager
async def _working(worker: Worker) -> AsyncIterator[None]:
    """The worker in the background; at the end it finishes the batch in hand, if that takes not too long."""
    task = asyncio.create_task(worker.run())
    try:
        yield
    finally:
        worker.stop()
        await asyncio.wait([task], timeout=STOP_SECONDS)
        await _cancelled(task)


@asynccontextmanager
async def _in_background(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        await _cancelled(task)


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def _serve() -> None:
    config = Config()
    verifier = TokenVerifier(config.token_public_key)
    async with open_analytics(config) as analytics:
        await serve(config, "analytics", analytics.endpoints, verifier=verifier, ready=analytics.ready)


async def _migrate() -> None:
    config = Config()
    async with open_mongo(
        config.mongodb_url, config.mongodb_database, driver=config.mongodb_driver, timeout_ms=config.mongodb_timeout_ms
    ) as database:
        await RollupStore(database).prepare()


if __name__ == "__main__":
    command("services.analytics", Config, serve=_serve, migrate=_migrate)
