"""How many requests a minute somebody may make: read from PostgreSQL, many in one statement, known for 5 seconds."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import asyncpg

from services.tenant_quota.rates import Subject
from shared.coalescer import Coalescer
from shared.postgres import ACQUIRE_TIMEOUT_SECONDS, postgres_errors

KNOWN_SECONDS = 5.0
MOST_KNOWN = 100_000
LIMITS = "SELECT n, requests_per_minute FROM rate_limits($1, $2, $3)"


@dataclass(frozen=True, slots=True)
class _Known:
    """A limit, None for none, as it was at a moment of the process's monotonic clock."""

    limit: int | None
    at: float


class RateLimits:
    """The limits as they are in PostgreSQL, or were at most 5 seconds ago; of strangers none."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        *,
        known_seconds: float = KNOWN_SECONDS,
        most_known: int = MOST_KNOWN,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pool = pool
        self._known_seconds = known_seconds
        self._most_known = most_known
        self._now = now
        self._known: OrderedDict[Subject, _Known] = OrderedDict()
        self._unknown = Coalescer[Subject, _Known](self._read, _nobody)

    async def limits(self, subjects: Sequence[Subject]) -> Mapping[Subject, int]:
        """The limits of those who have one. Unavailable when PostgreSQL is away and they are not known."""
        oldest = self._now() - self._known_seconds
        known = {subject: self._known.get(subject) for subject in subjects}
        asked = [subject for subject, found in known.items() if found is None or found.at < oldest]
        if asked:
            known |= zip(asked, await asyncio.gather(*map(self._unknown.submit, asked)), strict=True)
        return {
            subject: found.limit for subject, found in known.items() if found is not None and found.limit is not None
        }

    async def close(self) -> None:
        """Waits for what is under way."""
        await self._unknown.close()

    async def _read(self, subjects: Sequence[Subject]) -> Sequence[_Known]:
        at = self._now()
        arguments = (
            [subject.tenant_id for subject in subjects],
            [subject.level for subject in subjects],
            [subject.subject_id for subject in subjects],
        )
        with postgres_errors():
            async with self._pool.acquire(timeout=ACQUIRE_TIMEOUT_SECONDS) as connection:
                rows = await connection.fetch(LIMITS, *arguments)
        limits = {row["n"] - 1: row["requests_per_minute"] for row in rows}
        found = [_Known(limits.get(place), at) for place in range(len(subjects))]
        self._remember(zip(subjects, found, strict=True))
        return found

    def _remember(self, found: "zip[tuple[Subject, _Known]]") -> None:
        for subject, known in found:
            self._known[subject] = known
            self._known.move_to_end(subject)
        while len(self._known) > self._most_known:
            self._known.popitem(last=False)


def _nobody(_: Subject) -> Hashable | None:
    return None
