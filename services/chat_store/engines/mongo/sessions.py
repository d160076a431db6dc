"""Sessions, which Motor starts with a coroutine and PyMongo without one."""

import inspect
from typing import Any

from shared.mongo import MongoDatabase, MongoSession


async def mongo_session(database: MongoDatabase, **options: Any) -> MongoSession:
    """A session of the database's client, to be left with `async with`."""
    session = database.client.start_session(**options)
    return await session if inspect.isawaitable(session) else session
