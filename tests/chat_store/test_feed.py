"""FeedService as its consumers meet it."""

import asyncio
from typing import Any

import grpc
import pytest

from prosa.chat_store.v1 import feed_service_pb2 as pb
from shared.errors import error_of
from tests.chat_store.calls import append, call, create, said
from tests.chat_store.conftest import World
from tests.house.in_process import Metadata

Call = Any


@pytest.fixture(scope="module")
def engine() -> str:
    """What most installations use."""
    return "mongo"


def watch(world: World, who: Metadata, resume_token: str = "") -> Call:
    return world.feed.WatchEvents(pb.WatchEventsRequest(resume_token=resume_token), metadata=who, timeout=120)


async def told(stream: Call, count: int) -> list[pb.Event]:
    events: list[pb.Event] = []
    async with asyncio.timeout(60):
        while len(events) < count:
            event = await stream.read()
            if event.WhichOneof("payload"):
                events.append(event)
    stream.cancel()
    return events


async def test_a_consumer_is_told_history_then_life_and_resumes_where_it_was(world: World) -> None:
    ana = world.member()
    made = await create(world, ana, title="IPTU", assistant_id="a1", channel="web")
    await append(world, ana, made.conversation_id, said("um"), said("dois"))
    stream = watch(world, world.tenant_feed())
    history = await told(stream, 2)
    assert [event.WhichOneof("payload") for event in history] == ["conversation_created", "messages_appended"]
    assert history[0].conversation_created.conversation == made
    appended = history[1].messages_appended
    assert [message.text for message in appended.messages] == ["um", "dois"]
    assert (appended.user_id, appended.assistant_id, appended.channel) == ("ana", "a1", "web")
    assert history[1].event_time == appended.messages[0].create_time
    resumed = watch(world, world.tenant_feed(), history[1].resume_token)
    await append(world, ana, made.conversation_id, said("três"))
    (live,) = await told(resumed, 1)
    assert live.messages_appended.messages[0].seq == 3
    assert live.tenant_id == world.tenant_id
    assert len({event.event_id for event in [*history, live]}) == 3


async def test_an_internal_service_is_told_of_every_tenant(world: World) -> None:
    other = world.other()
    for each in (world, other):
        await create(each, each.member(), conversation_id="same")
    wanted = {world.tenant_id, other.tenant_id}
    seen = set[str]()
    stream = watch(world, world.service())
    async with asyncio.timeout(60):
        while not wanted <= seen:
            seen.add((await stream.read()).tenant_id)
    stream.cancel()


async def test_the_feed_is_closed_to_those_without_its_permission(world: World) -> None:
    for who, code in ((world.member(), grpc.StatusCode.PERMISSION_DENIED), ((), grpc.StatusCode.UNAUTHENTICATED)):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await watch(world, who).read()
        assert refused.value.code() == code


async def test_a_token_of_another_tenants_feed_is_refused(world: World) -> None:
    await create(world, world.member())
    (event,) = await told(watch(world, world.tenant_feed()), 1)
    other = world.other()
    for token in (event.resume_token, "x"):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await watch(other, other.tenant_feed(), token).read()
        error = error_of(refused.value)
        assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "RESUME_TOKEN_INVALID")


async def test_a_consumer_is_told_each_change_and_who_made_it(world: World) -> None:
    ana = world.member()
    name = (await create(world, ana, conversation_id="minha", assistant_id="a1", channel="web")).conversation_id
    await append(world, ana, name, said("um", message_id="m1"))
    rated = await call(world, world.admin(), "SetFeedback", conversationId=name, messageId="m1", feedback={"rating": 2})
    task = await call(world, ana, "CreateTask", conversationId=name, taskId="t1", description="ver")
    await call(world, ana, "DeleteTask", conversationId=name, taskId="t1")
    happened = await call(world, ana, "CreateEvent", conversationId=name, eventId="e1", type="opened", actor="bot")
    await call(world, ana, "DeleteEvent", conversationId=name, eventId="e1")
    closed = await call(world, ana, "FinalizeConversation", conversationId=name, reason="fim")
    events = await told(watch(world, world.tenant_feed()), 8)
    assert [event.WhichOneof("payload") for event in events] == [
        "conversation_created",
        "messages_appended",
        "message_changed",
        "task_changed",
        "task_deleted",
        "event_recorded",
        "event_deleted",
        "conversation_changed",
    ]
    changed = events[2].message_changed
    assert (changed.message, changed.actor, changed.user_id, changed.assistant_id) == (rated, "root", "ana", "a1")
    assert (events[3].task_changed.task, events[3].task_changed.actor) == (task, "ana")
    assert (events[4].task_deleted.task_id, events[4].task_deleted.actor) == ("t1", "ana")
    assert (events[5].event_recorded.event, events[5].event_recorded.actor) == (happened, "ana")
    assert (events[6].event_deleted.event_id, events[6].event_deleted.actor) == ("e1", "ana")
    finalized = events[7].conversation_changed
    assert (finalized.conversation.finalize_reason, finalized.actor) == ("fim", "ana")
    assert finalized.conversation.revision == closed.revision
    assert len({event.event_id for event in events}) == 8


async def test_consumers_share_the_feed_out_among_them(world: World) -> None:
    ana = world.member()
    names = {(await create(world, ana)).conversation_id for _ in range(12)}
    seen = list[str]()
    for index in range(3):
        request = pb.WatchEventsRequest(shard_count=3, shard_index=index)
        stream = world.feed.WatchEvents(request, metadata=world.tenant_feed(), timeout=120)
        seen += [event.conversation_id for event in await told_until_quiet(stream)]
    assert sorted(seen) == sorted(names)


async def told_until_quiet(stream: Call) -> list[pb.Event]:
    """All that has happened so far: the feed says when it has told everything."""
    events: list[pb.Event] = []
    async with asyncio.timeout(60):
        while (event := await stream.read()).event_id:
            events.append(event)
    stream.cancel()
    return events


@pytest.mark.parametrize(("count", "index"), [(3, 3), (0, 1), (65, 0), (3, -1), (-1, 0)])
async def test_a_share_that_is_none_is_refused(world: World, count: int, index: int) -> None:
    request = pb.WatchEventsRequest(shard_count=count, shard_index=index)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await world.feed.WatchEvents(request, metadata=world.tenant_feed()).read()
    assert error_of(refused.value).code is grpc.StatusCode.INVALID_ARGUMENT
