"""What every message of the contracts is made of: times, client data, periods, masks; proto ↔ model."""

import json
import re
from collections.abc import Collection, Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

from services.chat_store.limits import broken, check_metadata
from services.chat_store.selection import Period
from shared.errors import FieldViolation, InvalidArgument
from shared.validation import violations_of

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECONDS_A_DAY = 86_400
_FIRST_SECOND = -62_135_596_800
_LAST_SECOND = 253_402_300_799


def timestamp_to_proto(moment: datetime) -> Timestamp:
    """A moment as it goes over the wire."""
    since = moment - _EPOCH
    return Timestamp(seconds=since.days * _SECONDS_A_DAY + since.seconds, nanos=since.microseconds * 1000)


def set_time(sent: Message, name: str, moment: datetime | None) -> None:
    """Sets the field of that name if there is a moment to set."""
    if moment is not None:
        getattr(sent, name).FromDatetime(moment.astimezone(UTC))


def period_of(request: Message, name: str) -> Period:
    """The period between the fields `<name>_from` and `<name>_until`, each of which may be missing."""
    return Period(_bound(request, f"{name}_from"), _bound(request, f"{name}_until"))


def duration_to_proto(seconds: int) -> Duration | None:
    """A duration; None for none."""
    return Duration(seconds=seconds) if seconds else None


def seconds_of(sent: Duration) -> int:
    """Whole seconds, rounded up, so that a short duration is not taken for none."""
    return sent.seconds + (sent.nanos > 0)


def changed_fields(sent: Message, paths: Iterable[str], changeable: Collection[str], name: str) -> frozenset[str]:
    """The fields of `sent` that an update_mask names. `name` is where the request holds `sent`.

    InvalidArgument names each path that is unknown or cannot be changed, and each rule that one of the fields breaks:
    the contract leaves that to us, because fields that the mask leaves out may hold anything.
    """
    wanted = frozenset(paths)
    unknown = sorted(wanted - frozenset(changeable))
    if unknown or not wanted:
        described = [f"{path} cannot be changed" for path in unknown] or ["must not be empty"]
        violations = [FieldViolation("update_mask", each, "field_mask.in") for each in described]
        raise InvalidArgument(f"update_mask names some of: {', '.join(changeable)}", violations=violations)
    violations = [each for each in violations_of(sent) if re.split(r"[.\[]", each.field, maxsplit=1)[0] in wanted]
    if violations:
        raise InvalidArgument(violations=[replace(each, field=f"{name}.{each.field}") for each in violations])
    return wanted


def json_of(sent: Struct, path: str) -> str:
    """The client's data as canonical JSON text, "" for none.

    InvalidArgument for what JSON cannot say, and for more than a store keeps.
    """
    if not sent.fields:
        return ""
    plain = {key: _plain(value) for key, value in sent.fields.items()}
    try:
        text = json.dumps(plain, allow_nan=False, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    except ValueError:
        raise broken(path, "must hold only numbers that JSON knows", "metadata.json") from None
    check_metadata(text, path)
    return text


def struct_of(text: str) -> Struct | None:
    """Client data as it was sent; None for none."""
    if not text:
        return None
    sent = Struct()
    sent.update(json.loads(text))
    return sent


def _bound(request: Message, name: str) -> datetime | None:
    """The moment in whole milliseconds, rounded up: stored times have no parts of them."""
    if not request.HasField(name):
        return None
    sent: Timestamp = getattr(request, name)
    if not (_FIRST_SECOND <= sent.seconds <= _LAST_SECOND and 0 <= sent.nanos < 1_000_000_000):
        raise broken(name, "must be a time of the years 1 to 9999", "timestamp.range")
    milliseconds = min(-(-sent.nanos // 1_000_000), 999 if sent.seconds == _LAST_SECOND else 1000)
    return _EPOCH + timedelta(seconds=sent.seconds, milliseconds=milliseconds)


def _plain(value: Value) -> Any:
    match value.WhichOneof("kind"):
        case "struct_value":
            return {key: _plain(each) for key, each in value.struct_value.fields.items()}
        case "list_value":
            return [_plain(each) for each in value.list_value.values]
        case "number_value":
            return value.number_value
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case _:
            return None
