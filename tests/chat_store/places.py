"""Places that nobody else keeps anything in, one for each engine."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

from pydantic import SecretStr

from services.chat_store.config import Config
from services.chat_store.engines import prepare
from shared.mongo import MongoDriver, open_mongo

# An engine that is late on a busy machine is no engine that is away.
PATIENT = {"mongodb_timeout_ms": 60_000, "database_timeout_ms": 60_000, "cache_timeout_ms": 60_000}
MONGO_DRIVERS: dict[str, MongoDriver] = {"mongo": "pymongo", "mongo on motor": "motor"}


@asynccontextmanager
async def fresh_place(
    engine: str, mongo_url: str, fresh_database: Callable[[], str], **settings: Any
) -> AsyncIterator[Config]:
    """The settings of a store over an empty place; with `redis_url` it is cached. What takes room is dropped after."""
    settings = {**PATIENT, **settings}
    if engine in MONGO_DRIVERS:
        name, driver = f"chat_{uuid4().hex[:8]}", MONGO_DRIVERS[engine]
        address = SecretStr(mongo_url)
        yield Config(engine="mongo", mongodb_url=address, mongodb_database=name, mongodb_driver=driver, **settings)
        async with open_mongo(SecretStr(mongo_url), name) as database:
            await database.client.drop_database(name)
    else:
        yield await _of(engine, fresh_database, settings)


async def _of(engine: str, fresh_database: Callable[[], str], settings: Mapping[str, Any]) -> Config:
    if engine == "memory":
        return Config(engine="memory", **settings)
    config = Config(engine="postgres", database_url=SecretStr(fresh_database()), **settings)
    await prepare(config)
    return config
