"""Every engine and every wrapper is bound to the whole law of a chat store."""

import re
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from deploy.local.engine import running_engine
from services.chat_store import store as law
from services.chat_store.store import ChatStore
from tests.chat_store.cached_workshop import cached
from tests.chat_store.memory_workshop import MemoryWorkshop
from tests.chat_store.mongo_workshop import ForgetfulMongo, mongo_workshop
from tests.chat_store.postgres_workshop import postgres_workshop
from tests.chat_store.store_contract import StoreContract
from tests.chat_store.workshop import Workshop
from tests.house.ports import own_port


class TestMemory(StoreContract):
    @pytest.fixture
    def workshop(self, on_memory: Workshop) -> Workshop:
        return on_memory

    @pytest.fixture
    def forgetful(self, on_memory: Workshop) -> Workshop:
        return on_memory

    @pytest.fixture
    def empty(self) -> ChatStore:
        return MemoryWorkshop().store


@pytest.mark.long
class TestMongoOnMotor(StoreContract):
    @pytest.fixture
    def workshop(self, on_motor: Workshop) -> Workshop:
        return on_motor

    @pytest.fixture
    async def forgetful(self, forgetful_url: str) -> AsyncIterator[Workshop]:
        async with mongo_workshop(forgetful_url, "motor") as workshop:
            yield workshop

    @pytest.fixture
    async def empty(self, mongo_url: str) -> AsyncIterator[ChatStore]:
        async with mongo_workshop(mongo_url, "motor") as workshop:
            yield workshop.store


class TestMongoOnPyMongo(StoreContract):
    @pytest.fixture
    def workshop(self, on_pymongo: Workshop) -> Workshop:
        return on_pymongo

    @pytest.fixture
    async def forgetful(self, forgetful_url: str) -> AsyncIterator[Workshop]:
        async with mongo_workshop(forgetful_url, "pymongo") as workshop:
            yield workshop

    @pytest.fixture
    async def empty(self, mongo_url: str) -> AsyncIterator[ChatStore]:
        async with mongo_workshop(mongo_url, "pymongo") as workshop:
            yield workshop.store


class TestPostgres(StoreContract):
    @pytest.fixture
    def workshop(self, on_postgres: Workshop) -> Workshop:
        return on_postgres

    @pytest.fixture
    def forgetful(self, on_postgres: Workshop) -> Workshop:
        return on_postgres

    @pytest.fixture
    async def empty(self, fresh_database: Callable[[], str]) -> AsyncIterator[ChatStore]:
        async with postgres_workshop(fresh_database()) as workshop:
            yield workshop.store


class TestCachedMongo(StoreContract):
    @pytest.fixture
    def workshop(self, on_cached_mongo: Workshop) -> Workshop:
        return on_cached_mongo

    @pytest.fixture
    async def forgetful(self, forgetful_url: str, redis_url: str) -> AsyncIterator[Workshop]:
        async with mongo_workshop(forgetful_url, "pymongo") as inner, cached(inner, redis_url) as workshop:
            yield workshop

    @pytest.fixture
    async def empty(self, mongo_url: str, redis_url: str) -> AsyncIterator[ChatStore]:
        async with mongo_workshop(mongo_url, "pymongo") as inner, cached(inner, redis_url) as workshop:
            yield workshop.store


class TestCachedPostgres(StoreContract):
    @pytest.fixture
    def workshop(self, on_cached_postgres: Workshop) -> Workshop:
        return on_cached_postgres

    @pytest.fixture
    def forgetful(self, on_cached_postgres: Workshop) -> Workshop:
        return on_cached_postgres

    @pytest.fixture
    async def empty(self, fresh_database: Callable[[], str], redis_url: str) -> AsyncIterator[ChatStore]:
        async with postgres_workshop(fresh_database()) as inner, cached(inner, redis_url) as workshop:
            yield workshop.store


@pytest.fixture(scope="module")
def on_memory() -> Workshop:
    return MemoryWorkshop()


@pytest.fixture(scope="module")
async def on_motor(mongo_url: str) -> AsyncIterator[Workshop]:
    async with mongo_workshop(mongo_url, "motor") as workshop:
        yield workshop


@pytest.fixture(scope="module")
async def on_pymongo(mongo_url: str) -> AsyncIterator[Workshop]:
    async with mongo_workshop(mongo_url, "pymongo") as workshop:
        yield workshop


@pytest.fixture(scope="module")
async def on_postgres(fresh_database: Callable[[], str]) -> AsyncIterator[Workshop]:
    async with postgres_workshop(fresh_database()) as workshop:
        yield workshop


@pytest.fixture(scope="module")
async def on_cached_mongo(on_pymongo: Workshop, redis_url: str) -> AsyncIterator[Workshop]:
    async with cached(on_pymongo, redis_url) as workshop:
        yield workshop


@pytest.fixture(scope="module")
async def on_cached_postgres(on_postgres: Workshop, redis_url: str) -> AsyncIterator[Workshop]:
    async with cached(on_postgres, redis_url) as workshop:
        yield workshop


@pytest.fixture(scope="module")
def forgetful_url(engine_directory: Path) -> Iterator[str]:
    engine = ForgetfulMongo(engine_directory / "forgetful", own_port())
    with running_engine(engine):
        yield engine.url()


def test_every_rule_of_the_law_has_its_test() -> None:
    rules = set(re.findall(r"`(test_\w+)`", law.__doc__ or ""))
    tests = {name for name in dir(StoreContract) if name.startswith("test_")}
    assert rules == tests
