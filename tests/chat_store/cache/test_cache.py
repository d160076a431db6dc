"""The cache is worth something, and never believed: what a level says counts only at the version the engine is at."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from services.chat_store.acts import Delete, EditMessage
from services.chat_store.engines.cached import CachedChatStore
from services.chat_store.engines.own_tails import OwnTails
from services.chat_store.engines.tails import TAIL_MESSAGES, Tails
from services.chat_store.model import MessageType, NewConversation
from services.chat_store.selection import Page, Reach, Window
from services.chat_store.store import ChatStore
from shared.errors import NotFound
from shared.identifiers import new_id
from tests.chat_store.cache.readings import END, OWN_BYTES, PROCESS, REDIS, TTL_SECONDS, read
from tests.chat_store.workshop import batch_of, pair, said, somebody, started


async def test_what_is_said_while_it_is_cached_comes_from_the_cache(
    store: CachedChatStore, bare: ChatStore, hits: str
) -> None:
    reach = somebody()
    conversation = await started(store, reach)
    for number in range(60):
        await store.append(reach, conversation, pair(f"{number}"))
        await store.settled()
    windows = [END, replace(END, before_seq=90), Window(after_seq=100), Window(after_seq=118, before_seq=120, limit=1)]
    for window in windows:
        assert await read(store, reach, conversation, window) == (hits, await bare.read(reach, conversation, window))
    before_the_tail = Window(before_seq=120 - TAIL_MESSAGES + 2)
    assert await read(store, reach, conversation, before_the_tail) == (
        "misses",
        await bare.read(reach, conversation, before_the_tail),
    )


async def test_a_tail_is_written_to_redis_in_the_order_of_what_happened(
    on_redis: CachedChatStore, tails: Tails, monkeypatch: pytest.MonkeyPatch
) -> None:
    reach, keep = somebody(), tails.keep

    async def kept_slowly(*asked: Any) -> None:
        await asyncio.sleep(0.2)
        await keep(*asked)

    monkeypatch.setattr(tails, "keep", kept_slowly)
    await on_redis.create(reach, NewConversation("c1", "ana"))
    await on_redis.append(reach, "c1", pair("a"))
    outcome, page = await read(on_redis, reach, "c1")
    assert (outcome, len(page.messages)) == (REDIS, 2)


async def test_readers_who_miss_a_tail_at_once_fill_it_once(
    on_redis: CachedChatStore, bare: ChatStore, tails: Tails, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fills that waited for each other, and for what was appended meanwhile, would all come too late."""
    reach, keep, kept, may_keep = somebody(), tails.keep, list[Any](), asyncio.Event()
    conversation = await started(bare, reach)
    await bare.append(reach, conversation, pair("a"))

    async def kept_when_told(*asked: Any) -> None:
        kept.append(asked)
        await may_keep.wait()
        await keep(*asked)

    monkeypatch.setattr(tails, "keep", kept_when_told)
    await asyncio.gather(*(on_redis.read(reach, conversation, END) for _ in range(10)))
    may_keep.set()
    await on_redis.settled()
    assert len(kept) == 1
    assert (await read(on_redis, reach, conversation))[0] == REDIS


async def test_a_conversation_that_is_not_cached_is_from_its_first_read_on(
    store: CachedChatStore, bare: ChatStore, hits: str
) -> None:
    reach = somebody()
    conversation = await started(bare, reach)
    await bare.append(reach, conversation, pair("a"))
    outcomes = [await read(store, reach, conversation) for _ in range(3)]
    assert [outcome for outcome, _ in outcomes] == ["misses", hits, hits]
    assert len({page for _, page in outcomes}) == 1


async def test_what_the_cache_was_not_told_is_seen_all_the_same(
    store: CachedChatStore, bare: ChatStore, hits: str
) -> None:
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
    assert await read(store, reach, conversation) == (hits, page)


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


async def test_the_cache_shows_nobody_what_is_out_of_their_reach(store: CachedChatStore, hits: str) -> None:
    reach = somebody()
    await store.create(reach, NewConversation("c1", "ana"))
    await store.append(reach, "c1", pair("secret"))
    assert (await read(store, reach, "c1"))[0] == hits
    for other in (replace(reach, user_id="bia"), replace(somebody(), user_id=None)):
        with pytest.raises(NotFound):
            await store.read(other, "c1", END)
    await store.act(reach, "c1", Delete(purge_after_days=1))
    with pytest.raises(NotFound):
        await store.read(reach, "c1", END)


async def test_what_is_purged_leaves_the_cache(both: CachedChatStore, own: OwnTails, redis: Any) -> None:
    reach = somebody()
    conversation = await started(both, reach)
    await both.append(reach, conversation, pair("a"))
    await both.settled()
    removed = await both.upkeep.purge(reach.tenant_id, conversation)
    assert removed["cache"] == 2
    assert (await redis.keys("*"), len(own), own.size_bytes) == ([], 0, 0)


async def test_a_purge_during_a_read_leaves_nothing_in_the_cache(
    both: CachedChatStore, bare: ChatStore, own: OwnTails, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    reach = somebody()
    conversation = await started(bare, reach)
    await bare.append(reach, conversation, pair("a"))
    from_engine = bare.read

    async def purged_after(*asked: Any) -> Page:
        page = await from_engine(*asked)
        await both.upkeep.purge(reach.tenant_id, conversation)
        return page

    monkeypatch.setattr(bare, "read", purged_after)
    assert len((await both.read(reach, conversation, END)).messages) == 2
    await both.settled()
    assert (await redis.keys("*"), len(own)) == ([], 0)


async def test_a_forgotten_author_is_in_no_tail(both: CachedChatStore, bare: ChatStore, tails: Tails) -> None:
    reach, other = somebody(), somebody()
    for tenant in (reach, other):
        await _with_a_guest(both, tenant)
    await both.settled()
    assert (await both.upkeep.residue(reach.tenant_id, "bia"))["cache"] == 2
    assert (await both.upkeep.forget_author(reach.tenant_id, "bia"))["cache"] == 2
    assert (await both.upkeep.residue(reach.tenant_id, "bia"))["cache"] == 0
    assert (await both.upkeep.residue(other.tenant_id, "bia"))["cache"] == 2
    assert "mine" not in [message.draft.text for message in (await read(both, reach, "c1"))[1].messages]


async def test_what_another_replica_erased_is_given_out_by_no_process(
    in_process: CachedChatStore, bare: ChatStore, own: OwnTails
) -> None:
    reach = somebody()
    for replica in (bare, CachedChatStore(bare, OwnTails(max_bytes=OWN_BYTES, ttl_seconds=TTL_SECONDS), None)):
        name = await _with_a_guest(in_process, reach, new_id())
        assert (await read(in_process, reach, name))[0] == PROCESS
        await replica.upkeep.forget_author(reach.tenant_id, "bia")
        outcome, page = await read(in_process, reach, name)
        assert (outcome, [message.draft.text for message in page.messages]) == ("misses", ["yours", ""])
        # What it held is gone with that.
        assert await own.count_by(reach.tenant_id, "bia") == 0


async def _with_a_guest(store: ChatStore, reach: Reach, conversation_id: str = "c1") -> str:
    await store.create(reach, NewConversation(conversation_id, "ana"))
    drafts = [replace(said("mine"), user_id="bia"), said("yours", MessageType.ASSISTANT)]
    await store.append(reach, conversation_id, batch_of(*drafts))
    return conversation_id
