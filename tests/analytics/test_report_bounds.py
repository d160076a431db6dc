"""Every RPC of the reports examines as many documents as its contract states at the most, says MongoDB's profiler."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from prosa.analytics.v1 import report_service_pb2 as pb
from services.analytics.intake.feed_positions import FeedPositions
from services.analytics.reports import fact_list
from services.analytics.rollups.rollup_store import RollupStore
from shared.mongo import MongoDatabase
from tests.analytics.events import answer, appended
from tests.analytics.report_stub import FixedPrices, Stub, count, reporting, tenant
from tests.house.signing import SigningKeys

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
MODELS = ("a", "b", "c")
# Three days of São Paulo, in each hour of which each model answers twice.
BEGIN, HOURS = datetime(2026, 11, 17, 3, tzinfo=UTC), 72
MONTHS = {"grain": pb.GRAIN_MONTH}


@pytest.fixture
async def stub(store: RollupStore, positions: FeedPositions, signing_keys: SigningKeys) -> AsyncIterator[Stub]:
    events = [
        appended(
            f"e{hour}-{model}-{number}",
            answer(at=BEGIN + hour * HOUR, model=model, assistant_id="x"),
            user_id=f"u{number}",
        )
        for hour in range(HOURS)
        for model in MODELS
        for number in range(2)
    ]
    await count(store, events)
    async with reporting(store, positions, signing_keys, book=FixedPrices()) as opened:
        yield opened


def asked(kind: type[Any], **fields: Any) -> Any:
    request = kind(**fields)
    request.start_time.FromDatetime(BEGIN)
    request.end_time.FromDatetime(BEGIN + HOURS * HOUR)
    return request


USAGE, SPEED = pb.GetUsageReportRequest, pb.GetPerformanceReportRequest
BY_MODEL, BY_USER = {"group_by": [pb.DIMENSION_MODEL]}, {"group_by": [pb.DIMENSION_USER]}
BY_BOTH = {"group_by": [pb.DIMENSION_MODEL, pb.DIMENSION_USER]}
# Two whole UTC days lie in the range, and 24 hours beside them.
IN_DAYS = 2 + 24
STATED = [
    ("GetUsageReport", asked(USAGE), HOURS),
    ("GetUsageReport", asked(USAGE, **MONTHS), IN_DAYS),
    ("GetUsageReport", asked(USAGE, **BY_MODEL), HOURS * 3),
    ("GetUsageReport", asked(USAGE, **BY_MODEL, **MONTHS), IN_DAYS * 3),
    ("GetUsageReport", asked(USAGE, **BY_BOTH), HOURS * 6),
    ("GetUsageReport", asked(USAGE, **BY_USER, **MONTHS), 2 * 2 + 24 * 6),
    ("GetPerformanceReport", asked(SPEED), HOURS),
    ("GetPerformanceReport", asked(SPEED, **BY_MODEL, **MONTHS), IN_DAYS * 3),
    ("GetTopicsReport", asked(pb.GetTopicsReportRequest), HOURS),
    ("GetSentimentReport", asked(pb.GetSentimentReportRequest, **MONTHS), IN_DAYS),
    ("GetUserActivityReport", asked(pb.GetUserActivityReportRequest), HOURS),
    ("GetSessionsReport", asked(pb.GetSessionsReportRequest, **MONTHS), IN_DAYS),
    ("GetErrorsReport", asked(pb.GetErrorsReportRequest), HOURS),
    ("GetRepricingReport", asked(pb.GetRepricingReportRequest, **MONTHS), HOURS * 3),
]


async def test_a_report_examines_what_its_contract_states_and_not_a_document_more(
    stub: Stub, database: MongoDatabase, signing_keys: SigningKeys
) -> None:
    found = []
    for method, request, _ in STATED:
        async with examined(database) as documents:
            report = await getattr(stub, method)(request, **tenant(signing_keys))
        found.append((report.documents_examined, sum(documents)))
    assert found == [(bound, bound) for _, _, bound in STATED]


async def test_a_file_costs_what_its_report_costs(
    stub: Stub, database: MongoDatabase, signing_keys: SigningKeys
) -> None:
    async with examined(database) as documents:
        await stub.ExportReport(
            asked(pb.ExportReportRequest, report=pb.REPORT_KIND_USAGE, **BY_MODEL), **tenant(signing_keys)
        )
    assert sum(documents) == HOURS * 3


async def test_a_page_of_facts_examines_so_many_at_the_most_and_the_pages_find_all(
    stub: Stub, database: MongoDatabase, signing_keys: SigningKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fact_list, "MOST_EXAMINED", 50)
    request, found, pages = asked(pb.ListFactsRequest, model="b", user_id="u1", page_size=1000), 0, 0
    while True:
        async with examined(database) as documents:
            page = await stub.ListFacts(request, **tenant(signing_keys))
        assert page.documents_examined <= 50
        # MongoDB looks once more at those of the moment at which the page before ended.
        assert sum(documents) <= 50 + 6
        found, pages, request.page_token = found + len(page.facts), pages + 1, page.next_page_token
        if not request.page_token:
            break
    assert (found, pages) == (HOURS, HOURS * 6 // 50 + 1)


@asynccontextmanager
async def examined(database: MongoDatabase) -> AsyncIterator[list[int]]:
    """After the block, how many documents each command on what reports read has examined."""
    documents: list[int] = []
    await database["system.profile"].drop()
    await database.command("profile", 2)
    try:
        yield documents
    finally:
        await database.command("profile", 0)
    names = [f"{database.name}.{name}" for name in ("series", "rollups", "facts")]
    reads = database["system.profile"].find({"ns": {"$in": names}, "docsExamined": {"$exists": True}})
    documents += [each["docsExamined"] async for each in reads]
