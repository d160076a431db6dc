"""The stream on a real Redis: what is taken is not lost, what is done is gone, what is poisoned is alone."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import SecretStr

from shared.config import CannotStartError
from shared.errors import Unavailable
from shared.optional_redis import open_optional_redis
from shared.redis_streams import Stream, Stuck, consumer_name, open_redis
from tests.house.pending import aged
from tests.house.ports import own_port

NAME = "test:entries"


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Any]:
    async with open_redis(SecretStr(redis_url.rsplit("/", 1)[0] + "/10")) as client:
        await client.flushdb()
        yield client
        await client.flushdb()


def consumer(redis: Any, name: str) -> Stream:
    return Stream(redis, NAME, group="group", consumer=name)


async def filled(redis: Any, count: int) -> Stream:
    stream = consumer(redis, "one")
    await stream.add([{b"n": str(number).encode()} for number in range(count)])
    return stream


async def test_entries_come_once_and_in_order_to_whoever_asks(redis: Any) -> None:
    stream = await filled(redis, 5)
    first = await stream.read(3, 10)
    rest = await consumer(redis, "two").read(10, 10)
    assert [entry.fields[b"n"] for entry in [*first, *rest]] == [b"0", b"1", b"2", b"3", b"4"]
    assert await stream.read(10, 10) == []
    assert await stream.read(10, 0) == []


async def test_what_is_done_leaves_the_stream(redis: Any) -> None:
    stream = await filled(redis, 3)
    entries = await stream.read(2, 10)
    await stream.done(entries)
    assert await stream.length() == 1
    assert not await stream.holds(entries[0].entry_id)
    await stream.done([])


async def test_a_group_that_is_gone_is_made_again_from_the_first_entry(redis: Any) -> None:
    stream = await filled(redis, 2)
    await stream.read(1, 10)
    await redis.flushdb()
    assert await stream.stuck(0, 10) == []
    await stream.leave()
    await stream.add([{b"n": b"new"}])
    (entry,) = await stream.read(10, 10)
    assert entry.fields == {b"n": b"new"}


async def test_two_who_make_the_group_at_once_both_get_on(redis: Any) -> None:
    await filled(redis, 10)
    taken = await asyncio.gather(*(consumer(redis, f"c{number}").read(2, 10) for number in range(5)))
    assert sorted(entry.fields[b"n"] for entries in taken for entry in entries) == [b"%d" % n for n in range(10)]


async def test_stuck_entries_are_taken_over_by_one_other_only(redis: Any) -> None:
    stream = await filled(redis, 4)
    taken = await stream.read(4, 10)
    assert await stream.stuck(60, 10) == []
    await aged(redis, NAME, "group")
    stuck = await stream.stuck(30, 10)
    assert stuck == [Stuck(entry.entry_id, 1) for entry in taken]
    claims = await asyncio.gather(*(consumer(redis, name).claim(stuck, 30) for name in ("two", "three")))
    assert sorted(map(len, claims)) == [0, 4]
    assert {entry.deliveries for claim in claims for entry in claim} == {2}


async def test_entries_that_vanished_while_pending_are_forgotten(redis: Any) -> None:
    stream = await filled(redis, 3)
    taken = await stream.read(3, 10)
    await redis.xdel(NAME, taken[1].entry_id)
    claimed = await consumer(redis, "two").claim(await stream.stuck(0, 10), 0)
    assert [entry.entry_id for entry in claimed] == [taken[0].entry_id, taken[2].entry_id]
    assert (await redis.xpending(NAME, "group"))["pending"] == 2


async def test_what_is_held_is_not_stuck_and_was_delivered_no_more_often(redis: Any) -> None:
    stream = await filled(redis, 3)
    held, done, left = await stream.read(3, 10)
    await stream.done([done])
    await aged(redis, NAME, "group")
    await stream.hold([held, done])
    assert await stream.stuck(30, 10) == [Stuck(left.entry_id, 1)]
    assert await stream.stuck(0, 10) == [Stuck(held.entry_id, 1), Stuck(left.entry_id, 1)]
    await redis.flushdb()
    await stream.hold([held])


async def test_a_consumer_leaves_only_empty_handed(redis: Any) -> None:
    stream = await filled(redis, 1)
    entries = await stream.read(1, 10)
    await stream.leave()
    assert len(await redis.xinfo_consumers(NAME, "group")) == 1
    await stream.done(entries)
    await stream.leave()
    assert await redis.xinfo_consumers(NAME, "group") == []


async def test_absent_consumers_are_forgotten_unless_they_hold_entries(redis: Any) -> None:
    stream = await filled(redis, 2)
    await stream.read(1, 10)
    killed = consumer(redis, "killed")
    await killed.done(await killed.read(1, 10))
    await stream.forget_absent(60)
    assert len(await redis.xinfo_consumers(NAME, "group")) == 2
    await stream.forget_absent(0)
    assert [each["name"] for each in await redis.xinfo_consumers(NAME, "group")] == [b"one"]
    await stream.add([{b"n": b"more"}])
    assert len(await killed.read(1, 10)) == 1
    await redis.flushdb()
    await stream.forget_absent(0)


async def test_no_redis_is_a_dependency_that_is_unavailable() -> None:
    async with open_redis(SecretStr(f"redis://127.0.0.1:{own_port()}/0")) as client:
        stream = consumer(client, "one")
        for attempt in (stream.ready(), stream.add([{b"n": b"0"}]), stream.read(1, 10), stream.length()):
            with pytest.raises(Unavailable) as refused:
                await attempt
            assert refused.value.metadata == {"dependency": "redis"}


def test_no_two_consumers_share_a_name() -> None:
    assert consumer_name() != consumer_name()


@pytest.mark.parametrize("turns", range(24))
async def test_a_cancellation_is_never_swallowed_whenever_it_comes(redis: Any, turns: int) -> None:
    """The client sends by asyncio.wait_for, which before Python 3.12 forgets one that comes when it has just sent."""
    stream = await filled(redis, 1)

    async def add_and_wait() -> None:
        await stream.add([{b"n": b"1"}])
        await asyncio.Event().wait()

    task = asyncio.create_task(add_and_wait())
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=20)
    forgotten = not done
    task.cancel()
    assert not forgotten


@pytest.mark.parametrize("unreadable", ["nonsense", "redis://:hun#ter2@cache/0"])
async def test_a_url_that_is_none_is_told_without_its_password(unreadable: str) -> None:
    for opening in (
        open_redis(SecretStr(unreadable)),
        open_optional_redis(SecretStr(unreadable), used_for="tests", patience_seconds=1),
    ):
        with pytest.raises(CannotStartError, match="REDIS_URL is not readable") as told:
            await opening.__aenter__()
        assert "hun" not in str(told.value)
