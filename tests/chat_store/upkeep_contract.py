"""The law of what the service does by itself; part of store_contract.py."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from services.chat_store.acts import (
    Delete,
    Describe,
    EditMessage,
    Undelete,
)
from services.chat_store.audit_chain import AuditEntry, AuditLink, next_link
from services.chat_store.entries import EntryKind
from services.chat_store.happenings import Appended
from services.chat_store.limits import INLINE_BYTES
from services.chat_store.model import (
    ConversationStatus,
)
from services.chat_store.selection import EntrySelection, Search, Window
from services.chat_store.snapshot import KeptPurge
from services.chat_store.store import ChatStore
from services.chat_store.words import words_of
from shared.clock import ManualClock
from shared.errors import NotFound
from tests.chat_store.feeds import history
from tests.chat_store.pictures import dumped, fill, named, picture
from tests.chat_store.workshop import (
    Workshop,
    batch_of,
    everything,
    pair,
    said,
    seqs,
    somebody,
    started,
    talk,
    whole,
)

TASK, EVENT = EntryKind.TASK, EntryKind.EVENT
EVERY_STATUS = frozenset(ConversationStatus)
LARGE = "grande " * (INLINE_BYTES // 6)


class UpkeepContract:
    async def test_what_is_due_is_found(self, workshop: Workshop) -> None:
        # Long ago, so that nothing of another test is due.
        clock, reach = ManualClock(datetime(2001, 1, 1, tzinfo=UTC)), somebody()
        store = workshop.store_at(clock)
        for name, ttl_seconds in {"late": 300, "never": 0, "soon": 60, "deleted": 0, "back": 0, "both": 200}.items():
            await started(store, reach, name, ttl_seconds=ttl_seconds)
        day = timedelta(days=1)
        for name, days in {"deleted": 1, "back": 1, "both": 0}.items():
            await store.act(reach, name, Delete(purge_after_days=days))
        await store.act(reach, "back", Undelete())
        now = clock.now()

        async def leaving(after: timedelta, limit: int = 100) -> list[str]:
            found = await store.upkeep.leaving(now + after, limit)
            return [name for tenant, name in found if tenant == reach.tenant_id]

        assert await leaving(timedelta(0)) == ["both"]
        assert await leaving(timedelta(seconds=59)) == ["both"]
        assert await leaving(timedelta(seconds=60)) == ["both", "soon"]
        assert await leaving(2 * day) == ["both", "soon", "late", "deleted"]
        assert await leaving(2 * day, limit=2) == ["both", "soon"]
        clock.advance(10)
        await store.append(reach, "soon", pair("still here"))
        assert await leaving(timedelta(seconds=60)) == ["both"]
        assert (await leaving(timedelta(seconds=70)))[1:] == ["soon"]
        await store.upkeep.purge(reach.tenant_id, "both")
        assert await leaving(2 * day) == ["soon", "late", "deleted"]

        idle = store.upkeep.idle
        assert await idle(reach.tenant_id, now, 100) == []
        since = now + timedelta(milliseconds=1)
        assert sorted(await idle(reach.tenant_id, since, 100)) == ["back", "deleted", "late", "never"]
        clock.advance(10)
        await store.append(reach, "never", pair("active"))
        assert (await idle(reach.tenant_id, clock.now() + day, 100))[-2:] == ["soon", "never"]
        assert len(await idle(reach.tenant_id, clock.now() + day, 2)) == 2
        assert await idle(somebody().tenant_id, clock.now() + day, 100) == []
        for name in ("soon", "late", "deleted"):
            await store.upkeep.purge(reach.tenant_id, name)

    async def test_a_purge_leaves_nothing(self, store: ChatStore) -> None:
        reach, twin = somebody(), somebody()
        for each in (reach, twin):
            await fill(store, each, "c1")
            await fill(store, each, "c1-x")
        since = (await store.get(reach, "c1")).create_time
        before = await picture(store, reach, "c1-x")
        removed = await store.upkeep.purge(reach.tenant_id, "c1")
        assert removed["conversations"] == 1
        assert sum(removed.values()) > 10
        assert await store.upkeep.purge(reach.tenant_id, "c1") == {}
        left = [piece for piece in await dumped(store, reach.tenant_id) if named(piece) == "c1"]
        assert [(type(each), each.since) for each in left if isinstance(each, KeptPurge)] == [(KeptPurge, since)]
        assert len(left) == 1
        with pytest.raises(NotFound):
            await store.get(replace(reach, deleted=True), "c1")
        assert await picture(store, reach, "c1-x") == before
        assert (await store.get(twin, "c1")).totals.messages == 6
        # A conversation of the same id begins with nothing.
        await started(store, reach, "c1")
        assert await everything(store, reach, "c1") == []
        assert (await store.version(reach, "c1")).last_seq == 0
        again = await store.append(reach, "c1", batch_of(said("another", message_id="m1"), request_id="r1"))
        assert (again[0].seq, again[0].draft.text) == (1, "another")
        assert (await store.revisions(reach, "c1", "m1", -1, 10))[0] == again
        assert (await store.entries.select(reach, "c1", EntrySelection(TASK))).entries == ()
        assert (await store.act(reach, "c1", Describe(title="x", request_id="r2"))).description.title == "x"

    async def test_a_purge_spares_what_is_no_longer_due(self, workshop: Workshop) -> None:
        stores, reach = [workshop.store, await workshop.another_replica()], somebody()
        conversation, messages = await talk(stores[0], reach, "um", "dois")
        purge = stores[1].upkeep.purge
        assert await purge(reach.tenant_id, conversation, lambda each: each.totals.messages < 2) == {}
        assert await everything(stores[0], reach, conversation) == messages
        assert await purge(reach.tenant_id, "missing", lambda _: True) == {}
        # Whoever writes at the same time: it is purged as the condition saw it, or not at all.
        for _ in range(6):
            conversation, _ = await talk(stores[0], reach, "um")
            removed, appended = await asyncio.gather(
                purge(reach.tenant_id, conversation, lambda each: each.totals.messages == 1),
                stores[0].append(reach, conversation, pair("activity")),
                return_exceptions=True,
            )
            if removed == {}:
                assert not isinstance(appended, BaseException)
                assert len(await everything(stores[1], reach, conversation)) == 3
            else:
                assert isinstance(appended, NotFound)
                left = [each for each in await dumped(stores[0], reach.tenant_id) if named(each) == conversation]
                assert [type(each) for each in left] == [KeptPurge]

    async def test_trimming_takes_whole_appends(self, store: ChatStore) -> None:
        reach = somebody()
        conversation = await started(store, reach)
        for number, size in enumerate([2, 3, 1, 4]):
            drafts = [said(f"palavra{number} x", message_id=f"m{number}-{each}") for each in range(size)]
            await store.append(reach, conversation, batch_of(*drafts))
        await store.append(reach, conversation, batch_of(said(LARGE, message_id="large")))
        for message_id in ("m0-0", "m3-0"):
            await store.revise(reach, conversation, message_id, EditMessage(text="edited"))
        before = await store.get(reach, conversation)
        messages = await everything(store, reach, conversation)
        trim = store.upkeep.trim
        assert await trim(reach.tenant_id, "missing", 5) == 0
        for keep_from, removed, first_seq in [(0, 0, 1), (2, 0, 1), (3, 2, 3), (5, 0, 3), (3, 0, 3), (7, 4, 7)]:
            assert await trim(reach.tenant_id, conversation, keep_from) == removed
            kept = await store.get(reach, conversation)
            assert kept == replace(before, first_seq=first_seq)
            assert await everything(store, reach, conversation) == messages[first_seq - 1 :]
            assert (await store.version(reach, conversation)).first_seq == first_seq
        assert seqs(await store.read(reach, conversation, Window(newest_first=True))) == [11, 10, 9, 8, 7]
        assert seqs(await store.read(reach, conversation, Window(before_seq=7))) == []
        for message_id in ("m0-0", "m2-0"):
            with pytest.raises(NotFound):
                await store.message(reach, conversation, message_id)
            with pytest.raises(NotFound):
                await store.revisions(reach, conversation, message_id, -1, 10)
        assert (await store.search(reach, Search(words_of("palavra1")))).hits == ()
        assert len((await store.revisions(reach, conversation, "m3-0", -1, 10))[0]) == 2
        assert await whole(store.text(reach, conversation, "large")) == LARGE.encode()
        told = await history(store, reach.tenant_id)
        starts = [event.what.messages[0].seq for event in told if isinstance(event.what, Appended)]
        assert starts == [7, 11]
        for place in (told, await dumped(store, reach.tenant_id)):
            assert not [each for each in place if "m0-" in repr(each) or "palavra1" in repr(each)]
        # All of it may leave; the conversation goes on where it was.
        assert await trim(reach.tenant_id, conversation, 12) == 5
        assert await everything(store, reach, conversation) == []
        assert (await store.append(reach, conversation, pair("on")))[0].seq == 12
        assert (await store.get(reach, conversation)).totals.messages == 13

    async def test_links_take_their_place_once(self, workshop: Workshop) -> None:
        stores = [workshop.store.audit, (await workshop.another_replica()).audit]
        tenant, other = somebody().tenant_id, somebody().tenant_id
        at = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)
        assert await stores[0].last(tenant) is None
        assert await stores[0].read(tenant, 0, 10) == await stores[0].read_back(tenant, 0, 10) == []
        chain = list[AuditLink]()
        for number in range(12):
            entries = [AuditEntry(at, f"ana {each}", "rag", "Append", "c1\0$", "OK") for each in range(number % 3 + 1)]
            rivals = [next_link(tenant, chain[-1] if chain else None, [*entries, entries[0]] * n) for n in (1, 2, 3)]
            taken = await asyncio.gather(*(stores[n % 2].add(link) for n, link in enumerate(rivals)))
            assert taken.count(True) == 1
            chain.append(rivals[taken.index(True)])
        assert not await stores[1].add(chain[0])
        assert await stores[1].last(tenant) == chain[-1]
        for number in (0, 1, 5, 11, 12, 50):
            assert await stores[0].read(tenant, number, 4) == chain[number : number + 4]
            wanted = list(reversed(chain[: number - 1] if number else chain))[:4]
            assert await stores[1].read_back(tenant, number, 4) == wanted
        assert all(link.holds for link in await stores[0].read(tenant, 0, 100))
        assert await stores[0].last(other) is None
        assert await stores[0].read(tenant[:-1], 0, 100) == []
