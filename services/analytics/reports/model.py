"""Which questions may be asked about a tenant, and what an answer is."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from services.analytics.model import HOUR, Figures, hour_of
from shared.errors import FieldViolation, InvalidArgument

DEFAULT_RANGE = timedelta(days=30)
DEFAULT_TIME_ZONE = "America/Sao_Paulo"
MAX_ROWS = 10_000
# Reports are asked within these; near the ends of the calendar its own arithmetic fails.
EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
LATEST = datetime(9000, 1, 1, tzinfo=UTC)


class Dimension(Enum):
    """What figures can be split by; the values are the names in a rollup."""

    MODEL = "model"
    USER = "user_id"
    ASSISTANT = "assistant_id"


class Grain(Enum):
    """Length of a step of time."""

    DAY = "day"
    HOUR = "hour"

    def longest_range(self) -> timedelta:
        """How much of it one report may cover."""
        return timedelta(days=400) if self is Grain.DAY else timedelta(days=31)


class RangeTooLargeError(InvalidArgument):
    """More was asked than one report may read or hold."""

    reason = "RANGE_TOO_LARGE"


@dataclass(frozen=True, slots=True)
class UsageQuery:
    """A question about a tenant's usage in [start, end). An hour counts where it begins."""

    tenant_id: str
    start: datetime
    end: datetime
    grain: Grain
    group_by: tuple[Dimension, ...]
    zone: ZoneInfo

    @classmethod
    def of(
        cls,
        tenant_id: str,
        *,
        start: datetime | None,
        end: datetime | None,
        grain: Grain,
        group_by: Iterable[Dimension],
        time_zone: str,
        now: datetime,
    ) -> Self:
        """The question with its defaults filled in; InvalidArgument or RangeTooLargeError when it makes no sense."""
        end = end or now
        _in_calendar("end_time", end)
        start = start or end - DEFAULT_RANGE
        _in_calendar("start_time", start)
        if start >= end:
            raise _wrong("start_time", "the range ends before it starts")
        if end - start > grain.longest_range():
            days = grain.longest_range().days
            raise RangeTooLargeError(
                f"a report by {grain.value} covers at most {days} days", metadata={"max_days": str(days)}
            )
        return cls(tenant_id, start, end, grain, tuple(group_by), _zone(time_zone or DEFAULT_TIME_ZONE))

    def first_hour(self) -> datetime:
        """The first hour that begins in the range."""
        return _next_hour(self.start)

    def hour_after(self) -> datetime:
        """The first hour that begins after the range."""
        return _next_hour(self.end)

    def step(self, hour: datetime) -> datetime:
        """When the step begins in which `hour` begins, UTC."""
        if self.grain is Grain.HOUR:
            return hour
        midnight = hour.astimezone(self.zone).replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
        return midnight.astimezone(UTC)


@dataclass(frozen=True, slots=True)
class UsageRow:
    """Figures of one step and one combination of the dimensions asked for, in the order they were asked."""

    start: datetime
    split: tuple[str, ...]
    figures: Figures


@dataclass(frozen=True, slots=True)
class UsageReport:
    """An answer: rows by time, then by dimension; their sum; what it cost to read; how fresh it is."""

    group_by: tuple[Dimension, ...]
    rows: Sequence[UsageRow]
    total: Figures
    documents_examined: int
    counted_until: datetime | None


def _next_hour(moment: datetime) -> datetime:
    hour = hour_of(moment)
    return hour if hour == moment else hour + HOUR


def _in_calendar(field: str, moment: datetime) -> None:
    if not EARLIEST <= moment <= LATEST:
        raise _wrong(field, f"outside of the years {EARLIEST.year} to {LATEST.year}")


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise _wrong("time_zone", "no such IANA time zone") from None


def _wrong(field: str, description: str) -> InvalidArgument:
    violation = FieldViolation(field=field, description=description, reason="INVALID_VALUE")
    return InvalidArgument(description, violations=[violation])
