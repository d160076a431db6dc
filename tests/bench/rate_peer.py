"""How others count requests per minute: the `limits` library's moving window on Redis, one level or three in turn.

A process of its own, in the environment of the peers (`make bench` makes it), that is told what to do line by line: a
JSON object on standard input, the outcome on standard output.
"""

import asyncio
import json
import sys
from collections.abc import Sequence

import uvloop
from limits import parse
from limits.aio.storage import RedisStorage
from limits.aio.strategies import MovingWindowRateLimiter

from tests.bench.rate_load import Outcome, load


class LimitsLibrary:
    """A hit for each level; the first that refuses ends it, and what the others counted stays counted."""

    def __init__(self, url: str) -> None:
        self._limiter = MovingWindowRateLimiter(RedisStorage(f"async+{url}", implementation="redispy"))

    async def admit(self, shares: Sequence[tuple[str, int]]) -> bool:
        """One request, with the limit of each subject."""
        for subject, limit in shares:
            if not await self._limiter.hit(parse(f"{limit}/minute"), subject):
                return False
        return True

    async def used(self, subject: str, limit: int) -> int:
        """What is counted of the subject now."""
        rate = parse(f"{limit}/minute")
        return limit - (await self._limiter.get_window_stats(rate, subject)).remaining


async def serve(url: str) -> None:
    """Does what it is told until standard input ends."""
    side = LimitsLibrary(url)
    print(json.dumps("ready"), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        order = json.loads(line)
        outcome: Outcome = await load([side], order["requests"], order["seconds"])
        print(json.dumps(outcome), flush=True)


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1]))
