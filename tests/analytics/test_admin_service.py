"""AdminService over the wire: letters come back once, a projection built anew is the same, people are forgotten."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest

from prosa.analytics.v1 import admin_service_pb2 as pb
from prosa.analytics.v1 import metrics_service_pb2 as metrics_pb
from prosa.analytics.v1.admin_service_pb2_grpc import AdminServiceStub
from prosa.analytics.v1.metrics_service_pb2_grpc import MetricsServiceStub
from prosa.chat_store.v1 import conversation_service_pb2 as chat_pb
from prosa.chat_store.v1 import feed_service_pb2 as feed_pb
from services.analytics.admin import rebuild
from services.analytics.admin.rebuild import Building, Rebuilding
from services.analytics.intake.feed import Feed
from services.analytics.intake.feed_positions import FeedPositions
from services.analytics.intake.streams import Kind
from services.analytics.intake.wire import entry_bytes, fact_of
from services.analytics.rollups.projection import Projection
from services.analytics.rollups.rollup_store import RollupStore
from shared.errors import error_of
from shared.mongo import MongoDatabase
from shared.steadily import in_background
from tests.analytics.conftest import Redis
from tests.analytics.events import NOON, answer, appended, many_events, question
from tests.analytics.feed_source import FeedSource, feed_stub, served
from tests.analytics.intake_site import Site, caller, kept, until
from tests.house.in_process import serving
from tests.house.signing import SigningKeys


@pytest.fixture
async def site(database: MongoDatabase, redis: Redis) -> Site:
    made = Site(database, redis)
    await made.intake.prepare()
    return made


@pytest.fixture
async def channel(site: Site, signing_keys: SigningKeys) -> AsyncIterator[grpc.aio.Channel]:
    async with serving(site.endpoints(), signing_keys) as opened:
        yield opened


@pytest.fixture
def stub(channel: grpc.aio.Channel) -> Any:
    return AdminServiceStub(channel)


async def cursed(database: MongoDatabase, *conversation_ids: str) -> None:
    """From now on nothing can be stored of these conversations; of none: everything can."""
    await database["facts"].insert_one({"_id": f"x{conversation_ids}", "conversation_id": "x"})
    await database.command("collMod", "facts", validator={"conversation_id": {"$nin": list(conversation_ids)}})


async def bury(site: Site, database: MongoDatabase, stub: Any, keys: SigningKeys, letters: int) -> None:
    """That many executions of acme end as dead letters."""
    await cursed(database, "cursed")
    executions = [
        metrics_pb.Execution(event_id=f"e{n}", conversation_id="cursed", user_id="ana", cost_micros=1)
        for n in range(letters)
    ]
    request = metrics_pb.RecordExecutionRequest(executions=executions)
    await stub.RecordExecution(request, **caller(keys))

    async def all_buried() -> bool:
        return bool(await database["dead_letters"].count_documents({}) == letters)

    async with site.working(worker_claim_idle_seconds=0.05, worker_max_deliveries=2):
        await until(all_buried)


async def test_dead_letters_are_listed_by_pages_and_replayed_exactly_once(
    site: Site, stub: Any, channel: grpc.aio.Channel, database: MongoDatabase, signing_keys: SigningKeys
) -> None:
    await bury(site, database, MetricsServiceStub(channel), signing_keys, 5)
    seen, token = [], ""
    while True:
        page = await stub.ListDeadLetters(
            pb.ListDeadLettersRequest(page_size=2, page_token=token, stream=pb.METRICS_STREAM_EXECUTION),
            **caller(signing_keys),
        )
        seen += page.dead_letters
        token = page.next_page_token
        if not token:
            break
    assert sorted(letter.event_id for letter in seen) == [f"e{n}" for n in range(5)]
    assert all("validation" in letter.reason and letter.deliveries == 2 for letter in seen)
    sessions = pb.ListDeadLettersRequest(stream=pb.METRICS_STREAM_SESSION)
    assert not (await stub.ListDeadLetters(sessions, **caller(signing_keys))).dead_letters
    ids = [letter.dead_letter_id for letter in seen]
    others = await stub.ReplayDeadLetters(
        pb.ReplayDeadLettersRequest(dead_letter_ids=ids), **caller(signing_keys, "beta")
    )
    assert others.replayed == 0

    await cursed(database)
    request = pb.ReplayDeadLettersRequest(all=True)
    async with site.working():
        replies = await asyncio.gather(*(stub.ReplayDeadLetters(request, **caller(signing_keys)) for _ in range(3)))
        assert sum(reply.replayed for reply in replies) == 5
        await until(lambda: _turns(database, 5))
        await asyncio.sleep(0.1)
    assert await _turns(database, 5)
    assert await database["dead_letters"].count_documents({}) == 0
    assert await database["inbox"].count_documents({}) == 0


async def test_a_letter_that_fails_again_is_a_letter_again(
    site: Site, stub: Any, channel: grpc.aio.Channel, database: MongoDatabase, signing_keys: SigningKeys
) -> None:
    await bury(site, database, MetricsServiceStub(channel), signing_keys, 1)
    (letter,) = (await stub.ListDeadLetters(pb.ListDeadLettersRequest(), **caller(signing_keys))).dead_letters
    request = pb.ReplayDeadLettersRequest(dead_letter_ids=[letter.dead_letter_id])
    assert (await stub.ReplayDeadLetters(request, **caller(signing_keys))).replayed == 1
    assert not (await stub.ListDeadLetters(pb.ListDeadLettersRequest(), **caller(signing_keys))).dead_letters

    async def buried() -> bool:
        return bool(await database["dead_letters"].count_documents({}))

    async with site.working(worker_claim_idle_seconds=0.05, worker_max_deliveries=2):
        await until(buried)
    assert not await _turns(database, 1)


async def _turns(database: MongoDatabase, turns: int) -> bool:
    document = await database["series"].find_one({"_id.axis": "total", "_id.step": "day"})
    return bool(document and document.get("turns") == turns)


def history() -> list[feed_pb.Event]:
    """Turns out of order and one a month late, feedback that changes, and a conversation that is finalized."""
    events = many_events(300)
    for number, event in enumerate(events):
        event.conversation_id = f"c{number % 20}"
        for message in event.messages_appended.messages:
            message.latency_ms = 100 + number * 37
    rated = [
        _rated(f"r{number}", rating, revision) for number, (rating, revision) in enumerate([(1, 2), (5, 3), (4, 1)])
    ]
    late = appended("late", question(), answer(at=NOON - timedelta(days=33)), conversation_id="c3")
    final = feed_pb.Event(event_id="final", tenant_id="acme", conversation_id="c5")
    final.conversation_changed.conversation.finalize_time.FromDatetime(NOON)
    return [*events[150:], *rated, late, final, *events[:150]]


def _rated(event_id: str, rating: int, revision: int) -> feed_pb.Event:
    event = feed_pb.Event(event_id=event_id, tenant_id="acme", conversation_id="c1")
    message = answer()
    message.message_id, message.revision = "m", revision
    message.feedback.CopyFrom(chat_pb.Feedback(rating=rating, comment="segredo", user_id="ana"))
    event.message_changed.message.CopyFrom(message)
    return event


async def test_a_projection_that_is_built_anew_is_identical_and_reports_never_stop(
    database: MongoDatabase, redis: Redis, signing_keys: SigningKeys
) -> None:
    source = FeedSource(history())
    outside = metrics_pb.RecordExecutionRequest(
        executions=[metrics_pb.Execution(event_id=f"o{n}", user_id="zoe", cost_micros=2) for n in range(40)]
    )
    async with served([source.endpoint()], signing_keys) as port, feed_stub(port, signing_keys) as feed_source:
        site = Site(database, redis, source=feed_source)
        positions = FeedPositions(database, site.projection)
        feed = Feed(
            feed_source,
            site.intake.streams,
            site.intake.turns,
            positions,
            holder="one",
            checkpoint_seconds=0.02,
            lease_seconds=2,
        )
        async with (
            serving(site.endpoints(), signing_keys) as channel,
            site.working(session_sweep_seconds=0.1),
            in_background(feed.run()),
        ):
            await MetricsServiceStub(channel).RecordExecution(outside, **caller(signing_keys))
            await until(lambda: _reached(positions, 305))
            await until(lambda: _closed(database, ""))
            before = await kept(database)

            progress = [each async for each in _rebuilt(channel, signing_keys)]
            assert (progress[-1].state, progress[-1].generation) == (pb.REBUILD_STATE_DONE, 1)
            assert (progress[-1].events_read, progress[-1].facts_taken_over) == (305, 40)
            after = await kept(database, "_1")
            assert after == before
            assert not await kept(database)  # the old one is gone

            # and it goes on from there, by its own position
            await source.happen(appended("new", answer(cost_micros=11)))
            await until(lambda: _reached(positions, 306))
        assert (await database["facts_1"].find_one({"_id": "new"})) is not None
    total = await database["series_1"].find_one(
        {"_id.tenant_id": "acme", "_id.axis": "total", "_id.step": "hour", "_id.start": NOON}
    )
    assert (total["ratings"], total["rating_5"]) == (1, 1)


async def _rebuilt(channel: grpc.aio.Channel, keys: SigningKeys, **fields: Any) -> AsyncIterator[pb.RebuildProgress]:
    stub: Any = AdminServiceStub(channel)
    async for progress in stub.RebuildProjection(pb.RebuildProjectionRequest(**fields), **caller(keys, "")):
        yield progress


async def _reached(positions: FeedPositions, place: int) -> bool:
    return (await positions.read()).token == f"at-{place}"


async def _closed(database: MongoDatabase, generation: str) -> bool:
    return not await database["sessions" + generation].count_documents({"open": True})


async def test_a_rebuild_that_would_lose_figures_is_refused_and_changes_nothing(
    site: Site, channel: grpc.aio.Channel, database: MongoDatabase, signing_keys: SigningKeys
) -> None:
    old = metrics_pb.Execution(event_id="old", cost_micros=5)
    old.create_time.FromDatetime(datetime.now(UTC) - timedelta(days=10))
    fresh = metrics_pb.Execution(event_id="fresh", cost_micros=2)
    stub: Any = AdminServiceStub(channel)
    async with site.working():
        request = metrics_pb.RecordExecutionRequest(executions=[old, fresh])
        await MetricsServiceStub(channel).RecordExecution(request, **caller(signing_keys))
        await until(lambda: _facts(database, 2))
    await stub.SetRetention(pb.SetRetentionRequest(retention=pb.Retention(facts_days=7)), **caller(signing_keys))
    assert (await stub.GetRetention(pb.GetRetentionRequest(), **caller(signing_keys))).facts_days == 7
    assert (await stub.GetRetention(pb.GetRetentionRequest(), **caller(signing_keys, "beta"))).facts_days == 0
    figures = await kept(database)
    assert await site.retentions.clean() == 1
    assert await kept(database) == figures  # facts go, figures stay
    emptied = await database["facts"].find_one({"_id": "outside:acme:old"})
    assert emptied == {"_id": "outside:acme:old", "tenant_id": "acme", "emptied": True}

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        [each async for each in _rebuilt(channel, signing_keys)]
    assert error_of(refused.value).reason == "REBUILD_WOULD_LOSE"
    assert await kept(database) == figures
    (*_, done) = [each async for each in _rebuilt(channel, signing_keys, accept_loss=True)]
    assert (done.facts_lost, done.facts_taken_over) == (1, 1)


async def test_of_two_rebuilds_at_once_one_is_refused(
    site: Site, channel: grpc.aio.Channel, signing_keys: SigningKeys
) -> None:
    async def rebuild() -> str:
        try:
            [each async for each in _rebuilt(channel, signing_keys)]
        except grpc.aio.AioRpcError as refused:
            return error_of(refused).reason
        return "done"

    assert sorted(await asyncio.gather(rebuild(), rebuild())) == ["REBUILD_RUNNING", "done"]


async def test_a_rebuild_that_takes_longer_than_its_lease_stays_the_only_one(
    channel: grpc.aio.Channel, database: MongoDatabase, signing_keys: SigningKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    close_sessions, under_way, may_end = Building.close_sessions, asyncio.Event(), asyncio.Event()

    async def slow(building: Building, before: datetime) -> None:
        under_way.set()
        await may_end.wait()
        await close_sessions(building, before)

    monkeypatch.setattr(Building, "close_sessions", slow)
    monkeypatch.setattr(rebuild, "LEASE_SECONDS", 12.0)
    first = asyncio.create_task(_all(_rebuilt(channel, signing_keys)))
    await under_way.wait()
    begun_with = await _lease_end(database)
    await until(lambda: _lease_goes_on(database, begun_with))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await _all(_rebuilt(channel, signing_keys))
    assert error_of(refused.value).reason == "REBUILD_RUNNING"
    may_end.set()
    assert (await first)[-1].state == pb.REBUILD_STATE_DONE


async def _lease_end(database: MongoDatabase) -> datetime:
    (lease,) = [each async for each in database["feed_positions"].find({"_id": "rebuild"})]
    end: datetime = lease["lease_until"]
    return end


async def _lease_goes_on(database: MongoDatabase, end: datetime) -> bool:
    return await _lease_end(database) > end + timedelta(seconds=1)


async def test_a_rebuild_that_ends_right_after_the_switch_loses_nothing_counted_meanwhile(
    database: MongoDatabase, redis: Redis
) -> None:
    """What was counted in the old projection in the second before everybody noticed is taken over later."""
    await Site(database, redis).intake.prepare()
    endless = Rebuilding(database, Projection(database), None, settled_seconds=3600)
    listening = asyncio.create_task(_all(endless.run(accept_loss=False)))
    await until(lambda: _in_force(database, 1))
    late = fact_of(appended("late", answer(cost_micros=7)).SerializeToString())._replace(outside=True)
    await RollupStore(database, Projection(database, pinned=0)).commit([late])
    listening.cancel()
    await asyncio.wait([listening])

    await asyncio.gather(endless.finish_broken_off(), endless.finish_broken_off())
    assert await database["facts_1"].find_one({"_id": "late"})
    assert sum([each["cost_micros"] async for each in database["rollups_1"].find()]) == 7
    assert not await kept(database), "the old one is still there"
    await endless.finish_broken_off()
    assert (await Projection(database).current()).number == 1


async def _in_force(database: MongoDatabase, number: int) -> bool:
    return (await Projection(database).current()).number == number


async def _all(progress: AsyncIterator[Any]) -> list[Any]:
    return [each async for each in progress]


async def _facts(database: MongoDatabase, count: int) -> bool:
    return bool(await database["facts"].count_documents({}) >= count)


async def test_a_user_is_forgotten_and_every_sum_stays(
    site: Site, stub: Any, channel: grpc.aio.Channel, database: MongoDatabase, signing_keys: SigningKeys
) -> None:
    await bury(site, database, MetricsServiceStub(channel), signing_keys, 2)
    events = [entry_bytes(event) for event in history()]
    async with site.working(session_sweep_seconds=0.1):
        for event in events:
            kind = Kind.EXECUTION if feed_pb.Event.FromString(event).HasField("messages_appended") else Kind.SESSION
            await site.intake.streams[kind].quick.add([{b"event": event}])
        await until(lambda: _closed(database, ""))
        await until(lambda: _facts(database, 306))
        await asyncio.sleep(0.3)
    sums = await _sums(database)
    receipt = await stub.ForgetUser(pb.ForgetUserRequest(user_id="ana"), **caller(signing_keys))
    assert receipt.facts > 50
    assert receipt.figures > 5
    assert receipt.sessions >= 1
    assert receipt.dead_letters == 2
    assert await _sums(database) == sums
    for name in ("facts", "rollups", "series", "sessions", "statements", "dead_letters"):
        async for document in database[name].find({"$or": [{"tenant_id": "acme"}, {"_id.tenant_id": "acme"}]}):
            assert "'ana'" not in repr(document)
    theirs = {"_id.tenant_id": "beta", "_id.axis": "user", "_id.value": "ana"}
    assert await database["series"].count_documents(theirs)  # another tenant's user of the same id
    again = await stub.ForgetUser(pb.ForgetUserRequest(user_id="ana"), **caller(signing_keys))
    assert (again.facts, again.figures, again.sessions, again.dead_letters) == (0, 0, 0, 0)


async def _sums(database: MongoDatabase) -> dict[str, int]:
    """All that acme's cells and users add up to."""
    sums: dict[str, int] = {}
    for name, query in (("rollups", {"tenant_id": "acme"}), ("series", {"_id.tenant_id": "acme", "_id.axis": "user"})):
        async for document in database[name].find(query):
            for figure, amount in document.items():
                if isinstance(amount, int):
                    sums[f"{name}.{figure}"] = sums.get(f"{name}.{figure}", 0) + amount
    return sums
