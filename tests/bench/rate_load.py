"""Clients that ask again as soon as they are answered. Needs nothing but Python."""

import asyncio
import time
from collections.abc import Sequence
from typing import Protocol, TypedDict

CLIENTS = 64

Shares = Sequence[tuple[str, int]]


class Side(Protocol):
    """One way to count requests per minute; a replica of it."""

    async def admit(self, shares: Shares) -> bool:
        """One request, with the limit of each subject; whether it was let through."""

    async def used(self, subject: str, limit: int) -> int:
        """What is counted of the subject now."""


class Outcome(TypedDict):
    """What came of it. `used` is what is counted of each subject of the first request at the end."""

    calls_per_second: float
    admitted: int
    used: list[int]


async def load(replicas: Sequence[Side], requests: Sequence[Shares], seconds: float) -> Outcome:
    """64 clients for so long, each with its own of the requests, spread over the replicas."""
    end = time.perf_counter() + seconds
    asked = admitted = 0

    async def client(number: int) -> None:
        nonlocal asked, admitted
        side, shares = replicas[number % len(replicas)], requests[number % len(requests)]
        while time.perf_counter() < end:
            let_through = await side.admit(shares)
            admitted += let_through
            asked += 1

    begin = time.perf_counter()
    await asyncio.gather(*(client(number) for number in range(CLIENTS)))
    took = time.perf_counter() - begin
    used = [await replicas[0].used(subject, limit) for subject, limit in requests[0]]
    return {"calls_per_second": asked / took, "admitted": admitted, "used": used}
