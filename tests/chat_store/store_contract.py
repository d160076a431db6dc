"""The law of a chat store, rule by rule: every class of test_engines.py that names an engine inherits all of it.

The names are those that services/chat_store/store.py gives after each "must".
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable
from dataclasses import replace

import pytest

from services.chat_store.model import (
    MAX_BATCH_BYTES,
    PAGE_BYTES,
    PREVIEW_CHARACTERS,
    Batch,
    Conversation,
    Draft,
    MessageStatus,
    MessageType,
    NewConversation,
    Page,
    Place,
    Reach,
    Reference,
    Selection,
    Tokens,
    Totals,
    UsageSource,
    Window,
)
from services.chat_store.store import ChatStore
from shared.errors import AlreadyExists, InvalidArgument, NotFound, RequestIdReused, status_of
from tests.chat_store.feed_contract import FeedContract
from tests.chat_store.workshop import Work, Workshop, batch_of, everything, pair, said, somebody, started


def seqs(page: Page) -> list[int]:
    return [message.seq for message in page.messages]


class StoreContract(FeedContract):
    @pytest.fixture
    def store(self, workshop: Workshop) -> ChatStore:
        return workshop.store

    async def test_creating_twice_makes_one_conversation(self, store: ChatStore) -> None:
        reach = somebody()
        new = NewConversation("c1", "ana", title="IPTU")
        made = await asyncio.gather(*(store.create(reach, new) for _ in range(20)))
        assert len(set(made)) == 1
        assert await store.create(reach, replace(new, title="another title")) == made[0]
        assert await store.select(reach, Selection()) == ([made[0]], False)

    async def test_creating_with_a_reused_request_id_is_refused(self, store: ChatStore) -> None:
        reach = somebody()
        new = NewConversation("c1", "ana", title="IPTU", request_id="r1")
        made = await store.create(reach, new)
        assert await store.create(reach, new) == made
        with pytest.raises(RequestIdReused):
            await store.create(reach, replace(new, title="ISS"))

    async def test_second_tenant_sees_nothing(self, store: ChatStore) -> None:
        reach, other = somebody(), somebody()
        await store.create(reach, NewConversation("same-id", "ana"))
        await store.append(reach, "same-id", pair("secret"))
        await _assert_sees_nothing(store, other, "same-id")
        await _assert_sees_nothing(store, replace(other, user_id=None), "same-id")
        await store.create(other, NewConversation("same-id", "ana", title="theirs"))
        assert (await store.get(other, "same-id")).totals == Totals()
        assert (await store.get(reach, "same-id")).totals.messages == 2

    async def test_another_user_sees_nothing(self, store: ChatStore) -> None:
        reach = somebody()
        await store.create(reach, NewConversation("c1", "ana"))
        for user in ("bia", ""):
            other = replace(reach, user_id=user)
            await _assert_sees_nothing(store, other, "c1")
            with pytest.raises(NotFound):
                await store.create(other, NewConversation("c1", user))
        everyone = replace(reach, user_id=None)
        assert (await store.get(everyone, "c1")).user_id == "ana"

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

    async def test_list_pages_by_last_activity_without_gaps(self, store: ChatStore) -> None:
        reach = somebody()
        ids = [await started(store, reach, assistant_id="a1" if n % 2 else "a2") for n in range(7)]
        await started(store, replace(reach, user_id="bia"))
        await store.append(reach, ids[2], pair("again"))
        wanted = [ids[2], *(each for each in reversed(ids) if each != ids[2])]
        assert await _listed(store, reach, Selection(limit=3)) == wanted
        only = [each for each in wanted if ids.index(each) % 2]
        assert await _listed(store, reach, Selection(assistant_id="a1", limit=2)) == only
        assert len(await _listed(store, replace(reach, user_id=None), Selection(limit=2))) == 8

    async def test_lists_never_read_messages(self, workshop: Workshop) -> None:
        store, reach = workshop.store, somebody()
        for _ in range(5):
            await store.append(reach, await started(store, reach), pair("x" * 1000))
        await workshop.start_measuring()
        await store.select(reach, Selection(limit=3))
        assert await workshop.work() == Work(conversations=4, appends=0)

    async def test_a_batch_is_contiguous_among_concurrent_writers(self, workshop: Workshop) -> None:
        stores = [workshop.store, await workshop.another_replica()]
        reach = somebody()
        conversation = await started(stores[0], reach)
        batches = [batch_of(*(said(f"{n}") for _ in range(n % 4 + 1))) for n in range(20)]
        await asyncio.gather(*(stores[n % 2].append(reach, conversation, each) for n, each in enumerate(batches)))
        messages = await everything(stores[0], reach, conversation)
        runs = Counter[str]()
        for before, message in zip([None, *messages], messages, strict=False):
            runs[message.draft.text] += before is None or before.draft.text != message.draft.text
        assert len(messages) == sum(len(each.drafts) for each in batches)
        assert set(runs.values()) == {1}

    async def test_seq_is_dense_and_strictly_increasing(self, workshop: Workshop) -> None:
        stores = [workshop.store, await workshop.another_replica()]
        reach = somebody()
        conversation = await started(stores[0], reach)
        writes = [stores[n % 2].append(reach, conversation, pair(f"{n}")) for n in range(20)]
        stored = [message for each in await asyncio.gather(*writes) for message in each]
        assert sorted(message.seq for message in stored) == list(range(1, 41))
        messages = await everything(stores[0], reach, conversation)
        assert [message.seq for message in messages] == list(range(1, 41))
        assert {message.message_id for message in messages} == {message.message_id for message in stored}
        times = [message.create_time for message in messages]
        assert times == sorted(times)
        assert (await stores[1].get(reach, conversation)).totals.messages == 40

    async def test_a_crash_between_messages_and_header_heals(self, workshop: Workshop) -> None:
        store, reach = workshop.store, somebody()
        for heal in ("get", "retry", "append"):
            conversation = await started(store, reach)
            await store.append(reach, conversation, pair("before"))
            lost = pair("lost?", request_id="r1")
            await workshop.crash_after_storing(reach, conversation, lost)
            if heal == "retry":
                assert [each.seq for each in await store.append(reach, conversation, lost)] == [3, 4]
            if heal == "append":
                assert [each.seq for each in await store.append(reach, conversation, pair("next"))] == [5, 6]
            count = 6 if heal == "append" else 4
            if heal == "get":
                assert (await store.get(reach, conversation)).totals.messages == count
            listed = (await store.select(reach, Selection(limit=1)))[0][0]
            assert (listed.conversation_id, listed.totals.messages) == (conversation, count)
            assert listed.totals.tokens == Tokens(input=7 * count // 2, output=5 * count // 2)
            assert [each.seq for each in await everything(store, reach, conversation)] == list(range(1, count + 1))

    async def test_a_retry_returns_what_was_stored(self, store: ChatStore) -> None:
        reach = somebody()
        conversation = await started(store, reach)
        first = await store.append(reach, conversation, pair("a", request_id="r1"))
        await store.append(reach, conversation, pair("b", request_id="r2"))
        assert await store.append(reach, conversation, pair("a", request_id="r1")) == first
        elsewhere = await started(store, reach)
        again = await store.append(reach, elsewhere, pair("a", request_id="r1"))
        assert [each.seq for each in again] == [1, 2]
        assert (await store.get(reach, conversation)).totals.messages == 4

    async def test_concurrent_retries_store_once(self, workshop: Workshop) -> None:
        stores = [workshop.store, await workshop.another_replica()]
        reach = somebody()
        conversation = await started(stores[0], reach)
        tries = [stores[n % 2].append(reach, conversation, pair("a", request_id="r1")) for n in range(10)]
        others = [stores[n % 2].append(reach, conversation, pair(f"{n}")) for n in range(5)]
        results = (await asyncio.gather(*tries, *others))[:10]
        assert all(result == results[0] for result in results)
        assert len(await everything(stores[0], reach, conversation)) == 12

    async def test_a_reused_request_id_is_refused(self, store: ChatStore) -> None:
        reach = somebody()
        conversation = await started(store, reach)
        await store.append(reach, conversation, pair("a", request_id="r1"))
        for other in (pair("b", request_id="r1"), batch_of(said("a"), request_id="r1")):
            with pytest.raises(RequestIdReused):
                await store.append(reach, conversation, other)
        assert (await store.get(reach, conversation)).totals.messages == 2

    async def test_a_message_id_is_unique_in_its_conversation(self, store: ChatStore) -> None:
        reach = somebody()
        conversation = await started(store, reach)
        first = await store.append(reach, conversation, batch_of(said("a", message_id="m1"), said("b")))
        again = await store.append(reach, conversation, batch_of(said("a", message_id="m1"), said("b")))
        assert again == first
        with pytest.raises(AlreadyExists, match="message"):
            await store.append(reach, conversation, batch_of(said("c", message_id="m1"), request_id="r2"))
        with pytest.raises(AlreadyExists):
            await store.append(reach, conversation, batch_of(said("c", message_id=first[1].message_id)))
        with pytest.raises(InvalidArgument):
            batch_of(said("c", message_id="m2"), said("d", message_id="m2"))
        assert [each.draft.text for each in await everything(store, reach, conversation)] == ["a", "b"]
        await store.append(reach, await started(store, reach), batch_of(said("a", message_id="m1")))

    async def test_messages_come_back_as_they_were_said(self, store: ChatStore) -> None:
        reach = somebody()
        conversation = await started(store, reach, metadata='{"a":1}', title="Título", channel="web", team_id="t")
        drafts = [
            Draft(
                type=kind,
                text="Olá, “ção” 🏛️",
                message_id=f"m-{kind.value}",
                user_id="ana",
                assistant_id="a1",
                team_id="t1",
                status=MessageStatus.INTERRUPTED,
                rag=True,
                references=(Reference(1, "d1", 2, "Código", "c1", 3, 10, 20, "cita", 0.75),),
                tokens=Tokens(1, 2, 3, 4),
                usage_source=UsageSource.PARTIAL,
                cost_micros=5,
                model="extractive",
                latency_ms=6,
                time_to_first_token_ms=7,
                finish_reason="stop",
                error_reason="X",
                metadata='{"k":[1,null]}',
            )
            for kind in MessageType
        ]
        stored = await store.append(reach, conversation, batch_of(*drafts))
        assert [message.draft for message in stored] == drafts
        assert await everything(store, reach, conversation) == stored
        kept = await store.get(reach, conversation)
        assert (kept.title, kept.channel, kept.team_id, kept.metadata) == ("Título", "web", "t", '{"a":1}')

    async def test_hostile_text_and_metadata_are_only_data(self, store: ChatStore) -> None:
        reach = somebody()
        hostile = '{"$gt":"","a.b":{"$where":"1"},"__proto__":1}'
        conversation = await started(store, reach, metadata=hostile, title="\0$set", channel="$channel")
        draft = replace(said("nul\0 $inc {$ne: null}"), user_id="\0", metadata=hostile, model="$model")
        stored = await store.append(reach, conversation, batch_of(draft, request_id="$exists\0"))
        assert await everything(store, reach, conversation) == stored
        assert stored[0].draft == replace(draft, message_id=stored[0].message_id)
        assert (await store.get(reach, conversation)).metadata == hostile
        for name in ("a:b", "", "$ne", "x" * 5000, f"{conversation}\0", f"{conversation}:000000000001", "ação"):
            with pytest.raises(NotFound):
                await store.get(reach, name)
            with pytest.raises(NotFound):
                await store.append(reach, name, pair("x"))
            with pytest.raises(NotFound):
                await store.read(reach, name, Window())

    async def test_pages_from_any_position_in_both_directions(self, store: ChatStore) -> None:
        reach = somebody()
        conversation = await started(store, reach)
        assert await store.read(reach, conversation, Window(after_seq=3)) == Page((), more=False)
        sizes = [1, 3, 2, 5, 1, 1, 4, 3]
        for size in sizes:
            await store.append(reach, conversation, batch_of(*(said("x") for _ in range(size))))
        count = sum(sizes)
        beyond = [0, 1, 4, 5, 11, count - 1, count, count + 1, 2**63 - 1]
        for newest_first in (False, True):
            for after in beyond:
                for before in beyond:
                    for limit in (1, 4, 50):
                        window = Window(after, before, newest_first, limit)
                        wanted = [seq for seq in range(1, count + 1) if window.holds(seq)]
                        if newest_first:
                            wanted.reverse()
                        page = await store.read(reach, conversation, window)
                        assert (seqs(page), page.more) == (wanted[:limit], len(wanted) > limit), window

    async def test_a_page_ends_before_two_mebibytes(self, store: ChatStore) -> None:
        reach = somebody()
        conversation = await started(store, reach)
        big = "x" * (PAGE_BYTES // 5)
        for _ in range(2):
            await store.append(reach, conversation, batch_of(*(said(big) for _ in range(4))))
        huge = tuple(Reference(n, "d", 1, "", "", 0, 0, 0, "q" * 16_000, 0.0) for n in range(1, 91))
        await store.append(reach, conversation, batch_of(replace(said("x" * 2**20), references=huge)))
        first = await store.read(reach, conversation, Window())
        assert (seqs(first), first.more) == ([1, 2, 3, 4], True)
        last = await store.read(reach, conversation, Window(newest_first=True))
        assert (seqs(last), last.more) == ([9], True)
        assert [each.seq for each in await everything(store, reach, conversation)] == list(range(1, 10))

    async def test_append_and_first_or_last_page_cost_the_same_at_any_length(self, workshop: Workshop) -> None:
        reach = somebody()
        short, long = [await started(workshop.store, reach) for _ in range(2)]
        await workshop.load(reach, short, 100)
        await workshop.load(reach, long, 6000)
        in_short, in_long = await _costs(workshop, reach, short), await _costs(workshop, reach, long)
        assert in_short == in_long

    async def test_no_conversation_hits_16_mb(self, store: ChatStore) -> None:
        reach = somebody()
        conversation = await started(store, reach)
        full = batch_of(*(said("x" * (MAX_BATCH_BYTES // 4 - 1000)) for _ in range(4)))
        for _ in range(6):
            await store.append(reach, conversation, replace(full, drafts=batch_of(*_nameless(full)).drafts))
        assert (await store.get(reach, conversation)).totals.messages == 24
        with pytest.raises(InvalidArgument):
            batch_of(*(said("x" * (MAX_BATCH_BYTES // 4)) for _ in range(4)))


def _nameless(batch: Batch) -> list[Draft]:
    return [replace(draft, message_id="") for draft in batch.drafts]


async def _costs(workshop: Workshop, reach: Reach, conversation_id: str) -> list[Work]:
    store, costs = workshop.store, []
    for act in (
        lambda: store.append(reach, conversation_id, pair("more")),
        lambda: store.read(reach, conversation_id, Window()),
        lambda: store.read(reach, conversation_id, Window(newest_first=True)),
        lambda: store.read(reach, conversation_id, Window(after_seq=61)),
        lambda: store.get(reach, conversation_id),
    ):
        await workshop.start_measuring()
        await act()
        costs.append(await workshop.work())
    assert max(cost.documents for cost in costs) <= 60
    return costs


async def _listed(store: ChatStore, reach: Reach, selection: Selection) -> list[str]:
    found = list[Conversation]()
    while True:
        page, more = await store.select(reach, selection)
        found += page
        if not more:
            return [each.conversation_id for each in found]
        selection = replace(selection, after=Place(page[-1].last_activity_time, page[-1].conversation_id))


async def _assert_sees_nothing(store: ChatStore, reach: Reach, conversation_id: str) -> None:
    assert await store.select(reach, Selection()) == ([], False)
    absent = "z" * len(conversation_id)
    for ask in (
        lambda name: store.get(reach, name),
        lambda name: store.append(reach, name, pair("x")),
        lambda name: store.read(reach, name, Window()),
    ):
        foreign, missing = await _refusal(ask(conversation_id)), await _refusal(ask(absent))
        assert foreign.replace(conversation_id.encode(), absent.encode()) == missing


async def _refusal(call: Awaitable[object]) -> bytes:
    with pytest.raises(NotFound) as refused:
        await call
    return bytes(status_of(refused.value).SerializeToString())
