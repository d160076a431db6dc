"""The worker on real engines: whatever is sent twice, lost half-way or poisoned, the sums are right."""

import asyncio
import random
from collections.abc import Sequence

import pytest
from bson import Int64
from pydantic import SecretStr

from prosa.chat_store.v1 import feed_service_pb2 as feed_pb
from services.analytics.intake.entries import EVENT, fields_of
from services.analytics.intake.wire import entry_bytes
from services.analytics.intake.worker import Worker
from services.analytics.intake.works import Turns
from services.analytics.model import Fact
from services.analytics.rollups.rollup_store import RollupStore
from shared.errors import Unavailable
from shared.mongo import MongoDatabase, MongoDriver, open_mongo
from shared.redis_streams import Stream
from tests.analytics.conftest import ReadLetters, ReadRollups, Redis, Rollups, desk_on, stream_for
from tests.analytics.events import answer, appended, many_events, oracle, question
from tests.house.pending import aged
from tests.house.waiting import until, until_answered


class KilledError(BaseException):
    """Stands for kill -9: nothing catches it."""


class DyingStream(Stream):
    """Dies where the acknowledgement should go out."""

    async def done(self, entries: object) -> None:
        raise KilledError


class DeadlyStore(RollupStore):
    """One event kills whoever touches it."""

    async def commit(self, facts: Sequence[Fact]) -> int:
        if any(fact.event_id == "killer" for fact in facts):
            raise KilledError
        return await super().commit(facts)


class AbsentStore(RollupStore):
    """Is away until it is told otherwise."""

    def __init__(self, database: MongoDatabase) -> None:
        super().__init__(database)
        self.away = True
        self.tries = 0

    async def commit(self, facts: Sequence[Fact]) -> int:
        self.tries += 1
        if self.away:
            raise Unavailable("away", dependency="mongodb")
        return await super().commit(facts)


class SlowStore(RollupStore):
    """Takes its time, as an analysis does that waits for a language model."""

    def __init__(self, database: MongoDatabase) -> None:
        super().__init__(database)
        self.begun, self.may_end = asyncio.Event(), asyncio.Event()

    async def commit(self, facts: Sequence[Fact]) -> int:
        self.begun.set()
        await self.may_end.wait()
        return await super().commit(facts)


def expected(events: Sequence[feed_pb.Event]) -> Rollups:
    return {
        key: {name: n for name, n in sums.items() if n} for key, sums in oracle(events).items() if any(sums.values())
    }


async def send(stream: Stream, events: Sequence[feed_pb.Event]) -> None:
    await stream.add([{EVENT: entry_bytes(event)} for event in events])


def worker_on(stream: Stream, store: RollupStore, **settings: float) -> Worker[Fact]:
    return Worker(
        stream,
        Turns(store),
        desk_on(store.projection.database, stream._redis),
        batch_size=int(settings.get("batch_size", 200)),
        block_ms=10,
        claim_idle_seconds=settings.get("claim_idle_seconds", 60.0),
        max_deliveries=5,
    )


async def drain(worker: Worker[Fact], stream: Stream) -> None:
    while await stream.length():
        await worker.step()


@pytest.mark.parametrize("driver", ["motor", "pymongo"])
async def test_each_event_is_counted_exactly_once(
    mongo_url: str,
    database: MongoDatabase,
    redis: Redis,
    rollups: ReadRollups,
    letters: ReadLetters,
    driver: MongoDriver,
) -> None:
    """Invariant 8: twice, out of order, a worker killed between commit and acknowledgement, two workers at once."""
    events = many_events(1200)
    sent = [*events, *events[::3], *events[::7]]
    random.Random(2).shuffle(sent)
    async with open_mongo(SecretStr(mongo_url), database.name, driver=driver) as opened:
        store = RollupStore(opened)
        await store.prepare()
        await send(stream_for(redis, "sender"), sent)
        dying = DyingStream(redis, "metrics:execution", group="rollups", consumer="dying")
        with pytest.raises(KilledError):
            await worker_on(dying, store).step()
        assert await rollups() != {}  # it had committed

        await aged(redis, "metrics:execution", "rollups")
        streams = [stream_for(redis, "first"), stream_for(redis, "second")]
        workers = [worker_on(stream, store, batch_size=100, claim_idle_seconds=30) for stream in streams]
        await asyncio.gather(*(drain(worker, stream) for worker, stream in zip(workers, streams, strict=True)))

    assert await rollups() == expected(events)
    assert await letters() == []
    assert (await redis.xpending("metrics:execution", "rollups"))["pending"] == 0


async def test_a_batch_commits_whole_or_not_at_all(
    database: MongoDatabase, store: RollupStore, stream: Stream, rollups: ReadRollups
) -> None:
    await database.command("collMod", "rollups", validator={"cost_micros": {"$lt": 1000}})
    await send(stream, [appended("small", answer(cost_micros=1), tenant_id="a")])
    await send(stream, [appended("large", answer(cost_micros=5000), tenant_id="b")])
    await worker_on(stream, store).step()
    assert await store.settled(["small", "large"]) == {"small"}
    assert [key[0] for key in await rollups()] == ["a"]


async def test_an_entry_that_always_fails_is_buried_after_five_deliveries_and_delays_nobody(
    database: MongoDatabase,
    store: RollupStore,
    stream: Stream,
    redis: Redis,
    letters: ReadLetters,
    rollups: ReadRollups,
) -> None:
    await database["facts"].insert_one({"_id": "x", "conversation_id": "x"})
    await database.command("collMod", "facts", validator={"conversation_id": {"$ne": "cursed"}})
    good = many_events(50)
    poison = appended("poison", answer(), conversation_id="cursed")
    await send(stream, [*good[:25], poison, *good[25:]])
    worker = worker_on(stream, store)

    await worker.step()
    assert await rollups() == expected(good)  # at once, in spite of the poison
    assert await stream.length() == 1

    for _ in range(4):
        assert await letters() == []
        await aged(redis, "metrics:execution", "rollups")
        await worker.rescue()
    (letter,) = await letters()
    assert letter["item"].encode("latin-1") == entry_bytes(poison)
    assert letter["deliveries"] == 5
    assert "fail" in letter["reason"].lower()
    assert await stream.length() == 0
    assert await store.settled(["poison"]) == {"poison"}  # the feed may go past it
    assert await rollups() == expected(good)


async def test_an_entry_that_kills_its_worker_is_buried_and_takes_nobody_along(
    database: MongoDatabase, store: RollupStore, redis: Redis, rollups: ReadRollups, letters: ReadLetters
) -> None:
    good = many_events(30)
    await send(stream_for(redis, "sender"), [*good[:10], appended("killer", answer()), *good[10:]])
    deadly = DeadlyStore(database)
    deaths = 0
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
    (letter,) = await letters()
    assert letter["reason"] == "not done after 5 deliveries"
    assert await rollups() == expected(good)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({EVENT: b"\xff\xff\xff"}, "undecodable"),
        ({b"other": b"field"}, "no event_id"),
        ({EVENT: appended("", answer()).SerializeToString()}, "no event_id"),
        ({EVENT: appended("e", answer(), tenant_id="").SerializeToString()}, "no tenant_id"),
        ({EVENT: appended("e", answer(tokens=(-1, 0, 0, 0))).SerializeToString()}, "an amount of -1"),
        ({EVENT: appended("e", answer(cost_micros=2**62)).SerializeToString()}, f"an amount of {2**62}"),
        ({EVENT: appended("e", answer(type=99)).SerializeToString()}, "a message of unknown type or status"),  # type: ignore[arg-type]
        ({EVENT: feed_pb.Event(event_id="e", tenant_id="t").SerializeToString()}, "nothing to count"),
    ],
)
async def test_what_can_never_be_counted_is_buried_at_once_with_its_bytes(
    store: RollupStore,
    stream: Stream,
    letters: ReadLetters,
    rollups: ReadRollups,
    entry: dict[bytes, bytes],
    reason: str,
) -> None:
    good = many_events(20)
    await send(stream, good[:10])
    await stream.add([entry])
    await send(stream, good[10:])
    await worker_on(stream, store).step()
    (letter,) = await letters()
    assert letter["reason"] == reason
    assert letter["item"].encode("latin-1") == entry.get(EVENT, b"")
    assert await stream.length() == 0
    assert await rollups() == expected(good)


async def test_while_the_store_is_away_nothing_is_acknowledged_and_then_everything_is_counted(
    database: MongoDatabase, store: RollupStore, stream: Stream, redis: Redis, rollups: ReadRollups
) -> None:
    events = many_events(40)
    await send(stream, events)
    absent = AbsentStore(database)
    working = asyncio.create_task(worker_on(stream, absent).step())
    await until(lambda: absent.tries >= 3)
    assert (await redis.xpending("metrics:execution", "rollups"))["pending"] == 40
    absent.away = False
    await working
    assert await rollups() == expected(events)
    assert await stream.length() == 0


async def test_the_stream_carries_nobodys_words(stream: Stream, redis: Redis) -> None:
    asked = question(text="meu CPF é 123")
    asked.parts.add(text="e o meu RG é 456")
    await send(stream, [appended("e", asked, answer())])
    ((_, fields),) = await redis.xrange("metrics:execution")
    assert b"CPF" not in fields[EVENT]
    assert b"RG" not in fields[EVENT]
    assert "março".encode() not in fields[EVENT]


async def test_facts_keep_what_later_reports_need_and_no_words(
    database: MongoDatabase, store: RollupStore, stream: Stream
) -> None:
    await send(stream, [appended("e", question(), answer())])
    await worker_on(stream, store).step()
    fact = await database["facts"].find_one({"_id": "e"})
    asked, answered = fact["messages"]
    assert (fact["tenant_id"], fact["conversation_id"], fact["channel"]) == ("acme", "c", "web")
    assert (asked["speaker"], answered["speaker"], answered["latency_ms"]) == ("user", "assistant", 850)
    assert "IPTU" not in repr(fact)


async def test_sums_larger_than_32_bits_are_exact(store: RollupStore, stream: Stream, database: MongoDatabase) -> None:
    large = (10**12, 0, 0, 0)
    await send(stream, [appended(f"e{n}", answer(tokens=large)) for n in range(5)])
    await worker_on(stream, store).step()
    rollup = await database["rollups"].find_one()
    assert rollup["input_tokens"] == Int64(5 * 10**12)


async def test_what_takes_longer_than_a_dead_worker_is_waited_for_is_taken_over_by_nobody(
    database: MongoDatabase, redis: Redis, rollups: ReadRollups
) -> None:
    events = many_events(20)
    await send(stream_for(redis, "sender"), events)
    store, other = SlowStore(database), stream_for(redis, "other")
    slow = worker_on(stream_for(redis, "slow"), store, claim_idle_seconds=3.0)
    steps = asyncio.create_task(drain(slow, other))
    await store.begun.wait()

    async def nobody_seems_dead() -> bool:
        return not await other.stuck(3.0, 100)

    for _ in range(2):
        await aged(redis, "metrics:execution", "rollups")
        assert not await nobody_seems_dead()
        await until_answered(nobody_seems_dead)
    store.may_end.set()
    await steps
    assert await other.length() == 0
    assert await rollups() == expected(events)


async def test_one_worker_holds_no_more_than_the_next_commit(store: RollupStore, stream: Stream, redis: Redis) -> None:
    """What a killed one holds waits until somebody takes it over: of a long backlog that must be little."""
    events = [appended(f"e{number}", answer()) for number in range(1000)]
    packed = fields_of([entry_bytes(event) for event in events])
    for _ in range(30):
        await stream.add([packed])
    await worker_on(stream, store).step()
    assert await stream.length() == 20
    assert (await redis.xpending("metrics:execution", "rollups"))["pending"] == 10


async def test_a_stopped_worker_finishes_its_batch_and_leaves_the_group(
    store: RollupStore, stream: Stream, redis: Redis, rollups: ReadRollups
) -> None:
    events = many_events(300)
    await send(stream, events)
    worker = worker_on(stream, store)
    running = asyncio.create_task(worker.run())
    while await stream.length():  # noqa: ASYNC110 Redis tells nobody
        await asyncio.sleep(0.01)
    worker.stop()
    await asyncio.wait_for(running, 30)
    assert await rollups() == expected(events)
    assert await redis.xinfo_consumers("metrics:execution", "rollups") == []
