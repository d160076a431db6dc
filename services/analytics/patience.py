"""How long to wait before the next try: doubling, with chance in it, so that many who wait do not come back at once."""

import asyncio
import random


class Patience:
    """Grows with each wait up to `most_seconds`; starts over after `reset`."""

    def __init__(self, first_seconds: float = 0.1, most_seconds: float = 5.0) -> None:
        self._first = first_seconds
        self._most = most_seconds
        self._next = first_seconds

    async def wait(self) -> None:
        """Sleeps between half of the present length and all of it."""
        length = self._next
        self._next = min(self._most, length * 2)
        await asyncio.sleep(random.uniform(length / 2, length))  # noqa: S311 no secret depends on it

    def reset(self) -> None:
        """What was waited for has come."""
        self._next = self._first
