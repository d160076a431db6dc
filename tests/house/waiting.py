"""Waiting for what happens elsewhere: another process, another thread.

The bounds are for machines far slower and busier than this one: they end what hangs, and judge no speed.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

POLL_SECONDS = 0.02


async def until(condition: Callable[[], object], within_seconds: float = 120.0) -> None:
    """Returns when the condition holds; raises TimeoutError when it does not within the time."""
    async with asyncio.timeout(within_seconds):
        while not condition():  # noqa: ASYNC110 what it waits for can set no event
            await asyncio.sleep(POLL_SECONDS)


async def until_answered(question: Callable[[], Awaitable[object]], within_seconds: float = 120.0) -> None:
    """As `until`, for what has to be awaited to be known."""
    async with asyncio.timeout(within_seconds):
        while not await question():  # noqa: ASYNC110 what it waits for can set no event
            await asyncio.sleep(POLL_SECONDS)


def wait_until(condition: Callable[[], object], within_seconds: float = 120.0) -> None:
    """As `until`, for a test without a loop."""
    deadline = time.monotonic() + within_seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(POLL_SECONDS)
