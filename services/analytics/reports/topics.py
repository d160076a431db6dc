"""What conversations were about. A topic of too few people is not named: it could say who they are."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from services.analytics.model import Axis
from services.analytics.reports.model import Question, Row
from services.analytics.reports.reports import rows_of
from services.analytics.reports.rollup_reader import Point, RollupReader
from services.analytics.reports.sums import Sums
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
    """Answers what conversations were about; topics of fewer people than the tenant's floor are not named."""

    def __init__(self, reader: RollupReader, floor: Floor) -> None:
        self._reader = reader
        self._floor = floor

    async def report(self, question: Question) -> TopicsReport:
        """The topics that may be named."""
        question.splits_only_by(())
        tenant_id, spans, floor = question.tenant_id, question.spans(), await self._floor(question.tenant_id)
        by_topic, whole = await asyncio.gather(
            self._reader.series(tenant_id, Axis.TOPIC, spans, (ANALYSES, USERS)),
            self._reader.series(tenant_id, Axis.TOTAL, spans, (ANALYSES,)),
        )
        topics = _named(question.start, by_topic.points, floor)[:SHOWN]
        shown = {each.name for each in topics}
        report = TopicsReport(
            question=question,
            topics=topics,
            rows=[each for each in _by_step(rows_of(question, by_topic.points), floor) if each.name in shown],
            analyses=sum(point.fields.get(ANALYSES, 0) for point in whole.points),
            steps={row.start: row.sums[ANALYSES] for row in rows_of(question, whole.points)},
            documents_examined=by_topic.documents_examined + whole.documents_examined,
            k_anonymity=floor,
        )
        return await self._with_previous(report) if question.compare else report

    async def _with_previous(self, report: TopicsReport) -> TopicsReport:
        before = report.question.before()
        reading = await self._reader.series(before.tenant_id, Axis.TOPIC, before.spans(), (ANALYSES, USERS))
        counts = {each.name: each.conversations for each in _named(before.start, reading.points, report.k_anonymity)}
        return replace(
            report,
            topics=[replace(each, previous=counts.get(each.name, 0)) for each in report.topics],
            documents_examined=report.documents_examined + reading.documents_examined,
        )


def _named(start: datetime, points: Iterable[Point], floor: int) -> list[Topic]:
    """Those of enough people, the most frequent first, ties by name."""
    sums: dict[str, Sums] = {}
    for point in points:
        sums.setdefault(point.split[0], Sums()).add(point.fields)
    topics = [Topic(start, name, each[ANALYSES]) for name, each in sums.items() if _many(each, floor)]
    return sorted(topics, key=lambda topic: (-topic.conversations, topic.name))


def _by_step(rows: Iterable[Row], floor: int) -> list[Topic]:
    return [Topic(row.start, row.split[0], row.sums[ANALYSES]) for row in rows if _many(row.sums, floor)]


def _many(sums: Sums, floor: int) -> bool:
    return sums[ANALYSES] > 0 and sums.users_counted() >= floor
