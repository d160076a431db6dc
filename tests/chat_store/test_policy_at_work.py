"""What a tenant's policy does to the conversations of its people, and what it leaves alone."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from prosa.chat_store.v1 import admin_service_pb2 as pb
from prosa.chat_store.v1 import admin_service_pb2_grpc as rpc
from services.chat_store.retention import TRIM_STRIDE
from tests.chat_store.calls import append, call, create, got, read, refusal, said
from tests.chat_store.conftest import World
from tests.house.in_process import as_caller

NAME = "minha"
SetPolicy = Callable[..., Awaitable[None]]


@pytest.fixture
def set_policy(channel: grpc.aio.Channel, world: World) -> SetPolicy:
    """The tenant's administrator sets fields of its policy."""
    admin = rpc.AdminServiceStub(channel)
    who = as_caller(world.token("root", {"retention.manage"}))

    async def set_fields(**fields: Any) -> None:
        request = pb.UpdatePolicyRequest(policy=pb.RetentionPolicy(**fields), update_mask=FieldMask(paths=fields))
        await admin.UpdatePolicy(request, metadata=who)

    return set_fields


async def test_a_client_that_wants_no_ttl_gets_none(world: World, set_policy: SetPolicy) -> None:
    await set_policy(default_ttl={"seconds": 3600})
    assert (await create(world, world.member())).ttl.seconds == 3600
    assert not (await create(world, world.member(), ttl={})).HasField("ttl")
    assert (await create(world, world.member(), ttl={"nanos": 1})).ttl.seconds == 1


async def test_a_retry_after_the_policy_changed_is_the_same_request(world: World, set_policy: SetPolicy) -> None:
    ana = world.member()
    made = await create(world, ana, conversation_id=NAME, request_id="r1")
    await set_policy(default_ttl={"seconds": 60}, purge_after_days=7)
    assert await create(world, ana, conversation_id=NAME, request_id="r1") == made
    assert (await refusal(create(world, ana, conversation_id=NAME, request_id="r1", ttl={}))).reason == (
        "REQUEST_ID_REUSED"
    )
    deleted = await call(world, ana, "DeleteConversation", conversationId=NAME, requestId="r2")
    assert deleted.purge_time.seconds - deleted.delete_time.seconds == 7 * 86_400
    await set_policy(purge_after_days=1)
    assert await call(world, ana, "DeleteConversation", conversationId=NAME, requestId="r2") == deleted


async def test_the_oldest_messages_leave_a_conversation_that_grows_too_long(
    world: World, set_policy: SetPolicy
) -> None:
    await set_policy(max_messages=10)
    ana = world.member()
    await create(world, ana, conversation_id=NAME)
    for _ in range(TRIM_STRIDE // 10):
        await append(world, ana, NAME, *(said("x") for _ in range(10)))
    async with asyncio.timeout(60):
        while (await got(world, ana, NAME)).first_seq == 1:  # noqa: ASYNC110 it happens in the background
            await asyncio.sleep(0.01)
    kept = await got(world, ana, NAME)
    assert (kept.first_seq, kept.message_count) == (TRIM_STRIDE - 9, TRIM_STRIDE)
    assert [each.seq for each in (await read(world, ana, NAME)).messages] == list(
        range(kept.first_seq, TRIM_STRIDE + 1)
    )
