"""A person's data: all of it handed out, all of it removed, and nothing of anybody else."""

import asyncio
from collections import Counter
from dataclasses import replace
from functools import partial

import pytest

from services.chat_store.acts import AddEntry, Archive, Delete, Describe, Finalize, SetFeedback
from services.chat_store.entries import Entry, EntryKind
from services.chat_store.limits import INLINE_BYTES
from services.chat_store.model import Conversation, ConversationStatus, Feedback, Message
from services.chat_store.policies import Policies
from services.chat_store.privacy import Receipt, Record, TextPiece, erase, export
from services.chat_store.retention import Retention
from services.chat_store.selection import Reach, Search, Selection, Window
from services.chat_store.store import ChatStore
from services.chat_store.words import words_of
from shared.errors import InvalidArgument, NotFound
from tests.chat_store.replicas import Replicas, is_gone
from tests.chat_store.workshop import batch_of, everything, pair, said, somebody, started
from tests.house.waiting import until_answered

ALL = frozenset(ConversationStatus)
LARGE = "é" * INLINE_BYTES
SECRET = "ornitorrinco"


async def erased(store: ChatStore, reach: Reach) -> Receipt:
    assert reach.user_id is not None
    return await erase(store, Retention(store, Policies(store.upkeep)), reach.tenant_id, reach.user_id)


async def filled(store: ChatStore, ana: Reach) -> Reach:
    """Ana has one conversation of each status, and has spoken in one of Rui's; returns Rui's reach."""
    for name in ("active", "archived", "finalized", "deleted"):
        await started(store, ana, conversation_id=name)
        await store.append(ana, name, pair(f"{SECRET} {name}"))
    await store.append(ana, "active", batch_of(replace(said(LARGE), message_id="large")))
    await store.entries.act(ana, "active", EntryKind.TASK, "t1", AddEntry(label="pending", text=SECRET))
    await store.entries.act(ana, "active", EntryKind.EVENT, "e1", AddEntry(label="opened", by="ana"))
    await store.act(ana, "archived", Archive())
    await store.act(ana, "finalized", Finalize(reason="done"))
    await store.act(ana, "deleted", Delete(purge_after_days=30))
    rui = Reach(ana.tenant_id, "rui")
    await started(store, rui, conversation_id="of-rui")
    (guest, _) = await store.append(rui, "of-rui", batch_of(replace(said(SECRET), user_id="ana"), said("olá")))
    await store.revise(
        rui, "of-rui", guest.message_id, SetFeedback(feedback=Feedback(1, comment=SECRET, user_id="ana"))
    )
    return rui


async def test_an_export_holds_all_that_is_kept_of_a_person_and_nothing_else(replicas: Replicas) -> None:
    store, ana = replicas.store, somebody("ana")
    await filled(store, ana)
    told = [each async for each in export(store, ana.tenant_id, "ana")]
    records = [each for each in told if isinstance(each, Record)]
    conversations = [each.what for each in records if isinstance(each.what, Conversation)]
    assert {each.conversation_id: each.status for each in conversations} == {
        "active": ConversationStatus.ACTIVE,
        "archived": ConversationStatus.ARCHIVED,
        "finalized": ConversationStatus.FINALIZED,
        "deleted": ConversationStatus.DELETED,
    }
    said_in = Counter(each.conversation_id for each in records if isinstance(each.what, Message))
    assert said_in == {"active": 3, "archived": 2, "finalized": 2, "deleted": 2}
    pieces = [each.what for each in records if isinstance(each.what, TextPiece)]
    assert "".join(piece.text for piece in pieces) == LARGE
    assert len(pieces) > 1
    assert [piece.offset_bytes for piece in pieces] == [
        sum(len(before.text.encode()) for before in pieces[:index]) for index in range(len(pieces))
    ]
    assert {(each.what.kind, each.what.entry_id) for each in records if isinstance(each.what, Entry)} == {
        (EntryKind.TASK, "t1"),
        (EntryKind.EVENT, "e1"),
    }
    assert told[-1] == {"conversations": 4, "messages": 9, "tasks": 1, "events": 1}


async def test_an_erasure_leaves_nothing_of_a_person_and_all_of_the_others(replicas: Replicas) -> None:
    store, ana = replicas.store, somebody("ana")
    rui = await filled(store, ana)
    await started(store, rui, conversation_id="untouched")
    await store.append(rui, "untouched", pair(SECRET))
    receipt = await erased(store, ana)
    assert receipt.verified, receipt
    assert receipt.items["conversations"] == 4
    assert (await store.select(ana, Selection(statuses=ALL)))[0] == []
    for name in ("active", "archived", "finalized", "deleted"):
        with pytest.raises(NotFound):
            await store.read(replace(ana, deleted=True), name, Window(limit=10))
    (guest, other) = await everything(replicas.other, rui, "of-rui")
    assert (guest.seq, guest.draft.text, guest.draft.user_id, guest.feedback) == (1, "", "", None)
    assert other.draft.text == "olá"
    assert len(await everything(store, rui, "untouched")) == 2
    everybody = Reach(ana.tenant_id, None)
    found = await store.search(everybody, Search(words_of(SECRET)))
    assert {hit.conversation_id for hit in found.hits} == {"untouched"}
    assert [each async for each in export(store, ana.tenant_id, "ana")] == [
        {"conversations": 0, "messages": 0, "tasks": 0, "events": 0}
    ]


async def test_erasing_again_finds_nothing_to_erase(replicas: Replicas) -> None:
    store, ana = replicas.store, somebody("ana")
    await filled(store, ana)
    await erased(store, ana)
    again = await erased(store, ana)
    assert again.verified
    assert not any(again.items.values())


async def test_an_expired_conversation_is_erased_too(replicas: Replicas) -> None:
    store, ana = replicas.store, somebody("ana")
    await started(store, ana, conversation_id="c")
    await store.append(ana, "c", pair(SECRET))
    await store.act(ana, "c", Describe(ttl_seconds=1))
    await until_answered(partial(is_gone, store, ana, "c"))
    receipt = await erased(store, ana)
    assert receipt.verified, receipt


async def test_erasing_while_the_person_goes_on_writing_ends_clean_once_they_stop(replicas: Replicas) -> None:
    store, ana = replicas.store, somebody("ana")
    stop = asyncio.Event()

    async def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            try:
                await started(replicas.other, ana, conversation_id=f"c{number % 3}")
                await replicas.other.append(ana, f"c{number % 3}", pair(SECRET))
            except NotFound:
                continue  # it was erased in between

    writing = asyncio.create_task(write())
    receipts = [await erased(store, ana) for _ in range(3)]
    stop.set()
    await writing
    last = await erased(store, ana)
    assert last.verified
    assert (await store.select(ana, Selection(statuses=ALL)))[0] == []
    assert all(receipt.verified == (not any(receipt.residue.values())) for receipt in receipts)


async def test_nobody_is_not_a_person(replicas: Replicas) -> None:
    """An empty id would be everybody who has none."""
    store, anonymous = replicas.store, somebody("")
    await started(store, anonymous, conversation_id="c")
    with pytest.raises(InvalidArgument):
        await erased(store, anonymous)
    with pytest.raises(InvalidArgument):
        await anext(export(store, anonymous.tenant_id, ""))
    assert await store.get(anonymous, "c")


async def test_what_is_written_during_an_export_hides_nothing_from_it(replicas: Replicas) -> None:
    """Conversations that move to the front of the list while it is read are found there."""
    store, ana = replicas.store, somebody("ana")
    names = [f"c{number}" for number in range(250)]
    for name in names:
        await started(store, ana, conversation_id=name)
    found: list[str] = []
    async for each in export(store, ana.tenant_id, "ana"):
        if isinstance(each, Record) and isinstance(each.what, Conversation):
            found.append(each.conversation_id)
            if len(found) == 50:
                await asyncio.gather(*(replicas.other.append(ana, name, pair("a")) for name in names[:20]))
    assert sorted(found) == sorted(names)


async def test_a_message_that_leaves_during_an_export_takes_nothing_else_with_it(replicas: Replicas) -> None:
    store, ana = replicas.store, somebody("ana")
    await started(store, ana, conversation_id="c")
    await store.append(ana, "c", batch_of(replace(said(LARGE), message_id="large")))
    await store.append(ana, "c", pair("depois"))
    await store.entries.act(ana, "c", EntryKind.TASK, "t1", AddEntry(label="pending"))
    told = []
    async for each in export(store, ana.tenant_id, "ana"):
        told.append(each)
        if isinstance(each, Record) and isinstance(each.what, Message) and each.what.message_id == "large":
            assert await store.upkeep.trim(ana.tenant_id, "c", 2) == 1
    assert told[-1] == {"conversations": 1, "messages": 3, "tasks": 1, "events": 0}
