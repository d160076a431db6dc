"""The law of a chat store's feed; part of store_contract.py."""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace

import pytest

from services.chat_store.acts import (
    AddEntry,
    Archive,
    Delete,
    Describe,
    EditMessage,
    Finalize,
    RemoveEntry,
    SetFeedback,
    UpdateTask,
)
from services.chat_store.entries import Entry, EntryKind, TaskStatus
from services.chat_store.happenings import Appended, Changed, Event, Purged, Shard, slot_of
from services.chat_store.model import Conversation, Feedback, Message
from services.chat_store.selection import Reach
from services.chat_store.store import ChatStore
from shared.clock import ManualClock
from shared.errors import InvalidArgument
from tests.chat_store.feeds import facts, history, next_event, next_events, once, until_caught_up, until_told
from tests.chat_store.workshop import Workshop, everything, pair, somebody, started
from tests.house.waiting import until_answered


class FeedContract:
    async def test_feed_from_the_beginning_equals_history(self, store: ChatStore) -> None:
        reach = somebody()
        await _talk(store, reach, ["c1", "c1-x", "c"], rounds=3)
        told = await history(store, reach.tenant_id)
        _assert_complete(told, {"c1": 3, "c1-x": 3, "c": 3})
        created = [event.what for event in told if isinstance(event.what, Conversation)]
        for conversation in created:
            kept = await store.get(reach, conversation.conversation_id)
            assert conversation == kept.as_created()
            messages = [
                message
                for event in told
                if event.conversation_id == conversation.conversation_id and isinstance(event.what, Appended)
                for message in event.what.messages
            ]
            assert messages == await everything(store, reach, conversation.conversation_id)

    async def test_feed_tells_changes_in_their_order(self, store: ChatStore) -> None:
        reach = somebody()
        async with aclosing(store.watch(reach.tenant_id, "")) as feed:
            await until_caught_up(feed)
            states = await _changed(store, reach, "c1")
            live = await next_events(feed, 2 + len(states))
        kinds = [type(event.what) for event in live]
        assert kinds == [Conversation, Appended, *[Changed] * len(states)]
        changes = [event.what for event in live if isinstance(event.what, Changed)]
        assert [change.state for change in changes] == states
        assert [change.actor for change in changes] == [f"actor {number}" for number in range(len(states))]
        owner = {(each.user_id, each.assistant_id, each.team_id, each.channel) for each in changes}
        assert owner == {("ana", "a1", "t1", "web")}
        begin = live[0].event_id
        assert [event.event_id for event in live[1:]] == [f"{begin}:1", *(f"{begin}~{n + 1}" for n in range(11))]
        # From the beginning all is told as it was then, however much has become of it.
        assert isinstance(live[0].what, Conversation)
        assert live[0].what.description.title == ""
        assert isinstance(live[1].what, Appended)
        assert [message.draft.text for message in live[1].what.messages] == ["said", "re: said"]
        assert facts(await history(store, reach.tenant_id)) == facts(live)
        for position in (0, 1, 5):
            async with aclosing(store.watch(reach.tenant_id, live[position].resume_token)) as feed:
                assert facts(await next_events(feed, len(live) - position - 1)) == facts(live[position + 1 :])

    async def test_feed_goes_on_live_after_history(self, store: ChatStore) -> None:
        reach = somebody()
        await _talk(store, reach, ["old"], rounds=2)
        async with aclosing(store.watch(reach.tenant_id, "")) as feed:
            told = await until_caught_up(feed)
            await _talk(store, reach, ["new", "old"], rounds=1)
            told += await next_events(feed, 3)
        _assert_complete(told, {"old": 3, "new": 1})

    async def test_feed_resumes_without_a_gap_under_concurrent_appends(self, workshop: Workshop) -> None:
        stores, reach = [workshop.store, await workshop.another_replica()], somebody()
        names = [f"c{number}" for number in range(4)]

        async def write() -> None:
            await asyncio.gather(
                *(_talk(stores[n % 2], reach, [name], rounds=20, acts=True) for n, name in enumerate(names))
            )

        writing = asyncio.create_task(write())
        told: list[Event] = []
        token = ""
        while len({event.event_id for event in told}) < 4 * (1 + 20 + 20):
            async with aclosing(stores[len(told) % 2].watch(reach.tenant_id, token)) as feed:
                told += await next_events(feed, 7, nothing_follows=writing.done)
            token = told[-1].resume_token
        await writing
        _assert_complete(told, dict.fromkeys(names, 20))

    async def test_feed_history_resumes_in_its_middle(self, store: ChatStore) -> None:
        reach = somebody()
        await _talk(store, reach, ["a", "b"], rounds=4)
        whole = await history(store, reach.tenant_id)
        for position in (0, 3, 5, 9):
            rest = await history(store, reach.tenant_id, whole[position].resume_token)
            assert facts(rest) == facts(whole[position + 1 :])

    async def test_a_token_too_old_falls_back_to_history(self, forgetful: Workshop) -> None:
        store, reach = forgetful.store, somebody()
        await _talk(store, reach, ["a"], rounds=2)
        async with aclosing(store.watch(reach.tenant_id, "")) as feed:
            before = await until_caught_up(feed)
            caught_up = await next_event(feed)  # by now the token is a place in the log
        await forgetful.forget_the_log()
        await _talk(store, reach, ["a"], rounds=1)
        after = await history(store, reach.tenant_id, caught_up.resume_token)
        # An engine that forgot tells all of it again, one that never forgets goes on.
        assert facts(after[:-1]) in ([], facts(before))
        assert isinstance(after[-1].what, Appended)
        assert after[-1].what.messages[0].seq == 5
        async with aclosing(store.watch(reach.tenant_id, before[1].resume_token)) as feed:
            told = await until_told(feed, {before[2].event_id, after[-1].event_id})
        _assert_complete([*before[:2], *told], {"a": 3})

    async def test_events_are_the_same_each_time(self, store: ChatStore) -> None:
        reach = somebody()
        async with aclosing(store.watch(reach.tenant_id, "")) as feed:
            await until_caught_up(feed)
            await _talk(store, reach, ["a"], rounds=3, acts=True)
            live = await next_events(feed, 7)
        told = await history(store, reach.tenant_id)
        assert sorted(map(repr, facts(told))) == sorted(map(repr, facts(live)))
        since = round((await store.get(reach, "a")).create_time.timestamp() * 1000)
        begin = f"{reach.tenant_id}:a@{since}"
        wanted = [begin, *(f"{begin}:{first}" for first in (1, 3, 5)), *(f"{begin}~{n}" for n in (1, 2, 3))]
        assert sorted(event.event_id for event in live) == sorted(wanted)

    async def test_event_ids_are_never_used_again(self, workshop: Workshop) -> None:
        clock, reach = ManualClock(), somebody()
        store, told = workshop.store_at(clock), list[Event]()
        async with aclosing(store.watch(reach.tenant_id, "")) as feed:
            await until_caught_up(feed)
            # At one moment, as far as the clock can tell.
            for _ in range(3):
                await _talk(store, reach, ["again"], rounds=2, acts=True)
                told += await next_events(feed, 5)
                await store.upkeep.purge(reach.tenant_id, "again")
                told += await next_events(feed, 1)
        assert len({event.event_id for event in told}) == 3 * 6
        kinds = [type(event.what) for event in told]
        assert [kind for kind in kinds if kind in (Conversation, Purged)] == [Conversation, Purged] * 3

    async def test_a_purge_is_told(self, workshop: Workshop) -> None:
        clock, reach = ManualClock(), somebody()
        store = workshop.store_at(clock)
        await _talk(store, reach, ["stays", "goes"], rounds=1)
        async with aclosing(store.watch(reach.tenant_id, "")) as feed:
            before = await until_caught_up(feed)
            await store.upkeep.purge(reach.tenant_id, "goes")
            live = await next_events(feed, 1)
            created = next(event for event in before if event.conversation_id == "goes")
            assert (live[0].event_id, live[0].what) == (f"{created.event_id}!", Purged())
            assert live[0].time is not None
            # One that expires makes room for another one of its id, and is told to be gone before.
            clock.advance(1)
            await started(store, reach, "goes", ttl_seconds=60)
            live += await next_events(feed, 1)
            clock.advance(61)
            await _talk(store, reach, ["goes"], rounds=1)
            live += await next_events(feed, 3)
        assert [type(event.what) for event in live] == [Purged, Conversation, Purged, Conversation, Appended]
        told = [event for event in await history(store, reach.tenant_id) if event.conversation_id == "goes"]
        assert facts(told) == facts([live[0], *live[2:]])
        # Whoever was in the middle of it is told, too.
        for event in before:
            async with aclosing(store.watch(reach.tenant_id, event.resume_token)) as feed:
                await until_told(feed, {each.event_id for each in (live[0], *live[2:])})

    async def test_shards_share_out_the_feed(self, store: ChatStore) -> None:
        reach = somebody()
        names, shards = [f"c{number}" for number in range(12)], [Shard(3, index) for index in range(3)]
        await _talk(store, reach, names, rounds=1, acts=True)
        await store.upkeep.purge(reach.tenant_id, "c11")
        whole = await history(store, reach.tenant_id)
        told = [await history(store, reach.tenant_id, shard=shard) for shard in shards]
        assert sorted(event.event_id for share in told for event in share) == sorted(each.event_id for each in whole)
        for shard, share in zip(shards, told, strict=True):
            assert {slot_of(reach.tenant_id, event.conversation_id) % 3 for event in share} == {shard.index}
            async with aclosing(store.watch(reach.tenant_id, share[-1].resume_token, shard)) as feed:
                await until_caught_up(feed)
                await _talk(store, reach, names[:6], rounds=1)
                mine = [name for name in names[:6] if slot_of(reach.tenant_id, name) % 3 == shard.index]
                live = await next_events(feed, len(mine)) if mine else []
            assert sorted(event.conversation_id for event in live) == sorted(mine)
            for other in (*(each for each in shards if each != shard), Shard(4, shard.index), Shard()):
                with pytest.raises(InvalidArgument) as refused:
                    await anext(store.watch(reach.tenant_id, share[-1].resume_token, other))
                assert refused.value.reason == "RESUME_TOKEN_INVALID"

    async def test_feed_from_now_skips_history(self, workshop: Workshop) -> None:
        stores, reach = [workshop.store, await workshop.another_replica()], somebody()
        await _talk(stores[0], reach, ["a"], rounds=2, acts=True)
        token, everywhere = await stores[0].position(reach.tenant_id), await stores[1].position("")
        assert await history(stores[1], reach.tenant_id, token) == []
        await _talk(stores[1], reach, ["a", "b"], rounds=1)
        told = await history(stores[0], reach.tenant_id, token)
        assert [event.conversation_id for event in told if isinstance(event.what, Conversation)] == ["b"]
        assert sorted(event.conversation_id for event in told) == ["a", "b", "b"]
        assert sorted(event.event_id for event in await history(stores[0], "", everywhere)) == sorted(
            event.event_id for event in told
        )
        # Whoever writes at the same time: what is acknowledged after the position is told.
        writing = asyncio.create_task(_talk(stores[1], reach, ["c"], rounds=40))
        for _ in range(3):
            token = await stores[0].position(reach.tenant_id)
            marker = (await stores[0].append(reach, "a", pair("after")))[0]
            async with aclosing(stores[0].watch(reach.tenant_id, token)) as feed:
                begin = f"{reach.tenant_id}:a@"
                told = []
                while not any(event.event_id.startswith(begin) for event in told):
                    told += await next_events(feed, 1)
            assert told[-1].event_id.endswith(f":{marker.seq}")
        await writing

    async def test_an_idle_feed_gives_fresh_tokens(self, store: ChatStore) -> None:
        reach, elsewhere = somebody(), somebody()
        async with aclosing(store.watch(reach.tenant_id, "")) as feed:
            bare = [await next_event(feed)]
            for _ in range(2):
                await _talk(store, elsewhere, ["noise"], rounds=1)
                bare.append(await next_event(feed))
        assert all(event.what is None and not event.event_id for event in bare)
        assert all(event.time is not None for event in bare)
        assert len({event.resume_token for event in bare}) == 3
        await _talk(store, reach, ["a"], rounds=1)
        async with aclosing(store.watch(reach.tenant_id, bare[-1].resume_token)) as feed:
            assert len(await next_events(feed, 2)) == 2

    async def test_a_tenants_feed_tells_its_own_events_only(self, store: ChatStore) -> None:
        reach, elsewhere = somebody(), somebody()
        longer = replace(reach, tenant_id=f"{reach.tenant_id}x")
        for each in (elsewhere, longer, reach):
            await _talk(store, each, ["a"], rounds=1, acts=True)
            await started(store, each, "gone")
            await store.upkeep.purge(each.tenant_id, "gone")
        everywhere = await store.position("")
        async with aclosing(store.watch(reach.tenant_id, "")) as feed:
            told = await until_caught_up(feed)
            for each in (elsewhere, longer, reach):
                await _talk(store, each, ["b"], rounds=1)
            told += await next_events(feed, 2)
        assert {event.tenant_id for event in told} == {reach.tenant_id}
        assert len(told) == 3 + 1 + 2
        tenants = {event.tenant_id for event in await history(store, "", everywhere)}
        assert tenants == {reach.tenant_id, elsewhere.tenant_id, longer.tenant_id}

    async def test_foreign_tokens_are_refused(self, store: ChatStore) -> None:
        reach = somebody()
        await _talk(store, reach, ["a"], rounds=1)
        token = (await history(store, reach.tenant_id))[0].resume_token
        for tenant, foreign in [
            (somebody().tenant_id, token),
            ("", token),
            (reach.tenant_id, token[:-4]),
            (reach.tenant_id, token[:30] + ("A" if token[30] != "A" else "B") + token[31:]),
            (reach.tenant_id, "eyJ2IjoxfQ"),
            (reach.tenant_id, "não é nosso"),
            (reach.tenant_id, "\0"),
        ]:
            with pytest.raises(InvalidArgument) as refused:
                await anext(store.watch(tenant, foreign))
            assert refused.value.reason == "RESUME_TOKEN_INVALID"

    async def test_leaving_the_feed_frees_its_cursor(self, workshop: Workshop) -> None:
        # Those of the tests before are on their way out.
        await until_answered(lambda: _are_open(workshop, 0))
        feed = workshop.store.watch(somebody().tenant_id, "")
        await until_caught_up(feed)
        waiting = asyncio.ensure_future(anext(feed))
        await until_answered(lambda: _are_open(workshop, 1))
        waiting.cancel()
        await asyncio.wait([waiting])
        await feed.aclose()
        await until_answered(lambda: _are_open(workshop, 0))


async def _are_open(workshop: Workshop, feeds: int) -> bool:
    return await workshop.open_feeds() == feeds


async def _talk(
    store: ChatStore, reach: Reach, conversations: Sequence[str], rounds: int, *, acts: bool = False
) -> None:
    """Pairs of messages in each of the conversations, and after each pair an act where they are wanted."""
    for name in conversations:
        await started(store, reach, name, title=f"about {name}")
    for number in range(rounds):
        await asyncio.gather(*(store.append(reach, name, pair(f"{name} {number}")) for name in conversations))
        if acts:
            acting = (store.act(reach, name, Describe(title=f"{name} {number}")) for name in conversations)
            await asyncio.gather(*acting)


async def _changed(store: ChatStore, reach: Reach, name: str) -> list[Conversation | Message | Entry]:
    """A conversation with one of each change; what each of them left."""
    await started(store, reach, name, assistant_id="a1", team_id="t1", channel="web")
    message_id = (await store.append(reach, name, pair("said")))[0].message_id
    task, event, by = EntryKind.TASK, EntryKind.EVENT, [f"actor {number}" for number in range(11)]
    act, revise, entry = store.act, store.revise, store.entries.act
    return [
        await act(reach, name, Describe(title="first", actor=by[0])),
        await revise(reach, name, message_id, EditMessage(text="edited", actor=by[1])),
        await revise(reach, name, message_id, SetFeedback(feedback=Feedback(4, user_id="ana"), actor=by[2])),
        await entry(reach, name, task, "e1", AddEntry(label="pending", text="call", actor=by[3])),
        await entry(reach, name, task, "e1", UpdateTask(status=TaskStatus.COMPLETED, actor=by[4])),
        await entry(reach, name, event, "e1", AddEntry(label="handoff", by="bot", actor=by[5])),
        await entry(reach, name, task, "e1", RemoveEntry(actor=by[6])),
        await act(reach, name, Describe(title="second", actor=by[7])),
        await act(reach, name, Archive(actor=by[8])),
        await act(reach, name, Finalize(reason="done", actor=by[9])),
        await act(reach, name, Delete(purge_after_days=1, actor=by[10])),
    ]


def _assert_complete(told: Sequence[Event], rounds: dict[str, int]) -> None:
    """Everything at least once, the same each time, and per conversation in order."""
    seen = once(told)
    for name, count in rounds.items():
        own = [event for event in seen if event.conversation_id == name]
        assert isinstance(own[0].what, Conversation)
        starts = [event.what.messages[0].seq for event in own if isinstance(event.what, Appended)]
        assert starts == list(range(1, 2 * count, 2))
        revisions = [int(event.event_id.split("~")[1]) for event in own if isinstance(event.what, Changed)]
        assert revisions == sorted(revisions)
