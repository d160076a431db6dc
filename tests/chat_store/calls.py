"""What people and programs ask of the service, in the words of its tests."""

from collections.abc import Awaitable
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message

from prosa.chat_store.v1 import conversation_service_pb2 as pb
from shared.errors import FieldViolation, InvalidArgument, ServiceError, error_of
from tests.chat_store.conftest import World
from tests.house.in_process import Metadata

USER, ASSISTANT = pb.MESSAGE_TYPE_USER, pb.MESSAGE_TYPE_ASSISTANT


def said(text: str, **facts: Any) -> pb.Message:
    return pb.Message(**{"type": USER, "text": text, **facts})


def part(**content: Any) -> pb.Part:
    return pb.Part(**content)


async def create(world: World, who: Metadata, **wanted: Any) -> pb.Conversation:
    return await world.conversations.CreateConversation(pb.CreateConversationRequest(**wanted), metadata=who)


async def append(
    world: World, who: Metadata, conversation_id: str, *messages: pb.Message, request_id: str = ""
) -> list[pb.Message]:
    request = pb.AppendMessagesRequest(conversation_id=conversation_id, messages=messages, request_id=request_id)
    return list((await world.conversations.AppendMessages(request, metadata=who)).messages)


async def listed(world: World, who: Metadata, **wanted: Any) -> pb.ListConversationsResponse:
    return await world.conversations.ListConversations(pb.ListConversationsRequest(**wanted), metadata=who)


async def read(world: World, who: Metadata, conversation_id: str, **wanted: Any) -> pb.ListMessagesResponse:
    request = pb.ListMessagesRequest(conversation_id=conversation_id, **wanted)
    return await world.conversations.ListMessages(request, metadata=who)


async def got(world: World, who: Metadata, conversation_id: str) -> pb.Conversation:
    request = pb.GetConversationRequest(conversation_id=conversation_id)
    return await world.conversations.GetConversation(request, metadata=who)


async def call(world: World, who: Metadata, name: str, **fields: Any) -> Any:
    """Any unary method of the conversation, task and event services, by its name; fields as in JSON."""
    method, request = world.method(name)
    return await method(ParseDict(fields, request), metadata=who)


async def streamed(world: World, who: Metadata, name: str, **fields: Any) -> list[Message]:
    """All that a method streams."""
    method, request = world.method(name)
    return [each async for each in method(ParseDict(fields, request), metadata=who)]


async def refusal(call: Awaitable[object]) -> ServiceError:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    return error_of(refused.value)


async def broken_fields(call: Awaitable[object]) -> list[FieldViolation]:
    """The fields that the service names when it refuses the call as not valid."""
    refused = await refusal(call)
    assert isinstance(refused, InvalidArgument), refused
    return list(refused.violations)
