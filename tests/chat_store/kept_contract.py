"""The law of what is kept of people and handed on to other stores; part of store_contract.py."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from services.chat_store.acts import (
    Archive,
    Delete,
    Describe,
    EditMessage,
    Finalize,
    Undelete,
)
from services.chat_store.audit_chain import AuditEntry, next_link
from services.chat_store.entries import EntryKind
from services.chat_store.happenings import Changed
from services.chat_store.limits import INLINE_BYTES
from services.chat_store.model import (
    ConversationClosed,
    ConversationStatus,
    Draft,
    Message,
    MessageType,
    NewConversation,
)
from services.chat_store.policy import Policy
from services.chat_store.selection import Reach, Search, Selection
from services.chat_store.store import ChatStore
from services.chat_store.words import words_of
from shared.errors import RequestIdReused
from tests.chat_store.feeds import facts, history
from tests.chat_store.pictures import dumped, fill, named, picture, with_a_guest
from tests.chat_store.workshop import (
    batch_of,
    everything,
    pair,
    said,
    somebody,
    started,
    talk,
    whole,
)

TASK, EVENT = EntryKind.TASK, EntryKind.EVENT
EVERY_STATUS = frozenset(ConversationStatus)
LARGE = "grande " * (INLINE_BYTES // 6)


class KeptContract:
    async def test_an_author_is_forgotten(self, store: ChatStore) -> None:
        owner = somebody("bia")
        others = {"an", "ana ", "ana%", "_na", "a\\na", 'ana"'}
        ours, twin = await with_a_guest(store, owner, "ana"), somebody("bia")
        elsewhere = await with_a_guest(store, twin, "ana")
        apart = {name: await with_a_guest(store, owner, name) for name in others}
        assert sum((await store.upkeep.residue(owner.tenant_id, "ana")).values()) > 0
        before = {name: await picture(store, owner, each) for name, each in apart.items()}
        theirs = await picture(store, twin, elsewhere)
        # What they own is not forgotten but purged.
        own = await _owned(store, replace(owner, user_id="ana"))
        sums, version = (await store.get(owner, ours)).totals, await store.version(owner, ours)

        forgotten = await store.upkeep.forget_author(owner.tenant_id, "ana")

        assert (forgotten["messages"], forgotten["feedback"]) == (2, 1)
        assert await store.version(owner, ours) != version
        assert (await everything(store, replace(owner, user_id="ana"), own))[0].draft.text == "segredo próprio"
        await store.upkeep.purge(owner.tenant_id, own)
        residue = await store.upkeep.residue(owner.tenant_id, "ana")
        assert residue
        assert set(residue.values()) == {0}
        assert sum((await store.upkeep.forget_author(owner.tenant_id, "ana")).values()) == 0
        shown = await everything(store, owner, ours)
        assert [message.draft.text for message in shown] == ["", "answer", "of bia", ""]
        assert shown[0].draft == Draft(type=MessageType.USER, message_id="m1")
        assert [message.feedback for message in shown] == [None] * 4
        retried = EditMessage(text="segredo editado", actor="ana", request_id="r1")
        assert (await store.revise(owner, ours, "m1", retried)).draft.text == ""
        assert (shown[1].revision, shown[1].seq) == (2, 2)
        assert await whole(store.text(owner, ours, "m4")) == b""
        assert (await store.get(owner, ours)).preview == ""
        assert (await store.get(owner, ours)).totals == sums
        event = await store.entries.get(owner, ours, EVENT, "e1")
        assert (event.actor, event.content) == ("", '{"a":1}')
        assert (await store.search(owner, Search(words_of("segredo"), conversation_id=ours))).hits == ()
        assert (await store.search(owner, Search(words_of("grande"), conversation_id=ours))).hits == ()
        places: list[Any] = [
            shown,
            [await store.revisions(owner, ours, f"m{n}", -1, 50) for n in (1, 2, 3, 4)],
            [each for each in await history(store, owner.tenant_id) if each.conversation_id == ours],
            [each for each in await dumped(store, owner.tenant_id) if named(each) == ours],
        ]
        for place in places:
            assert not [word for word in ("'ana'", "segredo", "grande", "opinião") if word in repr(place)]
        # Nobody else is.
        assert {name: await picture(store, owner, each) for name, each in apart.items()} == before
        assert await picture(store, twin, elsewhere) == theirs

    async def test_a_dump_makes_an_equal_store(self, store: ChatStore, empty: ChatStore) -> None:
        reach = replace(somebody(), user_id=None)
        names = ["c1", "c1-x", "closed", "trimmed", "archived"]
        for name in names:
            await fill(store, replace(reach, user_id="ana"), name)
        await store.act(reach, "closed", Finalize(reason="done"))
        await store.act(reach, "archived", Archive())
        await store.upkeep.trim(reach.tenant_id, "trimmed", 3)
        await fill(store, replace(reach, user_id="ana"), "deleted")
        await store.act(reach, "deleted", Delete(purge_after_days=30))
        for _ in range(2):
            await talk(store, replace(reach, user_id="ana"), "gone", conversation_id="purged")
            await store.upkeep.purge(reach.tenant_id, "purged")
        policy = Policy(retention_days=1, max_messages=2, ttl_seconds=3, purge_after_days=4)
        await store.upkeep.set_policy(reach.tenant_id, policy)
        links = [next_link(reach.tenant_id, None, [AuditEntry(datetime.now(UTC), "ana", "", "Get", "c1", "OK")])]
        links.append(next_link(reach.tenant_id, links[0], links[0].entries))
        assert [await store.audit.add(link) for link in links] == [True, True]

        pieces = await dumped(store, reach.tenant_id)
        for _ in range(2):  # loading again does no harm
            for begin in range(0, len(pieces), 7):
                await empty.upkeep.load(pieces[begin : begin + 7])

        assert sorted(map(repr, await dumped(empty, reach.tenant_id))) == sorted(map(repr, pieces))
        for name in names:
            assert await picture(empty, reach, name) == await picture(store, reach, name)
        everywhere = Selection(statuses=EVERY_STATUS)
        assert await empty.select(reach, everywhere) == await store.select(reach, everywhere)
        told, wanted = await history(empty, reach.tenant_id), await history(store, reach.tenant_id)
        assert sorted(map(repr, facts(told))) == sorted(map(repr, facts(wanted)))
        for query in ("imposto", "grande", "editado"):
            search = Search(words_of(query), limit=100)
            found = (await empty.search(reach, search)).hits
            assert [(hit.conversation_id, hit.message) for hit in found] == [
                (hit.conversation_id, hit.message) for hit in (await store.search(reach, search)).hits
            ]
            assert found
        assert await empty.upkeep.policies() == [(reach.tenant_id, policy)]
        assert await empty.audit.read(reach.tenant_id, 0, 10) == links
        await _assert_goes_on(empty, store, replace(reach, user_id="ana"))

    async def test_a_dump_mixes_no_two_states_of_a_conversation(self, store: ChatStore, empty: ChatStore) -> None:
        reach, load = somebody(), empty.upkeep.load
        conversation, (first, _) = await talk(store, reach, "um", "dois")
        monday = await dumped(store, reach.tenant_id)
        await store.append(reach, conversation, pair("três"))
        await store.act(reach, conversation, Describe(title="terça"))
        await store.revise(reach, conversation, first.message_id, EditMessage(text="editado"))
        tuesday = await dumped(store, reach.tenant_id)

        await load(monday)
        before = await picture(empty, reach, conversation)
        await load(tuesday)

        assert await picture(empty, reach, conversation) == before
        assert [message.seq for message in await empty.append(reach, conversation, pair("outro"))] == [3, 4]
        renamed = await empty.act(reach, conversation, Describe(title="outra"))
        assert (renamed.revision, renamed.description.title) == (1, "outra")
        told = [event.what for event in await history(empty, reach.tenant_id)]
        assert [each.state for each in told if isinstance(each, Changed)] == [renamed]
        # What has left it does not come back.
        await empty.upkeep.trim(reach.tenant_id, conversation, 3)
        await load(tuesday)
        assert [message.draft.text for message in await everything(empty, reach, conversation)] == [
            "outro",
            "re: outro",
        ]


async def _owned(store: ChatStore, reach: Reach) -> str:
    name = await started(store, reach)
    await store.append(reach, name, batch_of(replace(said("segredo próprio"), user_id=reach.user_id or "")))
    return name


async def _assert_goes_on(loaded: ChatStore, store: ChatStore, reach: Reach) -> None:
    """Retries are known, and what comes next comes behind what was there."""
    again = batch_of(said("imposto", message_id="m1"), request_id="r1")
    with pytest.raises(RequestIdReused):
        await loaded.append(reach, "c1", again)
    retried = Describe(title="sobre c1", context='{"$set":1}', request_id="r2", actor="bia")
    assert await loaded.act(reach, "c1", retried) == await store.act(reach, "c1", retried)
    with pytest.raises(RequestIdReused):
        await loaded.create(reach, NewConversation("c1", "ana", assistant_id="a2", request_id="r0"))
    before = await loaded.get(reach, "c1")
    stored = list[Message]()
    for name in ("c1", "trimmed"):
        stored += await loaded.append(reach, name, pair("on"))
    assert [message.seq for message in stored] == [7, 8, 7, 8]
    assert (await loaded.get(reach, "c1")).totals == before.totals.after(pair("on").drafts)
    assert (await loaded.act(reach, "c1", Describe(title="on"))).revision == before.revision + 1
    with pytest.raises(ConversationClosed):
        await loaded.append(reach, "closed", pair("late"))
    assert (await loaded.act(reach, "deleted", Undelete())).totals.messages == 6
