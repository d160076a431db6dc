"""Waiting for a neighbour that is away when what was said is to be kept or charged."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from shared.errors import DeadlineExceeded, Unavailable

_PAUSES_SECONDS = (0.1, 0.3, 1.0, 2.0, 3.0, 4.0, 5.0)

Result = TypeVar("Result")


async def patiently(call: Callable[[], Awaitable[Result]]) -> Result:
    """Repeats a call that is safe to repeat while its service is away, for about as long as a restart takes."""
    for pause in _PAUSES_SECONDS:
        try:
            return await call()
        except (Unavailable, DeadlineExceeded):
            await asyncio.sleep(pause)
    return await call()
