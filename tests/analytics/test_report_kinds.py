"""Each report over the wire: what it says about what was counted, and what it reads for that."""

import csv
import io
import math
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import grpc
import pytest

from prosa.analytics.v1 import report_service_pb2 as pb
from prosa.chat_store.v1 import conversation_service_pb2 as chat_pb
from services.analytics.intake.feed_positions import FeedPositions
from services.analytics.model import Axis
from services.analytics.reports.calendar import Grain
from services.analytics.reports.csv_file import PORTUGUESE, csv_file, csv_header
from services.analytics.reports.model import Dimension
from services.analytics.reports.repricing import Price
from services.analytics.rollups import names
from services.analytics.rollups.rollup_store import RollupStore
from services.analytics.rollups.series import SESSION_SECONDS, SESSION_TURNS
from services.analytics.rollups.statements import StatementStore
from shared.errors import error_of
from shared.mongo import MongoDatabase
from tests.analytics.events import NOON, answer, appended, many_events, question
from tests.analytics.report_stub import FixedPrices, Stub, content, count, reporting, start_of, tenant
from tests.house.signing import SigningKeys

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
HELP = "=cmd|' /C calc'!A0"


@pytest.fixture
async def stub(store: RollupStore, positions: FeedPositions, signing_keys: SigningKeys) -> AsyncIterator[Stub]:
    async with reporting(store, positions, signing_keys) as opened:
        yield opened


def timed(latency: int, first_token: int, *, at: datetime = NOON, **kept: Any) -> Any:
    message = answer(at=at, **kept)
    message.latency_ms, message.time_to_first_token_ms = latency, first_token
    return message


async def test_percentiles_are_within_one_percent_over_hours_models_and_the_whole(
    stub: Stub, store: RollupStore, signing_keys: SigningKeys
) -> None:
    values = [150 + 37 * number for number in range(400)]
    events = [
        appended(f"e{number}", timed(value, value // 3, at=NOON + HOUR * (number % 3), model=f"m{number % 2}"))
        for number, value in enumerate(values)
    ]
    await count(store, events)
    request = pb.GetPerformanceReportRequest(group_by=[pb.DIMENSION_MODEL], time_zone="UTC")
    report = await stub.GetPerformanceReport(request, **tenant(signing_keys))
    assert [(row.model, row.turns) for row in report.rows] == [("m0", 200), ("m1", 200)]
    for quantile, rank in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
        exact = values[math.ceil(rank * 400) - 1]
        assert getattr(report.total.latency_ms, quantile) == pytest.approx(exact, rel=0.011)
        assert getattr(report.total.time_to_first_token_ms, quantile) == pytest.approx(exact // 3, rel=0.015)
        evens = values[0::2]
        assert getattr(report.rows[0].latency_ms, quantile) == pytest.approx(
            evens[math.ceil(rank * 200) - 1], rel=0.011
        )
    assert report.total.latency_ms.mean == pytest.approx(sum(values) / len(values))
    assert report.total.tokens_per_second == pytest.approx(400 * 25 * 1000 / sum(values))


async def test_speed_is_not_kept_by_user(stub: Stub, signing_keys: SigningKeys) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.GetPerformanceReport(
            pb.GetPerformanceReportRequest(group_by=[pb.DIMENSION_USER]), **tenant(signing_keys)
        )
    assert [each.field for each in error_of(refused.value).violations] == ["group_by"]  # type: ignore[attr-defined]


async def test_errors_by_reason_have_their_share_of_all_turns(
    stub: Stub, store: RollupStore, signing_keys: SigningKeys
) -> None:
    failed = answer(status=chat_pb.MESSAGE_STATUS_ERROR)
    failed.error_reason = "PROVIDER_FAILED"
    await count(store, [appended("a", answer(), answer(), answer()), appended("b", failed)])
    report = await stub.GetErrorsReport(pb.GetErrorsReportRequest(), **tenant(signing_keys))
    assert [(row.error_reason, row.errors, row.share) for row in report.rows] == [("PROVIDER_FAILED", 1, 0.25)]
    assert (report.total.errors, report.total.share) == (1, 0.25)


async def test_users_are_new_returning_and_retained(stub: Stub, store: RollupStore, signing_keys: SigningKeys) -> None:
    days = {0: ["ana", "bia"], 1: ["ana", "caio"], 3: ["ana", "bia", "duda", ""]}
    events = [
        appended(f"{day}-{user}", question(user_id=user, at=NOON - 3 * DAY + day * DAY), user_id=user)
        for day, users in days.items()
        for user in users
    ]
    await count(store, events)
    request = pb.GetUserActivityReportRequest(time_zone="UTC", compare=True)
    request.start_time.FromDatetime(NOON - 2 * DAY - 12 * HOUR)
    request.end_time.FromDatetime(NOON + 12 * HOUR)
    report = await stub.GetUserActivityReport(request, **tenant(signing_keys))
    rows = [
        (start_of(row).day, row.active_users, row.new_users, row.returning_users, row.retained_users)
        for row in report.rows
    ]
    assert rows == [(18, 2, 1, 1, 0), (20, 3, 1, 2, 0)]
    assert (report.total.active_users, report.total.new_users, report.total.returning_users) == (4, 2, 2)
    assert (report.previous_total.active_users, report.previous_total.new_users) == (2, 2)
    request = pb.GetUserActivityReportRequest(time_zone="UTC")
    report = await stub.GetUserActivityReport(request, **tenant(signing_keys))
    assert [(row.retained_users, row.retention) for row in report.rows] == [(0, 0), (1, 0.5), (0, 0)]


async def test_sentiment_satisfaction_and_feedback(
    stub: Stub, statements: StatementStore, signing_keys: SigningKeys
) -> None:
    good = {names.ANALYSES: 1, names.SENTIMENT_POSITIVE: 1, names.RESOLVED: 1}
    bad = {names.ANALYSES: 1, names.SENTIMENT_NEGATIVE: 1, names.UNRESOLVED: 1}
    rated = {names.SATISFACTION_KNOWN: 1, names.SATISFACTION: 4, names.RATINGS: 2, "rating_5": 1, "rating_2": 1}
    await statements.commit([content(1, good | rated), content(2, bad), content(3, good)])
    report = await stub.GetSentimentReport(pb.GetSentimentReportRequest(), **tenant(signing_keys))
    total = report.total
    assert (total.analyses, total.positive, total.negative, total.neutral) == (3, 2, 1, 0)
    assert (total.resolved, total.unresolved, total.average_satisfaction) == (2, 1, 4.0)
    assert (total.feedback, total.average_rating, list(total.ratings)) == (2, 3.5, [0, 1, 0, 0, 1])


async def test_sessions_have_turns_and_a_duration(
    stub: Stub, statements: StatementStore, signing_keys: SigningKeys
) -> None:
    for number, (turns, seconds) in enumerate([(2, 60), (4, 120), (6, 600)]):
        counts = {
            names.SESSIONS: 1,
            names.SESSIONS_WITH_TURNS: 1,
            names.SESSION_TURNS_SUM: turns,
            names.SESSIONS_WITH_LENGTH: 1,
            names.SESSION_SECONDS_SUM: seconds,
        }
        measures = {SESSION_TURNS: turns, SESSION_SECONDS: seconds}
        await statements.commit([content(number, counts, measures=measures)])
    total = (await stub.GetSessionsReport(pb.GetSessionsReportRequest(), **tenant(signing_keys))).total
    assert (total.sessions, total.turns.mean, total.duration_ms.mean) == (3, 4.0, 260_000.0)
    assert total.turns.p50 == pytest.approx(4, rel=0.01)
    assert total.duration_ms.p50 == pytest.approx(120_000, rel=0.01)


async def test_a_topic_of_too_few_people_is_not_named(
    stub: Stub, statements: StatementStore, signing_keys: SigningKeys
) -> None:
    """IPTU: five people; lixo: six conversations of four people; anonymous ones are one each."""
    talked = [("IPTU", f"u{number}") for number in range(5)] + [("lixo", f"u{number % 4}") for number in range(6)]
    talked += [("saúde", "")] * 5
    await statements.commit(
        [
            content(number, {names.ANALYSES: 1}, places=((Axis.TOPIC.value, topic),), user_id=user)
            for number, (topic, user) in enumerate(talked)
        ]
    )
    report = await stub.GetTopicsReport(pb.GetTopicsReportRequest(compare=True), **tenant(signing_keys))
    assert [(each.topic, each.conversations) for each in report.topics] == [("IPTU", 5), ("saúde", 5)]
    assert (report.analyses, report.hidden_conversations, report.k_anonymity) == (16, 6, 5)
    assert report.topics[0].share == pytest.approx(5 / 16)
    assert [row.topic for row in report.rows] == ["IPTU", "saúde"]
    assert "lixo" not in str(report)


async def test_the_period_before_is_reported_beside(stub: Stub, store: RollupStore, signing_keys: SigningKeys) -> None:
    """October of São Paulo beside September, at both their edges."""
    october = datetime(2026, 10, 1, 3, tzinfo=UTC)
    at = {"s": datetime(2026, 9, 1, 3, tzinfo=UTC), "t": october - HOUR, "o": october, "x": october - 31 * DAY}
    await count(store, [appended(name, answer(at=moment, cost_micros=10)) for name, moment in at.items()])
    request = pb.GetUsageReportRequest(grain=pb.GRAIN_MONTH, compare=True)
    request.start_time.FromDatetime(october)
    request.end_time.FromDatetime(datetime(2026, 11, 1, 3, tzinfo=UTC))
    report = await stub.GetUsageReport(request, **tenant(signing_keys))
    assert [(start_of(row), row.turns) for row in report.rows] == [(october, 1)]
    assert (report.previous_total.turns, report.previous_total.cost_micros) == (2, 20)
    assert report.previous_period.start_time.ToDatetime(UTC) == at["s"]
    assert report.documents_examined == 3


async def test_the_facts_behind_a_row_add_up_to_it(stub: Stub, store: RollupStore, signing_keys: SigningKeys) -> None:
    await count(store, many_events(600, seed=8))
    edges = {"just-before": NOON - timedelta(seconds=20), "last": NOON + timedelta(seconds=3599)}
    await count(store, [appended(name, answer(at=moment, model="gpt-x")) for name, moment in edges.items()])
    usage = pb.GetUsageReportRequest(grain=pb.GRAIN_HOUR, group_by=[pb.DIMENSION_MODEL], time_zone="UTC")
    rows = (await stub.GetUsageReport(usage, **tenant(signing_keys))).rows
    row = next(each for each in rows if each.model == "gpt-x" and start_of(each) == NOON)
    request = pb.ListFactsRequest(model="gpt-x", page_size=7)
    request.start_time.CopyFrom(row.start_time)
    request.end_time.FromDatetime(start_of(row) + HOUR)
    facts: list[pb.Fact] = []
    first_token = ""
    while True:
        page = await stub.ListFacts(request, **tenant(signing_keys))
        facts += page.facts
        first_token = first_token or page.next_page_token
        assert page.documents_examined <= 5_000
        request.page_token = page.next_page_token
        if not request.page_token:
            break
    assert sum(fact.usage.input_tokens for fact in facts) == row.usage.input_tokens
    assert sum(fact.cost_micros for fact in facts) == row.cost_micros > 0
    assert {fact.model for fact in facts} == {"gpt-x"}
    times = [fact.create_time.ToDatetime(UTC) for fact in facts]
    assert times == sorted(times, reverse=True)
    request.page_token, request.model = first_token, "other"
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.ListFacts(request, **tenant(signing_keys))
    assert error_of(refused.value).reason == "PAGE_TOKEN_MISMATCH"


async def test_answers_cost_what_the_price_book_says_for_their_hour(
    store: RollupStore, positions: FeedPositions, signing_keys: SigningKeys
) -> None:
    old = Price("m", NOON - DAY, NOON - DAY, (1_000_000, 0, 2_000_000, 0))
    new = Price("m", NOON + HOUR, NOON + HOUR, (3_000_000, 0, 0, 0))
    tokens = (10, 5, 20, 1)
    await count(
        store,
        [
            appended("a", answer(model="m", tokens=tokens, cost_micros=40)),
            appended("b", answer(model="m", tokens=tokens, cost_micros=40, at=NOON + HOUR)),
            appended("c", answer(model="free", tokens=tokens, cost_micros=9)),
        ],
    )
    async with reporting(store, positions, signing_keys, book=FixedPrices(new, old)) as stub:
        report = await stub.GetRepricingReport(pb.GetRepricingReportRequest(), **tenant(signing_keys))
        rows = {row.model: row for row in report.rows}
        assert (rows["m"].recorded_cost_micros, rows["m"].corrected_cost_micros) == (80, 50 + 30)
        assert (rows["free"].corrected_cost_micros, rows["free"].unpriced_tokens) == (9, 36)
        request = pb.GetRepricingReportRequest()
        request.known_time.FromDatetime(NOON)
        then = await stub.GetRepricingReport(request, **tenant(signing_keys))
        assert (then.total.corrected_cost_micros, then.total.difference_micros) == (50 + 50 + 9, 20)
    async with reporting(store, positions, signing_keys) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.GetRepricingReport(pb.GetRepricingReportRequest(), **tenant(signing_keys))
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_report_as_a_file_is_for_people_and_no_program(
    stub: Stub, store: RollupStore, signing_keys: SigningKeys
) -> None:
    await count(store, [appended("e", answer(assistant_id=HELP, cost_micros=-0 + 1_234_567), answer(assistant_id="b"))])
    request = pb.ExportReportRequest(report=pb.REPORT_KIND_USAGE, group_by=[pb.DIMENSION_ASSISTANT])
    portuguese = await stub.ExportReport(request, **tenant(signing_keys))
    assert portuguese.content_type == "text/csv; charset=utf-8"
    head, first, second = csv.reader(io.StringIO(portuguese.data.decode("utf-8-sig"), newline=""), delimiter=";")
    assert head[:3] == ["início", "assistente", "respostas"]
    assert first[:2] == ["2026-11-20", "'" + HELP]
    assert (first[head.index("custo")], second[1]) == ("1,234567", "b")
    request.language = pb.LANGUAGE_ENGLISH
    english = (await stub.ExportReport(request, **tenant(signing_keys))).data.decode("utf-8-sig")
    head, first, _ = csv.reader(io.StringIO(english, newline=""))
    assert (head[1], first[head.index("cost")]) == ("assistant_id", "1.234567")


@pytest.mark.parametrize(
    "formula", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", " =1", "＝1+1", "－1", "+x"]
)
def test_no_text_is_taken_for_a_formula(formula: str) -> None:
    """Full-width signs are signs to spreadsheets in some languages, and spaces before one are skipped by some."""
    row = pb.UsageRow(model=formula, turns=1)
    settings: dict[str, Any] = {
        "grain": Grain.DAY,
        "group_by": (Dimension.MODEL,),
        "zone": ZoneInfo("UTC"),
        "portuguese": True,
    }
    file = csv_file([row], pb.UsageRow.DESCRIPTOR, **settings).decode("utf-8-sig")
    (_, cells) = csv.reader(io.StringIO(file, newline=""), delimiter=";")
    assert cells[1] == f"'{formula}"
    assert cells[2] == "1"


@pytest.mark.parametrize("kind", [each for each in pb.ReportKind.values() if each])
async def test_every_report_is_a_file_too_with_portuguese_headers_only(
    store: RollupStore, positions: FeedPositions, signing_keys: SigningKeys, kind: pb.ReportKind.ValueType
) -> None:
    await count(store, [appended("e", question(), answer())])
    async with reporting(store, positions, signing_keys, book=FixedPrices()) as stub:
        file = await stub.ExportReport(pb.ExportReportRequest(report=kind), **tenant(signing_keys))
        assert file.data.decode("utf-8-sig").startswith("início;")
        split = [pb.DIMENSION_MODEL, pb.DIMENSION_USER, pb.DIMENSION_TEAM, pb.DIMENSION_CHANNEL]
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.ExportReport(pb.ExportReportRequest(report=kind, group_by=split), **tenant(signing_keys))


def test_every_column_has_a_portuguese_name() -> None:
    for response in (each for each in pb.DESCRIPTOR.message_types_by_name.values() if each.name.endswith("Response")):
        if "rows" in response.fields_by_name:
            row = response.fields_by_name["rows"].message_type
            assert row is not None
            named = {name for path in csv_header(row.fields) for name in path if not name.isdigit()}
            assert named <= PORTUGUESE.keys()


READING = [
    ("GetUsageReport", pb.GetUsageReportRequest(group_by=[pb.DIMENSION_TEAM], compare=True)),
    ("GetPerformanceReport", pb.GetPerformanceReportRequest(group_by=[pb.DIMENSION_MODEL], compare=True)),
    ("GetTopicsReport", pb.GetTopicsReportRequest(compare=True)),
    ("GetSentimentReport", pb.GetSentimentReportRequest(grain=pb.GRAIN_HOUR)),
    ("GetUserActivityReport", pb.GetUserActivityReportRequest(grain=pb.GRAIN_MONTH, compare=True)),
    ("GetSessionsReport", pb.GetSessionsReportRequest(grain=pb.GRAIN_MONTH)),
    ("GetErrorsReport", pb.GetErrorsReportRequest()),
]


@pytest.mark.parametrize(("method", "request_"), READING, ids=[name for name, _ in READING])
async def test_what_a_report_says_it_read_is_what_mongodb_says_and_it_is_no_fact(
    stub: Stub,
    store: RollupStore,
    database: MongoDatabase,
    signing_keys: SigningKeys,
    method: str,
    request_: Any,
) -> None:
    await count(store, many_events(300, seed=5, hours=40))
    await database["facts"].drop()
    await database.command("profile", 2)
    try:
        report = await getattr(stub, method)(request_, **tenant(signing_keys))
    finally:
        await database.command("profile", 0)
    found = database["system.profile"].find(
        {"op": {"$in": ["query", "command", "getmore"]}, "docsExamined": {"$gt": 0}}
    )
    read = [(each["ns"].split(".")[1], each["docsExamined"]) async for each in found]
    assert {name for name, _ in read} - {"feed_positions", "projections"} <= {"series", "rollups"}
    assert sum(documents for name, documents in read if name in ("series", "rollups")) == report.documents_examined
    assert report.documents_examined > 0


async def test_other_tenants_see_none_of_it(
    stub: Stub, store: RollupStore, statements: StatementStore, signing_keys: SigningKeys
) -> None:
    await count(store, many_events(50, tenants=["acme"]))
    await statements.commit([content(1, {names.ANALYSES: 1, names.SESSIONS: 1})])
    other = tenant(signing_keys, "beta")
    for method, request in (
        (stub.GetPerformanceReport, pb.GetPerformanceReportRequest()),
        (stub.GetTopicsReport, pb.GetTopicsReportRequest()),
        (stub.GetSentimentReport, pb.GetSentimentReportRequest()),
        (stub.GetUserActivityReport, pb.GetUserActivityReportRequest()),
        (stub.GetSessionsReport, pb.GetSessionsReportRequest()),
        (stub.GetErrorsReport, pb.GetErrorsReportRequest()),
        (stub.ListFacts, pb.ListFactsRequest()),
    ):
        report = await method(request, **other)
        assert report.documents_examined == 0
        assert not getattr(report, "rows", None)


async def test_a_month_by_user_is_read_from_days_and_the_hours_at_its_ends(
    stub: Stub, store: RollupStore, signing_keys: SigningKeys
) -> None:
    first, last = datetime(2026, 10, 1, 3, tzinfo=UTC), datetime(2026, 11, 1, 2, tzinfo=UTC)
    moments = [first - HOUR, first, *(first + 10 * DAY + number * HOUR for number in range(12)), last, last + HOUR]
    await count(store, [appended(f"e{number}", question(at=at), user_id="ana") for number, at in enumerate(moments)])
    request = pb.GetUsageReportRequest(grain=pb.GRAIN_MONTH, group_by=[pb.DIMENSION_USER])
    request.start_time.FromDatetime(first)
    request.end_time.FromDatetime(datetime(2026, 11, 1, 3, tzinfo=UTC))
    report = await stub.GetUsageReport(request, **tenant(signing_keys))
    assert [(start_of(row), row.user_id, row.user_messages) for row in report.rows] == [(first, "ana", 14)]
    assert report.documents_examined == 3
