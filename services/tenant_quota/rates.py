"""Requests per minute: the nouns, and who is let through.

Redis counts, PostgreSQL says how many are allowed, and neither may stop the work: while Redis is away requests are
admitted uncounted, for what costs money is the tokens, which PostgreSQL holds. A limit of 0 refuses also then.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from shared.errors import QuotaExceeded, QuotaViolation, Unavailable
from shared.telemetry import counter

# What ReserveTokens counts in; the edge counts in domains of its own.
RESERVATIONS = "reservations"

_unchecked = counter("prosa.rates.unchecked")


class Level(IntEnum):
    """Whom a limit concerns."""

    TENANT = 1
    USER = 2
    KEY = 3


@dataclass(frozen=True, slots=True)
class Subject:
    """Somebody whose requests are counted; `subject_id` is "" for the tenant as a whole."""

    tenant_id: str
    level: Level = Level.TENANT
    subject_id: str = ""

    def __str__(self) -> str:
        return f"{self.level.name.lower()}:{self.subject_id or self.tenant_id}"


@dataclass(frozen=True, slots=True)
class Share:
    """What a request asks of one limit: so many of `limit` requests a minute."""

    subject: Subject
    limit: int
    hits: int = 1

    @property
    def never_fits(self) -> bool:
        """Whether no waiting helps."""
        return self.hits > self.limit


@dataclass(frozen=True, slots=True)
class Ask:
    """One request: all of its shares are taken together, or none. Counts of different domains are apart."""

    domain: str
    shares: tuple[Share, ...]


@dataclass(frozen=True, slots=True)
class Standing:
    """A limit after the decision: `used` of it in the last minute, and seconds until all of it is free again.

    `wait_seconds` is 0 when the request had room, else when it will have if nobody else comes; None is never.
    """

    share: Share
    used: int
    wait_seconds: float | None
    reset_seconds: float

    @property
    def full(self) -> bool:
        """Whether this limit refused the request."""
        return self.wait_seconds != 0

    @property
    def remaining(self) -> int:
        """Requests that still have room."""
        return max(0, self.share.limit - self.used)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a request; `standings` is empty when nothing limits it or nobody could count."""

    standings: tuple[Standing, ...] = ()

    @property
    def full(self) -> list[Standing]:
        """The limits that refused it; none when it is admitted."""
        return [standing for standing in self.standings if standing.full]

    @property
    def wait_seconds(self) -> float | None:
        """When all of them have room if nobody else comes; None is never."""
        waits = [standing.wait_seconds for standing in self.full]
        known = [wait for wait in waits if wait is not None]
        return max(known, default=0.0) if len(known) == len(waits) else None

    def denial(self) -> QuotaExceeded | None:
        """The refusal, which names every full limit; None when the request is admitted."""
        full = self.full
        if not full:
            return None
        last = max(full, key=lambda standing: float("inf") if standing.wait_seconds is None else standing.wait_seconds)
        return QuotaExceeded(
            "too many requests per minute",
            reason="RATE_LIMITED",
            violations=[
                QuotaViolation(str(each.share.subject), f"{each.share.limit} requests per minute: {each.used} used")
                for each in full
            ],
            metadata={
                "subject": str(last.share.subject),
                "window": "minute",
                "limit": str(last.share.limit),
                "used": str(last.used),
                "wanted": str(last.share.hits),
            },
            retry_after_seconds=self.wait_seconds,
        )


class Limits(Protocol):
    """How many requests a minute somebody may make."""

    async def limits(self, subjects: Sequence[Subject]) -> Mapping[Subject, int]:
        """The limits of those who have one; at most 5 seconds old. Unavailable when nobody can say."""


class Windows(Protocol):
    """What was asked in the last minute."""

    async def take(self, ask: Ask) -> Verdict:
        """Counts the request against all of its limits, or against none. Unavailable when nothing can be counted."""


class Rates:
    """Admits requests, or says when to come again."""

    def __init__(self, limits: Limits, windows: Windows) -> None:
        self._limits = limits
        self._windows = windows

    async def admit(self, domain: str, hits: Mapping[Subject, int]) -> Verdict:
        """Counts a request that costs so many hits of each subject; admitted uncounted while Redis is away.

        Unavailable when the limits cannot be read.
        """
        limits = await self._limits.limits(list(hits))
        shares = tuple(Share(subject, limits[subject], hits[subject]) for subject in hits if subject in limits)
        if not shares:
            return Verdict()
        try:
            return await self._windows.take(Ask(domain, shares))
        except Unavailable:
            return _uncounted(shares)


def concerned(tenant_id: str, user_id: str, key_id: str) -> list[Subject]:
    """Whose limits a request of this caller concerns."""
    user = [Subject(tenant_id, Level.USER, user_id)] if user_id else []
    key = [Subject(tenant_id, Level.KEY, key_id)] if key_id else []
    return [Subject(tenant_id), *user, *key]


def _uncounted(shares: Iterable[Share]) -> Verdict:
    _unchecked.add(1)
    return Verdict(tuple(Standing(share, 0, None, 0.0) for share in shares if share.never_fits))
