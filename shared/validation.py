"""Bytes to a valid request: decoding and the rules of the contract (buf.validate), both with the error clients expect.

gRPC decodes after the interceptors ran, and reports malformed bytes as a crash of the handler; so it is done here.
"""

from collections.abc import Callable
from typing import Any

import protovalidate
from google.protobuf.message import DecodeError, Message

from shared.errors import FieldViolation, InvalidArgument

Deserializer = Callable[[bytes], Any]

# Compiled rules are cached per message type inside the validator: one for the process.
_validator = protovalidate.Validator()


def decoded(deserialize: Deserializer | None, data: bytes) -> Any:
    """The message in `data`; InvalidArgument(MALFORMED_MESSAGE) when there is none."""
    if deserialize is None:
        return data
    try:
        return deserialize(data)
    except DecodeError:
        raise InvalidArgument("the request is not a message of this method", reason="MALFORMED_MESSAGE") from None


def validate(message: object) -> None:
    """InvalidArgument(VALIDATION_FAILED) with one violation per broken rule."""
    if isinstance(message, Message) and (broken := violations_of(message)):
        raise InvalidArgument(violations=broken)


def violations_of(message: Message) -> list[FieldViolation]:
    """Each rule of the contract that the message breaks."""
    return [_violation(each.proto) for each in _validator.collect_violations(message)]


def _violation(violation: Any) -> FieldViolation:
    return FieldViolation(field=_path(violation.field), description=violation.message, reason=violation.rule_id)


def _path(field: Any) -> str:
    """A field path as people write it: messages[2].text, labels["a"]."""
    if field is None:
        return ""
    text = ""
    for element in field.elements:
        text += f".{element.field_name}" if text else element.field_name
        if element.subscript is not None:
            text += _subscript(element.subscript.value)
    return text


def _subscript(value: object) -> str:
    return f'["{value}"]' if isinstance(value, str) else f"[{value}]"
