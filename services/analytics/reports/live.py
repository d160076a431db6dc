"""Today's figures while they grow: one look for all who watch a tenant in one time zone, however many they are.

A look reads the present hour and the one before; the hours before them are read again every ten seconds, because what
is late is counted there. Whoever watches is told the newest figures and never a backlog.
"""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field, replace
from datetime import datetime
from zoneinfo import ZoneInfo

from services.analytics.intake.feed_positions import FeedPositions
from services.analytics.model import FIGURE_NAMES, HOUR, Axis, Step, hour_of
from services.analytics.reports.calendar import Grain, Span, next_hour, step_of
from services.analytics.reports.rollup_reader import Reading, RollupReader
from services.analytics.reports.sums import Sums
from services.analytics.rollups.series import FIRST_TOKEN, LATENCY, USERS
from shared.clock import Clock
from shared.errors import ServiceError, Unavailable

LOOK_SECONDS = 0.5
OLDER_SECONDS = 10.0
STOPPING = "the service is stopping"

_DAY_FIELDS = (*FIGURE_NAMES, USERS)
_HOUR_FIELDS = (*_DAY_FIELDS, LATENCY, FIRST_TOKEN)


@dataclass(frozen=True, slots=True)
class LiveReport:
    """Today and the present hour, as they stand; `state` is the same for figures that are the same."""

    today: Sums
    hour: Sums
    documents_examined: int
    counted_until: datetime | None = None
    state: tuple[object, ...] = ()


@dataclass(slots=True, eq=False)
class _Watched:
    """A tenant and a zone that are watched: the newest report, its number, a bell for those who wait for the next."""

    watchers: int = 0
    number: int = 0
    report: LiveReport | None = None
    failure: ServiceError | None = None
    news: asyncio.Event = field(default_factory=asyncio.Event)
    looking: asyncio.Task[None] | None = None

    def tell(self, report: LiveReport) -> None:
        self.report, self.number = report, self.number + 1
        self._ring()

    def fail(self, error: ServiceError) -> None:
        self.failure = error
        self._ring()

    def _ring(self) -> None:
        self.news.set()
        self.news = asyncio.Event()


class LiveReports:
    """What is watched in this process."""

    def __init__(
        self, reader: RollupReader, positions: FeedPositions, clock: Clock, *, look_seconds: float = LOOK_SECONDS
    ) -> None:
        self._reader = reader
        self._positions = positions
        self._clock = clock
        self._look_seconds = look_seconds
        self._watched: dict[tuple[str, str], _Watched] = {}
        self._closed = False

    def close(self) -> None:
        """Ends every stream with Unavailable: a service that stops waits for nobody who might watch for ever."""
        self._closed = True
        for watched in self._watched.values():
            watched.fail(Unavailable(STOPPING))

    async def watch(self, tenant_id: str, zone: ZoneInfo) -> AsyncGenerator[LiveReport, None]:
        """The figures as they stand, and again whenever they changed; Unavailable when that cannot go on."""
        if self._closed:
            raise Unavailable(STOPPING)
        watched = self._entered(tenant_id, zone)
        told = 0
        try:
            while True:
                news = watched.news
                if watched.failure is not None:
                    raise watched.failure
                if watched.report is not None and watched.number > told:
                    told = watched.number
                    yield watched.report
                else:
                    await news.wait()
        finally:
            self._left(tenant_id, zone, watched)

    def _entered(self, tenant_id: str, zone: ZoneInfo) -> _Watched:
        watched = self._watched.get((tenant_id, zone.key))
        if watched is None or watched.failure is not None:
            watched = self._watched[tenant_id, zone.key] = _Watched()
            watched.looking = asyncio.create_task(self._look_on(tenant_id, zone, watched))
        watched.watchers += 1
        return watched

    def _left(self, tenant_id: str, zone: ZoneInfo, watched: _Watched) -> None:
        watched.watchers -= 1
        if watched.watchers or watched.looking is None:
            return
        watched.looking.cancel()
        if self._watched.get((tenant_id, zone.key)) is watched:
            del self._watched[tenant_id, zone.key]

    async def _look_on(self, tenant_id: str, zone: ZoneInfo, watched: _Watched) -> None:
        looks = _Looks(self._reader, tenant_id, zone)
        try:
            while True:
                position = await self._positions.read()
                report = await looks.look(self._clock.now())
                if watched.report is None or watched.report.state != report.state:
                    watched.tell(replace(report, counted_until=position.counted_until))
                await asyncio.sleep(self._look_seconds)
        except ServiceError as error:
            watched.fail(error)
        finally:
            # Whatever ends the looks, nobody waits for ever.
            if watched.failure is None:
                watched.fail(Unavailable("the stream is broken"))


class _Looks:
    """The looks at one tenant, which remember the older hours."""

    def __init__(self, reader: RollupReader, tenant_id: str, zone: ZoneInfo) -> None:
        self._reader = reader
        self._tenant_id = tenant_id
        self._zone = zone
        self._older = Reading()
        self._older_until: datetime | None = None
        self._older_at = 0.0

    async def look(self, now: datetime) -> LiveReport:
        hour, midnight = hour_of(now), next_hour(step_of(hour_of(now), Grain.DAY, self._zone))
        recent = max(midnight, hour - HOUR)
        examined = await self._look_back(midnight, recent)
        reading = await self._read(recent, hour + HOUR, _HOUR_FIELDS)
        today, present = Sums(), Sums()
        for point in (*self._older.points, *reading.points):
            today.add({name: value for name, value in point.fields.items() if name in _DAY_FIELDS})
            if point.start == hour:
                present.add(point.fields)
        state = (midnight, hour, dict(today.counts), dict(present.counts))
        return LiveReport(today, present, examined + reading.documents_examined, state=state)

    async def _look_back(self, midnight: datetime, recent: datetime) -> int:
        """Reads the hours before the recent ones when it is time; returns how many documents that took."""
        now = asyncio.get_running_loop().time()
        if self._older_until == recent and now - self._older_at < OLDER_SECONDS:
            return 0
        self._older, self._older_until, self._older_at = await self._read(midnight, recent, _DAY_FIELDS), recent, now
        return self._older.documents_examined

    async def _read(self, first: datetime, after: datetime, fields: tuple[str, ...]) -> Reading:
        spans = [Span(Step.HOUR, first, after)] if first < after else []
        return await self._reader.series(self._tenant_id, Axis.TOTAL, spans, fields)
