"""The audit: what it keeps, when it is durable, and what no fault may do to the chain."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from services.chat_store import audit as audit_module
from services.chat_store.audit import Audit
from services.chat_store.audit_chain import AuditEntry, AuditLink, next_link
from services.chat_store.audit_trail import Numbered, Proof, TrailPlace, TrailSelection, proofs, trail
from services.chat_store.selection import Period
from services.chat_store.store import AuditStore
from shared.errors import Unavailable
from shared.identifiers import new_id
from tests.chat_store.replicas import Replicas
from tests.house.waiting import until, until_answered

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


def done(number: int, actor: str = "ana", resource: str = "conversations/c1") -> AuditEntry:
    return AuditEntry(NOON + timedelta(seconds=number), actor, "", "ConversationService.Do", resource, f"{number}")


class Faulty:
    """An audit's store on a bad day: `away`, or `deaf`: it takes a link, and its answer is lost."""

    def __init__(self, store: AuditStore) -> None:
        self._store = store
        self.away = False
        self.deaf = False

    async def add(self, link: AuditLink) -> bool:
        self._answer()
        taken = await self._store.add(link)
        if self.deaf:
            self.deaf = False
            raise Unavailable("the connection broke")
        return taken

    async def last(self, tenant_id: str) -> AuditLink | None:
        self._answer()
        return await self._store.last(tenant_id)

    async def read(self, tenant_id: str, after_number: int, limit: int) -> list[AuditLink]:
        self._answer()
        return await self._store.read(tenant_id, after_number, limit)

    async def read_back(self, tenant_id: str, before_number: int, limit: int) -> list[AuditLink]:
        self._answer()
        return await self._store.read_back(tenant_id, before_number, limit)

    def _answer(self) -> None:
        if self.away:
            raise Unavailable("the store is away")


class Forger:
    """A store whose links somebody changed."""

    def __init__(self, store: AuditStore, forge: dict[int, AuditLink | None]) -> None:
        self._store = store
        self._forge = forge

    async def read(self, tenant_id: str, after_number: int, limit: int) -> list[AuditLink]:
        links = [self._forge.get(link.number, link) for link in await self._store.read(tenant_id, after_number, limit)]
        return [link for link in links if link is not None]

    async def add(self, link: AuditLink) -> bool:
        return await self._store.add(link)

    async def last(self, tenant_id: str) -> AuditLink | None:
        return await self._store.last(tenant_id)

    async def read_back(self, tenant_id: str, before_number: int, limit: int) -> list[AuditLink]:
        return await self._store.read_back(tenant_id, before_number, limit)


@pytest.fixture
def kept(replicas: Replicas) -> AuditStore:
    return replicas.store.audit


@pytest.fixture
def tenant_id() -> str:
    return f"t-{new_id()}"


async def outcomes(store: AuditStore, tenant_id: str) -> list[str]:
    """Of all entries, in their order."""
    return [entry.outcome for link in await store.read(tenant_id, 0, 1000) for entry in link.entries]


async def proof(store: AuditStore, tenant_id: str) -> Proof:
    walked = [each async for each in proofs(store, tenant_id)]
    assert [each.done for each in walked] == [*[False] * (len(walked) - 1), True]
    return walked[-1]


async def test_entries_are_kept_in_their_order_and_several_to_a_link(kept: AuditStore, tenant_id: str) -> None:
    audit = Audit(kept)
    async with audit.running():
        for number in range(120):
            audit.note(tenant_id, done(number))
        await audit.keep(tenant_id, done(120))
        assert await outcomes(kept, tenant_id) == [f"{number}" for number in range(121)]
    proven = await proof(kept, tenant_id)
    assert (proven.entries, proven.broken_entry) == (121, 0)
    assert proven.links <= 2


async def test_what_may_wait_is_written_soon_by_itself(kept: AuditStore, tenant_id: str) -> None:
    audit = Audit(kept)
    async with audit.running():
        audit.note(tenant_id, done(1))
        await until_answered(lambda: kept.last(tenant_id))
    assert await outcomes(kept, tenant_id) == ["1"]


async def test_the_end_writes_what_still_waits(kept: AuditStore, tenant_id: str) -> None:
    audit = Audit(kept)
    async with audit.running():
        for number in range(3):
            audit.note(tenant_id, done(number))
    assert await outcomes(kept, tenant_id) == ["0", "1", "2"]


async def test_two_replicas_writing_at_once_make_one_chain(kept: AuditStore, tenant_id: str) -> None:
    replicas = [Audit(kept) for _ in range(3)]
    async with replicas[0].running(), replicas[1].running(), replicas[2].running():

        async def write(audit: Audit, first: int) -> None:
            for number in range(first, first + 40):
                await audit.keep(tenant_id, done(number))

        await asyncio.gather(*(write(audit, 100 * index) for index, audit in enumerate(replicas)))
    numbers = [int(each) for each in await outcomes(kept, tenant_id)]
    assert sorted(numbers) == [*range(40), *range(100, 140), *range(200, 240)]
    assert [each for each in numbers if each < 100] == list(range(40)), "a replica's own order is kept"
    proven = await proof(kept, tenant_id)
    assert (proven.entries, proven.broken_entry) == (120, 0)


async def test_a_link_whose_answer_was_lost_is_not_written_twice(
    kept: AuditStore, tenant_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_module, "AGAIN_SECONDS", 0.01)
    faulty = Faulty(kept)
    audit = Audit(faulty)
    async with audit.running():
        await audit.keep(tenant_id, done(0))
        faulty.deaf = True
        with pytest.raises(Unavailable):
            await audit.keep(tenant_id, done(1))
        await audit.keep(tenant_id, done(2))
    assert await outcomes(kept, tenant_id) == ["0", "1", "2"]
    assert not (await proof(kept, tenant_id)).broken_entry


async def test_while_the_store_is_away_entries_wait_and_nothing_fails_but_what_must_be_durable(
    kept: AuditStore, tenant_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_module, "AGAIN_SECONDS", 0.01)
    faulty = Faulty(kept)
    audit = Audit(faulty)
    async with audit.running():
        faulty.away = True
        audit.note(tenant_id, done(0))
        with pytest.raises(Unavailable):
            await audit.keep(tenant_id, done(1))
        audit.note(tenant_id, done(2))
        faulty.away = False
        await audit.keep(tenant_id, done(3))
    assert await outcomes(kept, tenant_id) == ["0", "1", "2", "3"]


async def test_what_is_too_much_to_wait_is_counted_as_lost(
    kept: AuditStore, tenant_id: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(audit_module, "MOST_WAITING", 3)
    monkeypatch.setattr(audit_module, "AGAIN_SECONDS", 0.01)
    lost: list[int] = []
    monkeypatch.setattr(audit_module, "_lost", type("Counter", (), {"add": staticmethod(lost.append)}))
    faulty = Faulty(kept)
    faulty.away = True
    audit = Audit(faulty)
    async with audit.running():
        for number in range(5):
            audit.note(tenant_id, done(number))
        with pytest.raises(Unavailable):
            await audit.keep(tenant_id, done(5))
        faulty.away = False
        await until(lambda: audit.waiting == 0)
        audit.note(tenant_id, done(6))
    assert await outcomes(kept, tenant_id) == ["0", "1", "2", "6"]
    assert sum(lost) == 3
    assert "audit_loses_entries" in capsys.readouterr().out


async def _written(store: AuditStore, tenant_id: str, entries: Sequence[AuditEntry]) -> None:
    """Each in a link of its own."""
    audit = Audit(store)
    async with audit.running():
        for entry in entries:
            await audit.keep(tenant_id, entry)


async def test_whatever_is_done_to_a_link_is_found(kept: AuditStore, tenant_id: str) -> None:
    await _written(kept, tenant_id, [done(number) for number in range(5)])
    links = await kept.read(tenant_id, 0, 10)
    other = replace(links[2], entries=(done(99),))
    forgeries: list[dict[int, AuditLink | None]] = [
        {3: other},
        {3: None},
        {3: replace(links[2], previous_hash="f" * 64)},
        {3: links[3], 4: links[2]},
        {3: replace(links[2], first_entry=4)},
    ]
    for forge in forgeries:
        found = await proof(Forger(kept, forge), tenant_id)
        assert (found.links, found.entries, found.broken_entry) == (2, 2, 3), forge
        assert found.end == links[1].hash
    honest = await proof(kept, tenant_id)
    assert honest == Proof(5, 5, 0, links[-1].hash, done=True)


async def test_a_tenant_without_calls_has_nothing_broken(kept: AuditStore, tenant_id: str) -> None:
    assert await proof(kept, tenant_id) == Proof(done=True)


async def _pages(store: AuditStore, tenant_id: str, wanted: TrailSelection) -> list[Numbered]:
    found: list[Numbered] = []
    while True:
        page = await trail(store, tenant_id, wanted)
        assert len(page.entries) <= wanted.limit
        found += page.entries
        if page.next is None:
            return found
        wanted = replace(wanted, before=page.next)


async def test_the_trail_is_read_newest_first_in_pages_without_gaps(kept: AuditStore, tenant_id: str) -> None:
    audit = Audit(kept)
    async with audit.running():
        for first in (0, 3, 7):
            for number in range(first, first + 4):
                audit.note(tenant_id, done(number))
            await audit.keep(tenant_id, done(first + 4))
    for limit in (1, 2, 4, 15, 16):
        found = await _pages(kept, tenant_id, TrailSelection(limit=limit))
        assert [each.number for each in found] == list(range(15, 0, -1))
        assert [each.entry.outcome for each in found] == (await outcomes(kept, tenant_id))[::-1]


async def test_a_place_behind_the_end_of_a_link_is_its_end(kept: AuditStore, tenant_id: str) -> None:
    assert await kept.add(next_link(tenant_id, None, [AuditEntry(datetime.now(UTC), "ana", "", "Get", "c1", "OK")]))
    behind = await trail(kept, tenant_id, TrailSelection(before=TrailPlace(1, 50)))
    assert [numbered.number for numbered in behind.entries] == [1]


async def test_the_trail_is_filtered(kept: AuditStore, tenant_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.chat_store.audit_trail.LINKS_AT_ONCE", 2)
    await _written(
        kept,
        tenant_id,
        [
            done(0),
            done(1, actor="rui"),
            done(2, resource="conversations/c1/messages/m1"),
            done(3, resource="conversations/c10"),
            done(4, resource="users/c1"),
        ],
    )

    async def found(wanted: TrailSelection) -> list[str]:
        return [each.entry.outcome for each in await _pages(kept, tenant_id, wanted)]

    assert await found(TrailSelection(actor="rui")) == ["1"]
    assert await found(TrailSelection(resource="conversations/c1")) == ["2", "1", "0"]
    assert await found(TrailSelection(resource="conversations/c1", actor="ana")) == ["2", "0"]
    seconds = [NOON + timedelta(seconds=number) for number in range(5)]
    assert await found(TrailSelection(period=Period(start=seconds[1], end=seconds[3]))) == ["2", "1"]
    assert await found(TrailSelection(period=Period(end=seconds[1]))) == ["0"]
    assert await found(TrailSelection(actor="nobody")) == []


async def test_a_rare_entry_is_looked_for_in_pages_too(
    kept: AuditStore, tenant_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.chat_store.audit_trail.LINKS_AT_ONCE", 2)
    monkeypatch.setattr("services.chat_store.audit_trail.MOST_LINKS_READ", 4)
    await _written(kept, tenant_id, [done(0, actor="rui"), *(done(number) for number in range(1, 7))])
    first = await trail(kept, tenant_id, TrailSelection(actor="rui"))
    assert first.entries == ()
    assert first.next is not None
    found = await _pages(kept, tenant_id, TrailSelection(actor="rui"))
    assert [each.entry.outcome for each in found] == ["0"]
