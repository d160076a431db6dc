"""A contract with one method of every shape, made for tests of the street; and a service that answers it."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

import grpc
from buf.validate import validate_pb2
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.message_factory import GetMessageClass

from prosa.common.v1 import access_pb2
from shared.server import Endpoint

SERVICE = "prosa.test.v1.StreetService"
PERMISSION = "street.walk"
SHAPES = ("Unary", "ServerStream", "ClientStream", "Bidi")
MAX_TEXT = 40

Behaviour = Callable[[str], Awaitable[str]]


def _contract() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(
        name="prosa/test/v1/street_service.proto",
        package="prosa.test.v1",
        syntax="proto3",
        dependency=["prosa/common/v1/access.proto", "buf/validate/validate.proto"],
    )
    field = descriptor_pb2.FieldDescriptorProto
    ping = file.message_type.add(name="Ping")
    text = ping.field.add(name="text", number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    text.options.Extensions[validate_pb2.field].string.max_len = MAX_TEXT
    ping.field.add(
        name="children",
        number=2,
        type=field.TYPE_MESSAGE,
        label=field.LABEL_REPEATED,
        type_name=".prosa.test.v1.Ping",
    )

    file.message_type.add(name="Pong").field.add(
        name="text", number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL
    )
    service = file.service.add(name="StreetService")
    for name in (*SHAPES, "Public", "Ruleless"):
        method = service.method.add(
            name=name,
            input_type=".prosa.test.v1.Ping",
            output_type=".prosa.test.v1.Pong",
            client_streaming=name in ("ClientStream", "Bidi"),
            server_streaming=name in ("ServerStream", "Bidi"),
        )
        if name == "Public":
            method.options.Extensions[access_pb2.access].public = True
        elif name != "Ruleless":
            method.options.Extensions[access_pb2.access].permission = PERMISSION
    return file


_pool = descriptor_pool.Default()
_pool.Add(_contract())
Ping: Any = GetMessageClass(_pool.FindMessageTypeByName("prosa.test.v1.Ping"))
Pong: Any = GetMessageClass(_pool.FindMessageTypeByName("prosa.test.v1.Pong"))


class Walker:
    """Answers every shape by asking `behaviour`, which may raise; the context of the last call is kept."""

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self.context: Any = None

    async def unary(self, request: Any, context: Any) -> Any:
        self.context = context
        return Pong(text=await self._behaviour(request.text))

    async def server_stream(self, request: Any, context: Any) -> AsyncIterator[Any]:
        self.context = context
        yield Pong(text="first")
        yield Pong(text=await self._behaviour(request.text))

    async def client_stream(self, requests: AsyncIterator[Any], context: Any) -> Any:
        self.context = context
        texts = [await self._behaviour(request.text) async for request in requests]
        return Pong(text=",".join(texts))

    async def bidi(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        self.context = context
        async for request in requests:
            yield Pong(text=await self._behaviour(request.text))


def endpoint(behaviour: Behaviour) -> Endpoint:
    """The service, answering as `behaviour` does."""
    return Endpoint(_register, Walker(behaviour), SERVICE)


def _register(walker: Walker, server: grpc.aio.Server) -> None:
    form = {"request_deserializer": Ping.FromString, "response_serializer": Pong.SerializeToString}
    handlers: dict[str, Any] = {
        "Unary": grpc.unary_unary_rpc_method_handler(walker.unary, **form),
        "Public": grpc.unary_unary_rpc_method_handler(walker.unary, **form),
        "Ruleless": grpc.unary_unary_rpc_method_handler(walker.unary, **form),
        "ServerStream": grpc.unary_stream_rpc_method_handler(walker.server_stream, **form),
        "ClientStream": grpc.stream_unary_rpc_method_handler(walker.client_stream, **form),
        "Bidi": grpc.stream_stream_rpc_method_handler(walker.bidi, **form),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))


async def ask(
    channel: grpc.aio.Channel,
    shape: str,
    *requests: Any,
    metadata: Iterable[tuple[str, str]] = (),
    timeout: float | None = 10.0,
) -> list[str]:
    """Calls the method with texts, messages or raw bytes; returns the texts of the answers."""
    call = dialled(channel, shape)
    raw = [_bytes(request) for request in requests]
    given: Any = {"metadata": tuple(metadata), "timeout": timeout}
    if shape in ("Bidi", "ServerStream"):
        answers = call(iter(raw) if shape == "Bidi" else raw[0], **given)
        try:
            return [pong.text async for pong in answers]
        finally:  # grpc.aio may miss a cancellation between two reads
            answers.cancel()
    pong = await call(iter(raw) if shape == "ClientStream" else raw[0], **given)
    return [pong.text]


def dialled(channel: grpc.aio.Channel, shape: str) -> Any:
    """The multi-callable of the method; requests are bytes."""
    dial: dict[str, Any] = {
        "ServerStream": channel.unary_stream,
        "ClientStream": channel.stream_unary,
        "Bidi": channel.stream_stream,
    }
    return dial.get(shape, channel.unary_unary)(
        f"/{SERVICE}/{shape}", request_serializer=None, response_deserializer=Pong.FromString
    )


def _bytes(request: Any) -> bytes:
    if isinstance(request, bytes):
        return request
    message = Ping(text=request) if isinstance(request, str) else request
    data: bytes = message.SerializeToString()
    return data
