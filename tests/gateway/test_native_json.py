"""The fast JSON says exactly what json_format says, for every message that a route answers with."""

import json
import math
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.native_json import NativeJson
from gateway.routes import Route, registered_routes
from gateway.transcode import json_of, response_json
from prosa.chat_store.v1 import conversation_service_pb2 as chat

ROUTES = [route for route in registered_routes() if not route.answers_with_file]
TYPES = sorted({route.method.output_type.full_name: route.method.output_type for route in ROUTES}.items())
NATIVE = NativeJson(descriptor for _, descriptor in TYPES)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
SCALARS = {
    FieldDescriptor.CPPTYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: st.integers(-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: st.integers(0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: st.integers(0, 2**64 - 1),
    FieldDescriptor.CPPTYPE_DOUBLE: st.floats(),
    FieldDescriptor.CPPTYPE_FLOAT: st.floats(width=32),
    FieldDescriptor.CPPTYPE_BOOL: st.booleans(),
    FieldDescriptor.CPPTYPE_ENUM: st.integers(0, 6) | st.integers(-(2**31), 2**31 - 1),
}


@st.composite
def messages(draw: st.DrawFn, descriptor: Descriptor, depth: int = 0) -> Message:
    """Any message of a type, some of its fields set."""
    message = GetMessageClass(descriptor)()
    match descriptor.full_name:
        case "google.protobuf.Struct":
            json_format.ParseDict(draw(st.dictionaries(TEXT, JSON_VALUES, max_size=3)), message)
            return message
        case "google.protobuf.Timestamp":
            message.seconds = draw(st.integers(-62_135_596_800, 253_402_300_799))  # type: ignore[attr-defined]
            message.nanos = draw(st.sampled_from([0, 1, 1000, 10**6, 120_000_000, 999_999_999]))  # type: ignore[attr-defined]
            return message
        case "google.protobuf.Duration":
            sign = draw(st.sampled_from([1, -1]))
            message.seconds = sign * draw(st.integers(0, 315_576_000_000))  # type: ignore[attr-defined]
            message.nanos = sign * draw(st.sampled_from([0, 1, 1000, 10**6, 120_000_000, 999_999_999]))  # type: ignore[attr-defined]
            return message
        case _:
            pass
    names = [field.name for field in descriptor.fields]
    for name in draw(st.lists(st.sampled_from(names), unique=True)) if names else []:
        field = descriptor.fields_by_name[name]
        values = st.lists(_values(field, depth), max_size=3) if field.is_repeated else _values(field, depth)
        _set(message, field, draw(values))
    return message


def _values(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
    if field.message_type is not None:
        return messages(field.message_type, depth + 1) if depth < 3 else st.just(GetMessageClass(field.message_type)())
    if field.type == FieldDescriptor.TYPE_BYTES:
        return st.binary(max_size=8)
    return TEXT if field.type == FieldDescriptor.TYPE_STRING else SCALARS[field.cpp_type]


def _set(message: Message, field: FieldDescriptor, value: Any) -> None:
    if field.is_repeated:
        getattr(message, field.name).extend(value)
    elif field.message_type is not None:
        getattr(message, field.name).CopyFrom(value)
    else:
        setattr(message, field.name, value)


@pytest.mark.parametrize("name", [name for name, _ in TYPES])
@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_the_fast_json_is_the_json_of_json_format(name: str, data: st.DataObject) -> None:
    message = data.draw(messages(dict(TYPES)[name]))
    assert json.loads(NATIVE.write(name, message.SerializeToString())) == json.loads(json_of(message))


def _route(rpc: str) -> Route:
    return next(route for route in ROUTES if route.method.name == rpc)


def test_what_the_fast_json_cannot_write_the_reference_writes_or_refuses() -> None:
    message = chat.Conversation(conversation_id="c")
    message.metadata["a"] = 1.0
    message.metadata.fields["a"].number_value = math.inf
    with pytest.raises(ValueError):  # noqa: PT011 its words are not ours
        NATIVE.write(message.DESCRIPTOR.full_name, message.SerializeToString())
    with pytest.raises((ValueError, json_format.SerializeToJsonError)):
        response_json(_route("GetConversation"), message.SerializeToString())


def test_fields_of_a_newer_service_are_left_out() -> None:
    raw = chat.Conversation(conversation_id="c").SerializeToString() + b"\xfa\x3e\x03new"
    assert json.loads(response_json(_route("GetConversation"), raw))["conversationId"] == "c"
