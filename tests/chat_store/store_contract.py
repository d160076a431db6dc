"""The law of a chat store, rule by rule: every class of test_engines.py that names an engine inherits all of it.

The names are those that services/chat_store/store.py gives after each "must". Here: conversations, made and listed.
"""

import asyncio
from collections.abc import Awaitable
from dataclasses import replace
from datetime import timedelta

import pytest

from services.chat_store.acts import AddEntry, Archive, Delete, Describe, EditMessage, Finalize
from services.chat_store.entries import EntryKind
from services.chat_store.limits import PREVIEW_CHARACTERS
from services.chat_store.model import Conversation, ConversationStatus, Description, NewConversation, Tokens, Totals
from services.chat_store.selection import EntrySelection, Period, Place, Reach, Search, Selection, Window
from services.chat_store.store import ChatStore
from services.chat_store.words import words_of
from shared.clock import ManualClock
from shared.errors import NotFound, RequestIdReused, status_of
from tests.chat_store.act_contract import ActContract
from tests.chat_store.entry_contract import EntryContract
from tests.chat_store.feed_contract import FeedContract
from tests.chat_store.kept_contract import KeptContract
from tests.chat_store.message_contract import MessageContract
from tests.chat_store.page_contract import PageContract
from tests.chat_store.search_contract import SearchContract
from tests.chat_store.upkeep_contract import UpkeepContract
from tests.chat_store.workshop import Work, Workshop, batch_of, names, pair, said, somebody, started, whole


class StoreContract(
    ActContract,
    MessageContract,
    PageContract,
    EntryContract,
    SearchContract,
    FeedContract,
    UpkeepContract,
    KeptContract,
):
    @pytest.fixture
    def store(self, workshop: Workshop) -> ChatStore:
        return workshop.store

    async def test_creating_twice_makes_one_conversation(self, workshop: Workshop) -> None:
        stores, reach = [workshop.store, await workshop.another_replica()], somebody()
        new = NewConversation("c1", "ana", description=Description(title="IPTU"))
        made = await asyncio.gather(*(stores[n % 2].create(reach, new) for n in range(20)))
        assert all(each == made[0] for each in made)
        another = replace(new, description=Description(title="another title"))
        assert await stores[1].create(reach, another) == made[0]
        assert await stores[0].select(reach, Selection()) == ([made[0]], False)

    async def test_creating_with_a_reused_request_id_is_refused(self, store: ChatStore) -> None:
        reach = somebody()
        new = NewConversation("c1", "ana", description=Description(title="IPTU"), request_id="r1")
        made = await store.create(reach, new)
        assert await store.create(reach, new) == made
        others = [
            replace(new, description=replace(new.description, title="ISS")),
            replace(new, description=replace(new.description, context='{"a":1}')),
            replace(new, description=replace(new.description, ttl_seconds=60)),
            replace(new, assistant_id="a1"),
        ]
        for other in others:
            with pytest.raises(RequestIdReused):
                await store.create(reach, other)
        assert (await store.create(reach, replace(others[0], request_id="r2"))).description == new.description
        await store.act(reach, "c1", Describe(title="Changed since"))
        assert (await store.create(reach, new)).description.title == "Changed since"

    async def test_second_tenant_sees_nothing(self, store: ChatStore) -> None:
        reach, other = somebody(), somebody()
        await _filled(store, reach, "same-id")
        await _assert_sees_nothing(store, other, "same-id")
        await _assert_sees_nothing(store, replace(other, user_id=None), "same-id")
        await started(store, other, "same-id", title="theirs")
        assert (await store.get(other, "same-id")).totals == Totals()
        assert (await store.get(reach, "same-id")).totals.messages == 2

    async def test_another_user_sees_nothing(self, store: ChatStore) -> None:
        reach = somebody()
        await _filled(store, reach, "c1")
        for user in ("bia", "", "an", "ana "):
            other = replace(reach, user_id=user)
            await _assert_sees_nothing(store, other, "c1")
            await _assert_sees_nothing(store, replace(other, deleted=True), "c1")
            with pytest.raises(NotFound):
                await store.create(other, NewConversation("c1", user))
        everyone = replace(reach, user_id=None)
        assert (await store.get(everyone, "c1")).user_id == "ana"
        assert names((await store.select(everyone, Selection()))[0]) == ["c1"]

    async def test_totals_are_the_sums_over_the_messages(self, store: ChatStore) -> None:
        reach = somebody()
        conversation = await started(store, reach)
        for number in range(3):
            stored = await store.append(reach, conversation, pair(f"{number}" * 500))
        kept = await store.get(reach, conversation)
        assert kept.totals == Totals(messages=6, tokens=Tokens(input=21, output=15), cost_micros=45)
        assert kept.preview == f"re: {'2' * 500}"[:PREVIEW_CHARACTERS]
        assert kept.last_activity_time == stored[-1].create_time >= kept.create_time
        assert (await store.select(reach, Selection()))[0] == [kept]
        timed = [replace(said("x"), latency_ms=latency, tokens=Tokens(1, 2, 3, 4)) for latency in (0, 40, 10**12)]
        await store.append(reach, conversation, batch_of(*timed))
        sums = (await store.get(reach, conversation)).totals
        assert (sums.messages, sums.responses, sums.response_ms) == (9, 2, 10**12 + 40)
        assert sums.tokens == Tokens(24, 6, 24, 12)
        await store.revise(reach, conversation, stored[0].message_id, EditMessage(text="no sum changes"))
        assert (await store.get(reach, conversation)).totals == sums

    async def test_list_pages_by_last_activity_without_gaps(self, workshop: Workshop) -> None:
        clock, reach = ManualClock(), somebody()
        store, ids = workshop.store_at(clock), list[str]()
        for number in range(7):
            clock.advance(0.001)
            ids.append(await started(store, reach, assistant_id="a1" if number % 2 else "a2"))
        await started(store, replace(reach, user_id="bia"))
        clock.advance(0.001)
        await store.append(reach, ids[2], pair("again"))
        wanted = [ids[2], *(each for each in reversed(ids) if each != ids[2])]
        assert await _listed(store, reach, Selection(limit=3)) == wanted
        only = [each for each in wanted if ids.index(each) % 2]
        assert await _listed(store, reach, Selection(assistant_id="a1", limit=2)) == only
        assert len(await _listed(store, replace(reach, user_id=None), Selection(limit=2))) == 8
        # All at one moment: the id decides, by its characters alone.
        other = somebody()
        same = ["a", "A", "a-", "a.b", "a~", "_", "~", "-", "0", "10", "9", "Z", "z"]
        for name in same:
            await started(store, other, name)
        for limit in (1, 3, 50):
            assert await _listed(store, other, Selection(limit=limit)) == sorted(same, reverse=True)

    async def test_lists_are_filtered(self, workshop: Workshop) -> None:
        clock, reach = ManualClock(), somebody()
        store = workshop.store_at(clock)
        of = {"one": ("a1", "t1"), "two": ("a1", "t2"), "three": ("a2", "t1"), "four": ("a1", "t1")}
        for name, (assistant, team) in of.items():
            await started(store, reach, name, assistant_id=assistant, team_id=team)
            clock.advance(60)
        await store.act(reach, "two", Archive())
        await store.act(reach, "three", Finalize(reason="done"))
        await store.act(reach, "four", Delete(purge_after_days=30))
        await store.append(reach, "one", pair("later"))

        async def listed(**wanted: object) -> list[str]:
            return await _listed(store, reach, Selection(**wanted, limit=1))  # type: ignore[arg-type]

        every, minute = frozenset(ConversationStatus), timedelta(minutes=1)
        start = (await store.get(reach, "one")).create_time
        assert await listed() == ["one", "three"]
        assert await listed(statuses=every) == ["one", "four", "three", "two"]
        for status, found in zip(ConversationStatus, ["one", "three", "two", "four"], strict=True):
            assert await listed(statuses=frozenset({status})) == [found]
        assert await listed(statuses=frozenset[ConversationStatus]()) == []
        assert await listed(assistant_id="a1", team_id="t1", statuses=every) == ["one", "four"]
        assert await listed(assistant_id="a2", team_id="t2", statuses=every) == []
        # From the start on, before the end.
        moment = (await store.get(reach, "three")).create_time
        assert await listed(created=Period(moment, None), statuses=every) == ["four", "three"]
        assert await listed(created=Period(None, moment), statuses=every) == ["one", "two"]
        assert await listed(created=Period(moment, moment), statuses=every) == []
        assert await listed(active=Period(start + 3 * minute, None), statuses=every) == ["one", "four"]
        assert await listed(active=Period(start + 3 * minute + minute / 2, None), team_id="t1") == ["one"]
        assert await listed(created=Period(None, moment), active=Period(moment, None), statuses=every) == ["one"]

    async def test_lists_never_read_messages(self, workshop: Workshop) -> None:
        store, reach = workshop.store, somebody()
        for _ in range(5):
            await store.append(reach, await started(store, reach), pair("x" * 1000))
        await workshop.start_measuring()
        await store.select(reach, Selection(limit=3))
        assert await workshop.work() == Work(conversations=4, appends=0)


async def _listed(store: ChatStore, reach: Reach, selection: Selection) -> list[str]:
    found = list[Conversation]()
    while True:
        page, more = await store.select(reach, selection)
        found += page
        assert len(page) <= selection.limit
        assert len(set(names(found))) == len(found)
        if not more:
            return names(found)
        selection = replace(selection, after=Place(page[-1].last_activity_time, page[-1].conversation_id))


async def _filled(store: ChatStore, reach: Reach, conversation_id: str) -> None:
    """A conversation with a message "m1" and a task "e1"."""
    await started(store, reach, conversation_id)
    await store.append(reach, conversation_id, batch_of(said("secret", message_id="m1"), said("secret")))
    await store.entries.act(reach, conversation_id, EntryKind.TASK, "e1", AddEntry(label="pending"))


async def _assert_sees_nothing(store: ChatStore, reach: Reach, conversation_id: str) -> None:
    """Every call answers, byte for byte, as it does for an id that nobody ever used."""
    assert await store.select(reach, Selection(statuses=frozenset(ConversationStatus))) == ([], False)
    assert not (await store.search(reach, Search(words_of("secret")))).hits
    absent = "z" * len(conversation_id)
    for ask in (
        lambda name: store.get(reach, name),
        lambda name: store.version(reach, name),
        lambda name: store.act(reach, name, Describe(title="mine")),
        lambda name: store.append(reach, name, pair("x")),
        lambda name: store.read(reach, name, Window()),
        lambda name: store.message(reach, name, "m1"),
        lambda name: store.revise(reach, name, "m1", EditMessage(text="mine")),
        lambda name: store.revisions(reach, name, "m1", -1, 10),
        lambda name: whole(store.text(reach, name, "m1")),
        lambda name: store.entries.get(reach, name, EntryKind.TASK, "e1"),
        lambda name: store.entries.select(reach, name, EntrySelection(EntryKind.TASK)),
    ):
        foreign, missing = await _refusal(ask(conversation_id)), await _refusal(ask(absent))
        assert foreign.replace(conversation_id.encode(), absent.encode()) == missing


async def _refusal(call: Awaitable[object]) -> bytes:
    with pytest.raises(NotFound) as refused:
        await call
    return bytes(status_of(refused.value).SerializeToString())
