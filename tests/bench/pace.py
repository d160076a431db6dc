"""How long a call takes one caller, and how many calls several callers get in a while. Needs nothing but Python."""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence

Act = Callable[[str], Awaitable[object]]


async def alone(act: Act, name: str, seconds: float) -> float:
    """Milliseconds, median, of one caller who waits for each answer; at least one call."""
    took: list[float] = []
    end = time.perf_counter() + seconds
    while (begin := time.perf_counter()) < end or not took:
        await act(name)
        took.append(time.perf_counter() - begin)
    return statistics.median(took) * 1000


async def together(act: Act, names: Sequence[str], seconds: float) -> float:
    """Calls per second of one caller for each name; at least one call each."""
    begin = time.perf_counter()
    counts = await asyncio.gather(*(_count(act, name, begin + seconds) for name in names))
    return sum(counts) / (time.perf_counter() - begin)


async def _count(act: Act, name: str, end: float) -> int:
    count = 0
    while time.perf_counter() < end or not count:
        await act(name)
        count += 1
    return count


def medians(ours: Sequence[float], peer: Sequence[float]) -> tuple[float, float, float]:
    """Of figures by round: ours, the peer's, and our figure in a round as a multiple of the peer's."""
    ratios = [mine / theirs for mine, theirs in zip(ours, peer, strict=True)]
    return statistics.median(ours), statistics.median(peer), statistics.median(ratios)
