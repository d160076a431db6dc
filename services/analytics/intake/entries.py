"""What an entry of a stream carries: one item or many, and whose they are when they do not come from the feed."""

import struct
from collections.abc import Iterable, Mapping, Sequence

EVENT = b"event"
EVENTS = b"events"
TENANT = b"tenant"
INBOX = b"inbox"
_LENGTH = struct.Struct("<I")


def fields_of(items: Sequence[bytes], *, tenant_id: str = "", inbox_id: str = "") -> dict[bytes, bytes]:
    """The fields of an entry with these items; `tenant_id` marks them as coming from outside of the feed."""
    fields = {EVENT: items[0]} if len(items) == 1 else {EVENTS: _packed(items)}
    if tenant_id:
        fields[TENANT] = tenant_id.encode()
    if inbox_id:
        fields[INBOX] = inbox_id.encode()
    return fields


def items_of(fields: Mapping[bytes, bytes]) -> list[bytes]:
    """The items of an entry, in their order; what cannot be taken apart is one item that nobody can read."""
    if EVENTS not in fields:
        return [fields.get(EVENT, b"")]
    try:
        return list(_unpacked(fields[EVENTS]))
    except struct.error:
        return [fields[EVENTS]]


def tenant_of(fields: Mapping[bytes, bytes]) -> str:
    """The tenant that sent the items; empty for those of the feed, which name theirs."""
    return fields.get(TENANT, b"").decode()


def _packed(items: Iterable[bytes]) -> bytes:
    return b"".join(part for item in items for part in (_LENGTH.pack(len(item)), item))


def _unpacked(packed: bytes) -> Iterable[bytes]:
    place = 0
    while place < len(packed):
        (length,) = _LENGTH.unpack_from(packed, place)
        place += _LENGTH.size + length
        yield packed[place - length : place]
