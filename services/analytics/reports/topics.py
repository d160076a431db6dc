"""What conversations were about. A topic of too few people is not named: it could say who they are."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from services.analytics.model import HOUR, Axis, Step
from services.analytics.reports.calendar import Span
from services.analytics.reports.crowds import Cell, cells_of
from services.analytics.reports.model import MAX_ROWS, Question, too_many_rows
from services.analytics.reports.reports import rows_of
from services.analytics.reports.rollup_reader import RollupReader
from services.analytics.rollups.names import ANALYSES
from services.analytics.rollups.series import USERS

SHOWN = 100

# Of a tenant: below how many people a topic is not named.
Floor = Callable[[str], Awaitable[int]]


@dataclass(frozen=True, slots=True)
class Topic:
    """How many conversations had this main topic, in a step or in the whole range; and in the period before."""

    start: datetime
    name: str
    conversations: int
    previous: int = 0


@dataclass(frozen=True, slots=True)
class TopicsReport:
    """The most frequent topics, the same by step, all analysed conversations and those of each step; what it cost."""

    question: Question
    topics: Sequence[Topic]
    rows: Sequence[Topic]
    analyses: int
    steps: Mapping[datetime, int]
    documents_examined: int
    k_anonymity: int


class Topics:
    """Answers what conversations were about, as far as that may be told (crowds.py)."""

    def __init__(self, reader: RollupReader, floor: Floor) -> None:
        self._reader = reader
        self._floor = floor

    async def report(self, question: Question) -> TopicsReport:
        """The topics that may be named."""
        question.splits_only_by(())
        floor = await self._floor(question.tenant_id)
        (cells, examined), whole = await asyncio.gather(
            self._cells(question, floor),
            self._reader.series(question.tenant_id, Axis.TOTAL, question.spans(), (ANALYSES,)),
        )
        topics = _topics(question.start, cells)[:SHOWN]
        report = TopicsReport(
            question=question,
            topics=topics,
            rows=_rows(question, cells, {each.name for each in topics}),
            analyses=sum(point.fields.get(ANALYSES, 0) for point in whole.points),
            steps={row.start: row.sums[ANALYSES] for row in rows_of(question, whole.points)},
            documents_examined=examined + whole.documents_examined,
            k_anonymity=floor,
        )
        return await self._with_previous(report) if question.compare else report

    async def _with_previous(self, report: TopicsReport) -> TopicsReport:
        before = report.question.before()
        cells, examined = await self._cells(before, report.k_anonymity)
        counts = {each.name: each.conversations for each in _topics(before.start, cells)}
        return replace(
            report,
            topics=[replace(each, previous=counts.get(each.name, 0)) for each in report.topics],
            documents_examined=report.documents_examined + examined,
        )

    async def _cells(self, question: Question, floor: int) -> tuple[list[Cell], int]:
        """What may be told of the range, and how many documents that took."""
        first, after = question.first_hour(), question.hour_after()
        hours = [Span(Step.HOUR, first, after)]
        reading = await self._reader.series(question.tenant_id, Axis.TOPIC, hours, (ANALYSES, USERS))
        # The day, week and month in progress end later, but there is nothing of them beyond the present.
        inside = [
            each
            for each in cells_of(reading.points, floor)
            if first <= each.first and (question.until_now or each.after <= after)
        ]
        return inside, reading.documents_examined


def _topics(start: datetime, cells: Iterable[Cell]) -> list[Topic]:
    """The most frequent first, ties by name."""
    sums = Counter[str]()
    for each in cells:
        sums[each.topic] += each.conversations
    return sorted((Topic(start, *each) for each in sums.items()), key=lambda topic: (-topic.conversations, topic.name))


def _rows(question: Question, cells: Iterable[Cell], shown: Collection[str]) -> list[Topic]:
    """The cells that lie in one step, by step and name."""
    sums = Counter[tuple[datetime, str]]()
    for each in cells:
        step = question.step(each.first)
        if each.topic in shown and step == question.step(each.after - HOUR):
            sums[step, each.topic] += each.conversations
    if len(sums) > MAX_ROWS:
        raise too_many_rows()
    return [Topic(*place, conversations) for place, conversations in sorted(sums.items())]
