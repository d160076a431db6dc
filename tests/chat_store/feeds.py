"""Reading a feed in a test: waiting for what it says, and comparing what it said."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

from services.chat_store.happenings import Event, Shard
from services.chat_store.store import WHOLE_FEED, ChatStore

PATIENCE_SECONDS = 60.0


async def next_event(feed: AsyncGenerator[Event, None]) -> Event:
    """Whatever it says next."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        return await anext(feed)


async def next_events(
    feed: AsyncGenerator[Event, None], count: int, *, nothing_follows: Callable[[], bool] = lambda: False
) -> list[Event]:
    """The next events that tell something; fewer when the feed has caught up and nothing follows."""
    told: list[Event] = []
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(told) < count:
            event = await anext(feed)
            if event.what is not None:
                told.append(event)
            elif told and nothing_follows():
                break
    return told


async def until_caught_up(feed: AsyncGenerator[Event, None]) -> list[Event]:
    """What the feed tells until it says that all has been told."""
    told = []
    while (event := await next_event(feed)).what is not None:
        told.append(event)
    assert event.time is not None
    return told


async def until_told(feed: AsyncGenerator[Event, None], event_ids: set[str]) -> list[Event]:
    """What the feed tells until it has told all of these."""
    told: list[Event] = []
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not event_ids <= {event.event_id for event in told}:
            told += await next_events(feed, 1)
    return told


async def history(store: ChatStore, tenant_id: str, token: str = "", shard: Shard = WHOLE_FEED) -> list[Event]:
    """Everything after the token, up to now."""
    async with aclosing(store.watch(tenant_id, token, shard)) as feed:
        return await until_caught_up(feed)


def facts(told: Sequence[Event]) -> list[object]:
    """All of the events but their tokens."""
    return [(event.event_id, event.tenant_id, event.conversation_id, event.time, event.what) for event in told]


def once(told: Sequence[Event]) -> list[Event]:
    """Each event the first time it was told; it was the same every time."""
    seen: dict[str, Event] = {}
    for event in told:
        first = seen.setdefault(event.event_id, event)
        assert facts([first]) == facts([event])
    return list(seen.values())
