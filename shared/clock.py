"""Time as an argument, so that rules about days, leases and expiry can be tested without waiting."""

from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """Tells the time, always in UTC."""

    def now(self) -> datetime:
        """The present moment, timezone-aware, UTC."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """The present moment, UTC."""
        return datetime.now(UTC)


class ManualClock:
    """A clock that stands still until told otherwise."""

    def __init__(self, start: datetime | None = None) -> None:
        self._now = (start or datetime.now(UTC)).astimezone(UTC)

    def now(self) -> datetime:
        """The moment the clock was set to, UTC."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Moves the clock on; negative seconds move it back, as a badly corrected machine clock would."""
        self._now += timedelta(seconds=seconds)
