"""Redis killed, stopped, emptied and restarted under two replicas that append, comment and read: no page lacks any."""

import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from uuid import uuid4

import pytest
from pydantic import SecretStr

from deploy.local.child import Child
from deploy.local.engine import start
from deploy.local.engines import Redis
from services.chat_store.engines import open_store
from services.chat_store.engines.cached import CachedChatStore, open_cached
from shared.config import MIB
from shared.redis_streams import open_redis
from tests.chat_store.cache_load import Load, under_load
from tests.chat_store.places import fresh_place
from tests.chat_store.workshop import somebody
from tests.house.ports import own_port

TTL_SECONDS = 60
STOP_SECONDS = 10
# Longer than a busy machine keeps a Redis that is there from answering.
PATIENCE_SECONDS = 0.5
OWN_BYTES = 64 * MIB


class FragileRedis:
    """A Redis that something is done to, and then set right."""

    def __init__(self, directory: Path) -> None:
        self._engine = Redis(directory, own_port())
        self._child: Child = start(self._engine)

    @property
    def url(self) -> SecretStr:
        return SecretStr(self._engine.url())

    def end(self) -> None:
        self._child.stop(STOP_SECONDS)

    async def killed(self, load: Load) -> None:
        await self._ended_by(signal.SIGKILL, load)

    async def restarted(self, load: Load) -> None:
        await self._ended_by(signal.SIGTERM, load)

    async def stopped(self, load: Load) -> None:
        os.kill(self._child.pid, signal.SIGSTOP)
        await load.until_read(200)
        os.kill(self._child.pid, signal.SIGCONT)

    async def _ended_by(self, number: signal.Signals, load: Load) -> None:
        os.kill(self._child.pid, number)
        await load.until_read(200)
        self.end()
        self._child = start(self._engine)

    async def emptied(self, load: Load) -> None:
        async with open_redis(self.url) as client:
            for _ in range(10):
                await client.flushall()
                await load.until_read(10)


@pytest.fixture
def redis(engine_directory: Path) -> Iterator[FragileRedis]:
    fragile = FragileRedis(engine_directory / f"fragile-{uuid4().hex[:8]}")
    yield fragile
    fragile.end()


@pytest.fixture(params=[("mongo", 0), ("postgres", OWN_BYTES)], ids=["mongo, redis only", "postgres, both levels"])
async def replicas(
    request: pytest.FixtureRequest, mongo_url: str, fresh_database: Callable[[], str], redis: FragileRedis
) -> AsyncIterator[list[CachedChatStore]]:
    """Two processes' stores over the same data and the same Redis."""
    engine, process_bytes = request.param
    async with fresh_place(engine, mongo_url, fresh_database, cache="off") as place, AsyncExitStack() as stack:
        cached = []
        for _ in range(2):
            store = await stack.enter_async_context(open_store(place))
            opened = open_cached(
                store,
                redis.url,
                process_bytes=process_bytes,
                ttl_seconds=TTL_SECONDS,
                patience_seconds=PATIENCE_SECONDS,
            )
            cached.append(await stack.enter_async_context(opened))
        yield cached


@pytest.mark.parametrize(
    "harm", [FragileRedis.killed, FragileRedis.stopped, FragileRedis.emptied, FragileRedis.restarted]
)
async def test_every_page_holds_what_was_acknowledged_before_whatever_happens_to_redis(
    replicas: list[CachedChatStore], redis: FragileRedis, harm: Callable[[FragileRedis, Load], Awaitable[None]]
) -> None:
    async with under_load(replicas, somebody()) as load:
        await load.until_hit(50)
        await harm(redis, load)
        await load.until_hit(50)


async def test_a_redis_of_another_time_is_not_believed(replicas: list[CachedChatStore], redis: FragileRedis) -> None:
    """It was away while all went on, and comes back with what it knew."""
    async with under_load(replicas, somebody()) as load:
        await load.until_hit(20)
        for _ in range(5):
            await redis.stopped(load)
            await load.until_hit(5)
