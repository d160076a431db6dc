"""Ports for what tests start on a port that must be known before."""

import os
import random
from collections.abc import Iterator

from deploy.local.ports import is_free

# Below what the system hands out to whoever asks for any port, or connects: between being chosen and being listened
# on, or while who listens is down for a moment, nobody else gets one of these.
FIRST, BEHIND_LAST = 12_000, 32_000
MOST_WORKERS = 16


def own_port() -> int:
    """A port on which nobody listens, and which this session of tests gives to nobody else."""
    return next(port for port in _offered if is_free(port))


def _in_any_order() -> Iterator[int]:
    """Those of this worker; another session of tests on this machine begins elsewhere."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    ports = list(range(FIRST + worker % MOST_WORKERS, BEHIND_LAST, MOST_WORKERS))
    random.shuffle(ports)
    yield from ports


_offered = _in_any_order()
