"""Steps of time in a tenant's zone, and which documents of a series cover them. No input or output.

Documents reach over an hour or a day, both UTC. A step is covered by whole days as far as they lie in it and by hours
at its ends, so that a month costs some 30 days and 24 hours instead of 720 hours.
"""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from enum import Enum
from typing import NamedTuple
from zoneinfo import ZoneInfo

from services.analytics.model import HOUR, Step, day_of, hour_of

DAY = timedelta(days=1)


class Grain(Enum):
    """Length of a step of time."""

    HOUR = "hour"
    DAY = "day"
    MONTH = "month"

    def longest_range(self) -> timedelta:
        """How much of it one report may cover."""
        return timedelta(days={Grain.HOUR: 31, Grain.DAY: 400, Grain.MONTH: 1850}[self])


class Span(NamedTuple):
    """Documents of one length that begin in [first, after)."""

    step: Step
    first: datetime
    after: datetime


def next_hour(moment: datetime) -> datetime:
    """The first hour (UTC) that begins at the moment or later."""
    hour = hour_of(moment)
    return hour if hour == moment else hour + HOUR


def midnight(day: date, zone: ZoneInfo) -> datetime:
    """When a day begins in the zone, UTC: where clocks jump over midnight, the moment of the jump."""
    return datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC)


def step_of(hour: datetime, grain: Grain, zone: ZoneInfo) -> datetime:
    """When the step begins in which an hour begins, UTC."""
    if grain is Grain.HOUR:
        return hour
    return midnight(_first_day(hour.astimezone(zone).date(), grain), zone)


def steps(first_hour: datetime, hour_after: datetime, grain: Grain, zone: ZoneInfo) -> Iterator[datetime]:
    """The beginnings of the steps, UTC, in which the hours of [first_hour, hour_after) begin."""
    step = step_of(first_hour, grain, zone)
    while step < hour_after:
        yield step
        step = step_after(step, grain, zone)


def spans(first_hour: datetime, hour_after: datetime, grain: Grain, zone: ZoneInfo) -> list[Span]:
    """What to read for these hours, so that each document lies in one step; by time, without gap or overlap."""
    if grain is Grain.HOUR:
        return [Span(Step.HOUR, first_hour, hour_after)] if first_hour < hour_after else []
    found: list[Span] = []
    for step in steps(first_hour, hour_after, grain, zone):
        first = max(first_hour, next_hour(step))
        after = min(hour_after, next_hour(step_after(step, grain, zone)))
        for span in covering(first, after):
            _append(found, span)
    return found


def step_after(step: datetime, grain: Grain, zone: ZoneInfo) -> datetime:
    """The beginning of the step after this one, UTC."""
    if grain is Grain.HOUR:
        return step + HOUR
    # Some hours into the step the date is the step's own, also where midnight does not exist.
    day = _first_day((step + 6 * HOUR).astimezone(zone).date(), grain)
    return midnight(day + DAY if grain is Grain.DAY else _first_day(day + timedelta(days=31), grain), zone)


def step_before(step: datetime, grain: Grain, zone: ZoneInfo) -> datetime:
    """The beginning of the step before this one, UTC."""
    return step_of(hour_of(step - timedelta(microseconds=1)), grain, zone)


def period_before(start: datetime, end: datetime, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """The period that ends where this one begins: as many months or days where it consists of them, else as long."""
    first, last = start.astimezone(zone).date(), end.astimezone(zone).date()
    if midnight(first, zone) != start or midnight(last, zone) != end:
        return start - (end - start), start
    if first.day == last.day == 1:
        months = (last.year - first.year) * 12 + last.month - first.month
        return midnight(_months_before(first, months), zone), start
    return midnight(first - (last - first), zone), start


def covering(first: datetime, after: datetime) -> Iterator[Span]:
    """The hours of [first, after), as whole days (UTC) where there are any; some spans may be empty."""
    first_day = day_of(first) if day_of(first) == first else day_of(first) + DAY
    day_after = day_of(after)
    if first_day >= day_after:
        yield Span(Step.HOUR, first, after)
        return
    yield Span(Step.HOUR, first, first_day)
    yield Span(Step.DAY, first_day, day_after)
    yield Span(Step.HOUR, day_after, after)


def _append(found: list[Span], span: Span) -> None:
    if span.first >= span.after:
        return
    if found and found[-1].step is span.step and found[-1].after == span.first:
        found[-1] = found[-1]._replace(after=span.after)
    else:
        found.append(span)


def _first_day(day: date, grain: Grain) -> date:
    return day.replace(day=1) if grain is Grain.MONTH else day


def _months_before(first: date, months: int) -> date:
    years, month = divmod(first.year * 12 + first.month - 1 - months, 12)
    return date(years, month + 1, 1)
