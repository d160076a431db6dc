"""Where pages end and go on: positions in page tokens, and how much one response carries."""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from google.protobuf.message import Message

from services.chat_store.limits import PAGE_BYTES
from services.chat_store.selection import HitPlace, Place, Reach, Window, is_conversation_id
from shared.errors import FieldViolation, InvalidArgument
from shared.paging import JSON

# Year 9999, the end of what a date can hold.
LAST_MILLISECOND = 253_402_300_800_000
# What engines take for a place, and for a revision of a message.
LAST_SEQ, LAST_REVISION = 2**63 - 1, 2**31 - 1

Position = dict[str, Any] | None
Sent = TypeVar("Sent", bound=Message)


def query_of(request: Message, reach: Reach) -> dict[str, object]:
    """What a page token is bound to: the method, all that was asked for but the page, and whose it is."""
    asked = type(request)()
    asked.CopyFrom(request)
    for name in ("page_size", "page_token"):
        asked.ClearField(name)
    fields = asked.SerializeToString(deterministic=True).hex()
    return {"asked": fields, "of": request.DESCRIPTOR.full_name, "user": reach.user_id}


def within_page(sent: Sequence[Sent], *, more: bool) -> tuple[Sequence[Sent], bool]:
    """As many of them as fit into PAGE_BYTES, but at least one; and whether there are more."""
    size_bytes = 0
    for count, each in enumerate(sent):
        size_bytes += each.ByteSize()
        if size_bytes > PAGE_BYTES and count:
            return sent[:count], True
    return sent, more


def position_of(time: datetime, name: str) -> dict[str, JSON]:
    """The position of what a list orders by time and id."""
    return {"t": _milliseconds(time), "c": name}


def place_at(position: Position) -> Place | None:
    """The place of that position; None for the first page."""
    match position:
        case None:
            return None
        case {"t": int(at), "c": str(name)} if _is_time(at) and is_conversation_id(name):
            return Place(_moment(at), name)
    raise edited_token()


def hit_position(place: HitPlace) -> dict[str, JSON]:
    """The position of a search's result."""
    time = _milliseconds(place.time)
    return {"r": place.score, "t": time, "c": place.conversation_id, "s": place.seq}


def hit_place_at(position: Position) -> HitPlace | None:
    """The place of that result; None for the first page."""
    match position:
        case None:
            return None
        case {"r": int() | float() as score, "t": int(at), "c": str(name), "s": int(seq)} if (
            abs(score) <= sys.float_info.max and _is_time(at) and is_conversation_id(name) and 0 < seq <= LAST_SEQ
        ):
            return HitPlace(float(score), _moment(at), name, seq)
    raise edited_token()


def window_at(asked: Window, position: Position) -> Window:
    """What is left of the window from that position on."""
    match position:
        case None:
            return asked
        case {"s": int(seq)} if asked.holds(seq) and seq <= LAST_SEQ:
            return asked.beyond(seq)
    raise edited_token()


def revision_at(position: Position) -> int:
    """The revision after which a history goes on; -1 for the first page."""
    match position:
        case None:
            return -1
        case {"v": int(revision)} if 0 <= revision <= LAST_REVISION:
            return revision
    raise edited_token()


def edited_token() -> InvalidArgument:
    """As shared.paging refuses a token that it cannot read."""
    reason, description = "PAGE_TOKEN_INVALID", "page_token is not valid"
    violation = FieldViolation("page_token", description, reason)
    return InvalidArgument(description, reason=reason, violations=[violation])


def _is_time(at: int) -> bool:
    return 0 <= at < LAST_MILLISECOND


def _milliseconds(time: datetime) -> int:
    return round(time.timestamp() * 1000)


def _moment(at: int) -> datetime:
    return datetime.fromtimestamp(at / 1000, UTC)
