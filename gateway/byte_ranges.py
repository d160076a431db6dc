"""Which part of a file a client wants (RFC 9110, section 14): one range of bytes. Pure."""

import re

_ONE_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})", re.IGNORECASE)


def wanted_part(header: str, size: int) -> range | None:
    """The bytes that a Range header asks for, as far as a file of that size has them; empty when it has none.

    None for the whole file: without a header, and for one to be ignored (several ranges, other units, nonsense).
    """
    found = _ONE_RANGE.fullmatch(header.strip())
    first, last = found.groups() if found else ("", "")
    if not first:
        return range(max(size - int(last), 0), size) if last else None
    if last and int(last) < int(first):
        return None
    return range(int(first), min(int(last) + 1, size) if last else size)
