"""What each level of the cache is good for, and what one does that fails."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import SecretStr

from deploy.local.ports import LOOPBACK
from services.chat_store.engines import cached, open_store
from services.chat_store.engines.cached import CachedChatStore, open_cached
from services.chat_store.engines.own_tails import OwnTails
from services.chat_store.engines.tails import Tails
from services.chat_store.model import NewConversation
from services.chat_store.selection import Page, Version, Window
from services.chat_store.store import ChatStore
from shared.errors import Unavailable
from tests.chat_store.cache.readings import END, OWN_BYTES, PROCESS, REDIS, TTL_SECONDS, read
from tests.chat_store.places import fresh_place
from tests.chat_store.workshop import pair, somebody, started
from tests.house.ports import own_port
from tests.house.waiting import until


@pytest.mark.parametrize(
    ("engine", "cache", "with_redis", "levels"),
    [
        ("mongo", "auto", True, {PROCESS, REDIS}),
        ("mongo", "auto", False, {PROCESS}),
        ("mongo", "off", True, set()),
        ("postgres", "auto", True, {PROCESS}),
        ("postgres", "on", True, {PROCESS, REDIS}),
        ("memory", "on", True, set()),
    ],
)
async def test_the_settings_say_which_levels_there_are(
    mongo_url: str,
    fresh_database: Callable[[], str],
    cache_url: SecretStr,
    redis: Any,
    engine: str,
    cache: str,
    with_redis: bool,
    levels: set[str],
) -> None:
    settings: dict[str, Any] = {"redis_url": cache_url} if with_redis else {}
    async with (
        fresh_place(engine, mongo_url, fresh_database, cache=cache, **settings) as place,
        open_store(place) as store,
    ):
        reach = somebody()
        conversation = await started(store, reach)
        assert await store.read(reach, conversation, END) == Page((), more=False)
        found = {PROCESS} if isinstance(store, CachedChatStore) and store.status().process_hits else set()
        if isinstance(store, CachedChatStore):
            await store.settled()
        assert found | ({REDIS} if await redis.keys("*") else set()) == levels


async def test_each_read_is_counted_by_what_became_of_it_and_where(
    both: CachedChatStore, bare: ChatStore, own: OwnTails, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[tuple[str, str]] = []

    class Reads:
        def add(self, count: int, attributes: dict[str, str]) -> None:
            counted.extend([(attributes["outcome"], attributes["level"])] * count)

    monkeypatch.setattr(cached, "_reads", Reads())
    reach = somebody()
    conversation = await started(bare, reach)
    for _ in range(2):
        await read(both, reach, conversation)
    await own.forget(reach.tenant_id, conversation)
    await read(both, reach, conversation)
    assert counted == [("miss", "engine"), ("hit", "process"), ("hit", "redis")]


async def test_a_hit_asks_for_the_version_and_gives_out_the_same_messages(
    both: CachedChatStore, bare: ChatStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    reach = somebody()
    conversation = await started(both, reach)
    said_first = await both.append(reach, conversation, pair("a"))
    said_then = await both.append(reach, conversation, pair("b"))
    await both.settled()
    asked = list[str]()
    version = bare.version

    async def asked_version(*of: Any) -> Version:
        asked.append("version")
        return await version(*of)

    def nobody_asks(*_: Any) -> None:
        raise AssertionError("a hit costs a version and nothing else")

    monkeypatch.setattr(both._store, "version", asked_version)
    monkeypatch.setattr(both._store, "read", nobody_asks)
    monkeypatch.setattr(both._shared, "page", nobody_asks)
    for window in (END, Window(), Window(after_seq=1, before_seq=4)):
        page = await both.read(reach, conversation, window)
        known = {message.seq: message for message in said_first + said_then}
        assert page.messages
        assert all(message is known[message.seq] for message in page.messages)
    assert asked == ["version"] * 3


async def test_what_redis_had_is_in_the_process_from_then_on(
    both: CachedChatStore, bare: ChatStore, tails: Tails
) -> None:
    other = CachedChatStore(bare, OwnTails(max_bytes=OWN_BYTES, ttl_seconds=TTL_SECONDS), tails)
    reach = somebody()
    conversation = await started(both, reach)
    for text in ("a", "b"):
        await both.append(reach, conversation, pair(text))
        await both.settled()
        outcomes = [await read(other, reach, conversation) for _ in range(2)]
        assert [outcome for outcome, _ in outcomes] == [REDIS, PROCESS]
        assert outcomes[0][1] == outcomes[1][1] == await bare.read(reach, conversation, END)


async def test_what_redis_lost_is_still_in_the_process(bare: ChatStore) -> None:
    nobody = SecretStr(f"redis://{LOOPBACK}:{own_port()}/0")
    async with open_cached(bare, nobody, process_bytes=OWN_BYTES, ttl_seconds=TTL_SECONDS) as store:
        reach = somebody()
        conversation = await started(bare, reach)
        assert [(await read(store, reach, conversation))[0] for _ in range(3)] == ["unavailable", PROCESS, PROCESS]
        assert not store.status().available


async def test_another_conversations_tail_is_not_believed(on_redis: CachedChatStore, redis: Any) -> None:
    reach = somebody()
    for name in ("c1", "c2"):
        await on_redis.create(reach, NewConversation(name, "ana"))
        await on_redis.append(reach, name, pair(f"in {name}"))
        await read(on_redis, reach, name)
    keys = {key.decode().split(":")[-2]: key for key in await redis.keys("*")}
    since = (await redis.hget(keys["c2"], "of")).rpartition(b"@")[2]
    await redis.copy(keys["c1"], keys["c2"], replace=True)
    mixed_up = (await redis.hget(keys["c2"], "of")).rpartition(b"@")[0] + b"@" + since
    await redis.hset(keys["c2"], "of", mixed_up)
    outcome, page = await read(on_redis, reach, "c2")
    assert (outcome, page.messages[0].draft.text) == ("misses", "re: in c2")


@pytest.mark.parametrize("garbage", [b"", b"{", b'{"seq":1}', "não".encode("latin-1")])
async def test_garbage_in_redis_is_only_a_miss(on_redis: CachedChatStore, redis: Any, garbage: bytes) -> None:
    reach = somebody()
    conversation = await started(on_redis, reach)
    await on_redis.append(reach, conversation, pair("a"))
    await on_redis.settled()
    (key,) = await redis.keys("*")
    await redis.hset(key, "2", garbage)
    outcome, page = await read(on_redis, reach, conversation)
    assert (outcome, len(page.messages)) == ("misses", 2)
    assert (await read(on_redis, reach, conversation))[0] == REDIS


async def test_a_tail_lives_no_longer_than_it_was_told(on_redis: CachedChatStore, redis: Any) -> None:
    reach = somebody()
    conversation = await started(on_redis, reach)
    await on_redis.settled()
    (key,) = await redis.keys("*")
    for _ in range(2):
        await redis.expire(key, 1000)
        await on_redis.append(reach, conversation, pair("a"))
        await on_redis.settled()
        assert 0 < await redis.ttl(key) <= 60


async def test_a_redis_that_says_nothing_is_asked_by_nobody_who_waits(bare: ChatStore) -> None:
    connections = 0

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.read()
        writer.close()

    server = await asyncio.start_server(say_nothing, LOOPBACK, 0)
    url = SecretStr(f"redis://{LOOPBACK}:{server.sockets[0].getsockname()[1]}/0")
    async with server, open_cached(bare, url, process_bytes=0, ttl_seconds=60) as store:
        reach = somebody()
        conversation = await started(bare, reach)
        await bare.append(reach, conversation, pair("a"))
        await store.read(reach, conversation, END)
        assert not store.status().available
        before = store.status().unavailable
        for _ in range(100):
            assert len((await store.read(reach, conversation, END)).messages) == 2
        assert store.status().unavailable == before + 100
        assert store.status().misses == store.status().hits == 0
        assert connections < 20
        with pytest.raises(Unavailable):
            await store.upkeep.residue(reach.tenant_id, "ana")
        assert await store.upkeep.purge(reach.tenant_id, conversation)


async def test_a_redis_that_refuses_writes_takes_nothing_away(on_redis: CachedChatStore, redis: Any) -> None:
    reach = somebody()
    conversation = await started(on_redis, reach)
    await on_redis.settled()
    await redis.config_set("maxmemory", "1")
    try:
        await on_redis.append(reach, conversation, pair("a"))
        assert len((await read(on_redis, reach, conversation))[1].messages) == 2
    finally:
        await redis.config_set("maxmemory", "0")
    await until(lambda: on_redis.status().available)
    outcomes = [await read(on_redis, reach, conversation) for _ in range(2)]
    assert (outcomes[-1][0], {len(page.messages) for _, page in outcomes}) == (REDIS, {2})
