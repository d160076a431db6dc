"""The engines that can keep conversations; configuration chooses one by name."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.chat_store.config import Config
from services.chat_store.engines.mongo import MongoChatStore
from services.chat_store.store import ChatStore
from shared.mongo import open_mongo


@asynccontextmanager
async def open_store(config: Config) -> AsyncIterator[ChatStore]:
    """The configured engine, closed at the end of the block. Connects on first use: an absent engine is Unavailable."""
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
