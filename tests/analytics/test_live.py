"""Live figures: in time, at a cost that does not grow with those who watch, and gone when they are."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import grpc
import pytest

from prosa.analytics.v1 import report_service_pb2 as pb
from services.analytics.intake.feed_positions import FeedPositions
from services.analytics.reports.live import LiveReport, LiveReports
from services.analytics.reports.rollup_reader import RollupReader
from services.analytics.rollups.rollup_store import RollupStore
from shared.clock import ManualClock
from shared.errors import Unavailable
from shared.mongo import MongoDatabase
from tests.analytics.events import NOON, answer, appended, question
from tests.analytics.report_stub import count, reporting, tenant
from tests.house.signing import SigningKeys
from tests.house.waiting import until_answered

SAO_PAULO = ZoneInfo("America/Sao_Paulo")
NOW = NOON + timedelta(minutes=30)
LOOK_SECONDS = 0.05


@pytest.fixture
def live(store: RollupStore, positions: FeedPositions) -> LiveReports:
    return LiveReports(RollupReader(store.projection), positions, ManualClock(NOW), look_seconds=LOOK_SECONDS)


async def following(watch: AsyncIterator[LiveReport]) -> LiveReport:
    return await asyncio.wait_for(anext(watch), 20)


async def test_a_turn_is_seen_by_all_who_watch_and_by_nobody_else(live: LiveReports, store: RollupStore) -> None:
    await count(store, [appended("early", answer(at=NOON - timedelta(hours=5)))])
    await count(store, [appended("yesterday", answer(at=NOON - timedelta(hours=10)))])
    ours = [live.watch("acme", SAO_PAULO) for _ in range(3)]
    others = live.watch("beta", SAO_PAULO)
    assert [(await following(each)).today["turns"] for each in ours] == [1, 1, 1]
    assert (await following(others)).today["turns"] == 0
    waiting = asyncio.create_task(following(others))
    await count(store, [appended("now", question(at=NOON), answer(at=NOON))])
    for each in ours:
        report = await following(each)
        assert (report.today["turns"], report.hour["turns"], report.today.users_counted()) == (2, 1, 1)
        assert report.documents_examined <= 2
    assert not waiting.done()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    for each in (*ours, others):
        await each.aclose()


async def test_a_hundred_who_watch_cost_as_much_as_one(
    live: LiveReports, store: RollupStore, database: MongoDatabase
) -> None:
    watches = [live.watch("acme", SAO_PAULO) for _ in range(100)]
    await asyncio.gather(*(following(each) for each in watches))
    began = time.monotonic()
    await database.command("profile", 2)
    await until_answered(lambda: _looks(database))
    await asyncio.sleep(0.5)
    await database.command("profile", 0)
    assert await _looks(database) <= (time.monotonic() - began) / LOOK_SECONDS + 2
    for each in watches:
        await each.aclose()


async def test_nobody_looks_any_more_when_nobody_watches(live: LiveReports, database: MongoDatabase) -> None:
    watch = live.watch("acme", SAO_PAULO)
    await following(watch)
    waiting = asyncio.create_task(following(watch))
    await asyncio.sleep(0.1)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await watch.aclose()

    async def nobody_looked() -> bool:
        await database["system.profile"].drop()
        await database.command("profile", 2)
        await asyncio.sleep(6 * LOOK_SECONDS)
        await database.command("profile", 0)
        return await _looks(database) == 0

    await until_answered(nobody_looked)


async def _looks(database: MongoDatabase) -> int:
    """How often the figures were read since the profiler began."""
    return int(await database["system.profile"].count_documents({"ns": f"{database.name}.series"}))


async def test_what_is_late_is_seen_too(
    store: RollupStore, positions: FeedPositions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.analytics.reports.live.OLDER_SECONDS", 0.2)
    live = LiveReports(RollupReader(store.projection), positions, ManualClock(NOW), look_seconds=LOOK_SECONDS)
    watch = live.watch("acme", SAO_PAULO)
    await following(watch)
    await count(store, [appended("late", answer(at=NOON - timedelta(hours=6)))])
    assert (await following(watch)).today["turns"] == 1
    await watch.aclose()


async def test_midnight_begins_a_new_day(store: RollupStore, positions: FeedPositions) -> None:
    clock = ManualClock(datetime(2026, 11, 21, 2, 59, tzinfo=UTC))
    await count(store, [appended("e", answer())])
    live = LiveReports(RollupReader(store.projection), positions, clock, look_seconds=LOOK_SECONDS)
    watch = live.watch("acme", SAO_PAULO)
    assert (await following(watch)).today["turns"] == 1
    clock.advance(120)
    assert (await following(watch)).today["turns"] == 0
    await watch.aclose()


async def test_a_service_that_stops_ends_the_streams(live: LiveReports) -> None:
    watch = live.watch("acme", SAO_PAULO)
    await following(watch)
    live.close()
    with pytest.raises(Unavailable):
        await following(watch)
    with pytest.raises(Unavailable):
        await following(live.watch("acme", SAO_PAULO))


async def test_the_stream_tells_figures_and_refuses_an_unknown_zone(
    store: RollupStore, positions: FeedPositions, signing_keys: SigningKeys
) -> None:
    await count(store, [appended("e", question(), answer(tokens=(7, 0, 3, 0)))])
    async with reporting(store, positions, signing_keys, now=NOW) as stub:
        call = stub.WatchReport(pb.WatchReportRequest(), **tenant(signing_keys))
        report = (await call.read()).report
        assert (report.today.turns, report.hour.usage.input_tokens, report.active_users) == (1, 7, 1)
        assert report.latency_ms.p95 == pytest.approx(850, rel=0.01)
        call.cancel()
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.WatchReport(pb.WatchReportRequest(time_zone="Brasília"), **tenant(signing_keys)).read()
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
