"""What a service adds to its engine, beside what it may add: some calls that do nothing.

The sides take their turns call by call, in an order that is drawn anew, so that each meets the machine and the engine
as the others leave them. In blocks they would meet different minutes of a busy machine, and what no service meets: an
engine that is asked without a pause answers in half the time, and so does a call that does nothing.
"""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tests.bench.pace import Act, medians
from tests.bench.table import Row, at_most

ROUNDS = 5


@dataclass(frozen=True)
class Sides:
    """The same work through the service, straight on its engine and through a bare handler; a call that does none."""

    service: Act
    engine: Act
    bare: Act
    empty: Act


async def overhead(
    case: str,
    sides: Sides,
    names: Sequence[str],
    figure: Callable[[Sequence[float]], float],
    calls_allowed: float,
) -> list[Row]:
    """The service; and the bare handler, which tells what can be had.

    In each round there is a turn for each of the names; `figure` is what counts of a side's milliseconds.
    """
    rounds = [await _in_turns(vars(sides), names, figure) for _ in range(ROUNDS)]
    allowed = [each["engine"] + calls_allowed * each["empty"] for each in rounds]
    ours, peer, ratio = medians([each["service"] for each in rounds], allowed)
    bare, _, bare_ratio = medians([each["bare"] for each in rounds], allowed)
    beside = f"beside the engine + {calls_allowed:g} empty calls"
    return [
        at_most(f"{case}, {beside}", ours, peer, "ms", 1.0, ratio=ratio),
        Row(f"{case}, a bare handler {beside}", bare, peer, "ms", bare_ratio, None, holds=True),
    ]


async def _in_turns(
    acts: Mapping[str, Act], names: Sequence[str], figure: Callable[[Sequence[float]], float]
) -> dict[str, float]:
    took: dict[str, list[float]] = {side: [] for side in acts}
    for name in names:
        for side in random.sample(list(acts), len(acts)):
            begin = time.perf_counter()
            await acts[side](name)
            took[side].append((time.perf_counter() - begin) * 1000)
    return {side: figure(each) for side, each in took.items()}
