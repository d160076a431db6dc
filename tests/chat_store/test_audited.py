"""Every call leaves its entry: who, through whom, what, on what, and how it ended."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor

from prosa.chat_store.v1 import admin_service_pb2 as pb
from prosa.chat_store.v1 import admin_service_pb2_grpc as rpc
from prosa.chat_store.v1 import (
    conversation_service_pb2,
    event_service_pb2,
    feed_service_pb2,
    task_service_pb2,
)
from prosa.chat_store.v1.feed_service_pb2_grpc import add_FeedServiceServicer_to_server
from services.chat_store.audit import Audit
from services.chat_store.audit_trail import TrailSelection, trail
from services.chat_store.audited import audited, waits_for_its_entry
from services.chat_store.engines.memory.store import MemoryChatStore
from services.chat_store.feed_handlers import FeedHandler
from services.chat_store.happenings import Event
from shared.caller import Caller, acting_as
from shared.server import Endpoint
from tests.chat_store.calls import call, create, got, refusal
from tests.chat_store.conftest import World
from tests.chat_store.test_admin import MANAGER, manager, talk
from tests.house.in_process import as_caller, token
from tests.house.waiting import until_answered

METHODS: Sequence[MethodDescriptor] = [
    method
    for contract in (pb, conversation_service_pb2, event_service_pb2, feed_service_pb2, task_service_pb2)
    for service in contract.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]


@pytest.fixture
def admin(channel: grpc.aio.Channel) -> "rpc.AdminServiceAsyncStub":
    return rpc.AdminServiceStub(channel)


async def entries(
    world: World, admin: "rpc.AdminServiceAsyncStub", *, actor: str = "", conversation_id: str = ""
) -> list[pb.AuditEntry]:
    """Newest first, without the readings of the audit itself."""
    request = pb.ListAuditEntriesRequest(actor=actor, conversation_id=conversation_id)
    answer = await admin.ListAuditEntries(request, metadata=manager(world))
    return [entry for entry in answer.entries if "Audit" not in entry.action]


def said(entry: pb.AuditEntry) -> tuple[str, str, str, str]:
    return entry.actor, entry.action, entry.resource, entry.outcome


async def test_reads_and_what_is_added_are_entered_soon(world: World, admin: "rpc.AdminServiceAsyncStub") -> None:
    await talk(world, "ana", "c1", "olá")
    await refusal(got(world, world.member("rui"), "c2"))

    async def three() -> bool:
        return len(await entries(world, admin)) == 3

    await until_answered(three)
    assert [said(entry) for entry in await entries(world, admin)] == [
        ("rui", "ConversationService.GetConversation", "conversations/c2", "RESOURCE_NOT_FOUND"),
        ("ana", "ConversationService.AppendMessages", "conversations/c1", "OK"),
        ("ana", "ConversationService.CreateConversation", "conversations/c1", "OK"),
    ]
    assert [said(entry)[1] for entry in await entries(world, admin, conversation_id="c2")] == [
        "ConversationService.GetConversation"
    ]
    assert {entry.actor for entry in await entries(world, admin, actor="ana")} == {"ana"}


async def test_the_entry_of_an_act_is_there_with_its_answer(world: World, admin: "rpc.AdminServiceAsyncStub") -> None:
    await talk(world, "ana", "c1", "olá")
    await call(world, world.member("ana"), "DeleteConversation", conversation_id="c1")
    newest = (await entries(world, admin))[0]
    assert said(newest) == ("ana", "ConversationService.DeleteConversation", "conversations/c1", "OK")
    await admin.EraseUser(pb.EraseUserRequest(user_id="ana"), metadata=manager(world))
    newest = (await entries(world, admin))[0]
    assert said(newest) == ("root", "AdminService.EraseUser", "users/ana", "OK")


async def test_an_id_that_the_service_chose_is_entered_too(world: World, admin: "rpc.AdminServiceAsyncStub") -> None:
    made = await create(world, world.member())
    await until_answered(lambda: entries(world, admin))
    assert (await entries(world, admin))[0].resource == f"conversations/{made.conversation_id}"


async def test_who_calls_for_somebody_is_entered_beside_them(world: World, admin: "rpc.AdminServiceAsyncStub") -> None:
    await create(world, world.service_for("ana"))
    await until_answered(lambda: entries(world, admin))
    (entry,) = await entries(world, admin)
    assert (entry.actor, entry.on_behalf_of) == ("ana", "test-key")
    await create(world, world.end_user())
    await until_answered(lambda: entries(world, admin, actor="test-key"))
    (entry,) = await entries(world, admin, actor="test-key")
    assert entry.on_behalf_of == ""


async def test_a_stream_is_entered_when_it_starts_and_when_it_fails(
    world: World, admin: "rpc.AdminServiceAsyncStub"
) -> None:
    await talk(world, "ana", "c1", "olá")
    watch = conversation_service_pb2.WatchConversationRequest(conversation_id="c1")
    followed: Any = world.conversations.WatchConversation(watch, metadata=world.member("ana"))
    async with asyncio.timeout(60):
        update = await followed.read()
    assert update.message_changed.seq == 1

    async def watching() -> bool:
        return any(entry.outcome == "STARTED" for entry in await entries(world, admin))

    await until_answered(watching)
    followed.cancel()
    missing = conversation_service_pb2.WatchConversationRequest(conversation_id="c2")
    await refusal(world.conversations.WatchConversation(missing, metadata=world.member("ana")).read())

    async def failed() -> bool:
        return any(entry.outcome == "RESOURCE_NOT_FOUND" for entry in await entries(world, admin))

    await until_answered(failed)
    about = [said(entry)[1:] for entry in await entries(world, admin) if "Watch" in entry.action]
    assert about == [
        ("ConversationService.WatchConversation", "conversations/c2", "RESOURCE_NOT_FOUND"),
        ("ConversationService.WatchConversation", "conversations/c2", "STARTED"),
        ("ConversationService.WatchConversation", "conversations/c1", "STARTED"),
    ]


async def test_a_stream_that_breaks_by_a_fault_of_ours_is_entered_as_such() -> None:
    class Faulty(MemoryChatStore):
        def watch(self, *_: object) -> AsyncGenerator[Event, None]:
            raise LookupError

    store, name = Faulty(), "prosa.chat_store.v1.FeedService"
    audit = Audit(store.audit)
    endpoint: Any = audited(Endpoint(add_FeedServiceServicer_to_server, FeedHandler(store), name), audit)
    async with audit.running():
        with acting_as(Caller("t", "ana", "k", frozenset(), "", 0.0)), pytest.raises(LookupError):
            await anext(endpoint.servicer.WatchEvents(feed_service_pb2.WatchEventsRequest(), None))
    assert [each.entry.outcome for each in (await trail(store.audit, "t", TrailSelection())).entries] == [
        "INTERNAL",
        "STARTED",
    ]


async def test_an_export_is_entered_before_the_first_record(world: World, admin: "rpc.AdminServiceAsyncStub") -> None:
    exported = admin.ExportUser(pb.ExportUserRequest(user_id="ana"), metadata=manager(world))
    await exported.read()
    (entry,) = await entries(world, admin)
    assert said(entry) == ("root", "AdminService.ExportUser", "users/ana", "STARTED")
    exported.cancel()


async def test_calls_without_a_tenant_make_a_chain_of_their_own(
    world: World, admin: "rpc.AdminServiceAsyncStub"
) -> None:
    key = f"key-of-{world.tenant_id}"
    everyone = as_caller(token(world.keys, key_id=key, scopes={"feed.read", *MANAGER}))
    feed = world.feed.WatchEvents(feed_service_pb2.WatchEventsRequest(), metadata=everyone)
    await feed.read()
    feed.cancel()

    async def found() -> list[pb.AuditEntry]:
        answer = await admin.ListAuditEntries(pb.ListAuditEntriesRequest(actor=key), metadata=everyone)
        return [entry for entry in answer.entries if "Audit" not in entry.action]

    await until_answered(found)
    assert [said(entry)[1:] for entry in await found()] == [("FeedService.WatchEvents", "", "STARTED")]
    assert await entries(world, admin) == []


async def test_the_audit_is_listed_in_pages_and_proven(world: World, admin: "rpc.AdminServiceAsyncStub") -> None:
    for number in range(5):
        await create(world, world.member(), conversation_id=f"c{number}")
    await admin.EraseUser(pb.EraseUserRequest(user_id="nobody"), metadata=manager(world))
    token_, numbers = "", list[int]()
    while True:
        request_ = pb.ListAuditEntriesRequest(actor="ana", page_size=2, page_token=token_)
        page = await admin.ListAuditEntries(request_, metadata=manager(world))
        numbers += [entry.number for entry in page.entries]
        token_ = page.next_page_token
        if not token_:
            break
    assert numbers == [5, 4, 3, 2, 1]
    proofs = [proof async for proof in admin.VerifyAudit(pb.VerifyAuditRequest(), metadata=manager(world))]
    last = proofs[-1]
    assert (last.done, last.intact, last.first_broken_number) == (True, True, 0)
    assert last.entry_count >= 6
    assert len(last.end_hash) == 64


@pytest.mark.parametrize("page_token", ["nonsense", "other"])
async def test_a_page_token_of_something_else_is_refused(
    world: World, admin: "rpc.AdminServiceAsyncStub", page_token: str
) -> None:
    for number in range(2):
        await create(world, world.member(), conversation_id=f"c{number}")
    await admin.EraseUser(pb.EraseUserRequest(user_id="nobody"), metadata=manager(world))
    who = manager(world)
    page = await admin.ListAuditEntries(pb.ListAuditEntriesRequest(page_size=1), metadata=who)
    sent = page.next_page_token if page_token == "other" else page_token
    asked = pb.ListAuditEntriesRequest(actor="ana", page_size=1, page_token=sent)
    error = await refusal(admin.ListAuditEntries(asked, metadata=who))
    assert error.reason == {"nonsense": "PAGE_TOKEN_INVALID", "other": "PAGE_TOKEN_MISMATCH"}[page_token]


def test_what_changes_removes_or_hands_out_waits_for_its_entry_and_nothing_else() -> None:
    waiting = {f"{each.containing_service.name}.{each.name}" for each in METHODS if waits_for_its_entry(each)}
    assert waiting == {
        "AdminService.EraseUser",
        "AdminService.ExportUser",
        "AdminService.UpdatePolicy",
        "ConversationService.ArchiveConversation",
        "ConversationService.ClearFeedback",
        "ConversationService.DeleteConversation",
        "ConversationService.FinalizeConversation",
        "ConversationService.LinkAnalysis",
        "ConversationService.SetFeedback",
        "ConversationService.UnarchiveConversation",
        "ConversationService.UndeleteConversation",
        "ConversationService.UpdateConversation",
        "ConversationService.UpdateMessage",
        "EventService.DeleteEvent",
        "TaskService.DeleteTask",
        "TaskService.UpdateTask",
    }
