"""Clients that hold and settle as fast as they are answered. Needs nothing but Python."""

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Any, Protocol, TypedDict

CLIENTS = 64


class Side(Protocol):
    """One way to keep an account; a replica of it."""

    async def reserve(self, tenant_id: str, number: int) -> Any:
        """Holds what a request may cost; returns how to settle it, None when it was refused."""

    async def commit(self, tenant_id: str, held: Any) -> None:
        """Settles it with what it did cost."""


class Outcome(TypedDict):
    """What came of it. `cycles` were held and settled."""

    cycles_per_second: float
    cycles: int
    refused: int


async def load(replicas: Sequence[Side], tenants: Sequence[str], seconds: float) -> Outcome:
    """64 clients for so long, each with any of the tenants each time, spread over the replicas."""
    end = time.perf_counter() + seconds
    cycles = refused = 0

    async def client(number: int) -> None:
        nonlocal cycles, refused
        side, dice = replicas[number % len(replicas)], random.Random(number)
        while time.perf_counter() < end:
            tenant_id = dice.choice(tenants)
            held = await side.reserve(tenant_id, number)
            if held is None:
                refused += 1
                continue
            await side.commit(tenant_id, held)
            cycles += 1

    begin = time.perf_counter()
    await asyncio.gather(*(client(number) for number in range(CLIENTS)))
    return {"cycles_per_second": cycles / (time.perf_counter() - begin), "cycles": cycles, "refused": refused}
