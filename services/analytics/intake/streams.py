"""The four streams, each with two lanes: a tenant that sends much goes in the slow lane and keeps nobody waiting."""

import time
from collections import Counter
from enum import StrEnum
from typing import Any

from shared.redis_streams import Stream

GROUP = "rollups"
# What one tenant may send in a second through one process and stay in the quick lane.
QUICK_EVENTS_A_SECOND = 200


class Kind(StrEnum):
    """What the items of a stream are about."""

    EXECUTION = "execution"
    CONTENT = "content"
    SESSION = "session"
    CLASSIFICATION = "classification"


class Lanes:
    """One stream as a producer and its workers see it: a quick lane and a slow one."""

    def __init__(self, quick: Stream, slow: Stream) -> None:
        self.quick = quick
        self.slow = slow
        self._second = 0
        self._sent: Counter[str] = Counter()
        self._much: set[str] = set()

    def lane(self, tenant_id: str, items: int) -> Stream:
        """Where this many items of the tenant go. Who has sent much in this second or the one before goes slowly."""
        second = int(time.monotonic())
        if second != self._second:
            much = {tenant for tenant, sent in self._sent.items() if sent > QUICK_EVENTS_A_SECOND}
            self._much = much if second == self._second + 1 else set()
            self._second, self._sent = second, Counter()
        self._sent[tenant_id] += items
        slow = tenant_id in self._much or self._sent[tenant_id] > QUICK_EVENTS_A_SECOND
        return self.slow if slow else self.quick

    async def length(self) -> int:
        """Entries not done yet."""
        return await self.quick.length() + await self.slow.length()


def open_lanes(redis: Any, prefix: str, kind: Kind, consumer: str) -> Lanes:
    """The lanes of a stream, for this consumer."""
    name = f"{prefix}:{kind.value}"
    return Lanes(*(Stream(redis, each, group=GROUP, consumer=consumer) for each in (name, f"{name}:slow")))
