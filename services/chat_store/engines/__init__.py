"""The engines that can keep conversations; configuration chooses one by name."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from services.chat_store.config import Config
from services.chat_store.engines.cached import open_cached
from services.chat_store.engines.memory.store import MemoryChatStore
from services.chat_store.engines.mongo.store import MongoChatStore
from services.chat_store.engines.postgres.store import PostgresChatStore
from services.chat_store.store import ChatStore
from shared.mongo import open_mongo
from shared.postgres import migrate, open_pool

SCHEMA = "chat_store"
SCHEMA_DIRECTORY = Path(__file__).parents[1] / "schema"


@asynccontextmanager
async def open_store(config: Config) -> AsyncIterator[ChatStore]:
    """The configured engine, cached where the configuration says so, closed at the end of the block.

    An absent engine is Unavailable: MongoDB on first use, PostgreSQL, which must be migrated, when it is opened. An
    absent Redis only costs the cache.
    """
    async with _open_engine(config) as store:
        if not config.cached:
            yield store
            return
        async with open_cached(
            store,
            config.cache_url,
            process_bytes=config.cache_process_bytes,
            ttl_seconds=config.cache_ttl_seconds,
            patience_seconds=config.cache_timeout_ms / 1000,
        ) as cached:
            yield cached


async def prepare(config: Config) -> list[str]:
    """Brings the schema of the configured engine up to date, and tells what was done; only PostgreSQL has one."""
    if config.engine != "postgres":
        return []
    return await migrate(config.database_url, schema=SCHEMA, directory=SCHEMA_DIRECTORY)


@asynccontextmanager
async def _open_engine(config: Config) -> AsyncIterator[ChatStore]:
    match config.engine:
        case "mongo":
            async with open_mongo(
                config.mongodb_url,
                config.mongodb_database,
                driver=config.mongodb_driver,
                max_pool_size=config.mongodb_max_pool_size,
                min_pool_size=config.mongodb_min_pool_size,
                timeout_ms=config.mongodb_timeout_ms,
            ) as database:
                yield MongoChatStore(database, feed_idle_seconds=config.feed_idle_seconds)
        case "memory":
            yield MemoryChatStore(feed_idle_seconds=config.feed_idle_seconds)
        case "postgres":
            async with open_pool(
                config.database_url,
                schema=SCHEMA,
                max_size=config.database_connections,
                command_timeout_seconds=config.database_timeout_ms / 1000,
            ) as pool:
                yield PostgresChatStore(pool, feed_idle_seconds=config.feed_idle_seconds)
