"""Stores for what stands on any of them: each engine, as two replicas over the same data."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from services.chat_store.engines import open_store
from services.chat_store.selection import Reach
from services.chat_store.store import ChatStore
from shared.errors import NotFound
from tests.chat_store.places import fresh_place

# Motor is the same engine by an older driver.
ENGINES = ("memory", "mongo", pytest.param("mongo on motor", marks=pytest.mark.long), "postgres")


@dataclass(frozen=True)
class Replicas:
    """Two processes' stores over the same data; in memory there is but one."""

    store: ChatStore
    other: ChatStore


@asynccontextmanager
async def open_replicas(engine: str, mongo_url: str, fresh_database: Callable[[], str]) -> AsyncIterator[Replicas]:
    """Two stores over one fresh place."""
    async with (
        fresh_place(engine, mongo_url, fresh_database, feed_idle_seconds=1) as config,
        open_store(config) as store,
    ):
        if engine == "memory":
            yield Replicas(store, store)
            return
        async with open_store(config) as other:
            yield Replicas(store, other)


async def is_gone(store: ChatStore, reach: Reach, conversation_id: str) -> bool:
    """Whether the conversation looks like one that never was."""
    try:
        await store.get(reach, conversation_id)
    except NotFound:
        return True
    return False
