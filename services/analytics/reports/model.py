"""Which questions may be asked about a tenant, and what an answer is."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import NamedTuple, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from services.analytics.model import Axis
from services.analytics.reports.calendar import Grain, Span, next_hour, period_before, spans, step_of
from services.analytics.reports.sums import Sums
from shared.errors import FieldViolation, InvalidArgument

DEFAULT_RANGE = timedelta(days=30)
DEFAULT_TIME_ZONE = "America/Sao_Paulo"
MAX_ROWS = 10_000
# What one report may read: more would keep others waiting.
MAX_DOCUMENTS = 200_000
# Reports are asked within these; near the ends of the calendar its own arithmetic fails.
EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
LATEST = datetime(9000, 1, 1, tzinfo=UTC)


class Dimension(Enum):
    """What figures can be split by; the values are the names in a rollup and in the contract."""

    MODEL = "model"
    USER = "user_id"
    ASSISTANT = "assistant_id"
    TEAM = "team_id"
    CHANNEL = "channel"

    def axis(self) -> Axis:
        """The series that follow it."""
        return Axis[self.name]


class RangeTooLargeError(InvalidArgument):
    """More was asked than one report may read or hold."""

    reason = "RANGE_TOO_LARGE"


@dataclass(frozen=True, slots=True)
class Question:
    """A question about a tenant in [start, end). An hour counts where it begins.

    `until_now`: the range reaches to the present.
    """

    tenant_id: str
    start: datetime
    end: datetime
    grain: Grain
    zone: ZoneInfo
    group_by: tuple[Dimension, ...] = ()
    compare: bool = False
    until_now: bool = False

    @classmethod
    def of(
        cls,
        tenant_id: str,
        *,
        now: datetime,
        start: datetime | None = None,
        end: datetime | None = None,
        grain: Grain = Grain.DAY,
        group_by: Iterable[Dimension] = (),
        time_zone: str = "",
        compare: bool = False,
    ) -> Self:
        """The question with its defaults filled in; InvalidArgument or RangeTooLargeError when it makes no sense."""
        start, end = period(start, end, now)
        zone = zone_of(time_zone)
        if _on_clocks(end, zone) - _on_clocks(start, zone) > grain.longest_range():
            days = grain.longest_range().days
            raise RangeTooLargeError(
                f"a report by {grain.value} covers at most {days} days", metadata={"max_days": str(days)}
            )
        return cls(tenant_id, start, end, grain, zone, tuple(group_by), compare, until_now=end >= now)

    def first_hour(self) -> datetime:
        """The first hour that begins in the range."""
        return next_hour(self.start)

    def hour_after(self) -> datetime:
        """The first hour that begins after the range."""
        return next_hour(self.end)

    def step(self, hour: datetime) -> datetime:
        """When the step begins in which `hour` begins, UTC."""
        return step_of(hour, self.grain, self.zone)

    def spans(self) -> list[Span]:
        """Which documents of a series cover the range."""
        return spans(self.first_hour(), self.hour_after(), self.grain, self.zone)

    def before(self) -> Self:
        """The same question about the period before."""
        start, end = period_before(self.start, self.end, self.zone)
        return replace(self, start=start, end=end, compare=False, until_now=False)

    def splits_only_by(self, allowed: Collection[Dimension]) -> None:
        """InvalidArgument when it is split by another dimension, or by several."""
        if len(self.group_by) > 1 or not set(self.group_by) <= set(allowed):
            names = ", ".join(each.name for each in allowed)
            raise wrong("group_by", f"this report is split by one of {names}" if names else "this report is not split")


class Row(NamedTuple):
    """What happened in one step in one combination of what was asked for."""

    start: datetime
    split: tuple[str, ...]
    sums: Sums


@dataclass(frozen=True, slots=True)
class Report:
    """An answer: rows by time, then by split; each step as a whole; everything; the same of the period before.

    `documents_examined` is what it cost, `counted_until` how fresh it is.
    """

    question: Question
    rows: Sequence[Row]
    steps: Mapping[datetime, Sums]
    total: Sums
    documents_examined: int
    counted_until: datetime | None
    previous: Sums | None = None


def period(start: datetime | None, end: datetime | None, now: datetime) -> tuple[datetime, datetime]:
    """A range with its defaults filled in; InvalidArgument, naming the field, when it is none."""
    end = end or now
    _in_calendar("end_time", end)
    start = start or end - DEFAULT_RANGE
    _in_calendar("start_time", start)
    if start >= end:
        raise wrong("start_time", "the range ends before it starts")
    return start, end


def _on_clocks(moment: datetime, zone: ZoneInfo) -> datetime:
    """What clocks show: by them October has 31 days also where one of its days has 25 hours."""
    return moment.astimezone(zone).replace(tzinfo=None)


def zone_of(name: str) -> ZoneInfo:
    """The time zone of that name, the default for none; InvalidArgument when there is no such."""
    try:
        return ZoneInfo(name or DEFAULT_TIME_ZONE)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise wrong("time_zone", "no such IANA time zone") from None


def wrong(field: str, description: str) -> InvalidArgument:
    """A value that makes no sense."""
    violation = FieldViolation(field=field, description=description, reason="INVALID_VALUE")
    return InvalidArgument(description, violations=[violation])


def too_many_documents() -> RangeTooLargeError:
    """The report would read too much."""
    return RangeTooLargeError(
        f"the report would read more than {MAX_DOCUMENTS} documents", metadata={"max_documents": str(MAX_DOCUMENTS)}
    )


def too_many_rows() -> RangeTooLargeError:
    """The report would hold too much."""
    return RangeTooLargeError(f"the report would have more than {MAX_ROWS} rows", metadata={"max_rows": str(MAX_ROWS)})


def _in_calendar(field: str, moment: datetime) -> None:
    if not EARLIEST <= moment <= LATEST:
        raise wrong(field, f"outside of the years {EARLIEST.year} to {LATEST.year}")
