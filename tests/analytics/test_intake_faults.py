"""What goes wrong on the way in: killed processes, restarted engines, poison in company, bursts, a tenant too loud."""

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from deploy.local.engine import start
from deploy.local.engines import Mongo
from prosa.analytics.v1 import metrics_service_pb2 as pb
from services.analytics.intake import pipeline
from services.analytics.intake.entries import fields_of
from services.analytics.intake.metrics_wire import wish_item
from services.analytics.intake.pipeline import WISHES_IN_A_BATCH
from services.analytics.intake.streams import Kind
from services.analytics.intake.wire import entry_bytes, fact_of
from services.analytics.rollups.abandoned import end_abandoned
from services.analytics.rollups.commits import committed, inserted
from services.analytics.rollups.rollup_store import RollupStore
from shared import mongo
from shared.mongo import MongoDatabase, MongoDriver, MongoSession, open_mongo, transaction
from shared.redis_streams import Stream
from tests.analytics.conftest import ReadLetters, ReadRollups, Redis, Rollups, stream_for
from tests.analytics.events import answer, appended, many_events, oracle
from tests.analytics.intake_site import Site, until
from tests.analytics.test_worker import DeadlyStore, KilledError, worker_on
from tests.house.ports import own_port
from tests.house.processes import REPOSITORY


def expected(events: Any) -> Rollups:
    sums = oracle(events).items()
    return {key: {name: n for name, n in counts.items() if n} for key, counts in sums if any(counts.values())}


async def send_packed(stream: Stream, events: list[Any], size: int = 100) -> None:
    for first in range(0, len(events), size):
        await stream.add([fields_of([entry_bytes(event) for event in events[first : first + size]])])


async def test_processes_killed_between_commit_and_acknowledgement_count_nothing_twice(
    mongo_url: str, database: MongoDatabase, own_redis_url: str, redis: Redis, rollups: ReadRollups
) -> None:
    """kill -9 of real processes, twice; a third one takes over what they held."""
    events = many_events(700)
    await send_packed(stream_for(redis, "sender"), events)
    for _ in range(2):
        await _killed_worker(mongo_url, database.name, own_redis_url, "behind")
    assert 0 < await database["facts"].count_documents({}) < 700
    site = Site(database, redis)
    async with site.working(worker_claim_idle_seconds=0.1):
        await until(lambda: _done(site))
    assert await rollups() == expected(events)


async def _killed_worker(mongo_url: str, database: str, redis_url: str, where: str) -> None:
    arguments = ("-m", "tests.analytics.dying_worker", mongo_url, database, redis_url, where)
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, cwd=REPOSITORY)
    assert await asyncio.wait_for(process.wait(), 100) == -9


@pytest.mark.parametrize("driver", ["motor", "pymongo"])
async def test_a_process_killed_inside_its_commit_keeps_nobody_waiting(
    mongo_url: str,
    driver: MongoDriver,
    database: MongoDatabase,
    own_redis_url: str,
    redis: Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """MongoDB would keep the dead one's writes from all others for seconds or a minute; one commit tries for less."""
    monkeypatch.setattr(mongo, "PATIENCE_SECONDS", 1.0)
    await RollupStore(database).prepare()  # in collections that a transaction makes itself nobody meets it
    events = many_events(10)
    await send_packed(stream_for(redis, "sender"), events)
    await _killed_worker(mongo_url, database.name, own_redis_url, "inside")
    async with open_mongo(SecretStr(mongo_url), database.name, driver=driver) as opened:
        assert await RollupStore(opened).commit([fact_of(entry_bytes(event)) for event in events]) == 10


async def test_a_commit_that_the_server_ended_is_made_again(database: MongoDatabase) -> None:
    await database.create_collection("notes")
    attempts = 0

    async def write(session: MongoSession) -> int:
        nonlocal attempts
        attempts += 1
        await inserted(database.notes, [{"_id": attempts}], session)
        if attempts == 1:
            await database.client.admin.command({"killSessions": [session.session_id]})
        return attempts

    assert await committed(database, write) == 2
    assert [each["_id"] async for each in database.notes.find({})] == [2]


async def test_a_commit_that_takes_its_time_is_not_taken_for_abandoned(database: MongoDatabase) -> None:
    async with transaction(database) as session:
        await database["facts"].insert_one({"_id": "slow"}, session=session)
        await asyncio.sleep(0.1)
        assert await end_abandoned(database) == 0
    assert await RollupStore(database).settled(["slow"]) == {"slow"}


async def _done(site: Site) -> bool:
    return await site.intake.streams[Kind.EXECUTION].length() == 0


async def test_a_killer_among_many_in_one_entry_is_buried_and_takes_nobody_along(
    database: MongoDatabase, redis: Redis, rollups: ReadRollups, letters: ReadLetters
) -> None:
    good = many_events(60)
    company = [entry_bytes(event) for event in [*good[:25], appended("killer", answer()), *good[25:]]]
    company.insert(40, b"\xff\xff\xff")
    await stream_for(redis, "sender").add([fields_of(company)])
    deadly, deaths = DeadlyStore(database), 0
    for life in range(20):
        stream = stream_for(redis, f"life-{life}")
        try:
            worker = worker_on(stream, deadly, claim_idle_seconds=0.01)
            await worker.step()
            await worker.rescue()
        except KilledError:
            deaths += 1
        await asyncio.sleep(0.02)
        if not await stream.length():
            break
    assert deaths == 5
    assert sorted(letter["reason"] for letter in await letters()) == ["not done after 5 deliveries", "undecodable"]
    assert await rollups() == expected(good)


async def test_a_tenant_a_hundred_times_larger_keeps_nobody_waiting(database: MongoDatabase, redis: Redis) -> None:
    """What others send while its backlog is worked off is counted before most of that backlog is."""
    site = Site(database, redis)
    await site.intake.prepare()
    inbox, lanes = site.intake.inbox, site.intake.streams[Kind.EXECUTION]
    for batch in range(60):
        items = [_execution(f"large-{batch}-{number}") for number in range(500)]
        await inbox.accept(Kind.EXECUTION, "large", items)
    assert await lanes.slow.length() == 60
    async with site.working(worker_batch_size=2):
        for number in range(10):
            await inbox.accept(Kind.EXECUTION, f"small-{number}", [_execution("one")])

        async def all_small() -> bool:
            found = {"_id": {"$in": [f"outside:small-{number}:one" for number in range(10)]}}
            return bool(await database["facts"].count_documents(found) == 10)

        await until(all_small)
        assert await lanes.slow.length() > 30


def _execution(event_id: str) -> bytes:
    made = pb.Execution(event_id=event_id, cost_micros=1)
    made.create_time.GetCurrentTime()
    return made.SerializeToString()


async def test_one_process_leaves_most_of_many_wishes_to_the_others(database: MongoDatabase, redis: Redis) -> None:
    never = asyncio.Event()
    site = Site(database, redis, fulfil=lambda _: never.wait())
    stream = site.intake.streams[Kind.CLASSIFICATION].quick
    await stream.add([fields_of([wish_item(f"w{number}", "c")], tenant_id="acme") for number in range(100)])

    async def in_hand() -> int:
        return len(await stream.stuck(0, 1000))

    async def some() -> bool:
        return await in_hand() >= 2 * WISHES_IN_A_BATCH

    async with site.working():
        await until(some)
        await asyncio.sleep(0.1)
        assert await in_hand() == 2 * WISHES_IN_A_BATCH


async def test_a_beginning_that_hangs_is_begun_again(
    database: MongoDatabase, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(database, redis)
    prepare, begun = site.intake.inbox.prepare, []

    async def hanging_at_first() -> None:
        begun.append(1)
        await (prepare() if len(begun) > 1 else asyncio.Event().wait())

    monkeypatch.setattr(site.intake.inbox, "prepare", hanging_at_first)
    monkeypatch.setattr(pipeline, "PREPARE_SECONDS", 2.0)
    await site.intake.inbox.accept(Kind.EXECUTION, "acme", [_execution("one")])

    async def counted() -> bool:
        return bool(await database["facts"].count_documents({"_id": "outside:acme:one"}))

    async with site.working():
        await until(counted, 60)
    assert len(begun) > 1


async def test_a_burst_ten_times_the_usual_is_counted_whole(
    database: MongoDatabase, redis: Redis, rollups: ReadRollups
) -> None:
    events = many_events(4000)
    site = Site(database, redis)
    async with site.working():
        await send_packed(stream_for(redis, "sender"), events[:400])
        await send_packed(stream_for(redis, "sender"), events[400:])
        await until(lambda: _done(site), 60)
    assert await rollups() == expected(events)


@pytest.mark.long
async def test_a_mongodb_that_restarts_while_events_are_counted_loses_none_and_counts_none_twice(
    tmp_path: Path, redis: Redis
) -> None:
    """kill -9 of mongod, twice, on the same files; workers wait for it and go on."""
    events = many_events(6000)
    engine = Mongo(tmp_path / "mongo", own_port())
    running = start(engine)
    try:
        async with open_mongo(SecretStr(engine.url()), "restarted", timeout_ms=3000) as database:
            site = Site(database, redis)
            async with site.working(worker_claim_idle_seconds=1.0):
                for part in range(3):
                    await send_packed(stream_for(redis, "sender"), events[part * 2000 : (part + 1) * 2000])
                    await until(lambda: _some(site), 30)
                    if part < 2:
                        running.kill()
                        running.wait(10)
                        await asyncio.sleep(0.5)
                        running = start(engine)
                await until(lambda: _done(site), 60)
            sums = 0
            async for cell in database["rollups"].find():
                sums += cell.get("cost_micros", 0)
            assert sums == sum(counts["cost_micros"] for counts in oracle(events).values())
            assert await RollupStore(database).settled([event.event_id for event in events]) == {
                event.event_id for event in events
            }
    finally:
        running.stop(5)


async def _some(site: Site) -> bool:
    return await site.intake.streams[Kind.EXECUTION].length() < 20
