"""Followers get what is stored and what comes: no gap, no repeat, on every replica."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest
from pydantic import SecretStr

from services.tenant_quota.quota_model import Level
from services.tenant_quota.signal_feed import SignalFeed
from services.tenant_quota.signal_model import Signal
from services.tenant_quota.signal_store import SignalStore, Subject
from shared.errors import Unavailable
from tests.house.waiting import until_answered
from tests.tenant_quota.signal_world import limit, tenant_with, use

LISTENERS = """
SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query ~* '^LISTEN .?tenant_quota_signals'
"""


@pytest.fixture
def pool(quiet_pool: asyncpg.Pool) -> asyncpg.Pool:
    """Where nobody else looks."""
    return quiet_pool


@pytest.fixture
def other_pool(other_quiet_pool: asyncpg.Pool) -> asyncpg.Pool:
    """What a second replica has there."""
    return other_quiet_pool


class Sessions:
    """What PostgreSQL tells a superuser about those who listen."""

    def __init__(self, superuser: asyncpg.Connection) -> None:
        self._superuser = superuser

    async def listening(self) -> list[int]:
        """The processes of PostgreSQL that listen."""
        return [row["pid"] for row in await self._superuser.fetch(LISTENERS)]

    async def more_than(self, count: int) -> bool:
        return len(await self.listening()) > count

    async def none_but(self, count: int) -> bool:
        return len(await self.listening()) <= count

    async def kill(self, pid: int) -> None:
        await self._superuser.execute("SELECT pg_terminate_backend($1)", pid)

    @asynccontextmanager
    async def feed(self, pool: asyncpg.Pool) -> AsyncIterator[SignalFeed]:
        """A feed that listens; its poll is too slow to help."""
        feed = SignalFeed(pool, SignalStore(pool), poll_seconds=30.0)
        before = len(await self.listening())
        async with feed.running():
            await until_answered(lambda: self.more_than(before))
            yield feed
        # PostgreSQL notices a closed connection a moment later.
        await until_answered(lambda: self.none_but(before))


@pytest.fixture
async def sessions(quiet_database: SecretStr) -> AsyncIterator[Sessions]:
    connection = await asyncpg.connect(quiet_database.get_secret_value())
    yield Sessions(connection)
    await connection.close()


async def pass_shares(pool: asyncpg.Pool, tenant_id: str, tokens: int) -> None:
    """Uses tokens and has the signals written."""
    await use(pool, tenant_id, tokens)
    await SignalStore(pool).record([Subject(tenant_id, Level.TENANT, "")])


async def some(signals: AsyncGenerator[Signal, None], count: int, within_seconds: float = 20.0) -> list[int]:
    """The percents of the next signals."""
    async with asyncio.timeout(within_seconds):
        return [(await anext(signals)).percent for _ in range(count)]


async def test_a_follower_on_another_replica_hears_before_any_poll(
    sessions: Sessions, pool: asyncpg.Pool, other_pool: asyncpg.Pool
) -> None:
    tenant_id = await tenant_with(pool, day=100)
    async with sessions.feed(other_pool) as feed, feed.following(tenant_id, None, None) as signals:
        await pass_shares(pool, tenant_id, 100)
        assert await some(signals, 2) == [80, 100]


async def test_stored_ones_come_first_and_each_comes_once(sessions: Sessions, pool: asyncpg.Pool) -> None:
    tenant_id = await tenant_with(pool, day=100, percents=[10, 20, 30, 40])
    await pass_shares(pool, tenant_id, 20)
    async with sessions.feed(pool) as feed:
        async with feed.following(tenant_id, None, 0) as signals:
            await pass_shares(pool, tenant_id, 10)
            assert await some(signals, 3) == [10, 20, 30]
        second = (await SignalStore(pool).newest(tenant_id, None, None, 10))[1].signal_id
        async with feed.following(tenant_id, None, second) as signals:
            assert await some(signals, 1) == [30]
            await pass_shares(pool, tenant_id, 10)
            assert await some(signals, 1) == [40]


async def test_followers_who_come_while_signals_are_written_miss_none(
    sessions: Sessions, pool: asyncpg.Pool, other_pool: asyncpg.Pool
) -> None:
    percents = list(range(2, 101, 2))
    tenant_id = await tenant_with(pool, day=100)
    await limit(pool, tenant_id, Level.USER, "maria", day=100, percents=percents)
    maria = Subject(tenant_id, Level.USER, "maria")

    async def write() -> None:
        for _ in percents:
            await use(pool, tenant_id, 2, level=Level.USER, subject="maria")
            await asyncio.gather(*(SignalStore(each).record([maria]) for each in (pool, other_pool)))

    async def follow(feed: SignalFeed, late_seconds: float) -> list[int]:
        await asyncio.sleep(late_seconds)
        async with feed.following(tenant_id, "maria", 0) as signals:
            return await some(signals, len(percents), within_seconds=100)

    async with sessions.feed(pool) as here, sessions.feed(other_pool) as there:
        follows = [follow(feed, n * 0.05) for n in range(8) for feed in (here, there)]
        *heard, _ = await asyncio.gather(*follows, write())
    assert heard == [percents] * 16


async def test_a_lost_connection_is_made_again_and_nothing_is_missed(sessions: Sessions, pool: asyncpg.Pool) -> None:
    tenant_id = await tenant_with(pool, day=100)
    async with sessions.feed(pool) as feed, feed.following(tenant_id, None, None) as signals:
        before = await sessions.listening()
        assert len(before) == 1
        await sessions.kill(before[0])
        await pass_shares(pool, tenant_id, 80)
        assert await some(signals, 1) == [80]
        await pass_shares(pool, tenant_id, 20)
        assert await some(signals, 1) == [100]


async def test_a_stop_is_heeded_while_the_connection_is_being_lost(sessions: Sessions, pool: asyncpg.Pool) -> None:
    for seconds_between in (0.0, 0.0, 0.2):
        async with asyncio.timeout(60), sessions.feed(pool):
            await sessions.kill((await sessions.listening())[0])
            await asyncio.sleep(seconds_between)


async def test_what_no_notification_told_the_poll_finds(pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.tenant_quota.signal_feed.CHANNEL", "another_channel")
    tenant_id = await tenant_with(pool, day=100)
    feed = SignalFeed(pool, SignalStore(pool), poll_seconds=0.3)
    async with feed.running(), feed.following(tenant_id, None, None) as signals:
        await pass_shares(pool, tenant_id, 80)
        assert await some(signals, 1) == [80]


async def test_one_connection_listens_for_all_followers_and_a_stop_frees_it(
    sessions: Sessions, pool: asyncpg.Pool
) -> None:
    tenants = [await tenant_with(pool, day=100) for _ in range(3)]
    async with sessions.feed(pool) as feed:
        async with (
            feed.following(tenants[0], None, None),
            feed.following(tenants[0], None, None) as second,
            feed.following(tenants[1], None, None) as other,
        ):
            assert len(await sessions.listening()) == 1
            await pass_shares(pool, tenants[0], 80)
            assert await some(second, 1) == [80]
            waiting = asyncio.create_task(some(other, 1))
            feed.close()
            with pytest.raises(Unavailable):
                await waiting
        with pytest.raises(Unavailable):
            async with feed.following(tenants[2], None, None):
                pass
    assert not await sessions.listening()


async def test_a_follower_who_does_not_read_is_sent_away_and_comes_again(
    sessions: Sessions, pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.tenant_quota.signal_feed.MOST_UNREAD", 3)
    tenant_id = await tenant_with(pool, day=100, percents=[10, 20, 30, 40, 50])
    async with sessions.feed(pool) as feed:
        async with feed.following(tenant_id, None, None) as signals:
            await pass_shares(pool, tenant_id, 50)
            await asyncio.sleep(0.5)
            assert await some(signals, 3) == [10, 20, 30]
            with pytest.raises(Unavailable):
                await some(signals, 1)
        third = (await SignalStore(pool).newest(tenant_id, None, None, 10))[2].signal_id
        async with feed.following(tenant_id, None, third) as signals:
            assert await some(signals, 2) == [40, 50]


async def test_a_member_hears_of_their_own_user_alone(sessions: Sessions, pool: asyncpg.Pool) -> None:
    tenant_id = await tenant_with(pool, day=100)
    for user in ("maria", "joana"):
        await limit(pool, tenant_id, Level.USER, user, day=100)
        await use(pool, tenant_id, 80, level=Level.USER, subject=user)
    await use(pool, tenant_id, 80)
    subjects = [Subject(tenant_id, Level.TENANT, "")]
    subjects += [Subject(tenant_id, Level.USER, user) for user in ("maria", "joana")]
    store = SignalStore(pool)
    async with sessions.feed(pool) as feed, feed.following(tenant_id, "maria", None) as live:
        assert await store.record(subjects) == 3
        assert (await anext(live)).subject == "maria"
        async with feed.following(tenant_id, "maria", 0) as stored:
            assert (await anext(stored)).subject == "maria"
            for each in (live, stored):
                with pytest.raises(TimeoutError):
                    await some(each, 1, within_seconds=0.3)
    assert [each.subject for each in await store.newest(tenant_id, "maria", None, 10)] == ["maria"]
