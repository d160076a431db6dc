"""Path, query and JSON body → request message; response message → JSON.

The JSON is proto3's: lowerCamelCase names, 64-bit integers as strings, bytes as base64, enums by name, timestamps in
RFC 3339, field masks as "displayName,timeZone". Names may also be written as in the contract. A name that the request
does not have is refused. Responses show every field without presence, also when it has its default value.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import islice
from typing import Any, cast
from urllib.parse import parse_qsl

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from gateway.misfits import PLAIN_TYPES, field_named, misfits, overlooked
from gateway.native_json import NativeJson
from gateway.routes import Route, registered_routes
from gateway.status import malformed
from shared.errors import MAX_VIOLATIONS, FieldViolation, InvalidArgument

MAX_QUERY_PARAMETERS = 1000


class _NotStrictError(ValueError):
    """JSON to Python's parser, and more than a message can take."""


def request_of(route: Route, variables: Mapping[str, str], query: bytes, body: bytes) -> Message:
    """The request that the parts of an HTTP request make together.

    InvalidArgument with MALFORMED_MESSAGE for what is no JSON or names what the request does not have, else with
    VALIDATION_FAILED; the violations name the fields as the contract does.
    """
    message = route.request_class()
    if body:
        _read_body(route, message, body)
    if query or not route.plain_variables:
        _merge(route, message, variables, _from_query(route, variables, query))
    else:
        for name, value in variables.items():
            _check_agreement(name, getattr(message, name), value)
            setattr(message, name, value)
    return message


def description_of(route: Route, variables: Mapping[str, str], query: bytes) -> Message:
    """The first message of an upload: everything but its bytes."""
    message = route.request_class()
    _merge(route, message, variables, _from_query(route, variables, query))
    return message


def fill(message: Message, fields: Mapping[str, str], taken: str) -> None:
    """Puts the text fields of a form into a request; `taken` is the field they may not name."""
    content = _nested(message, [*fields.items()], forbidden={taken})
    _parse(content, message)


def response_json(route: Route, raw: bytes) -> bytes:
    """A response, as it came over the wire, as JSON on one line."""
    if not route.response_body:
        try:
            return _native().write(route.method.output_type.full_name, raw)
        except (KeyError, TypeError, ValueError):
            pass
    return json_of(route.response_class.FromString(raw), route.response_body)


@cache
def _native() -> NativeJson:
    return NativeJson(route.method.output_type for route in registered_routes())


def json_of(message: Message, response_body: str = "") -> bytes:
    """The same by json_format, the reference; `response_body` names the field that is the whole answer."""
    shown: Any = json_format.MessageToDict(message, always_print_fields_with_no_presence=True)
    if response_body:
        shown = shown.get(message.DESCRIPTOR.fields_by_name[response_body].json_name)
    return json.dumps(shown, ensure_ascii=False, separators=(",", ":")).encode()


def loads(text: bytes) -> Any:
    """Strict JSON: UTF-8, no name twice, no NaN. MALFORMED_MESSAGE otherwise."""
    try:
        return json.loads(text.decode("utf-8"), object_pairs_hook=_strict_object, parse_constant=_refuse_constant)
    except UnicodeDecodeError:
        raise malformed("the body is not UTF-8") from None
    except _NotStrictError as error:
        raise malformed(str(error)) from None
    except RecursionError:
        raise malformed("the body is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise malformed(f"the body is not JSON: {error.msg} at character {error.pos}") from None
    except ValueError:
        raise malformed("the body is not JSON") from None


def _read_body(route: Route, message: Message, body: bytes) -> None:
    if not route.body:
        raise malformed("this method takes no body")
    content = loads(body)
    if route.body == "*":
        if not isinstance(content, dict):
            raise malformed("the body must be a JSON object")
        _parse(content, message)
    else:
        _parse({route.body: content}, message)


def _parse(content: dict[str, Any], message: Message) -> None:
    try:
        json_format.ParseDict(content, message)
    except (json_format.ParseError, RecursionError):
        raise _explained(content, message) from None
    found = [*islice(overlooked(content, cast("Descriptor", message.DESCRIPTOR)), MAX_VIOLATIONS)]
    if found:
        raise _refusal(found)


def _explained(content: dict[str, Any], message: Message) -> InvalidArgument:
    """What does not fit, looked up only now that something does not."""
    return _refusal(misfits(content, cast("Descriptor", message.DESCRIPTOR)))


def _refusal(found: Sequence[FieldViolation]) -> InvalidArgument:
    """A name that does not belong makes it no request at all; a value that does not fit, one that is not valid."""
    reasons = {each.reason for each in found}
    if not found or "json.duplicate" in reasons:
        return malformed("the request does not fit its contract", *found)
    if "json.unknown_field" in reasons:
        return malformed("the request names fields that do not exist", *found)
    return InvalidArgument("the request does not fit its contract", violations=found)


def _merge(route: Route, message: Message, variables: Mapping[str, str], query: dict[str, Any]) -> None:
    bound = _nested(message, list(variables.items()), forbidden=set())
    for name in variables:
        *parents, last = name.split(".")
        if not parents and route.body == "*":
            other = route.request_class()
            _parse({last: bound[last]}, other)
            _check_agreement(last, getattr(message, last), getattr(other, last))
    _parse(_united(bound, query), message)


def _united(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    united = dict(one)
    for name, value in other.items():
        known = united.get(name)
        united[name] = _united(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return united


def _check_agreement(name: str, in_body: object, in_path: object) -> None:
    if in_body and in_body != in_path:
        raise InvalidArgument(
            "the body contradicts the path",
            violations=[FieldViolation(name, "differs from the value in the path", "path.contradicted")],
        )


def _from_query(route: Route, variables: Mapping[str, str], query: bytes) -> dict[str, Any]:
    if not query:
        return {}
    try:
        pairs = parse_qsl(
            query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MAX_QUERY_PARAMETERS
        )
    except ValueError:
        raise malformed("the query is not readable") from None
    if route.body == "*" and pairs:
        raise _unknown_parameter(pairs[0][0], "is no parameter: this method takes everything in its body")
    return _nested(route.request_class(), pairs, forbidden={*variables, route.body})


def _nested(message: Message, pairs: list[tuple[str, str]], forbidden: set[str]) -> dict[str, Any]:
    """Dotted names and texts as the JSON object they stand for, with the names of the contract."""
    content: dict[str, Any] = {}
    for name, text in pairs:
        path = _path(message, name)
        spelt = ".".join(each.name for each in path)
        if spelt in forbidden or path[0].name in forbidden:
            raise _unknown_parameter(name, "is given by the path or the body")
        inner = content
        for parent in path[:-1]:
            inner = inner.setdefault(parent.name, {})
        leaf = path[-1]
        if leaf.is_repeated:
            inner.setdefault(leaf.name, []).append(_value(leaf, text))
        elif leaf.name in inner:
            raise malformed("a parameter is given twice", FieldViolation(spelt, "is given twice", "query.duplicate"))
        else:
            inner[leaf.name] = _value(leaf, text)
    return content


def _path(message: Message, name: str) -> list[FieldDescriptor]:
    """The fields that a dotted parameter name goes through; the last one holds a plain value."""
    descriptor: Descriptor | None = cast("Descriptor", message.DESCRIPTOR)
    path: list[FieldDescriptor] = []
    for part in name.split("."):
        found = field_named(descriptor, part) if descriptor is not None else None
        if found is None or (path and path[-1].is_repeated):
            raise _unknown_parameter(name, "is no parameter of this method")
        path.append(found)
        plain = found.message_type is None or found.message_type.full_name in PLAIN_TYPES
        descriptor = None if plain else found.message_type
    if descriptor is not None:
        raise _unknown_parameter(name, "is an object: name its fields, as in parent.field")
    return path


def _value(leaf: FieldDescriptor, text: str) -> Any:
    if leaf.message_type is not None and leaf.message_type.full_name == "google.protobuf.Struct":
        try:
            return loads(text.encode())
        except InvalidArgument:
            return text  # is found to be no object where all values are checked
    truth = leaf.type == FieldDescriptor.TYPE_BOOL or (
        leaf.message_type is not None and leaf.message_type.full_name == "google.protobuf.BoolValue"
    )
    return {"true": True, "false": False}.get(text, text) if truth else text


def _unknown_parameter(name: str, description: str) -> InvalidArgument:
    return malformed(
        "the request names parameters that do not exist", FieldViolation(name, description, "query.unknown_parameter")
    )


def _strict_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise _NotStrictError("the body gives a name twice in one object")
    try:
        "".join(content).encode()
    except UnicodeEncodeError:
        raise _NotStrictError("the body gives a name that is no Unicode text") from None
    return content


def _refuse_constant(name: str) -> Any:
    raise _NotStrictError(f"the body is not JSON: {name}")
