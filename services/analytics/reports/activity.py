"""Who was there: sets of users, merged and held against each other.

Sets can be united and counted, not more; what two have in common follows from their union. So all is exact while a set
holds every user it ever met, and about right beyond.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from services.analytics.intake.feed_positions import FeedPositions
from services.analytics.model import Axis
from services.analytics.reports.calendar import covering, step_before
from services.analytics.reports.model import EARLIEST, Question
from services.analytics.reports.reports import rows_of
from services.analytics.reports.rollup_reader import Point, RollupReader
from services.analytics.reports.sums import Sums
from services.analytics.rollups.series import USERS
from services.analytics.rollups.sketches import users_counted, users_joined


@dataclass(frozen=True, slots=True)
class Activity:
    """Users of one step, or of the whole range: then nobody is retained."""

    start: datetime
    active: int
    new: int
    retained: int = 0
    active_before: int = 0

    def returning(self) -> int:
        """Those who are not new."""
        return self.active - self.new


@dataclass(frozen=True, slots=True)
class ActivityReport:
    """Steps by time, the whole range, the period before when asked for; what it cost; how fresh it is."""

    question: Question
    rows: Sequence[Activity]
    total: Activity
    documents_examined: int
    counted_until: datetime | None
    previous: Activity | None = None


class Activities:
    """Answers who was there, from the users in the tenant's series."""

    def __init__(self, reader: RollupReader, positions: FeedPositions) -> None:
        self._reader = reader
        self._positions = positions

    async def report(self, question: Question) -> ActivityReport:
        """Active, new, returning and retained users."""
        question.splits_only_by(())
        position = await self._positions.read()
        asked = question.before() if question.compare else question
        earlier, examined = await self._users(question, EARLIEST, asked.first_hour())
        previous, examined_before = None, 0
        if question.compare:
            active, examined_before = await self._users(question, asked.first_hour(), asked.hour_after())
            previous = _activity(asked.start, active, earlier)
            earlier = users_joined([earlier, active])
        reading = await self._reader.series(question.tenant_id, Axis.TOTAL, question.spans(), (USERS,))
        return ActivityReport(
            question=question,
            rows=_rows(question, reading.points, earlier),
            total=_activity(question.start, _united(reading.points), earlier),
            documents_examined=reading.documents_examined + examined + examined_before,
            counted_until=position.counted_until,
            previous=previous,
        )

    async def _users(self, question: Question, first: datetime, after: datetime) -> tuple[bytes, int]:
        spans = list(covering(first, after))
        reading = await self._reader.series(question.tenant_id, Axis.TOTAL, spans, (USERS,))
        return _united(reading.points), reading.documents_examined


def _united(points: Sequence[Point]) -> bytes:
    sums = Sums()
    for point in points:
        sums.add(point.fields)
    return sums.users()


def _rows(question: Question, points: Sequence[Point], earlier: bytes) -> list[Activity]:
    found: list[Activity] = []
    before = datetime.min, b""
    for row in rows_of(question, points):
        users = row.sums.users()
        if users:
            adjacent = before[1] if before[0] == step_before(row.start, question.grain, question.zone) else b""
            found.append(_activity(row.start, users, earlier, adjacent))
            earlier, before = users_joined([earlier, users]), (row.start, users)
    return found


def _activity(start: datetime, users: bytes, earlier: bytes, before: bytes = b"") -> Activity:
    active = users_counted(users)
    return Activity(
        start=start,
        active=active,
        new=active - _shared(users, earlier),
        retained=_shared(users, before),
        active_before=users_counted(before),
    )


def _shared(one: bytes, other: bytes) -> int:
    """How many users two sets have in common."""
    several = users_counted(one), users_counted(other)
    return min(max(sum(several) - users_counted(users_joined([one, other])), 0), *several)
