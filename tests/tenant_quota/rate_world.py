"""Rates with limits that a test sets, on a Redis that a test can harm."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from pydantic import SecretStr

from deploy.local.child import Child
from deploy.local.engine import start
from deploy.local.engines import Redis
from services.tenant_quota.rate_windows import RedisWindows
from services.tenant_quota.rates import Rates, Subject, Verdict
from shared.optional_redis import open_optional_redis

STOP_SECONDS = 10
DOMAIN = "test"


class SetLimits:
    """Limits as the test says."""

    def __init__(self, limits: Mapping[Subject, int]) -> None:
        self.by_subject = dict(limits)

    async def limits(self, subjects: Sequence[Subject]) -> Mapping[Subject, int]:
        return {subject: self.by_subject[subject] for subject in subjects if subject in self.by_subject}


@asynccontextmanager
async def replicas(
    url: SecretStr, limits: SetLimits, count: int = 1, *, patience_seconds: float = 5.0
) -> AsyncIterator[list[Rates]]:
    """So many processes' rates on one Redis; patient ones, unless the test is about patience."""
    async with AsyncExitStack() as stack:
        made = []
        for _ in range(count):
            redis = await stack.enter_async_context(
                open_optional_redis(url, used_for="rates", patience_seconds=patience_seconds)
            )
            windows = RedisWindows(redis)
            stack.push_async_callback(windows.close)
            made.append(Rates(limits, windows))
        yield made


async def ask(rates: Rates, *subjects: Subject, hits: int = 1) -> Verdict:
    """One request that concerns these."""
    return await rates.admit(DOMAIN, dict.fromkeys(subjects, hits))


async def admitted(replicas: Sequence[Rates], requests: int, *subjects: Subject) -> int:
    """How many of so many concurrent requests, spread over the replicas, were let through."""
    verdicts = await asyncio.gather(*(ask(replicas[n % len(replicas)], *subjects) for n in range(requests)))
    return sum(not verdict.full for verdict in verdicts)


class FragileRedis:
    """A Redis that something is done to, and then set right."""

    def __init__(self, directory: Path, port: int) -> None:
        self._engine = Redis(directory, port)
        self._child: Child = start(self._engine)

    @property
    def url(self) -> SecretStr:
        return SecretStr(self._engine.url())

    def kill(self) -> None:
        os.kill(self._child.pid, signal.SIGKILL)

    def halt(self) -> None:
        os.kill(self._child.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self._child.pid, signal.SIGCONT)

    def end(self) -> None:
        self._child.stop(STOP_SECONDS)

    def restart(self) -> None:
        self.end()
        self._child = start(self._engine)
