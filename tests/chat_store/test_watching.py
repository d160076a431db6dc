"""WatchConversation over the wire: what a person who has a conversation open is shown."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from prosa.chat_store.v1 import conversation_service_pb2 as pb
from tests.chat_store.calls import append, call, create, said
from tests.chat_store.conftest import World
from tests.house.in_process import Metadata

NAME = "minha"


@asynccontextmanager
async def watching(world: World, who: Metadata, after_seq: int = 0) -> AsyncIterator[Any]:
    request = pb.WatchConversationRequest(conversation_id=NAME, after_seq=after_seq)
    stream = world.conversations.WatchConversation(request, metadata=who, timeout=120)
    try:
        yield stream
    finally:
        stream.cancel()


async def shown(stream: Any) -> tuple[str, Any]:
    """The next update: its name and what it holds."""
    async with asyncio.timeout(60):
        update = await stream.read()
    name = update.WhichOneof("update")
    return name, getattr(update, name)


async def test_a_watcher_is_shown_what_was_said_and_then_all_that_happens(world: World) -> None:
    ana = world.member()
    await create(world, ana, conversation_id=NAME)
    old = await append(world, ana, NAME, said("um"), said("dois"))
    async with watching(world, ana, after_seq=1) as stream:
        assert await shown(stream) == ("message_changed", old[1])
        (new,) = await append(world, ana, NAME, said("três", message_id="m3"))
        assert await shown(stream) == ("message_changed", new)
        rated = await call(world, ana, "SetFeedback", conversationId=NAME, messageId="m3", feedback={"rating": 5})
        assert await shown(stream) == ("message_changed", rated)
        task = await call(world, ana, "CreateTask", conversationId=NAME, taskId="t1", description="ver")
        assert await shown(stream) == ("task_changed", task)
        await call(world, ana, "DeleteTask", conversationId=NAME, taskId="t1")
        name, deleted = await shown(stream)
        assert (name, deleted.task_id) == ("task_deleted", "t1")
        event = await call(world, ana, "CreateEvent", conversationId=NAME, eventId="e1", type="opened")
        assert await shown(stream) == ("event_recorded", event)
        await call(world, ana, "DeleteEvent", conversationId=NAME, eventId="e1")
        name, deleted = await shown(stream)
        assert (name, deleted.event_id) == ("event_deleted", "e1")
        closed = await call(world, ana, "FinalizeConversation", conversationId=NAME, reason="fim")
        name, changed = await shown(stream)
        assert (name, changed.status, changed.revision) == ("conversation_changed", closed.status, closed.revision)
        await call(world, ana, "DeleteConversation", conversationId=NAME)
        while (await shown(stream))[0] != "deleted":
            pass
        assert await stream.read() is grpc.aio.EOF


async def test_what_happens_elsewhere_is_not_shown(world: World) -> None:
    ana, other = world.member(), world.other()
    for who, theirs in ((world, ana), (other, other.member())):
        await create(who, theirs, conversation_id=NAME)
    await create(world, ana, conversation_id="outra")
    async with watching(world, ana) as stream:
        (first,) = await append(world, ana, NAME, said("aqui"))
        assert await shown(stream) == ("message_changed", first)
        await append(other, other.member(), NAME, said("lá"))
        await append(world, ana, "outra", said("também lá"))
        (second,) = await append(world, ana, NAME, said("aqui de novo"))
        assert await shown(stream) == ("message_changed", second)
