"""ReportService over the wire, on rollups that the worker made."""

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import grpc
import pytest

from prosa.analytics.v1 import report_service_pb2 as pb
from prosa.analytics.v1 import report_service_pb2_grpc as pb_grpc
from prosa.chat_store.v1 import feed_service_pb2 as feed_pb
from services.analytics.intake.feed_positions import FeedPositions
from services.analytics.intake.wire import fact_of
from services.analytics.model import Position
from services.analytics.reports.endpoint import reports_endpoint
from services.analytics.rollups.rollup_store import RollupStore
from shared.clock import ManualClock
from shared.errors import InvalidArgument, error_of
from shared.mongo import MongoDatabase
from tests.analytics.events import NOON, answer, appended, many_events, oracle, question
from tests.house.in_process import as_caller, serving, token
from tests.house.signing import SigningKeys

# The generated stub is typed for synchronous channels.
Stub: TypeAlias = Any
ALL = (pb.DIMENSION_MODEL, pb.DIMENSION_USER, pb.DIMENSION_ASSISTANT)


@pytest.fixture
async def stub(
    database: MongoDatabase, store: RollupStore, positions: FeedPositions, signing_keys: SigningKeys
) -> AsyncIterator[Stub]:
    clock = ManualClock(NOON + timedelta(days=1))
    async with serving([reports_endpoint(store.projection, positions, clock)], signing_keys) as channel:
        yield pb_grpc.ReportServiceStub(channel)


async def count(store: RollupStore, events: Sequence[feed_pb.Event]) -> None:
    for first in range(0, len(events), 1000):
        await store.commit([fact_of(event.SerializeToString()) for event in events[first : first + 1000]])


def asked(
    *,
    start: datetime | None = None,
    end: datetime | None = None,
    grain: pb.Grain.ValueType = pb.GRAIN_UNSPECIFIED,
    group_by: Sequence[pb.Dimension.ValueType] = (),
    time_zone: str = "UTC",
) -> pb.GetUsageReportRequest:
    request = pb.GetUsageReportRequest(grain=grain, group_by=group_by, time_zone=time_zone)
    if start:
        request.start_time.FromDatetime(start)
    if end:
        request.end_time.FromDatetime(end)
    return request


def tenant(keys: SigningKeys, tenant_id: str = "acme", scopes: Sequence[str] = ("reports.read",)) -> dict[str, Any]:
    return {"metadata": as_caller(token(keys, tenant_id=tenant_id, scopes=scopes)), "timeout": 10}


async def test_a_report_by_hour_and_all_dimensions_equals_the_oracle(
    stub: Stub, store: RollupStore, signing_keys: SigningKeys
) -> None:
    events = many_events(800)
    await count(store, events)
    report = await stub.GetUsageReport(
        asked(grain=pb.GRAIN_HOUR, group_by=ALL, start=NOON - timedelta(days=1)), **tenant(signing_keys)
    )
    expected = {key[1:]: sums for key, sums in oracle(events).items() if key[0] == "acme" and any(sums.values())}
    found = {(row.start_time.ToDatetime(UTC), row.model, row.user_id, row.assistant_id): row for row in report.rows}
    assert found.keys() == expected.keys()
    for key, row in found.items():
        assert _figures(row) == {name: expected[key][name] for name in _figures(row)}
    total = _figures(report.total)
    assert total == {name: sum(sums[name] for sums in expected.values()) for name in total}
    assert not report.total.HasField("start_time")


def _figures(row: pb.UsageRow) -> dict[str, int]:
    return {
        "turns": row.turns,
        "rag_turns": row.rag_turns,
        "errors": row.errors,
        "user_messages": row.user_messages,
        "input_tokens": row.usage.input_tokens,
        "cached_input_tokens": row.usage.cached_input_tokens,
        "output_tokens": row.usage.output_tokens,
        "reasoning_tokens": row.usage.reasoning_tokens,
        "cost_micros": row.cost_micros,
    }


async def test_an_unsplit_report_has_one_row_a_day_and_no_empty_ones(
    stub: Stub, store: RollupStore, signing_keys: SigningKeys
) -> None:
    await count(
        store,
        [
            appended(f"e{day}", question(at=NOON - timedelta(days=day)), answer(at=NOON - timedelta(days=day)))
            for day in (0, 2)
        ],
    )
    report = await stub.GetUsageReport(asked(), **tenant(signing_keys))
    assert [row.start_time.ToDatetime(UTC).day for row in report.rows] == [18, 20]
    assert [(row.turns, row.user_messages, row.model, row.user_id) for row in report.rows] == [(1, 1, "", "")] * 2


async def test_reports_read_rollups_only_and_documents_examined_depend_on_the_range_only(
    stub: Stub, store: RollupStore, database: MongoDatabase, signing_keys: SigningKeys
) -> None:
    """Invariant 8: fifty times the events, others' events, old events: the same documents are read, says MongoDB."""
    request = asked(start=NOON, end=NOON + timedelta(hours=5), group_by=ALL)
    await count(store, many_events(400, seed=3))
    before = await stub.GetUsageReport(request, **tenant(signing_keys))
    more = [_renamed(event, f"round-{turn}") for turn in range(50) for event in many_events(400, seed=3)]
    await count(store, more)
    await count(store, [_renamed(event, "others") for event in many_events(2000, seed=4, tenants=["x", "y", "z"])])
    await count(store, [appended("old", answer(at=NOON - timedelta(days=200)))])
    await database["facts"].drop()  # a report that looked at facts would miss them now

    await database.command("profile", 2)
    try:
        after = await stub.GetUsageReport(request, **tenant(signing_keys))
    finally:
        await database.command("profile", 0)
    assert after.total.turns == before.total.turns * 51
    assert after.documents_examined == before.documents_examined > 0
    reads = [
        each
        async for each in database["system.profile"].find({"op": "command", "command.aggregate": {"$exists": True}})
    ]
    assert [(read["ns"].split(".")[1], read["docsExamined"]) for read in reads] == [
        ("rollups", after.documents_examined)
    ]


def _renamed(event: feed_pb.Event, prefix: str) -> feed_pb.Event:
    event.event_id = f"{prefix}-{event.event_id}"
    return event


async def test_second_tenant_sees_nothing(stub: Stub, store: RollupStore, signing_keys: SigningKeys) -> None:
    """The same ids everywhere, two tenants: each sees its own; a caller of no tenant sees nothing."""
    await count(store, [appended("a1", question(), answer(cost_micros=5), tenant_id="acme")])
    await count(store, [appended("b1", question(), tenant_id="beta")])
    acme, beta, other, nobody = [
        await stub.GetUsageReport(asked(group_by=ALL), **tenant(signing_keys, tenant_id))
        for tenant_id in ("acme", "beta", "gama", "")
    ]
    assert (acme.total.turns, acme.total.cost_micros, acme.total.user_messages) == (1, 5, 1)
    assert (beta.total.turns, beta.total.cost_micros, beta.total.user_messages) == (0, 0, 1)
    assert (len(other.rows), other.documents_examined, len(nobody.rows), nobody.documents_examined) == (0, 0, 0, 0)


async def test_without_the_permission_nothing_is_told(stub: Stub, signing_keys: SigningKeys) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.GetUsageReport(asked(), **tenant(signing_keys, scopes=["conversations.read"]))
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (asked(start=NOON, end=NOON), "VALIDATION_FAILED"),
        (asked(time_zone="Mars/Olympus"), "VALIDATION_FAILED"),
        (asked(start=NOON - timedelta(days=401), end=NOON), "RANGE_TOO_LARGE"),
        (asked(start=NOON - timedelta(days=32), end=NOON, grain=pb.GRAIN_HOUR), "RANGE_TOO_LARGE"),
        (asked(group_by=[pb.DIMENSION_UNSPECIFIED]), "VALIDATION_FAILED"),
        (asked(group_by=[pb.DIMENSION_USER, pb.DIMENSION_USER]), "VALIDATION_FAILED"),
    ],
)
async def test_errors_are_typed(
    stub: Stub, signing_keys: SigningKeys, request_: pb.GetUsageReportRequest, reason: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.GetUsageReport(request_, **tenant(signing_keys))
    error = error_of(refused.value)
    assert isinstance(error, InvalidArgument)
    assert error.reason == reason


async def test_a_time_outside_the_calendar_is_the_callers_error(stub: Stub, signing_keys: SigningKeys) -> None:
    request = asked()
    request.end_time.seconds = 2**62
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.GetUsageReport(request, **tenant(signing_keys))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_report_says_until_when_events_have_been_counted(
    stub: Stub, positions: FeedPositions, signing_keys: SigningKeys
) -> None:
    report = await stub.GetUsageReport(asked(), **tenant(signing_keys))
    assert not report.HasField("counted_until_time")
    await positions.acquire("one", 5)
    await positions.keep("one", Position("t", NOON), 5)
    report = await stub.GetUsageReport(asked(), **tenant(signing_keys))
    assert report.counted_until_time.ToDatetime(UTC) == NOON
