"""What cannot be summed and can yet be merged: how values lie (for percentiles), and how many users there were.

A distribution is a DDSketch: counts by logarithmic bucket, so that any quantile is off by at most 1 % of its value. As
bytes it is the first bucket's number and the counts from there on, 32-bit little-endian. Users are the 1024 smallest
64-bit digests of their ids: exact up to 1024, off by 3 % (one standard deviation) beyond. Both come out the same in
whatever order they are merged, which lets a projection that was built anew be compared byte by byte.
"""

import math
import struct
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from functools import lru_cache
from hashlib import blake2b
from itertools import accumulate

from ddsketch.mapping import LogarithmicMapping

RELATIVE_ERROR = 0.01
USERS_KEPT = 1024
_MAPPING = LogarithmicMapping(RELATIVE_ERROR)
_DIGESTS = 2**64
# A share of a number that is whole may come out a little above it.
_ROUNDING = 1e-9
_FIRST = struct.Struct("<i")


@lru_cache(maxsize=65_536)
def bucket_of(value: int) -> int:
    """The bucket of a positive value."""
    return int(_MAPPING.key(value))


def merged(kept: bytes, more: Mapping[int, int]) -> bytes:
    """The distribution `kept` (b"" for none) with these counts by bucket added; negative ones take away."""
    first, counts = _unpacked(kept)
    if not more:
        return kept
    start = min(more) if not counts else min(first, min(more))
    end = max(more) if not counts else max(first + len(counts) - 1, max(more))
    widened = [0] * (end - start + 1)
    widened[first - start : first - start + len(counts)] = counts
    for bucket, count in more.items():
        widened[bucket - start] += count
    return _packed(start, widened)


def joined(distributions: Iterable[bytes]) -> bytes:
    """All of them as one.

    Counts lie side by side, 32 bits each, and together stay below 2**31: so each distribution is one long number, and
    adding those adds all counts at once. A year of hours is merged in milliseconds.
    """
    filled = [each for each in distributions if each]
    if not filled:
        return b""
    firsts = [_FIRST.unpack_from(each)[0] for each in filled]
    start = min(firsts)
    total = 0
    for first, each in zip(firsts, filled, strict=True):
        total += int.from_bytes(each[_FIRST.size :], "little") << 32 * (first - start)
    size = max(first - start + len(each) // 4 - 1 for first, each in zip(firsts, filled, strict=True))
    return _FIRST.pack(start) + total.to_bytes(4 * size, "little")


def quantiles(distribution: bytes, wanted: Iterable[float]) -> list[float]:
    """The least values that these shares (0 to 1) of all are not above; 0 for each when nothing was measured.

    That is the nearest rank: of two values, the 95th percentile is the greater one.
    """
    first, counts = _unpacked(distribution)
    sums = list(accumulate(counts))
    if not sums:
        return [0.0 for _ in wanted]
    return [float(_MAPPING.value(first + bisect_left(sums, _rank(share, sums[-1])))) for share in wanted]


def _rank(share: float, measured: int) -> int:
    """Which value that is, from 1 on."""
    return max(math.ceil(share * measured - _ROUNDING), 1)


def _unpacked(distribution: bytes) -> tuple[int, tuple[int, ...]]:
    if not distribution:
        return 0, ()
    first, *counts = struct.unpack(f"<{len(distribution) // 4}i", distribution)
    return first, tuple(counts)


def _packed(first: int, counts: list[int]) -> bytes:
    """Without empty buckets at either end, so that what holds the same looks the same."""
    filled = [place for place, count in enumerate(counts) if count]
    if not filled:
        return b""
    kept = counts[filled[0] : filled[-1] + 1]
    return struct.pack(f"<{len(kept) + 1}i", first + filled[0], *kept)


@lru_cache(maxsize=65_536)
def digest_of(user_id: str) -> int:
    """What stands for a user in a count: 64 bits that do not lead back to the id."""
    return int.from_bytes(blake2b(user_id.encode(), digest_size=8).digest(), "little")


def users_merged(kept: bytes, more: Iterable[int]) -> bytes:
    """The users `kept` (b"" for none) together with those of these digests."""
    return _users_packed({*_users_unpacked(kept), *more})


def users_joined(several: Iterable[bytes]) -> bytes:
    """All of them together."""
    return _users_packed({digest for kept in several for digest in _users_unpacked(kept)})


def users_counted(kept: bytes) -> int:
    """How many different users there were."""
    digests = _users_unpacked(kept)
    if len(digests) < USERS_KEPT:
        return len(digests)
    return round((USERS_KEPT - 1) / (digests[-1] / _DIGESTS))


def _users_unpacked(kept: bytes) -> tuple[int, ...]:
    return struct.unpack(f"<{len(kept) // 8}Q", kept)


def _users_packed(digests: Iterable[int]) -> bytes:
    smallest = sorted(digests)[:USERS_KEPT]
    return struct.pack(f"<{len(smallest)}Q", *smallest)
