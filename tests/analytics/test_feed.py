"""The feed's follower: what Redis, chat_store or another replica do to it, nothing is missing and nothing twice."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime, timedelta

import pytest

from prosa.chat_store.v1 import feed_service_pb2 as feed_pb
from services.analytics.intake.entries import items_of
from services.analytics.intake.feed import Feed
from services.analytics.intake.feed_positions import FeedPositions
from services.analytics.intake.streams import Kind, open_lanes
from services.analytics.intake.worker import Worker
from services.analytics.intake.works import Turns
from services.analytics.model import Position
from services.analytics.rollups.rollup_store import RollupStore
from tests.analytics.conftest import ReadLetters, ReadRollups, Redis, Rollups, desk_on
from tests.analytics.events import NOON, answer, appended, many_events, oracle
from tests.analytics.feed_source import FeedSource, feed_stub, served
from tests.house.signing import SigningKeys

Following = Callable[..., Awaitable[Feed]]

# Longer than a busy machine halts, and short enough to wait for where it could not be given back.
LEASE_SECONDS = 6.0


class Pipeline:
    """A follower and a worker, running, that can be taken down and put up again."""

    def __init__(self, port: int, keys: SigningKeys, redis: Redis, store: RollupStore, positions: FeedPositions):
        self.port, self.keys, self.redis, self.store, self.positions = port, keys, redis, store, positions

    @asynccontextmanager
    async def feed(self, holder: str = "one", **settings: float) -> AsyncIterator[asyncio.Task[None]]:
        async with feed_stub(self.port, self.keys) as stub:
            feed = Feed(
                stub,
                {kind: open_lanes(self.redis, "metrics", kind, holder) for kind in Kind},
                self.store,
                self.positions,
                holder=holder,
                batch_size=50,
                max_in_flight=int(settings.get("max_in_flight", 10_000)),
                checkpoint_seconds=0.02,
                lease_seconds=LEASE_SECONDS,
            )
            task = asyncio.create_task(feed.run())
            try:
                yield task
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    @asynccontextmanager
    async def worker(self, name: str = "worker") -> AsyncIterator[None]:
        lanes = open_lanes(self.redis, "metrics", Kind.EXECUTION, name)
        desk = desk_on(self.store.projection.database, self.redis)
        workers = [
            Worker(lane, Turns(self.store), desk, batch_size=100, block_ms=20, claim_idle_seconds=0.3)
            for lane in (lanes.quick, lanes.slow)
        ]
        tasks = [asyncio.create_task(worker.run()) for worker in workers]
        try:
            yield
        finally:
            for worker in workers:
                worker.stop()
            await asyncio.wait_for(asyncio.gather(*tasks), 60)


@pytest.fixture
async def source(signing_keys: SigningKeys) -> FeedSource:
    return FeedSource()


@pytest.fixture
async def pipeline(
    source: FeedSource, signing_keys: SigningKeys, redis: Redis, store: RollupStore, positions: FeedPositions
) -> AsyncIterator[Pipeline]:
    async with served([source.endpoint()], signing_keys) as port:
        yield Pipeline(port, signing_keys, redis, store, positions)


def expected(events: list[feed_pb.Event]) -> Rollups:
    sums = oracle(events).items()
    return {key: {name: n for name, n in counts.items() if n} for key, counts in sums if any(counts.values())}


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 60.0) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 the engines tell nobody
            await asyncio.sleep(0.02)


async def kept_all(positions: FeedPositions, events: int) -> None:
    """Returns when the kept position is behind that many events."""

    async def caught_up() -> bool:
        return (await positions.read()).token == f"at-{events}"

    await until(caught_up)


async def test_history_and_what_follows_live_are_counted(
    pipeline: Pipeline, source: FeedSource, rollups: ReadRollups, positions: FeedPositions
) -> None:
    events = many_events(400)
    await source.happen(*events[:300])
    async with pipeline.feed(), pipeline.worker():
        await kept_all(positions, 300)
        await source.happen(*events[300:])
        await kept_all(positions, 400)
    assert await rollups() == expected(events)


async def test_a_chat_store_that_tells_one_event_a_message_is_followed_too(
    pipeline: Pipeline, source: FeedSource, rollups: ReadRollups, positions: FeedPositions
) -> None:
    events = many_events(200)
    source.most = 1
    await source.happen(*events)
    async with pipeline.feed(), pipeline.worker():
        await kept_all(positions, 200)
    assert await rollups() == expected(events)


async def test_a_new_process_goes_on_where_commits_ended(
    pipeline: Pipeline, source: FeedSource, rollups: ReadRollups, positions: FeedPositions
) -> None:
    events = many_events(300)
    await source.happen(*events[:200])
    async with pipeline.feed(), pipeline.worker():
        await kept_all(positions, 200)
    async with pipeline.feed("two"), pipeline.worker():
        await source.happen(*events[200:])
        await kept_all(positions, 300)
    assert source.requests == ["", "at-200"]
    assert await rollups() == expected(events)


async def test_what_is_in_the_stream_but_not_counted_is_never_passed(
    pipeline: Pipeline, source: FeedSource, redis: Redis, positions: FeedPositions
) -> None:
    await source.happen(*many_events(50))
    async with pipeline.feed():
        await until(lambda: _has_items(redis, 50))
        await asyncio.sleep(0.2)
        assert (await positions.read()).token == ""


@pytest.mark.parametrize("when", ["before the worker came", "while the worker works", "again and again"])
async def test_redis_that_loses_everything_loses_no_event(
    pipeline: Pipeline,
    source: FeedSource,
    redis: Redis,
    rollups: ReadRollups,
    positions: FeedPositions,
    when: str,
) -> None:
    """Invariant 8 under FLUSHALL: what had not been counted comes again from the feed."""
    events = many_events(600)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(pipeline.feed())
        if when == "before the worker came":
            await source.happen(*events)
            await until(lambda: _has_items(redis, 600))
            await redis.flushdb()
        await stack.enter_async_context(pipeline.worker())
        if when != "before the worker came":
            for first in range(0, 600, 100):
                await source.happen(*events[first : first + 100])
                await asyncio.sleep(0.03)
                if when == "again and again" or first == 300:
                    await redis.flushdb()
        await kept_all(positions, 600)
    assert await rollups() == expected(events)


async def test_single_entries_lost_by_redis_come_again(
    pipeline: Pipeline, source: FeedSource, redis: Redis, rollups: ReadRollups, positions: FeedPositions
) -> None:
    """What a Redis killed between two fsyncs loses is the newest entries, while the group and the rest are there."""
    events = many_events(100)
    async with pipeline.feed():
        await source.happen(*events)
        await until(lambda: _has_items(redis, 100))
        newest = await redis.xrevrange("metrics:execution", count=1)
        await redis.xdel("metrics:execution", *[entry_id for entry_id, _ in newest])
        async with pipeline.worker():
            await kept_all(positions, 100)
    assert await rollups() == expected(events)


async def test_a_feed_that_breaks_off_is_taken_up_behind_the_last_event(
    pipeline: Pipeline, source: FeedSource, rollups: ReadRollups, positions: FeedPositions
) -> None:
    events = many_events(200)
    source.break_off_after = 70
    await source.happen(*events)
    async with pipeline.feed(), pipeline.worker():
        await kept_all(positions, 200)
    assert source.requests[:3] == ["", "at-70", "at-140"]
    assert await rollups() == expected(events)


async def test_while_chat_store_is_away_the_feed_waits_for_it(
    signing_keys: SigningKeys, redis: Redis, store: RollupStore, positions: FeedPositions, rollups: ReadRollups
) -> None:
    events = many_events(100)
    source = FeedSource(events[:50])
    async with served([source.endpoint()], signing_keys) as port:
        pipeline = Pipeline(port, signing_keys, redis, store, positions)
        feed = pipeline.feed()
        await feed.__aenter__()
        async with pipeline.worker():
            await kept_all(positions, 50)
    await asyncio.sleep(0.3)
    await source.happen(*events[50:])
    async with served([source.endpoint()], signing_keys, port), pipeline.worker():
        await kept_all(positions, 100)
        await feed.__aexit__(None, None, None)
    assert await rollups() == expected(events)


async def test_a_token_the_feed_does_not_know_leads_back_to_the_beginning(
    pipeline: Pipeline, source: FeedSource, rollups: ReadRollups, positions: FeedPositions
) -> None:
    """chat_store was moved to another engine: everything comes again, and is known."""
    events = many_events(120)
    await source.happen(*events)
    assert await positions.acquire("before", 1)
    await positions.keep("before", Position("of another store"), 1)
    await positions.release("before")
    async with pipeline.feed(), pipeline.worker():
        await kept_all(positions, 120)
    assert source.requests[:2] == ["of another store", ""]
    assert await rollups() == expected(events)


async def test_one_poisoned_event_does_not_stop_the_feed(
    pipeline: Pipeline, source: FeedSource, letters: ReadLetters, rollups: ReadRollups, positions: FeedPositions
) -> None:
    good = many_events(60)
    nameless = appended("", answer())
    await source.happen(*good[:20], appended("bad", answer(cost_micros=-1)), nameless, *good[20:])
    async with pipeline.feed(max_in_flight=10), pipeline.worker():
        await kept_all(positions, 62)
    assert len(await letters()) == 2
    assert await rollups() == expected(good)


async def test_no_more_events_than_allowed_are_on_their_way(
    pipeline: Pipeline, source: FeedSource, redis: Redis, positions: FeedPositions
) -> None:
    await source.happen(*many_events(500))
    async with pipeline.feed(max_in_flight=100):
        await until(lambda: _has_items(redis, 100))
        await asyncio.sleep(0.2)
        assert await _items_under_way(redis) <= 100 + 50
        async with pipeline.worker():
            await kept_all(positions, 500)


async def test_of_several_replicas_one_follows_the_feed_and_another_takes_over(
    pipeline: Pipeline, source: FeedSource, rollups: ReadRollups, positions: FeedPositions
) -> None:
    events = many_events(200)
    await source.happen(*events[:100])
    async with pipeline.worker():
        async with pipeline.feed("one"):
            await kept_all(positions, 100)
            second = pipeline.feed("two")
            await second.__aenter__()
            await asyncio.sleep(0.5)
            assert source.requests == [""]
        await source.happen(*events[100:])
        await kept_all(positions, 200)
        await second.__aexit__(None, None, None)
    assert source.requests == ["", "at-100"]
    assert await rollups() == expected(events)


async def test_a_lease_is_taken_over_only_after_its_end(positions: FeedPositions) -> None:
    assert await positions.acquire("one", 60)
    assert not await positions.acquire("two", 60)
    assert await positions.keep("one", Position("t1", NOON), 0.3)
    await until(lambda: positions.acquire("two", 60))
    assert not await positions.keep("one", Position("t2"), 60)
    assert await positions.read() == Position("t1", NOON)


async def test_freshness_is_claimed_only_when_history_has_been_told(
    pipeline: Pipeline, source: FeedSource, positions: FeedPositions
) -> None:
    """History comes by conversation, not by time: its newest event may be its first."""
    await source.happen(*many_events(30))
    source.break_off_after = 20
    async with pipeline.feed(), pipeline.worker():
        while (position := await positions.read()).token != "at-30":
            assert position.counted_until is None
            await asyncio.sleep(0.005)
        await until(lambda: _counted_until(positions, NOON))
    assert source.requests == ["", "at-20"]


async def test_freshness_advances_while_nothing_happens(
    pipeline: Pipeline, source: FeedSource, positions: FeedPositions
) -> None:
    async with pipeline.feed(), pipeline.worker():
        await until(lambda: _counted_until(positions, NOON))
        await source.rest_until(NOON + timedelta(minutes=10))
        await until(lambda: _counted_until(positions, NOON + timedelta(minutes=10)))


async def test_freshness_does_not_pass_what_is_not_counted_yet(
    pipeline: Pipeline, source: FeedSource, redis: Redis, positions: FeedPositions
) -> None:
    later = NOON + timedelta(days=1)
    async with pipeline.feed():
        await until(lambda: _counted_until(positions, NOON))
        await source.happen(*many_events(10))
        await until(lambda: _has_items(redis, 10))
        await source.rest_until(later)
        await asyncio.sleep(0.2)
        assert await _counted_until(positions, NOON)
        async with pipeline.worker():
            await until(lambda: _counted_until(positions, later))


async def test_the_times_of_history_are_no_freshness(
    pipeline: Pipeline, source: FeedSource, positions: FeedPositions
) -> None:
    """What is stored while history is told may be told early; others of the same time come only after the mark."""
    early = appended("early", answer())
    early.event_time.FromDatetime(NOON + timedelta(hours=1))
    await source.happen(early)
    async with pipeline.feed(), pipeline.worker():
        await kept_all(positions, 1)
        await until(lambda: _counted_until(positions, NOON))


async def test_what_it_does_not_count_or_know_is_passed_and_is_no_mark(
    pipeline: Pipeline, source: FeedSource, rollups: ReadRollups, positions: FeedPositions
) -> None:
    newer = feed_pb.Event(event_id="newer", tenant_id="acme", conversation_id="c")
    newer.MergeFromString(b"\xfa\x3e\x03new")  # a payload of a contract to come
    changed = feed_pb.Event(event_id="changed", tenant_id="acme", conversation_id="c")
    changed.task_changed.SetInParent()
    for event in (newer, changed):
        event.event_time.FromDatetime(NOON + timedelta(hours=1))
    counted = many_events(10)
    await source.happen(newer, changed, *counted)
    async with pipeline.feed(), pipeline.worker():
        await kept_all(positions, 12)
        await until(lambda: _counted_until(positions, NOON))
    assert await rollups() == expected(counted)


async def test_a_follower_that_starts_again_leaves_no_watcher_behind(
    pipeline: Pipeline, source: FeedSource, redis: Redis, positions: FeedPositions
) -> None:
    """Also when it was not reading at that moment, because what it had read found no room."""
    await source.happen(*many_events(300))
    async with pipeline.feed(max_in_flight=50):
        await until(lambda: _has_items(redis, 50))
        await redis.flushdb()
        await until(lambda: _has_items(redis, 50))
        assert len(source.requests) == 2
        await until(lambda: _watchers(source, 1))
    await until(lambda: _watchers(source, 0))


async def _counted_until(positions: FeedPositions, time: datetime) -> bool:
    return (await positions.read()).counted_until == time


async def _watchers(source: FeedSource, watchers: int) -> bool:
    return source.watchers == watchers


async def _has_items(redis: Redis, items: int) -> bool:
    return await _items_under_way(redis) >= items


async def _items_under_way(redis: Redis) -> int:
    """What is in both lanes, taken or not."""
    entries = [
        fields for lane in ("metrics:execution", "metrics:execution:slow") for _, fields in await redis.xrange(lane)
    ]
    return sum(len(items_of(fields)) for fields in entries)
