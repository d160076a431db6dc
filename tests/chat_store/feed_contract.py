"""The law of a chat store's feed; part of store_contract.py."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import pytest

from services.chat_store.model import Appended, Conversation, Event, NewConversation, Reach
from services.chat_store.store import ChatStore
from shared.errors import InvalidArgument
from tests.chat_store.workshop import Workshop, everything, pair, somebody

PATIENCE_SECONDS = 20.0


class FeedContract:
    async def test_feed_from_the_beginning_equals_history(self, store: ChatStore) -> None:
        reach = somebody()
        await _talk(store, reach, ["c1", "c1-x", "c"], rounds=3)
        told = await _history(store, reach.tenant_id)
        _assert_complete(told, {"c1": 3, "c1-x": 3, "c": 3})
        created = [event.what for event in told if isinstance(event.what, Conversation)]
        for conversation in created:
            kept = await store.get(reach, conversation.conversation_id)
            assert conversation == kept.as_created()
        for conversation in created:
            messages = [
                message
                for event in told
                if event.conversation_id == conversation.conversation_id and isinstance(event.what, Appended)
                for message in event.what.messages
            ]
            assert messages == await everything(store, reach, conversation.conversation_id)

    async def test_feed_goes_on_live_after_history(self, store: ChatStore) -> None:
        reach = somebody()
        await _talk(store, reach, ["old"], rounds=2)
        async with aclosing(store.watch(reach.tenant_id, "")) as feed:
            told = await _until_caught_up(feed)
            await _talk(store, reach, ["new", "old"], rounds=1)
            told += await _next_events(feed, 3)
        _assert_complete(told, {"old": 3, "new": 1})

    async def test_feed_resumes_without_a_gap_under_concurrent_appends(self, store: ChatStore) -> None:
        reach = somebody()
        names = [f"c{number}" for number in range(4)]
        writing = asyncio.create_task(_talk(store, reach, names, rounds=25))
        told: list[Event] = []
        token = ""
        while len({event.event_id for event in told}) < 4 + 4 * 25:
            async with aclosing(store.watch(reach.tenant_id, token)) as feed:
                told += await _next_events(feed, 7, idle=writing.done())
            token = told[-1].resume_token
        await writing
        _assert_complete(told, dict.fromkeys(names, 25))

    async def test_feed_history_resumes_in_its_middle(self, store: ChatStore) -> None:
        reach = somebody()
        await _talk(store, reach, ["a", "b"], rounds=4)
        whole = await _history(store, reach.tenant_id)
        for position in (0, 3, 5, 9):
            rest = await _history(store, reach.tenant_id, whole[position].resume_token)
            assert _facts(rest) == _facts(whole[position + 1 :])

    async def test_a_token_too_old_falls_back_to_history(self, forgetful: Workshop) -> None:
        store, reach = forgetful.store, somebody()
        await _talk(store, reach, ["a"], rounds=2)
        async with aclosing(store.watch(reach.tenant_id, "")) as feed:
            whole = await _until_caught_up(feed)
            caught_up = await _next(feed)  # by now the token is a place in the log
        await forgetful.forget_the_log()
        await _talk(store, reach, ["a"], rounds=1)
        live = await _history(store, reach.tenant_id, caught_up.resume_token)
        assert _facts(live)[:3] == _facts(whole)
        assert len(live) == 4
        async with aclosing(store.watch(reach.tenant_id, whole[1].resume_token)) as feed:
            in_history = await _next_events(feed, 2 + len(live))
        assert _facts(in_history)[:2] == _facts(live)[2:]
        assert _facts(in_history)[2:] == _facts(live)

    async def test_events_are_the_same_each_time(self, store: ChatStore) -> None:
        reach = somebody()
        async with aclosing(store.watch(reach.tenant_id, "")) as feed:
            await _until_caught_up(feed)
            await _talk(store, reach, ["a"], rounds=3)
            live = await _next_events(feed, 4)
        assert _facts(await _history(store, reach.tenant_id)) == _facts(live)
        assert [event.event_id for event in live] == [
            f"{reach.tenant_id}:a",
            *(f"{reach.tenant_id}:a:{first:012d}" for first in (1, 3, 5)),
        ]

    async def test_an_idle_feed_gives_fresh_tokens(self, store: ChatStore) -> None:
        reach, elsewhere = somebody(), somebody()
        async with aclosing(store.watch(reach.tenant_id, "")) as feed:
            bare = [await _next(feed)]
            for _ in range(2):
                await _talk(store, elsewhere, ["noise"], rounds=1)
                bare.append(await _next(feed))
        assert all(event.what is None and not event.event_id for event in bare)
        assert len({event.resume_token for event in bare}) == 3
        await _talk(store, reach, ["a"], rounds=1)
        async with aclosing(store.watch(reach.tenant_id, bare[-1].resume_token)) as feed:
            assert len(await _next_events(feed, 2)) == 2

    async def test_a_tenants_feed_tells_its_own_events_only(self, store: ChatStore) -> None:
        reach, elsewhere = somebody(), somebody()
        await _talk(store, elsewhere, ["a"], rounds=1)
        await _talk(store, reach, ["a"], rounds=1)
        async with aclosing(store.watch(reach.tenant_id, "")) as feed:
            told = await _until_caught_up(feed)
            await _talk(store, elsewhere, ["b"], rounds=1)
            await _talk(store, reach, ["b"], rounds=1)
            told += await _next_events(feed, 2)
        assert {event.tenant_id for event in told} == {reach.tenant_id}
        tenants = {event.tenant_id for event in await _history(store, "")}
        assert {reach.tenant_id, elsewhere.tenant_id} <= tenants

    async def test_foreign_tokens_are_refused(self, store: ChatStore) -> None:
        reach = somebody()
        await _talk(store, reach, ["a"], rounds=1)
        token = (await _history(store, reach.tenant_id))[0].resume_token
        for tenant, foreign in [
            (somebody().tenant_id, token),
            ("", token),
            (reach.tenant_id, token[:-4]),
            (reach.tenant_id, token[:30] + ("A" if token[30] != "A" else "B") + token[31:]),
            (reach.tenant_id, "eyJ2IjoxfQ"),
            (reach.tenant_id, "não é nosso"),
        ]:
            with pytest.raises(InvalidArgument) as refused:
                await anext(store.watch(tenant, foreign))
            assert refused.value.reason == "RESUME_TOKEN_INVALID"

    async def test_leaving_the_feed_frees_its_cursor(self, workshop: Workshop) -> None:
        before = await workshop.open_feeds()
        feed = workshop.store.watch(somebody().tenant_id, "")
        await _until_caught_up(feed)
        waiting = asyncio.ensure_future(anext(feed))
        await asyncio.sleep(0.2)
        assert await workshop.open_feeds() == before + 1
        waiting.cancel()
        await asyncio.wait([waiting])
        await feed.aclose()
        for _ in range(30):
            if await workshop.open_feeds() == before:
                break
            await asyncio.sleep(0.1)
        assert await workshop.open_feeds() == before


async def _talk(store: ChatStore, reach: Reach, conversations: Sequence[str], rounds: int) -> None:
    for name in conversations:
        await store.create(reach, NewConversation(name, reach.user_id or "", title=f"about {name}"))
    for number in range(rounds):
        await asyncio.gather(*(store.append(reach, name, pair(f"{name} {number}")) for name in conversations))


async def _next(feed: AsyncGenerator[Event, None]) -> Event:
    async with asyncio.timeout(PATIENCE_SECONDS):
        return await anext(feed)


async def _until_caught_up(feed: AsyncGenerator[Event, None]) -> list[Event]:
    """What the feed tells until it says that all has been told."""
    told = []
    while (event := await _next(feed)).what is not None:
        told.append(event)
    assert event.time is not None
    return told


async def _history(store: ChatStore, tenant_id: str, token: str = "") -> list[Event]:
    async with aclosing(store.watch(tenant_id, token)) as feed:
        return await _until_caught_up(feed)


async def _next_events(feed: AsyncGenerator[Event, None], count: int, *, idle: bool = False) -> list[Event]:
    """The next events that tell something; fewer when `idle` and the feed has caught up."""
    told: list[Event] = []
    while len(told) < count:
        event = await _next(feed)
        if event.what is not None:
            told.append(event)
        elif idle and told:
            break
    return told


def _facts(told: Sequence[Event]) -> list[object]:
    return [(event.event_id, event.conversation_id, event.time, event.what) for event in told]


def _assert_complete(told: Sequence[Event], rounds: dict[str, int]) -> None:
    """Everything at least once, the same each time, and per conversation in order."""
    seen: dict[str, Event] = {}
    for event in told:
        first = seen.setdefault(event.event_id, event)
        assert _facts([first]) == _facts([event])
    for name, count in rounds.items():
        own = [event for event in seen.values() if event.conversation_id == name]
        assert isinstance(own[0].what, Conversation)
        starts = [event.what.messages[0].seq for event in own if isinstance(event.what, Appended)]
        assert starts == list(range(1, 2 * count, 2))
