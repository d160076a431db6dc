"""How long to wait before the next try: doubling, with chance in it, so that many who wait do not come back at once."""

import asyncio
import random
from contextlib import suppress


class Patience:
    """Grows with each wait up to `most_seconds`; starts over after `reset`."""

    def __init__(self, first_seconds: float = 0.1, most_seconds: float = 5.0) -> None:
        self._first = first_seconds
        self._most = most_seconds
        self._next = first_seconds

    async def wait(self, called_off: asyncio.Event | None = None) -> None:
        """Sleeps between half of the present length and all of it, or until it is called off."""
        length = random.uniform(self._next / 2, self._next)  # noqa: S311 no secret depends on it
        self._next = min(self._most, self._next * 2)
        if called_off is None:
            await asyncio.sleep(length)
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(length):
                await called_off.wait()

    def reset(self) -> None:
        """What was waited for has come."""
        self._next = self._first
