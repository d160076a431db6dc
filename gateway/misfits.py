"""Where a JSON object does not fit its message.

The parser stops at the first fault and tells of it in prose. Once it has refused, every field is tried on its own, so
that all faults are found and each is named by its path, as the contract spells it.
"""

from collections.abc import Iterator
from typing import Any, cast

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message_factory import GetMessageClass

from shared.errors import MAX_VIOLATIONS, FieldViolation

# Messages that are one JSON value, so that a query parameter can hold them.
PLAIN_TYPES = {
    "google.protobuf.Timestamp": "an RFC 3339 time, for example 2026-11-21T12:00:00Z",
    "google.protobuf.Duration": 'seconds with an "s", for example 1.5s',
    "google.protobuf.FieldMask": "names in lowerCamelCase, separated by commas",
    "google.protobuf.BoolValue": "true or false",
    "google.protobuf.StringValue": "a string",
    "google.protobuf.BytesValue": "base64",
    "google.protobuf.Int32Value": "a 32-bit integer",
    "google.protobuf.UInt32Value": "an unsigned 32-bit integer",
    "google.protobuf.Int64Value": "a 64-bit integer, as a string",
    "google.protobuf.UInt64Value": "an unsigned 64-bit integer, as a string",
    "google.protobuf.FloatValue": "a number",
    "google.protobuf.DoubleValue": "a number",
    "google.protobuf.Struct": "a JSON object",
}

_KINDS = {
    FieldDescriptor.TYPE_BOOL: "true or false",
    FieldDescriptor.TYPE_STRING: "a string of Unicode characters",
    FieldDescriptor.TYPE_BYTES: "base64",
    FieldDescriptor.TYPE_FLOAT: "a number",
    FieldDescriptor.TYPE_DOUBLE: "a number",
    FieldDescriptor.TYPE_INT32: "a 32-bit integer",
    FieldDescriptor.TYPE_SINT32: "a 32-bit integer",
    FieldDescriptor.TYPE_SFIXED32: "a 32-bit integer",
    FieldDescriptor.TYPE_UINT32: "an unsigned 32-bit integer",
    FieldDescriptor.TYPE_FIXED32: "an unsigned 32-bit integer",
    FieldDescriptor.TYPE_INT64: "a 64-bit integer, as a string",
    FieldDescriptor.TYPE_SINT64: "a 64-bit integer, as a string",
    FieldDescriptor.TYPE_SFIXED64: "a 64-bit integer, as a string",
    FieldDescriptor.TYPE_UINT64: "an unsigned 64-bit integer, as a string",
    FieldDescriptor.TYPE_FIXED64: "an unsigned 64-bit integer, as a string",
}
MAX_DEPTH = 32


def field_named(descriptor: Descriptor, name: str) -> FieldDescriptor | None:
    """The field of this name, as the contract or as its JSON spells it."""
    return descriptor.fields_by_name.get(name) or descriptor.fields_by_camelcase_name.get(name)


def misfits(content: dict[str, Any], descriptor: Descriptor) -> list[FieldViolation]:
    """Every field that does not fit, at most as many as an error shows."""
    found: list[FieldViolation] = []
    _look_into(content, descriptor, "", 0, found)
    return found[:MAX_VIOLATIONS]


def overlooked(content: dict[str, Any], descriptor: Descriptor, prefix: str = "") -> Iterator[FieldViolation]:
    """What the parser lets pass: a field under both of its names, an empty text or list in place of an object."""
    for name, value in content.items():
        field = field_named(descriptor, name)
        if field is None:
            continue
        path = prefix + field.name
        if name != field.json_name and field.json_name in content:
            yield FieldViolation(path, "is given twice", "json.duplicate")
        inner = _object_type(field)
        if inner is None or value is None:
            continue
        for element, at in _elements(field, value, path):
            if isinstance(element, dict):
                yield from overlooked(element, inner, f"{at}.")
            else:
                yield FieldViolation(at, "must be a JSON object", "json.type")


def _look_into(
    content: dict[str, Any], descriptor: Descriptor, prefix: str, depth: int, found: list[FieldViolation]
) -> None:
    for name, value in content.items():
        if len(found) >= MAX_VIOLATIONS or depth > MAX_DEPTH:
            return
        field = field_named(descriptor, name)
        if field is None:
            found.append(FieldViolation(prefix + name, "is no field of this request", "json.unknown_field"))
        elif not _fits({name: value}, descriptor):
            _explain(field, name, value, prefix + field.name, depth, found)


def _explain(field: FieldDescriptor, name: str, value: Any, path: str, depth: int, found: list[FieldViolation]) -> None:
    before = len(found)
    for element, at in _elements(field, value, path):
        if len(found) >= MAX_VIOLATIONS:
            return
        if field.is_repeated and _fits({name: [element]}, cast("Descriptor", field.containing_type)):
            continue
        inner = _object_type(field)
        if inner is not None and isinstance(element, dict):
            _look_into(element, inner, f"{at}.", depth + 1, found)
        else:
            found.append(FieldViolation(at, f"must be {_expected(field)}", "json.type"))
    if len(found) == before:
        found.append(FieldViolation(path, f"must be {_expected(field)}", "json.type"))


def _elements(field: FieldDescriptor, value: Any, path: str) -> list[tuple[Any, str]]:
    if not field.is_repeated:
        return [(value, path)]
    if isinstance(value, list):
        return [(element, f"{path}[{index}]") for index, element in enumerate(value)]
    return []


def _fits(content: dict[str, Any], descriptor: Descriptor) -> bool:
    try:
        json_format.ParseDict(content, GetMessageClass(descriptor)())
    except (json_format.ParseError, RecursionError):
        return False
    return True


def _object_type(field: FieldDescriptor) -> Descriptor | None:
    """The message whose fields can be looked into; None for values, well-known types and maps."""
    kind = field.message_type
    if kind is None or kind.full_name.startswith("google.protobuf.") or kind.GetOptions().map_entry:
        return None
    return kind


def _expected(field: FieldDescriptor) -> str:
    one = _expected_element(field)
    return f"a list, each element {one}" if field.is_repeated else one


def _expected_element(field: FieldDescriptor) -> str:
    if field.enum_type is not None:
        return "one of " + ", ".join(value.name for value in field.enum_type.values)
    if field.message_type is not None:
        return PLAIN_TYPES.get(field.message_type.full_name, "a JSON object")
    return _KINDS[field.type]
