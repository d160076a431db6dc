"""Sessions, which Motor starts with a coroutine and PyMongo without one; transactions that others are in the way of."""

import asyncio
import inspect
import random
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from pymongo.errors import DuplicateKeyError, PyMongoError

from shared.mongo import MongoDatabase, MongoSession

# How long a transaction gives way to other writers before it gives up.
PATIENCE_SECONDS = 8.0
LONGEST_PAUSE_SECONDS = 0.064

Result = TypeVar("Result")


async def mongo_session(database: MongoDatabase, **options: Any) -> MongoSession:
    """A session of the database's client, to be left with `async with`."""
    session = database.client.start_session(**options)
    return await session if inspect.isawaitable(session) else session


async def insist(attempt: Callable[[], Awaitable[Result]]) -> Result:
    """The transaction's outcome; tried again for a while when another writer was in the way or the primary moved."""
    clock = asyncio.get_running_loop().time
    end, tries = clock() + PATIENCE_SECONDS, 0
    while True:
        try:
            return await attempt()
        except PyMongoError as error:
            passing = isinstance(error, DuplicateKeyError) or error.has_error_label("TransientTransactionError")
            if not passing or clock() > end:
                raise
        tries += 1
        await asyncio.sleep(random.uniform(0, min(0.001 * 2**tries, LONGEST_PAUSE_SECONDS)))  # noqa: S311
