"""MongoDB as every service uses it: one function opens the database, with PyMongo's own async client or with Motor.

Only what both share is used; the few calls that differ (aggregate, watch, transactions) are bridged here. Writes are
acknowledged by a majority and journalled. Driver errors become errors of the house here, by class and code.
"""

import asyncio
import inspect
import random
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Literal, TypeAlias, TypeVar

import pymongo.errors
from pydantic import SecretStr

from shared.cancellation import cancellation_kept
from shared.config import CannotStartError
from shared.deadline import seconds_left
from shared.errors import Conflict, Unavailable

# What AsyncIOMotorDatabase and AsyncDatabase share; neither is a subtype of the other.
MongoDatabase: TypeAlias = Any
MongoCollection: TypeAlias = Any
MongoSession: TypeAlias = Any

MongoDriver: TypeAlias = Literal["motor", "pymongo"]

Result = TypeVar("Result")

READY_TIMEOUT_SECONDS = 2.0
CLOSE_TIMEOUT_SECONDS = 2.0
# How long a transaction gives way to others before it gives up.
PATIENCE_SECONDS = 8.0
_LONGEST_PAUSE_SECONDS = 0.064
_OUT_OF_DISK_SPACE = 14031
_WRITE_CONFLICT = 112
# A primary that stops, steps down or was none: in the answer for one of many documents they come without a label.
_PASSING_CODES = frozenset({91, 189, 10107, 11600, 11602, 13435, 13436})
_PASSING_LABELS = ("RetryableWriteError", "TransientTransactionError", "UnknownTransactionCommitResult")


@asynccontextmanager
async def open_mongo(
    url: SecretStr,
    database: str,
    *,
    driver: MongoDriver = "pymongo",
    max_pool_size: int = 50,
    min_pool_size: int = 0,
    timeout_ms: int = 10_000,
) -> AsyncIterator[MongoDatabase]:
    """The database, its client closed at the end of the block. Connects on first use; CannotStartError for a bad URL.

    `timeout_ms` bounds every operation, retries included.
    """
    client = _client(
        driver,
        url.get_secret_value(),
        w="majority",
        journal=True,
        retryWrites=True,
        retryReads=True,
        readConcernLevel="majority",
        serverSelectionTimeoutMS=min(5000, timeout_ms),
        timeoutMS=timeout_ms,
        maxPoolSize=max_pool_size,
        minPoolSize=min_pool_size,
        uuidRepresentation="standard",
        tz_aware=True,
        appname="prosa",
    )
    try:
        yield client[database]
    finally:
        await _closed(client)


async def _closed(client: Any) -> None:
    """PyMongo tells the server which sessions are over, and waits for its own tasks; a stopping process does not."""
    closing = client.close()
    if inspect.isawaitable(closing):
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_SECONDS):
                await closing


def _client(driver: MongoDriver, url: str, **options: Any) -> Any:
    try:
        return _client_class(driver)(url, **options)
    except (pymongo.errors.ConfigurationError, ValueError):  # whose words may quote a piece of the password
        raise CannotStartError(
            "MONGODB_URL is not readable: mongodb://user:password@host:27017/?replicaSet=name; in a password, write "
            "@ : / # ? % as %40 …"
        ) from None


def _client_class(driver: MongoDriver) -> Any:
    if driver == "motor":
        from motor.motor_asyncio import AsyncIOMotorClient

        return AsyncIOMotorClient
    from pymongo import AsyncMongoClient

    return AsyncMongoClient


@contextmanager
def mongo_errors() -> Iterator[None]:
    """Turns what passes by itself into Unavailable (dependency "mongodb") or Conflict; the rest passes through.

    DuplicateKeyError is left to the engine: it alone knows what a duplicate means. A cancellation stays one: PyMongo's
    asyncio client takes it for a lost connection.
    """
    try:
        with cancellation_kept():
            yield
    except pymongo.errors.BulkWriteError as error:
        if error.details["writeConcernErrors"]:
            raise _unavailable() from error
        raise
    except pymongo.errors.OperationFailure as error:
        if error.code == _OUT_OF_DISK_SPACE:
            raise _unavailable("STORAGE_FULL") from error
        if error.code == _WRITE_CONFLICT:
            raise Conflict("another write was first") from error
        if error.code in _PASSING_CODES or error.timeout or any(map(error.has_error_label, _PASSING_LABELS)):
            raise _unavailable() from error
        raise
    except (pymongo.errors.ConnectionFailure, pymongo.errors.WaitQueueTimeoutError) as error:
        raise _unavailable() from error
    except pymongo.errors.PyMongoError as error:
        if not error.timeout:
            raise
        raise _unavailable() from error


async def mongo_ready(database: MongoDatabase) -> None:
    """Answers within 2 s or raises Unavailable: for the readiness probe."""
    try:
        async with asyncio.timeout(READY_TIMEOUT_SECONDS):
            with mongo_errors():
                await database.command("ping")
    except TimeoutError as error:
        raise _unavailable() from error


async def aggregate(
    collection: MongoCollection, pipeline: Sequence[Mapping[str, Any]], **options: Any
) -> AsyncGenerator[dict[str, Any], None]:
    """The documents a pipeline yields; PyMongo's aggregate is a coroutine, Motor's is not."""
    cursor = collection.aggregate(list(pipeline), **options)
    if inspect.iscoroutine(cursor):
        cursor = await cursor
    try:
        async for document in cursor:
            yield document
    finally:
        # 0 when one reply held everything: there is nothing to close then, and Motor would ask a thread for it.
        if cursor.cursor_id:
            await cursor.close()


@asynccontextmanager
async def watch(
    collection: MongoCollection, pipeline: Sequence[Mapping[str, Any]] = (), **options: Any
) -> AsyncIterator[Any]:
    """A change stream, closed at the end of the block; PyMongo's watch is a coroutine, Motor's is not."""
    stream = collection.watch(list(pipeline), **options)
    if inspect.iscoroutine(stream):
        stream = await stream
    async with stream:
        yield stream


@asynccontextmanager
async def transaction(database: MongoDatabase) -> AsyncIterator[MongoSession]:
    """One transaction: pass the session to every call; committed at the end, aborted when the block raises."""
    session = database.client.start_session()
    if inspect.isawaitable(session):
        session = await session
    async with session:
        starting = session.start_transaction()
        if inspect.iscoroutine(starting):
            starting = await starting
        async with starting:
            yield session


async def insist(attempt: Callable[[], Awaitable[Result]]) -> Result:
    """The outcome of an attempt that is one whole transaction; tried again while nothing of the last one was kept.

    That is so when another writer was first, when it took longer than MongoDB lets a transaction live, and when the
    primary moved. It ends with the caller's time, after 8 s at the latest. A commit whose outcome is unknown is none of
    these: the driver asks again until its own time-out.
    """
    clock = asyncio.get_running_loop().time
    end, tries = clock() + min(PATIENCE_SECONDS, seconds_left() or PATIENCE_SECONDS), 0
    while True:
        try:
            return await attempt()
        except (pymongo.errors.PyMongoError, Conflict, Unavailable) as error:
            if not _left_nothing(error) or clock() > end:
                raise
        tries += 1
        await asyncio.sleep(random.uniform(0, min(0.001 * 2**tries, _LONGEST_PAUSE_SECONDS)))  # noqa: S311 spreads rivals


def _left_nothing(error: Exception) -> bool:
    if isinstance(error, Conflict | pymongo.errors.DuplicateKeyError):
        return True
    cause = error.__cause__ if isinstance(error, Unavailable) else error
    return isinstance(cause, pymongo.errors.PyMongoError) and cause.has_error_label("TransientTransactionError")


def _unavailable(reason: str | None = None) -> Unavailable:
    return Unavailable("the database is unavailable", dependency="mongodb", reason=reason)
