"""What is told of a topic is told of enough people at once, so that no two answers differ by what fewer of them said.

The conversations of a topic are told by cells. The first are the hours in which at least so many people spoke about it.
The other hours of a day are one together, if that makes enough people; the days that are left are those of a week, and
the weeks those of a month. What is left then is not told at all. These days, weeks and months are always those of one
time zone, and a range or a step is told the cells that lie in it, whole. So ranges, steps, totals, files and time zones
differ by cells only, whichever are held against each other, and each cell is of enough people. Where one ends follows
from the calendar and not from who spoke: else its end would tell that.
"""

from collections.abc import Callable, Iterable
from datetime import datetime
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple
from zoneinfo import ZoneInfo

from services.analytics.model import HOUR
from services.analytics.reports.calendar import Grain, midnight, step_after, step_of
from services.analytics.reports.rollup_reader import Point
from services.analytics.reports.sums import Sums
from services.analytics.rollups.names import ANALYSES

# Whatever zone is asked for: cells of different zones held against each other would differ by hours.
ZONE = ZoneInfo("America/Sao_Paulo")
# A month's last week is as long as the month.
_WEEKS_BEGIN = (1, 8, 15, 22)


class Cell(NamedTuple):
    """Conversations about a topic in [first, after), those told in a smaller cell left out."""

    topic: str
    first: datetime
    after: datetime
    conversations: int


Bounds = tuple[datetime, datetime]


def cells_of(points: Iterable[Point], floor: int) -> list[Cell]:
    """The cells of these hours of topics, each of at least `floor` people.

    A cell follows from the hours in it alone: those that lie in a range are the same whatever is known beyond it.
    """
    found: list[Cell] = []
    left = [(point.split[0], point.start, _sums(point)) for point in points if point.fields.get(ANALYSES, 0) > 0]
    for bounds in _BOUNDS:
        together: dict[tuple[str, Bounds], Sums] = {}
        for topic, start, sums in left:
            together.setdefault((topic, bounds(start)), Sums()).include(sums)
        told = {place for place, sums in together.items() if _enough(sums, floor)}
        found += [Cell(topic, *reach, together[topic, reach][ANALYSES]) for topic, reach in told]
        left = [(topic, reach[0], sums) for (topic, reach), sums in together.items() if (topic, reach) not in told]
    return found


def _sums(point: Point) -> Sums:
    sums = Sums()
    sums.add(point.fields)
    return sums


def _enough(sums: Sums, floor: int) -> bool:
    """Whoever's conversation was found to be about something else is still among the users, but has none here."""
    return sums[ANALYSES] >= floor and sums.users_counted() >= floor


def _hour(hour: datetime) -> Bounds:
    return hour, hour + HOUR


@lru_cache(maxsize=50_000)
def _day(hour: datetime) -> Bounds:
    return _step(hour, Grain.DAY)


@lru_cache(maxsize=50_000)
def _week(hour: datetime) -> Bounds:
    day, (_, month_after) = hour.astimezone(ZONE).date(), _month(hour)
    begins = [midnight(day.replace(day=number), ZONE) for number in _WEEKS_BEGIN] + [month_after]
    return next((first, after) for first, after in pairwise(begins) if hour < after)


@lru_cache(maxsize=50_000)
def _month(hour: datetime) -> Bounds:
    return _step(hour, Grain.MONTH)


def _step(hour: datetime, grain: Grain) -> Bounds:
    start = step_of(hour, grain, ZONE)
    return start, step_after(start, grain, ZONE)


_BOUNDS: tuple[Callable[[datetime], Bounds], ...] = (_hour, _day, _week, _month)
