"""The law of what is done to conversations, and of their end; part of store_contract.py."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from services.chat_store.acts import (
    AddEntry,
    Archive,
    ClearFeedback,
    Delete,
    Describe,
    EditMessage,
    Finalize,
    LinkAnalysis,
    LinkMessageAnalysis,
    RemoveEntry,
    SetFeedback,
    Unarchive,
    Undelete,
    UpdateTask,
)
from services.chat_store.entries import EntryKind
from services.chat_store.model import (
    Conversation,
    ConversationClosed,
    ConversationStatus,
    Feedback,
    Message,
    NewConversation,
)
from services.chat_store.selection import EntrySelection, Reach, Search, Selection, Window
from services.chat_store.store import ChatStore
from services.chat_store.words import words_of
from shared.clock import ManualClock
from shared.errors import NotFound, RequestIdReused
from tests.chat_store.feeds import history
from tests.chat_store.workshop import (
    Workshop,
    batch_of,
    everything,
    names,
    pair,
    said,
    somebody,
    started,
    talk,
    whole,
)
from tests.house.waiting import until_answered

TASK, EVENT = EntryKind.TASK, EntryKind.EVENT
EVERY_STATUS = frozenset(ConversationStatus)


class ActContract:
    async def test_concurrent_acts_are_all_applied(self, workshop: Workshop) -> None:
        stores, reach = [workshop.store, await workshop.another_replica()], somebody()
        conversation, (message, _) = await talk(stores[0], reach, "olá", "tchau")

        def acts(number: int) -> list[Awaitable[object]]:
            store = stores[number % 2]
            return [
                store.act(reach, conversation, LinkAnalysis(analysis_id=f"c{number}")),
                store.revise(reach, conversation, message.message_id, LinkMessageAnalysis(analysis_id=f"m{number}")),
                store.entries.act(reach, conversation, TASK, f"e{number}", AddEntry(label="pending")),
                store.append(reach, conversation, pair(f"{number}")),
            ]

        await asyncio.gather(*(act for number in range(8) for act in acts(number)))
        kept = await stores[1].get(reach, conversation)
        assert sorted(kept.analysis_ids) == sorted(f"c{number}" for number in range(8))
        assert (kept.revision, kept.totals.messages) == (24, 18)
        changed = await stores[0].message(reach, conversation, message.message_id)
        assert sorted(changed.analysis_ids) == sorted(f"m{number}" for number in range(8))
        assert changed.revision == 8
        tasks = await stores[0].entries.select(reach, conversation, EntrySelection(TASK))
        assert len(tasks.entries) == 8
        # Of two that saw the same revision one comes too late, and leaves nothing.
        race = [stores[n % 2].act(reach, conversation, Describe(title=f"{n}", revision=24)) for n in range(4)]
        results = await asyncio.gather(*race, return_exceptions=True)
        assert sorted(type(each).__name__ for each in results) == ["Conversation", *["RevisionMismatch"] * 3]
        won = next(each for each in results if not isinstance(each, BaseException))
        assert await stores[0].get(reach, conversation) == won
        full = replace(Describe(title="x"), metadata="x" * (64 * 1024 + 1))
        for refused in (full, LinkAnalysis(analysis_id="")):
            with pytest.raises(Exception, match="must"):
                await stores[0].act(reach, conversation, refused)
        assert await stores[0].get(reach, conversation) == won

    async def test_an_act_without_effect_leaves_no_trace(self, store: ChatStore) -> None:
        reach = somebody()
        conversation, (message,) = await talk(store, reach, "olá")
        await store.act(reach, conversation, LinkAnalysis(analysis_id="x"))
        await store.act(reach, conversation, Archive())
        await store.revise(reach, conversation, message.message_id, SetFeedback(feedback=Feedback(5)))
        task = await store.entries.act(reach, conversation, TASK, "e1", AddEntry(label="pending"))
        kept, shown = await store.get(reach, conversation), await store.message(reach, conversation, message.message_id)
        version, told = await store.version(reach, conversation), await history(store, reach.tenant_id)
        for act in (Describe(), Describe(title=""), LinkAnalysis(analysis_id="x"), Archive(), Undelete()):
            assert await store.act(reach, conversation, act) == kept
        for revise in (
            EditMessage(),
            EditMessage(text="olá"),
            SetFeedback(feedback=Feedback(5)),
        ):
            assert await store.revise(reach, conversation, message.message_id, revise) == shown
        for change in (UpdateTask(), UpdateTask(description="", revision=0), AddEntry(label="pending")):
            assert await store.entries.act(reach, conversation, TASK, "e1", change) == task
        assert await store.get(reach, conversation) == kept
        assert await store.version(reach, conversation) == version
        assert await history(store, reach.tenant_id) == told
        assert (await store.revisions(reach, conversation, message.message_id, -1, 50))[0] == [message, shown]

    async def test_a_retried_act_acts_once(self, workshop: Workshop) -> None:
        stores, reach = [workshop.store, await workshop.another_replica()], somebody()
        store = stores[0]
        conversation, (message,) = await talk(store, reach, "olá")
        tried = LinkAnalysis(analysis_id="a1", request_id="r0")
        results = await asyncio.gather(*(stores[n % 2].act(reach, conversation, tried) for n in range(8)))
        assert all(each == results[0] for each in results)
        assert (await store.get(reach, conversation)).revision == 1
        title = await store.act(reach, conversation, Describe(title="one", request_id="r1", actor="ana"))
        edit = EditMessage(text="oi", request_id="r2")
        edited = await store.revise(reach, conversation, message.message_id, edit)
        add = AddEntry(label="pending", request_id="r3")
        added = await store.entries.act(reach, conversation, TASK, "e1", add)
        removed = await store.entries.act(reach, conversation, TASK, "e1", RemoveEntry(request_id="r4"))
        await store.act(reach, conversation, Describe(title="two"))
        await store.revise(reach, conversation, message.message_id, EditMessage(text="tchau"))
        end = await store.act(reach, conversation, Finalize(reason="done", request_id="r5"))
        # What each left, whatever has happened since.
        assert await store.act(reach, conversation, Describe(title="one", request_id="r1", actor="bia")) == title
        assert await store.revise(reach, conversation, message.message_id, edit) == edited
        assert await store.entries.act(reach, conversation, TASK, "e1", add) == added
        assert await store.entries.act(reach, conversation, TASK, "e1", RemoveEntry(request_id="r4")) == removed
        assert await store.act(reach, conversation, Finalize(reason="done", request_id="r5")) == end
        assert await store.get(reach, conversation) == end
        assert (await store.message(reach, conversation, message.message_id)).draft.text == "tchau"
        gone = await store.act(reach, conversation, Delete(purge_after_days=30, request_id="r6"))
        assert await store.act(reach, conversation, Delete(purge_after_days=7, request_id="r6")) == gone
        elsewhere = await started(store, reach)
        assert (await store.act(reach, elsewhere, Describe(title="new", request_id="r1"))).description.title == "new"

    async def test_an_act_with_a_reused_request_id_is_refused(self, store: ChatStore) -> None:
        reach = somebody()
        conversation, (one, two) = await talk(store, reach, "olá", "tchau")
        await store.act(reach, conversation, Describe(title="one", request_id="r1"))
        await store.revise(reach, conversation, one.message_id, EditMessage(text="oi", request_id="r2"))
        add = AddEntry(label="pending", request_id="r3")
        await store.entries.act(reach, conversation, TASK, "e1", add)
        before = await store.get(reach, conversation)
        others: list[Callable[[], Awaitable[object]]] = [
            lambda: store.act(reach, conversation, Describe(title="two", request_id="r1")),
            lambda: store.act(reach, conversation, Archive(request_id="r1")),
            lambda: store.act(reach, conversation, Archive(request_id="r2")),
            lambda: store.revise(reach, conversation, one.message_id, EditMessage(text="x", request_id="r2")),
            lambda: store.revise(reach, conversation, two.message_id, EditMessage(text="oi", request_id="r2")),
            lambda: store.revise(reach, conversation, one.message_id, EditMessage(text="oi", request_id="r3")),
            lambda: store.entries.act(reach, conversation, TASK, "e2", add),
            lambda: store.entries.act(reach, conversation, EVENT, "e1", add),
            lambda: store.entries.act(reach, conversation, TASK, "e1", replace(add, text="x")),
        ]
        for other in others:
            with pytest.raises(RequestIdReused):
                await other()
        assert await store.get(reach, conversation) == before
        assert [each.draft.text for each in await everything(store, reach, conversation)] == ["oi", "tchau"]

    async def test_a_finalized_conversation_takes_no_messages(self, workshop: Workshop) -> None:
        stores, reach = [workshop.store, await workshop.another_replica()], somebody()
        for _ in range(3):
            conversation, (message,) = await talk(stores[0], reach, "olá")
            first = await stores[0].append(reach, conversation, pair("kept", request_id="r1"))
            writers = [_write_until_closed(stores[n % 2], reach, conversation) for n in range(4)]
            written, end = await asyncio.gather(
                asyncio.gather(*writers), _finalized_after(stores[1], reach, conversation, messages=9)
            )
            acknowledged = [message, *first, *(each for one in written for each in one)]
            kept = await everything(stores[0], reach, conversation)
            assert kept == sorted(acknowledged, key=lambda each: each.seq)
            assert end.totals.messages == len(kept)
            assert await stores[0].get(reach, conversation) == end
            edit = EditMessage(text="changed", revision=0)
            for write in (
                stores[1].append(reach, conversation, pair("late")),
                stores[0].append(reach, conversation, pair("late", request_id="r9")),
                stores[0].revise(reach, conversation, message.message_id, edit),
                stores[0].act(reach, conversation, Finalize(reason="another")),
            ):
                with pytest.raises(ConversationClosed):
                    await write
            # What was stored before is still known, and opinions come late.
            assert await stores[1].append(reach, conversation, pair("kept", request_id="r1")) == first
            feedback = SetFeedback(feedback=Feedback(1))
            assert (await stores[0].revise(reach, conversation, message.message_id, feedback)).feedback is not None
            assert (await stores[0].act(reach, conversation, Finalize(reason="done"))).finalize_reason == "done"
            assert (await stores[0].version(reach, conversation)).last_seq == len(kept)

    async def test_a_deleted_conversation_looks_missing_until_it_is_brought_back(self, store: ChatStore) -> None:
        reach = somebody()
        conversation, messages = await talk(store, reach, "secret", "secret")
        await store.entries.act(reach, conversation, TASK, "e1", AddEntry(label="pending"))
        before = await store.get(reach, conversation)
        gone = await store.act(reach, conversation, Delete(purge_after_days=30))
        assert gone.status is ConversationStatus.DELETED
        assert gone.delete_time is not None
        assert gone.purge_time is not None
        assert (gone.purge_time - gone.delete_time).days == 30
        await assert_missing(store, reach, conversation, messages[0].message_id)
        assert await store.select(reach, Selection()) == ([], False)
        deleted = Selection(statuses=frozenset({ConversationStatus.DELETED}))
        assert await store.select(reach, deleted) == ([gone], False)
        with pytest.raises(NotFound):
            await store.act(replace(reach, user_id="bia"), conversation, Undelete())
        back = await store.act(reach, conversation, Undelete())
        assert back == replace(before, revision=before.revision + 2)
        assert await store.get(reach, conversation) == back
        assert await store.select(reach, Selection()) == ([back], False)
        assert await everything(store, reach, conversation) == messages
        assert (await store.entries.get(reach, conversation, TASK, "e1")).label == "pending"
        assert len((await store.search(reach, Search(words_of("secret")))).hits) == 2
        assert (await store.append(reach, conversation, pair("on")))[0].seq == 3
        archived = await store.act(reach, conversation, Archive())
        assert archived.status is ConversationStatus.ARCHIVED
        assert (await store.act(reach, conversation, Unarchive())).status is ConversationStatus.ACTIVE

    async def test_a_reach_that_includes_deleted_conversations_reads_them(self, store: ChatStore) -> None:
        reach = somebody()
        everything_kept = replace(reach, deleted=True)
        conversation, messages = await talk(store, reach, "secret")
        task = await store.entries.act(reach, conversation, TASK, "e1", AddEntry(label="pending"))
        gone = await store.act(reach, conversation, Delete(purge_after_days=30))
        message_id = messages[0].message_id
        assert await store.get(everything_kept, conversation) == gone
        assert (await store.version(everything_kept, conversation)).revision == gone.revision
        assert await everything(store, everything_kept, conversation) == messages
        assert await store.message(everything_kept, conversation, message_id) == messages[0]
        assert await store.revisions(everything_kept, conversation, message_id, -1, 9) == (messages, False)
        assert await whole(store.text(everything_kept, conversation, message_id)) == b"secret"
        assert await store.entries.get(everything_kept, conversation, TASK, "e1") == task
        listed = await store.entries.select(everything_kept, conversation, EntrySelection(TASK))
        assert listed.entries == (task,)
        # Reading is all that it is for.
        for write in (
            store.append(everything_kept, conversation, pair("x")),
            store.act(everything_kept, conversation, Describe(title="x")),
            store.revise(everything_kept, conversation, message_id, EditMessage(text="x")),
            store.entries.act(everything_kept, conversation, TASK, "e1", RemoveEntry()),
        ):
            with pytest.raises(NotFound):
                await write
        assert await store.get(everything_kept, conversation) == gone

    async def test_an_expired_conversation_looks_missing(self, workshop: Workshop) -> None:
        clock, reach = ManualClock(), somebody()
        store = workshop.store_at(clock)
        conversation = await started(store, reach, ttl_seconds=60)
        message = (await store.append(reach, conversation, batch_of(said("secret", message_id="m1"))))[0]
        await store.entries.act(reach, conversation, TASK, "e1", AddEntry(label="pending"))
        expire_time = (await store.get(reach, conversation)).expire_time
        assert expire_time is not None
        clock.advance(59)
        assert await everything(store, reach, conversation) == [message]
        assert names((await store.select(reach, Selection()))[0]) == [conversation]
        clock.advance(2)
        assert clock.now() >= expire_time
        await assert_missing(store, reach, conversation, "m1")
        await assert_missing(store, replace(reach, deleted=True), conversation, "m1")
        assert await store.select(reach, Selection(statuses=EVERY_STATUS)) == ([], False)
        with pytest.raises(NotFound):
            await store.act(reach, conversation, Undelete())

    async def test_the_id_of_an_expired_conversation_can_be_used_again(self, workshop: Workshop) -> None:
        clock, reach = ManualClock(), somebody()
        store = workshop.store_at(clock)
        old = NewConversation("c1", "ana", request_id="r1")
        await started(store, reach, "c1", ttl_seconds=60)
        for number in range(3):
            await store.append(reach, "c1", batch_of(said("old", message_id=f"m{number}"), request_id=f"r{number}"))
        await store.revise(reach, "c1", "m0", EditMessage(text="edited", request_id="r3"))
        await store.entries.act(reach, "c1", TASK, "e1", AddEntry(label="pending"))
        clock.advance(61)
        # Somebody else's by now.
        other = replace(reach, user_id="bia")
        replicas = [store, workshop.store_at(clock)]
        new = replace(old, user_id="bia")
        made = await asyncio.gather(*(replicas[n % 2].create(other, new) for n in range(6)))
        assert all(each == made[0] for each in made)
        assert (made[0].user_id, made[0].totals.messages, made[0].revision) == ("bia", 0, 0)
        await assert_missing(store, reach, "c1", "m0")
        assert (await store.read(other, "c1", Window())).messages == ()
        assert (await store.search(replace(reach, user_id=None), Search(words_of("old")))).hits == ()
        stored = await store.append(other, "c1", batch_of(said("new", message_id="m0"), request_id="r0"))
        assert [(each.seq, each.draft.text) for each in stored] == [(1, "new")]
        shown = await store.revise(other, "c1", "m0", EditMessage(text="newer", request_id="r3"))
        assert (shown.draft.text, shown.revision) == ("newer", 1)
        assert (await store.entries.select(other, "c1", EntrySelection(TASK))).entries == ()
        assert len((await store.revisions(other, "c1", "m0", -1, 50))[0]) == 2

    async def test_activity_puts_expiry_off(self, workshop: Workshop) -> None:
        clock, reach = ManualClock(), somebody()
        store = workshop.store_at(clock)
        conversation = await started(store, reach, ttl_seconds=60)
        for _ in range(3):
            clock.advance(50)
            await store.append(reach, conversation, pair("still here"))
        assert (reach.tenant_id, conversation) not in await store.upkeep.leaving(clock.now(), 10_000)
        # A new title is no activity; a new time to live counts from the last one.
        clock.advance(50)
        await store.act(reach, conversation, Describe(title="x"))
        clock.advance(20)
        await assert_missing(store, reach, conversation, "m1")
        assert (reach.tenant_id, conversation) in await store.upkeep.leaving(clock.now(), 10_000)
        kept = await started(store, reach, ttl_seconds=60)
        clock.advance(30)
        longer = await store.act(reach, kept, Describe(ttl_seconds=100))
        clock.advance(60)
        assert await store.get(reach, kept) == longer
        forever = await store.act(reach, kept, Describe(ttl_seconds=0))
        clock.advance(10**6)
        assert await store.get(reach, kept) == forever
        assert (reach.tenant_id, kept) not in await store.upkeep.leaving(clock.now(), 10_000)
        with pytest.raises(NotFound):
            await store.append(reach, conversation, pair("too late"))


async def assert_missing(store: ChatStore, reach: Reach, conversation_id: str, message_id: str) -> None:
    """Nothing but undeletion finds the conversation."""
    for ask in (
        store.get(reach, conversation_id),
        store.version(reach, conversation_id),
        store.act(reach, conversation_id, Describe(title="x")),
        store.act(reach, conversation_id, Delete(purge_after_days=1)),
        store.append(reach, conversation_id, pair("x")),
        store.read(reach, conversation_id, Window()),
        store.message(reach, conversation_id, message_id),
        store.revise(reach, conversation_id, message_id, ClearFeedback()),
        store.revisions(reach, conversation_id, message_id, -1, 10),
        whole(store.text(reach, conversation_id, message_id)),
        store.entries.get(reach, conversation_id, TASK, "e1"),
        store.entries.select(reach, conversation_id, EntrySelection(TASK)),
        store.entries.act(reach, conversation_id, TASK, "e2", AddEntry(label="pending")),
    ):
        with pytest.raises(NotFound):
            await ask
    found = await store.search(reach, Search(words_of("secret"), conversation_id, statuses=EVERY_STATUS))
    assert found.hits == ()


async def _write_until_closed(store: ChatStore, reach: Reach, conversation: str) -> list[Message]:
    written = list[Message]()
    while len(written) < 400:
        try:
            written += await store.append(reach, conversation, pair("racing"))
        except ConversationClosed:
            return written
        await asyncio.sleep(0)
    raise AssertionError("it was never closed")


async def _finalized_after(store: ChatStore, reach: Reach, conversation: str, messages: int) -> Conversation:
    async def are_said() -> bool:
        return (await store.version(reach, conversation)).last_seq >= messages

    await until_answered(are_said)
    return await store.act(reach, conversation, Finalize(reason="done"))
