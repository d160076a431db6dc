"""A database and a Redis of its own for each test, on the session's real engines."""

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from typing import Any, TypeAlias
from uuid import uuid4

import pytest
from pydantic import SecretStr

from services.analytics.intake.dead_letters import DeadLetters
from services.analytics.intake.feed_positions import FeedPositions
from services.analytics.intake.inbox import Inbox
from services.analytics.intake.streams import Kind, open_lanes
from services.analytics.intake.worker import Desk
from services.analytics.rollups.projection import Projection
from services.analytics.rollups.rollup_store import RollupStore
from services.analytics.rollups.statements import StatementStore
from shared.mongo import MongoDatabase, open_mongo
from shared.redis_streams import Stream, open_redis
from tests.analytics.events import COUNTED

REDIS_DATABASE = 9

# redis-py types its answers as everything that any version and option of Redis may give.
Redis: TypeAlias = Any

Rollups = dict[tuple[str, datetime, str, str, str], dict[str, int]]
ReadLetters = Callable[[], Awaitable[list[dict[str, Any]]]]
ReadRollups = Callable[[], Awaitable[Rollups]]


@pytest.fixture
async def database(mongo_url: str) -> AsyncIterator[MongoDatabase]:
    async with open_mongo(SecretStr(mongo_url), f"analytics_{uuid4().hex[:8]}") as opened:
        yield opened
        await opened.client.drop_database(opened.name)


@pytest.fixture
async def store(database: MongoDatabase) -> RollupStore:
    opened = RollupStore(database)
    await opened.prepare()
    return opened


@pytest.fixture
def statements(database: MongoDatabase, store: RollupStore) -> StatementStore:
    return StatementStore(database, store.projection)


@pytest.fixture
def positions(database: MongoDatabase) -> FeedPositions:
    return FeedPositions(database)


@pytest.fixture
def own_redis_url(redis_url: str) -> str:
    return redis_url.rsplit("/", 1)[0] + f"/{REDIS_DATABASE}"


@pytest.fixture
async def redis(own_redis_url: str) -> AsyncIterator[Redis]:
    async with open_redis(SecretStr(own_redis_url)) as client:
        await client.flushdb()
        yield client
        await client.flushdb()


@pytest.fixture
def stream(redis: Redis) -> Stream:
    return stream_for(redis, "first")


@pytest.fixture
def letters(database: MongoDatabase) -> ReadLetters:
    """Reads the dead letters as they lie in MongoDB."""

    async def read() -> list[dict[str, Any]]:
        return [letter async for letter in database["dead_letters"].find()]

    return read


def desk_on(database: MongoDatabase, redis: Redis, kind: Kind = Kind.EXECUTION) -> Desk:
    """Where a worker of this stream puts what it is done with."""
    streams = {each: open_lanes(redis, "metrics", each, "desk") for each in Kind}
    inbox = Inbox(database, streams)
    return Desk(kind, inbox, DeadLetters(database, Projection(database), inbox))


def stream_for(redis: Redis, consumer: str) -> Stream:
    """The stream as this consumer sees it."""
    return Stream(redis, "metrics:execution", group="rollups", consumer=consumer)


@pytest.fixture
def rollups(database: MongoDatabase) -> ReadRollups:
    """Reads the rollups as they lie in MongoDB, those that hold nothing left out."""

    async def read() -> Rollups:
        found: Rollups = {}
        async for document in database["rollups"].find():
            found[_key(document)] = {name: document[name] for name in COUNTED if document.get(name)}
        return found

    return read


def _key(document: dict[str, Any]) -> tuple[str, datetime, str, str, str]:
    names = ("tenant_id", "hour", "model", "user_id", "assistant_id")
    tenant_id, hour, model, user_id, assistant_id = (document[name] for name in names)
    return tenant_id, hour, model, user_id, assistant_id
