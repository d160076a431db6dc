"""What one message of the feed carries."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime

import grpc
import pytest

from prosa.chat_store.v1 import feed_service_pb2 as pb
from services.chat_store.feed_messages import MOST_BYTES, feed_messages
from services.chat_store.happenings import Appended, Event
from services.chat_store.model import Draft, MessageType
from services.chat_store.model import Message as ChatMessage
from shared.errors import Unavailable, error_of
from tests.chat_store.calls import append, create, said
from tests.chat_store.conftest import World
from tests.chat_store.test_feed import Call, told_until_quiet, watch

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def engine() -> str:
    """What most installations use."""
    return "mongo"


def event(number: int, text: str = "oi") -> Event:
    draft = Draft(message_id=f"m{number}", type=MessageType.USER, text=text)
    appended = Appended((ChatMessage(number, NOON, draft),), "ana", "", "", "")
    return Event(f"t{number}", f"e{number}", "acme", "c", NOON, appended)


async def some(*events: Event, failure: Exception | None = None) -> AsyncGenerator[Event, None]:
    for each in events:
        yield each
    if failure:
        raise failure
    await asyncio.Event().wait()


def names(message: pb.Event) -> list[str]:
    return [each.event_id for each in (message, *message.later_events)]


async def read(events: AsyncGenerator[Event, None], most: int, messages: int) -> list[list[str]]:
    found: list[list[str]] = []
    async with aclosing(feed_messages(events, most)) as told:
        while len(found) < messages:
            found.append(names(await asyncio.wait_for(anext(told), 30)))
    return found


@pytest.mark.parametrize(
    ("most", "expected"),
    [
        (1, [["e0"], ["e1"], ["e2"], ["e3"], ["e4"]]),
        (2, [["e0", "e1"], ["e2", "e3"], ["e4"]]),
        (1000, [["e0", "e1", "e2", "e3", "e4"]]),
    ],
)
async def test_what_is_ready_comes_together_as_far_as_the_caller_takes_it(most: int, expected: list[list[str]]) -> None:
    assert await read(some(*map(event, range(5))), most, len(expected)) == expected


async def test_no_event_waits_for_the_next_one() -> None:
    """The source has told one and rests."""
    assert await read(some(event(0)), 1000, 1) == [["e0"]]


async def test_a_message_stays_within_what_every_client_takes() -> None:
    long = "a" * (MOST_BYTES // 2)
    events = [event(0, long), event(1), event(2, long), event(3, 3 * long), event(4)]
    assert await read(some(*events), 1000, 4) == [["e0", "e1"], ["e2"], ["e3"], ["e4"]]


async def test_a_failure_comes_after_what_was_told_before_it() -> None:
    failing = some(event(0), event(1), failure=Unavailable("gone", dependency="mongodb"))
    async with aclosing(feed_messages(failing, 1000)) as told:
        assert names(await anext(told)) == ["e0", "e1"]
        with pytest.raises(Unavailable):
            await anext(told)


async def test_whoever_leaves_ends_the_watch() -> None:
    closed = asyncio.Event()

    async def watched() -> AsyncGenerator[Event, None]:
        try:
            async with aclosing(some(*map(event, range(9)))) as events:
                async for each in events:
                    yield each
        finally:
            closed.set()

    await read(watched(), 2, 1)
    assert closed.is_set()


async def test_a_consumer_that_takes_several_at_once_is_told_the_same(world: World) -> None:
    ana = world.member()
    for text in ("um", "dois", "três"):
        made = await create(world, ana)
        await append(world, ana, made.conversation_id, said(text))
    singly = await told_until_quiet(watch(world, world.tenant_feed()))
    stream: Call = world.feed.WatchEvents(pb.WatchEventsRequest(max_events=1000), metadata=world.tenant_feed())
    together: list[pb.Event] = []
    async with asyncio.timeout(60):
        while len(together) < len(singly):
            message = await stream.read()
            together += [message, *message.later_events]
    stream.cancel()
    assert [_named(each) for each in together[: len(singly)]] == [_named(each) for each in singly]


def _named(told: pb.Event) -> pb.Event:
    """Without its token, which says when history was begun, and without those after it."""
    bare = pb.Event()
    bare.CopyFrom(told)
    bare.ClearField("resume_token")
    bare.ClearField("later_events")
    return bare


@pytest.mark.parametrize("most", [-1, 1001])
async def test_more_events_at_once_than_there_may_be_are_refused(world: World, most: int) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await world.feed.WatchEvents(pb.WatchEventsRequest(max_events=most), metadata=world.tenant_feed()).read()
    assert error_of(refused.value).code is grpc.StatusCode.INVALID_ARGUMENT
