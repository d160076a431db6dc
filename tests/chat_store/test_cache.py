"""The cache is worth something, and never believed: what Redis says counts only at the version the engine is at."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest
from pydantic import SecretStr

from deploy.local.ports import LOOPBACK
from services.chat_store.acts import Delete, EditMessage
from services.chat_store.engines import cached, open_store
from services.chat_store.engines.cached import CachedChatStore, open_cached
from services.chat_store.engines.redis_tails import TAIL_MESSAGES, Tails, open_tails
from services.chat_store.model import MessageType, NewConversation
from services.chat_store.selection import Page, Reach, Window
from services.chat_store.store import ChatStore
from shared.errors import NotFound, Unavailable
from shared.redis_streams import open_redis
from tests.chat_store.places import fresh_place
from tests.chat_store.workshop import batch_of, pair, said, somebody, started
from tests.house.waiting import until

END = Window(newest_first=True)
PATIENCE_SECONDS = 5.0


@pytest.fixture(params=["mongo", "postgres"])
async def bare(
    request: pytest.FixtureRequest, mongo_url: str, fresh_database: Callable[[], str]
) -> AsyncIterator[ChatStore]:
    """An engine that nobody caches."""
    async with fresh_place(request.param, mongo_url, fresh_database) as place, open_store(place) as store:
        yield store


@pytest.fixture
def cache_url(redis_url: str) -> SecretStr:
    return SecretStr(redis_url.rsplit("/", 1)[0] + "/12")


@pytest.fixture
async def redis(cache_url: SecretStr) -> AsyncIterator[Any]:
    async with open_redis(cache_url) as client:
        await client.flushdb()
        yield client


@pytest.fixture
async def tails(cache_url: SecretStr, redis: Any) -> AsyncIterator[Tails]:
    async with open_tails(cache_url, ttl_seconds=60, patience_seconds=PATIENCE_SECONDS) as tails:
        yield tails


@pytest.fixture
async def store(bare: ChatStore, tails: Tails) -> AsyncIterator[CachedChatStore]:
    store = CachedChatStore(bare, tails)
    yield store
    await store.close()


async def read(store: CachedChatStore, reach: Reach, conversation_id: str, window: Window = END) -> tuple[str, Page]:
    """What became of the read, and the page; what it writes to Redis is written."""
    await store.settled()
    before = store.status()
    page = await store.read(reach, conversation_id, window)
    after = store.status()
    await store.settled()
    outcomes = [name for name in ("hits", "misses", "unavailable") if getattr(after, name) > getattr(before, name)]
    return outcomes[0], page


async def test_what_is_said_while_it_is_cached_comes_from_the_cache(store: CachedChatStore, bare: ChatStore) -> None:
    reach = somebody()
    conversation = await started(store, reach)
    for number in range(60):
        await store.append(reach, conversation, pair(f"{number}"))
        await store.settled()
    windows = [END, replace(END, before_seq=90), Window(after_seq=100), Window(after_seq=118, before_seq=120, limit=1)]
    for window in windows:
        assert await read(store, reach, conversation, window) == ("hits", await bare.read(reach, conversation, window))
    before_the_tail = Window(before_seq=120 - TAIL_MESSAGES + 2)
    assert await read(store, reach, conversation, before_the_tail) == (
        "misses",
        await bare.read(reach, conversation, before_the_tail),
    )


async def test_a_conversation_that_is_not_cached_is_from_its_first_read_on(
    store: CachedChatStore, bare: ChatStore
) -> None:
    reach = somebody()
    conversation = await started(bare, reach)
    await bare.append(reach, conversation, pair("a"))
    outcomes = [await read(store, reach, conversation) for _ in range(3)]
    assert [outcome for outcome, _ in outcomes] == ["misses", "hits", "hits"]
    assert len({page for _, page in outcomes}) == 1


async def test_what_the_cache_was_not_told_is_seen_all_the_same(store: CachedChatStore, bare: ChatStore) -> None:
    reach = somebody()
    conversation = await started(store, reach)
    (first,) = await store.append(reach, conversation, batch_of(said("a")))
    await read(store, reach, conversation)
    await bare.append(reach, conversation, pair("b"))
    outcome, page = await read(store, reach, conversation)
    assert (outcome, page.messages[0].draft.text) == ("misses", "re: b")
    await bare.revise(reach, conversation, first.message_id, EditMessage(text="edited"))
    outcome, page = await read(store, reach, conversation)
    assert (outcome, page.messages[-1].draft.text) == ("misses", "edited")
    assert await read(store, reach, conversation) == ("hits", page)


async def test_an_id_that_is_used_again_does_not_bring_back_what_was_said(
    store: CachedChatStore, bare: ChatStore
) -> None:
    reach = somebody()
    await store.create(reach, NewConversation("c1", "ana"))
    await store.append(reach, "c1", pair("before"))
    await read(store, reach, "c1")
    await bare.upkeep.purge(reach.tenant_id, "c1")
    with pytest.raises(NotFound):
        await store.read(reach, "c1", END)
    await bare.create(reach, NewConversation("c1", "ana"))
    await bare.append(reach, "c1", pair("after"))
    assert (await read(store, reach, "c1"))[1].messages[0].draft.text == "re: after"


async def test_the_cache_shows_nobody_what_is_out_of_their_reach(store: CachedChatStore) -> None:
    reach = somebody()
    await store.create(reach, NewConversation("c1", "ana"))
    await store.append(reach, "c1", pair("secret"))
    assert (await read(store, reach, "c1"))[0] == "hits"
    for other in (replace(reach, user_id="bia"), replace(somebody(), user_id=None)):
        with pytest.raises(NotFound):
            await store.read(other, "c1", END)
    await store.act(reach, "c1", Delete(purge_after_days=1))
    with pytest.raises(NotFound):
        await store.read(reach, "c1", END)


async def test_another_conversations_tail_is_not_believed(store: CachedChatStore, redis: Any) -> None:
    reach = somebody()
    for name in ("c1", "c2"):
        await store.create(reach, NewConversation(name, "ana"))
        await store.append(reach, name, pair(f"in {name}"))
        await read(store, reach, name)
    keys = {key.decode().split(":")[-2]: key for key in await redis.keys("*")}
    since = (await redis.hget(keys["c2"], "of")).rpartition(b"@")[2]
    await redis.copy(keys["c1"], keys["c2"], replace=True)
    mixed_up = (await redis.hget(keys["c2"], "of")).rpartition(b"@")[0] + b"@" + since
    await redis.hset(keys["c2"], "of", mixed_up)
    outcome, page = await read(store, reach, "c2")
    assert (outcome, page.messages[0].draft.text) == ("misses", "re: in c2")


@pytest.mark.parametrize("garbage", [b"", b"{", b'{"seq":1}', "não".encode("latin-1")])
async def test_garbage_in_redis_is_only_a_miss(store: CachedChatStore, redis: Any, garbage: bytes) -> None:
    reach = somebody()
    conversation = await started(store, reach)
    await store.append(reach, conversation, pair("a"))
    await store.settled()
    (key,) = await redis.keys("*")
    await redis.hset(key, "2", garbage)
    outcome, page = await read(store, reach, conversation)
    assert (outcome, len(page.messages)) == ("misses", 2)
    assert (await read(store, reach, conversation))[0] == "hits"


async def test_what_is_purged_leaves_the_cache(store: CachedChatStore, redis: Any) -> None:
    reach = somebody()
    conversation = await started(store, reach)
    await store.append(reach, conversation, pair("a"))
    await store.settled()
    removed = await store.upkeep.purge(reach.tenant_id, conversation)
    assert removed["cache"] == 1
    assert await redis.keys("*") == []


async def test_a_purge_during_a_read_leaves_nothing_in_the_cache(
    bare: ChatStore, tails: Tails, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, reach = CachedChatStore(bare, tails), somebody()
    conversation = await started(bare, reach)
    await bare.append(reach, conversation, pair("a"))
    keep = tails.keep

    async def purged_before(*tail: Any) -> None:
        await store.upkeep.purge(reach.tenant_id, conversation)
        await keep(*tail)

    monkeypatch.setattr(tails, "keep", purged_before)
    await store.read(reach, conversation, END)
    await store.settled()
    assert await redis.keys("*") == []


async def test_a_forgotten_author_is_in_no_tail(store: CachedChatStore, redis: Any) -> None:
    reach, other = somebody(), somebody()
    for tenant in (reach, other):
        await store.create(tenant, NewConversation("c1", "ana"))
        drafts = [replace(said("mine"), user_id="bia"), said("yours", MessageType.ASSISTANT)]
        await store.append(tenant, "c1", batch_of(*drafts))
    await store.settled()
    assert (await store.upkeep.residue(reach.tenant_id, "bia"))["cache"] == 1
    assert (await store.upkeep.forget_author(reach.tenant_id, "bia"))["cache"] == 1
    assert (await store.upkeep.residue(reach.tenant_id, "bia"))["cache"] == 0
    assert (await store.upkeep.residue(other.tenant_id, "bia"))["cache"] == 1
    assert "mine" not in [message.draft.text for message in (await read(store, reach, "c1"))[1].messages]


async def test_a_tail_lives_no_longer_than_it_was_told(store: CachedChatStore, redis: Any) -> None:
    reach = somebody()
    conversation = await started(store, reach)
    await store.settled()
    (key,) = await redis.keys("*")
    for _ in range(2):
        await redis.expire(key, 1000)
        await store.append(reach, conversation, pair("a"))
        await store.settled()
        assert 0 < await redis.ttl(key) <= 60


@pytest.mark.parametrize(
    ("settings", "is_cached"),
    [({}, True), ({"cache": "off"}, False), ({"cache": "on"}, True), ({"redis_url": None}, False)],
)
async def test_the_cache_is_on_where_there_is_a_redis(
    mongo_url: str,
    fresh_database: Callable[[], str],
    cache_url: SecretStr,
    settings: dict[str, Any],
    is_cached: bool,
) -> None:
    settings = {"redis_url": cache_url, **settings}
    async with fresh_place("mongo", mongo_url, fresh_database, **settings) as place, open_store(place) as store:
        assert isinstance(store, CachedChatStore) == is_cached
        reach = somebody()
        conversation = await started(store, reach)
        assert await store.read(reach, conversation, END) == Page((), more=False)


async def test_each_read_is_counted_by_what_became_of_it(
    store: CachedChatStore, bare: ChatStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[str] = []

    class Reads:
        def add(self, count: int, attributes: dict[str, str]) -> None:
            counted.extend([attributes["outcome"]] * count)

    monkeypatch.setattr(cached, "_reads", Reads())
    reach = somebody()
    conversation = await started(bare, reach)
    for _ in range(3):
        await read(store, reach, conversation)
    assert counted == ["miss", "hit", "hit"]


async def test_a_redis_that_says_nothing_is_asked_by_nobody_who_waits(bare: ChatStore) -> None:
    connections = 0

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.read()
        writer.close()

    server = await asyncio.start_server(say_nothing, LOOPBACK, 0)
    url = SecretStr(f"redis://{LOOPBACK}:{server.sockets[0].getsockname()[1]}/0")
    async with server, open_cached(bare, url, ttl_seconds=60) as store:
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


async def test_a_redis_that_refuses_writes_takes_nothing_away(store: CachedChatStore, redis: Any) -> None:
    reach = somebody()
    conversation = await started(store, reach)
    await store.settled()
    await redis.config_set("maxmemory", "1")
    try:
        await store.append(reach, conversation, pair("a"))
        assert len((await read(store, reach, conversation))[1].messages) == 2
    finally:
        await redis.config_set("maxmemory", "0")
    await until(lambda: store.status().available)
    assert [(await read(store, reach, conversation))[0] for _ in range(2)] == ["misses", "hits"]
