"""Stores that are cached on one level or on both, over an engine that nobody caches."""

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from pydantic import SecretStr

from services.chat_store.engines import open_store
from services.chat_store.engines.cached import CachedChatStore
from services.chat_store.engines.own_tails import OwnTails
from services.chat_store.engines.redis_tails import RedisTails, open_tails
from services.chat_store.engines.tails import Tails
from services.chat_store.store import ChatStore
from shared.redis_streams import open_redis
from tests.chat_store.cache.readings import OWN_BYTES, PROCESS, REDIS, TTL_SECONDS
from tests.chat_store.places import fresh_place

PATIENCE_SECONDS = 60.0


@pytest.fixture(params=["mongo", "postgres"])
async def bare(
    request: pytest.FixtureRequest, mongo_url: str, fresh_database: Callable[[], str]
) -> AsyncIterator[ChatStore]:
    """An engine that nobody caches."""
    async with (
        fresh_place(request.param, mongo_url, fresh_database, cache="off") as place,
        open_store(place) as store,
    ):
        yield store


@pytest.fixture
def cache_url(redis_url: str) -> SecretStr:
    return SecretStr(redis_url.rsplit("/", 1)[0] + "/12")


@pytest.fixture
async def redis(cache_url: SecretStr) -> AsyncIterator[Any]:
    async with open_redis(cache_url) as client:
        await client.flushdb()
        yield client


@pytest.fixture
async def tails(cache_url: SecretStr, redis: Any) -> AsyncIterator[RedisTails]:
    async with open_tails(cache_url, ttl_seconds=TTL_SECONDS, patience_seconds=PATIENCE_SECONDS) as tails:
        yield tails


@pytest.fixture
def own() -> Iterator[OwnTails]:
    own = OwnTails(max_bytes=OWN_BYTES, ttl_seconds=TTL_SECONDS)
    yield own
    own.close()


@pytest.fixture
async def both(bare: ChatStore, own: OwnTails, tails: Tails) -> AsyncIterator[CachedChatStore]:
    """Cached in the process and in Redis."""
    store = CachedChatStore(bare, own, tails)
    yield store
    await store.close()


@pytest.fixture
async def on_redis(bare: ChatStore, tails: Tails) -> AsyncIterator[CachedChatStore]:
    """Cached in Redis only: the process has no room for any tail."""
    store = CachedChatStore(bare, OwnTails(max_bytes=0, ttl_seconds=TTL_SECONDS), tails)
    yield store
    await store.close()


@pytest.fixture
def in_process(bare: ChatStore, own: OwnTails) -> CachedChatStore:
    """Cached in the process only."""
    return CachedChatStore(bare, own, None)


@pytest.fixture(params=["both", "on_redis", "in_process"])
def store(request: pytest.FixtureRequest, bare: ChatStore) -> CachedChatStore:
    """Cached on any of the levels."""
    store: CachedChatStore = request.getfixturevalue(request.param)
    return store


@pytest.fixture
def hits(store: CachedChatStore, request: pytest.FixtureRequest) -> str:
    """What a hit of that store counts as."""
    return REDIS if request.node.callspec.params["store"] == "on_redis" else PROCESS
