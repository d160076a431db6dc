"""The reports: each reads rollups, regroups them into steps, and sums up."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from operator import itemgetter

from services.analytics.intake.feed_positions import FeedPositions
from services.analytics.model import FIGURE_NAMES, Axis, Step
from services.analytics.reports.calendar import Span
from services.analytics.reports.model import MAX_ROWS, Dimension, Question, Report, Row, too_many_rows
from services.analytics.reports.rollup_reader import Point, Reading, RollupReader
from services.analytics.reports.sums import Sums, together
from services.analytics.rollups import names
from services.analytics.rollups.series import FIRST_TOKEN, LATENCY, SESSION_SECONDS, SESSION_TURNS

SPEED = (
    "turns",
    "timed_turns",
    "latency_ms",
    "timed_output_tokens",
    "streamed_turns",
    "time_to_first_token_ms",
    LATENCY,
    FIRST_TOKEN,
)
# Users have series by day only, without how fast they were answered.
WITH_SPEED = (Dimension.MODEL, Dimension.ASSISTANT, Dimension.TEAM, Dimension.CHANNEL)

FEELINGS = (
    names.ANALYSES,
    names.SENTIMENT_POSITIVE,
    names.SENTIMENT_NEGATIVE,
    names.SENTIMENT_NEUTRAL,
    names.RESOLVED,
    names.UNRESOLVED,
    names.SATISFACTION_KNOWN,
    names.SATISFACTION,
    names.RATINGS,
    *names.RATING,
    names.GENERATED_RATINGS,
)
LENGTHS = (
    names.SESSIONS,
    names.SESSIONS_WITH_TURNS,
    names.SESSION_TURNS_SUM,
    names.SESSIONS_WITH_LENGTH,
    names.SESSION_SECONDS_SUM,
    SESSION_TURNS,
    SESSION_SECONDS,
)

Read = Callable[[Question], Awaitable[Reading]]


class Reports:
    """Answers questions about a tenant from its rollups alone.

    Freshness is read before the sums, so that it never promises more than they hold.
    """

    def __init__(self, reader: RollupReader, positions: FeedPositions) -> None:
        self._reader = reader
        self._positions = positions

    async def usage(self, question: Question) -> Report:
        """Turns, tokens, cost."""
        if question.group_by == (Dimension.USER,):
            return await self._report(question, self._by_user)
        if len(question.group_by) > 1:
            return await self._report(question, self._by_combination)
        return await self._by_series(question, FIGURE_NAMES)

    async def performance(self, question: Question) -> Report:
        """Latency, time to first token, speed."""
        question.splits_only_by(WITH_SPEED)
        return await self._by_series(question, SPEED)

    async def sentiment(self, question: Question) -> Report:
        """How people felt, and the feedback they gave."""
        question.splits_only_by(())
        return await self._by_series(question, FEELINGS)

    async def sessions(self, question: Question) -> Report:
        """How many sessions began, and how long they were."""
        question.splits_only_by(())
        return await self._by_series(question, LENGTHS)

    async def errors(self, question: Question) -> Report:
        """What failed, by reason; the total and the steps are of all turns."""
        question.splits_only_by(())
        whole, by_reason = await asyncio.gather(
            self._by_series(question, ("turns", "errors")),
            self._reader.series(question.tenant_id, Axis.ERROR, question.spans(), ("errors",)),
        )
        examined = whole.documents_examined + by_reason.documents_examined
        return replace(whole, rows=rows_of(question, by_reason.points), documents_examined=examined)

    async def _by_combination(self, asked: Question) -> Reading:
        return await self._reader.combinations(asked, [Span(Step.HOUR, asked.first_hour(), asked.hour_after())])

    async def _by_user(self, asked: Question) -> Reading:
        """Users have series by day; their hours are in the combinations."""
        spans = asked.spans()
        days, hours = await asyncio.gather(
            self._reader.series(
                asked.tenant_id, Axis.USER, [span for span in spans if span.step is Step.DAY], FIGURE_NAMES
            ),
            self._reader.combinations(asked, [span for span in spans if span.step is Step.HOUR]),
        )
        return Reading(days.points + hours.points, days.documents_examined + hours.documents_examined)

    async def _by_series(self, question: Question, fields: Iterable[str]) -> Report:
        axis = question.group_by[0].axis() if question.group_by else Axis.TOTAL

        async def read(asked: Question) -> Reading:
            return await self._reader.series(asked.tenant_id, axis, asked.spans(), fields)

        return await self._report(question, read)

    async def _report(self, question: Question, read: Read) -> Report:
        position = await self._positions.read()
        reading = await read(question)
        rows = rows_of(question, reading.points)
        steps = _by_step(rows)
        report = Report(
            question=question,
            rows=rows,
            total=together(steps.values()),
            steps=steps,
            documents_examined=reading.documents_examined,
            counted_until=position.counted_until,
        )
        return await self._with_previous(report, read) if question.compare else report

    async def _with_previous(self, report: Report, read: Read) -> Report:
        before = await read(report.question.before())
        previous = Sums()
        for point in before.points:
            previous.add(point.fields)
        return replace(
            report,
            previous=previous,
            documents_examined=report.documents_examined + before.documents_examined,
        )


def rows_of(question: Question, points: Iterable[Point]) -> list[Row]:
    """The points regrouped into the question's steps, by time, then by split.

    Raises RangeTooLargeError when there would be more rows than one answer holds.
    """
    steps: dict[datetime, datetime] = {}
    sums: dict[tuple[datetime, tuple[str, ...]], Sums] = {}
    for point in points:
        step = steps.get(point.start) or steps.setdefault(point.start, question.step(point.start))
        place = step, point.split
        mine = sums.get(place)
        if mine is None:
            mine = sums[place] = Sums()
            if len(sums) > MAX_ROWS:
                raise too_many_rows()
        mine.add(point.fields)
    return [Row(*place, mine) for place, mine in sorted(sums.items(), key=itemgetter(0))]


def _by_step(rows: Iterable[Row]) -> Mapping[datetime, Sums]:
    steps: dict[datetime, Sums] = {}
    for row in rows:
        if row.start in steps:
            steps[row.start].include(row.sums)
        else:
            steps[row.start] = together([row.sums])
    return steps
