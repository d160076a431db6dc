"""FeedService as its consumers meet it."""

import asyncio
from typing import Any

import grpc
import pytest

from prosa.chat_store.v1 import feed_service_pb2 as pb
from shared.errors import error_of
from tests.chat_store.conftest import World
from tests.chat_store.test_conversations import append, create, said
from tests.house.in_process import Metadata

Call = Any


def watch(world: World, who: Metadata, resume_token: str = "") -> Call:
    return world.feed.WatchEvents(pb.WatchEventsRequest(resume_token=resume_token), metadata=who, timeout=60)


async def told(call: Call, count: int) -> list[pb.Event]:
    events: list[pb.Event] = []
    async with asyncio.timeout(20):
        while len(events) < count:
            event = await call.read()
            if event.WhichOneof("payload"):
                events.append(event)
    call.cancel()
    return events


async def test_a_consumer_is_told_history_then_life_and_resumes_where_it_was(world: World) -> None:
    ana = world.member()
    made = await create(world, ana, title="IPTU", assistant_id="a1", channel="web")
    await append(world, ana, made.conversation_id, said("um"), said("dois"))
    call = watch(world, world.tenant_feed())
    history = await told(call, 2)
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
    other = World(world.conversations, world.feed, world.keys, f"{world.tenant_id}-2")
    for each in (world, other):
        await create(each, each.member(), conversation_id="same")
    wanted = {f"{world.tenant_id}:same", f"{other.tenant_id}:same"}
    seen = set[str]()
    call = watch(world, world.service())
    async with asyncio.timeout(20):
        while not wanted <= seen:
            seen.add((await call.read()).event_id)
    call.cancel()


async def test_the_feed_is_closed_to_those_without_its_permission(world: World) -> None:
    for who, code in ((world.member(), grpc.StatusCode.PERMISSION_DENIED), ((), grpc.StatusCode.UNAUTHENTICATED)):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await watch(world, who).read()
        assert refused.value.code() == code


async def test_a_token_of_another_tenants_feed_is_refused(world: World) -> None:
    await create(world, world.member())
    (event,) = await told(watch(world, world.tenant_feed()), 1)
    other = World(world.conversations, world.feed, world.keys, f"{world.tenant_id}-2")
    for token in (event.resume_token, "x"):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await watch(other, other.tenant_feed(), token).read()
        error = error_of(refused.value)
        assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "RESUME_TOKEN_INVALID")
