"""One pair of neighbours, one database and one room for the session; a tenant of its own for each test."""

from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from pydantic import SecretStr

from services.analytics.rollups.projection import Projection
from shared.mongo import MongoDatabase, open_mongo
from tests.analytics.analyses.world import House, World, house, new_tenant, of_another, world
from tests.house.signing import SigningKeys

if TYPE_CHECKING:
    from tests.house.fake_provider import FakeProvider


@pytest.fixture(scope="session")
async def analysts(
    fresh_database: Callable[[], str], mongo_url: str, provider: "FakeProvider", signing_keys: SigningKeys
) -> AsyncIterator[House]:
    async with house(fresh_database(), mongo_url, provider.base_url, signing_keys) as opened:
        yield opened


@pytest.fixture(scope="session")
async def analyst_database(mongo_url: str) -> AsyncIterator[MongoDatabase]:
    async with open_mongo(SecretStr(mongo_url), f"analyses_{uuid4().hex[:8]}") as opened:
        yield opened
        await opened.client.drop_database(opened.name)


@pytest.fixture(scope="session")
async def analyst_room(analysts: House, analyst_database: MongoDatabase) -> AsyncIterator[World]:
    async with world(analysts, analyst_database) as opened:
        await opened.room.prepare()
        await (await Projection(analyst_database).current()).prepare()
        yield opened


@pytest.fixture
async def analysed(analyst_room: World) -> World:
    return of_another(analyst_room, await new_tenant(analyst_room.house))
