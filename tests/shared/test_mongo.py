"""MongoDB through both drivers: the same calls, the same answers, the same errors. On a real replica set."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import pymongo.errors
import pytest
from pydantic import SecretStr

from shared.config import CannotStartError
from shared.deadline import set_deadline
from shared.errors import Conflict, Unavailable
from shared.identifiers import new_id
from shared.mongo import (
    MongoDatabase,
    MongoDriver,
    aggregate,
    insist,
    mongo_errors,
    mongo_ready,
    open_mongo,
    transaction,
    watch,
)
from tests.house.ports import own_port

DRIVERS: list[MongoDriver] = ["motor", "pymongo"]


@pytest.fixture(params=DRIVERS)
async def database(request: pytest.FixtureRequest, mongo_url: str) -> AsyncIterator[MongoDatabase]:
    """A database of its own, by each driver."""
    async with open_mongo(SecretStr(mongo_url), f"street_{new_id()[-12:]}", driver=request.param) as opened:
        yield opened
        await opened.client.drop_database(opened.name)


async def test_what_is_written_is_read(database: MongoDatabase) -> None:
    await database.notes.insert_one({"_id": 1, "text": "ção"})
    assert await database.notes.find_one({"_id": 1}) == {"_id": 1, "text": "ção"}
    await mongo_ready(database)


async def test_writes_wait_for_a_majority(database: MongoDatabase) -> None:
    assert database.write_concern.document == {"w": "majority", "j": True, "wtimeout": 0} or (
        database.write_concern.document["w"] == "majority" and database.write_concern.document["j"] is True
    )
    assert database.read_concern.level == "majority"


async def test_aggregate_gives_documents(database: MongoDatabase) -> None:
    await database.notes.insert_many([{"n": n} for n in range(5)])
    pipeline: list[dict[str, Any]] = [{"$match": {"n": {"$gte": 2}}}, {"$sort": {"n": 1}}]
    assert [document["n"] async for document in aggregate(database.notes, pipeline)] == [2, 3, 4]


async def test_changes_can_be_watched(database: MongoDatabase) -> None:
    await database.notes.insert_one({"_id": 0})
    async with watch(database.notes, [{"$match": {"operationType": "insert"}}]) as changes:
        await database.notes.insert_one({"_id": 1})
        change = await changes.next()
    assert change["documentKey"] == {"_id": 1}


async def test_a_transaction_is_all_or_nothing(database: MongoDatabase) -> None:
    await database.create_collection("notes")

    async def change_its_mind() -> None:
        async with transaction(database) as session:
            await database.notes.insert_one({"_id": 1}, session=session)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await change_its_mind()
    assert await database.notes.count_documents({}) == 0
    async with transaction(database) as session:
        await database.notes.insert_one({"_id": 1}, session=session)
        await database.notes.insert_one({"_id": 2}, session=session)
    assert await database.notes.count_documents({}) == 2


async def test_a_write_conflict_is_a_conflict(database: MongoDatabase) -> None:
    await database.notes.insert_one({"_id": 1, "n": 0})

    async def both() -> None:
        async with transaction(database) as one, transaction(database) as other:
            await database.notes.update_one({"_id": 1}, {"$inc": {"n": 1}}, session=one)
            with mongo_errors():
                await database.notes.update_one({"_id": 1}, {"$inc": {"n": 1}}, session=other)

    with pytest.raises(Conflict):
        await both()


async def test_a_transaction_that_the_server_ended_is_made_again(database: MongoDatabase) -> None:
    await database.create_collection("notes")
    attempts = 0

    async def attempt() -> str:
        nonlocal attempts
        attempts += 1
        async with transaction(database) as session:
            await database.notes.insert_one({"_id": attempts}, session=session)
            if attempts < 4:
                await database.client.admin.command({"killSessions": [session.session_id]})
            if attempts != 2:  # whether it is the next write that finds out, or the commit
                with mongo_errors():
                    await database.notes.insert_one({"_id": -attempts}, session=session)
        return "kept"

    assert await insist(attempt) == "kept"
    assert attempts == 4
    assert {each["_id"] async for each in database.notes.find({})} == {4, -4}


async def test_a_transaction_is_made_again_within_the_callers_time_only() -> None:
    async def always_second() -> None:
        raise Conflict("another write was first")

    async def for_a_caller_in_a_hurry() -> None:
        set_deadline(0.2)
        await insist(always_second)

    with pytest.raises(Conflict):
        await asyncio.wait_for(asyncio.create_task(for_a_caller_in_a_hurry()), 6)


async def test_what_would_fail_again_is_not_made_again(database: MongoDatabase) -> None:
    attempts = 0

    async def mistaken() -> None:
        nonlocal attempts
        attempts += 1
        async with transaction(database) as session:
            await database.notes.find_one({"$nonsense": 1}, session=session)

    with pytest.raises(pymongo.errors.OperationFailure):
        await insist(mistaken)
    assert attempts == 1


async def test_a_duplicate_is_left_to_the_engine(database: MongoDatabase) -> None:
    await database.notes.insert_one({"_id": 1})
    with pytest.raises(pymongo.errors.DuplicateKeyError), mongo_errors():
        await database.notes.insert_one({"_id": 1})


async def test_our_own_mistakes_are_not_called_an_outage(database: MongoDatabase) -> None:
    with pytest.raises(pymongo.errors.OperationFailure), mongo_errors():
        await database.notes.find_one({"$nonsense": 1})


@pytest.mark.parametrize("driver", DRIVERS)
async def test_an_operation_that_takes_too_long_is_unavailable(mongo_url: str, driver: MongoDriver) -> None:
    async with open_mongo(SecretStr(mongo_url), "street_slow", driver=driver, timeout_ms=1500) as database:
        await database.notes.replace_one({"_id": 1}, {}, upsert=True)
        with pytest.raises(Unavailable), mongo_errors():
            await database.notes.find_one({"$where": "while (true) {}"})


@pytest.mark.parametrize("driver", DRIVERS)
async def test_nobody_listening_is_unavailable(driver: MongoDriver) -> None:
    url = SecretStr(f"mongodb://127.0.0.1:{own_port()}")
    async with open_mongo(url, "prosa", driver=driver, timeout_ms=300) as database:
        with pytest.raises(Unavailable) as caught, mongo_errors():
            await database.notes.find_one({})
        assert caught.value.metadata == {"dependency": "mongodb"}
        with pytest.raises(Unavailable):
            await mongo_ready(database)


def failure(code: int, **document: Any) -> pymongo.errors.OperationFailure:
    return pymongo.errors.OperationFailure("failed", code, document)


def test_a_full_disk_has_its_own_reason() -> None:
    with pytest.raises(Unavailable) as caught, mongo_errors():
        raise failure(14031)
    assert caught.value.reason == "STORAGE_FULL"


@pytest.mark.parametrize("label", ["RetryableWriteError", "TransientTransactionError"])
def test_what_the_server_calls_passing_is_unavailable(label: str) -> None:
    with pytest.raises(Unavailable), mongo_errors():
        raise failure(91, errorLabels=[label])


@pytest.mark.parametrize("code", [91, 189, 10107, 11600, 11602])
def test_a_primary_that_goes_in_the_middle_of_many_documents_is_unavailable(code: int) -> None:
    with pytest.raises(Unavailable), mongo_errors():
        raise failure(code)
    unsure = {"writeErrors": [], "writeConcernErrors": [{"code": code, "errmsg": "stepped down"}]}
    with pytest.raises(Unavailable), mongo_errors():
        raise pymongo.errors.BulkWriteError(unsure)


def test_a_duplicate_among_many_documents_is_left_to_the_engine() -> None:
    known = {"writeErrors": [{"index": 1, "code": 11000, "errmsg": "E11000"}], "writeConcernErrors": []}
    with pytest.raises(pymongo.errors.BulkWriteError), mongo_errors():
        raise pymongo.errors.BulkWriteError(known)


@pytest.mark.parametrize("unreadable", ["http://db", "mongodb://app:hun/ter2@db/", "mongodb://app:hunter2@db:port/"])
async def test_a_url_that_is_none_is_told_without_its_password(unreadable: str) -> None:
    with pytest.raises(CannotStartError, match="MONGODB_URL is not readable") as told:
        async with open_mongo(SecretStr(unreadable), "prosa"):
            pass
    assert "hun" not in str(told.value)


@asynccontextmanager
async def relay(url: str) -> AsyncIterator[tuple[str, asyncio.Event]]:
    """A server of one's own between client and MongoDB, and the event from which on it passes nothing on."""
    target, silent = urlsplit(url), asyncio.Event()

    async def passing_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            if not silent.is_set():
                writer.write(data)
        writer.close()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(target.hostname, target.port)
        await asyncio.gather(passing_on(reader, back), passing_on(there, writer))

    server = await asyncio.start_server(connect, "127.0.0.1", 0)
    try:
        yield f"mongodb://127.0.0.1:{server.sockets[0].getsockname()[1]}/?directConnection=true", silent
    finally:
        server.close()


async def test_a_server_that_fell_silent_keeps_nobody_from_closing(mongo_url: str) -> None:
    async with relay(mongo_url) as (url, silent):

        async def use_and_close() -> None:
            async with open_mongo(SecretStr(url), "street_silent") as database:
                await database.notes.find_one({})
                silent.set()

        closing = asyncio.create_task(use_and_close())
        done, _ = await asyncio.wait({closing}, timeout=20)
        closing.cancel()
        assert closing in done
