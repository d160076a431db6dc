"""The law of tasks and events; part of store_contract.py."""

from dataclasses import replace

import pytest

from services.chat_store.acts import AddEntry, RemoveEntry, UpdateTask
from services.chat_store.entries import Entry, EntryKind, TaskStatus
from services.chat_store.model import RevisionMismatch, TaskTransitionInvalid
from services.chat_store.selection import EntrySelection, Place, Reach
from services.chat_store.store import ChatStore
from shared.clock import ManualClock
from shared.errors import AlreadyExists, NotFound
from tests.chat_store.workshop import HOSTILE_IDS, HOSTILE_JSON, HOSTILE_TEXTS, Workshop, somebody, started

TASK, EVENT = EntryKind.TASK, EntryKind.EVENT


class EntryContract:
    async def test_entries_are_listed_newest_first(self, workshop: Workshop) -> None:
        clock, reach = ManualClock(), somebody()
        store = workshop.store_at(clock)
        conversation, elsewhere = await started(store, reach), await started(store, reach)
        # Three at a moment: the id decides, by its characters alone.
        ids = ["b", "B", "_", "a.b", "~", "a", "-", "10", "9"]
        made = list[Entry]()
        for number, entry_id in enumerate(ids):
            clock.advance(1 if number % 3 == 0 else 0)
            act = AddEntry(label=("pending", "completed")[number % 2], text=entry_id)
            made.append(await store.entries.act(reach, conversation, TASK, entry_id, act))
            await store.entries.act(reach, conversation, EVENT, entry_id, AddEntry(label="pending", by="ana"))
            await store.entries.act(reach, elsewhere, TASK, entry_id, act)
        wanted = sorted(made, key=lambda entry: (entry.create_time, entry.entry_id), reverse=True)
        for limit in (1, 4, 50):
            assert await _listed(store, reach, conversation, EntrySelection(TASK, limit=limit)) == wanted
            selection = EntrySelection(TASK, label="pending", limit=limit)
            assert await _listed(store, reach, conversation, selection) == [
                entry for entry in wanted if entry.label == "pending"
            ]
        events = await _listed(store, reach, conversation, EntrySelection(EVENT, limit=2))
        assert [event.entry_id for event in events] == [entry.entry_id for entry in wanted]
        assert {event.actor for event in events} == {"ana"}
        assert await _listed(store, reach, conversation, EntrySelection(EVENT, label="other")) == []
        # A change moves nothing, and puts a task under its new status.
        update = UpdateTask(status=TaskStatus.COMPLETED, description="done", metadata='{"a":1}', revision=0)
        clock.advance(60)
        done = await store.entries.act(reach, conversation, TASK, "b", update)
        assert (done.label, done.text, done.content, done.revision) == ("completed", "done", '{"a":1}', 1)
        assert done.update_time > done.create_time == made[0].create_time
        assert await store.entries.get(reach, conversation, TASK, "b") == done
        now = await _listed(store, reach, conversation, EntrySelection(TASK, limit=2))
        assert now == [done if entry.entry_id == "b" else entry for entry in wanted]
        completed = await _listed(store, reach, conversation, EntrySelection(TASK, label="completed"))
        assert completed == [entry for entry in now if entry.label == "completed"]

    async def test_a_removed_entry_looks_missing(self, store: ChatStore) -> None:
        reach = somebody()
        conversation = await started(store, reach)
        add = AddEntry(label="pending", text=HOSTILE_TEXTS[0], content=HOSTILE_JSON, by=HOSTILE_TEXTS[2])
        made = await store.entries.act(reach, conversation, TASK, "e1", add)
        assert (made.text, made.content, made.actor) == (HOSTILE_TEXTS[0], HOSTILE_JSON, HOSTILE_TEXTS[2])
        assert await store.entries.act(reach, conversation, TASK, "e1", add) == made
        assert await store.entries.get(reach, conversation, TASK, "e1") == made
        with pytest.raises(AlreadyExists):
            await store.entries.act(reach, conversation, TASK, "e1", replace(add, text="another"))
        with pytest.raises(RevisionMismatch):
            await store.entries.act(reach, conversation, TASK, "e1", UpdateTask(description="x", revision=1))
        twin = await store.entries.act(reach, conversation, EVENT, "e1", add)
        removed = await store.entries.act(reach, conversation, TASK, "e1", RemoveEntry())
        assert removed.removed
        assert (removed.text, removed.content, removed.actor, removed.revision) == ("", "", "", 1)
        for act in (RemoveEntry(), UpdateTask(description="x")):
            with pytest.raises(NotFound):
                await store.entries.act(reach, conversation, TASK, "e1", act)
        for missing in ("e1", "", "e", *HOSTILE_IDS):
            with pytest.raises(NotFound):
                await store.entries.get(reach, conversation, TASK, missing)
        assert await _listed(store, reach, conversation, EntrySelection(TASK)) == []
        assert await _listed(store, reach, conversation, EntrySelection(EVENT)) == [twin]
        again = await store.entries.act(reach, conversation, TASK, "e1", replace(add, label="completed"))
        assert (again.revision, again.label) == (0, "completed")
        with pytest.raises(TaskTransitionInvalid):
            await store.entries.act(reach, conversation, TASK, "e1", UpdateTask(status=TaskStatus.PENDING))
        assert await store.entries.get(reach, conversation, TASK, "e1") == again


async def _listed(store: ChatStore, reach: Reach, conversation: str, selection: EntrySelection) -> list[Entry]:
    found = list[Entry]()
    while True:
        page = await store.entries.select(reach, conversation, selection)
        found += page.entries
        assert len(page.entries) <= selection.limit
        assert len(set(found)) == len(found)
        if not page.more:
            return found
        selection = replace(selection, after=Place(found[-1].create_time, found[-1].entry_id))
