"""AdminService as a tenant's administrators meet it."""

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask

from prosa.chat_store.v1 import admin_service_pb2 as pb
from prosa.chat_store.v1 import admin_service_pb2_grpc as rpc
from services.chat_store.limits import INLINE_BYTES
from tests.chat_store.calls import append, call, create, got, refusal, said
from tests.chat_store.conftest import World
from tests.house.in_process import Metadata, as_caller, token

MANAGER = {"retention.manage", "privacy.manage", "audit.read"}


@pytest.fixture
def admin(channel: grpc.aio.Channel) -> "rpc.AdminServiceAsyncStub":
    return rpc.AdminServiceStub(channel)


def manager(world: World) -> Metadata:
    return as_caller(world.token("root", MANAGER))


async def talk(world: World, user_id: str, conversation_id: str, *texts: str) -> None:
    who = world.member(user_id)
    await create(world, who, conversation_id=conversation_id)
    await append(world, who, conversation_id, *(said(text) for text in texts))


def changed(policy: pb.RetentionPolicy, *paths: str) -> pb.UpdatePolicyRequest:
    return pb.UpdatePolicyRequest(policy=policy, update_mask=FieldMask(paths=paths))


async def test_a_policy_is_set_field_by_field(world: World, admin: "rpc.AdminServiceAsyncStub") -> None:
    who = manager(world)
    assert await admin.GetPolicy(pb.GetPolicyRequest(), metadata=who) == pb.RetentionPolicy(purge_after_days=30)
    wanted = pb.RetentionPolicy(retention_days=365, max_messages=1000, default_ttl=Duration(seconds=60))
    first = await admin.UpdatePolicy(changed(wanted, "retention_days", "default_ttl"), metadata=who)
    assert first == pb.RetentionPolicy(retention_days=365, default_ttl=Duration(seconds=60), purge_after_days=30)
    second = await admin.UpdatePolicy(changed(wanted, "max_messages", "purge_after_days"), metadata=who)
    assert second == wanted
    assert await admin.GetPolicy(pb.GetPolicyRequest(), metadata=who) == wanted
    other = manager(world.other())
    assert await admin.GetPolicy(pb.GetPolicyRequest(), metadata=other) == pb.RetentionPolicy(purge_after_days=30)


async def test_a_new_conversation_gets_the_tenants_ttl(world: World, admin: "rpc.AdminServiceAsyncStub") -> None:
    policy = pb.RetentionPolicy(default_ttl=Duration(seconds=3600))
    await admin.UpdatePolicy(changed(policy, "default_ttl"), metadata=manager(world))
    made = await create(world, world.member())
    assert made.ttl == Duration(seconds=3600)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (changed(pb.RetentionPolicy(retention_days=-1), "retention_days"), "policy.retention_days"),
        (changed(pb.RetentionPolicy(purge_after_days=36_501), "purge_after_days"), "policy.purge_after_days"),
        (changed(pb.RetentionPolicy(max_messages=-1), "max_messages"), "policy.max_messages"),
        (changed(pb.RetentionPolicy(default_ttl=Duration(seconds=-1)), "default_ttl"), "policy.default_ttl"),
        (changed(pb.RetentionPolicy(), "colour"), "update_mask"),
        (changed(pb.RetentionPolicy()), "update_mask"),
    ],
)
async def test_a_policy_out_of_bounds_is_refused(
    world: World, admin: "rpc.AdminServiceAsyncStub", request_: pb.UpdatePolicyRequest, field: str
) -> None:
    error = await refusal(admin.UpdatePolicy(request_, metadata=manager(world)))
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "VALIDATION_FAILED")
    assert [violation.field for violation in error.violations] == [field]  # type: ignore[attr-defined]


async def test_an_export_streams_all_and_says_how_much_it_was(world: World, admin: "rpc.AdminServiceAsyncStub") -> None:
    large = "ã" * INLINE_BYTES
    await talk(world, "ana", "c1", "olá", large)
    await talk(world, "rui", "c2", "segredo")
    await call(world, world.member("ana"), "CreateTask", conversation_id="c1", task_id="t1", description="Ligar")
    exported = admin.ExportUser(pb.ExportUserRequest(user_id="ana"), metadata=manager(world))
    records = [record async for record in exported]
    kinds = [record.WhichOneof("record") for record in records]
    assert [kind for kind in kinds if kind != "message_text"] == [
        "conversation",
        "conversation_message",
        "conversation_message",
        "task",
        "completed",
    ]
    assert "".join(record.message_text.text for record in records) == large
    assert {record.conversation_id for record in records[:-1]} == {"c1"}
    counts = {item.collection: item.count for item in records[-1].completed.items}
    assert counts == {"conversations": 1, "messages": 2, "tasks": 1, "events": 0}


async def test_an_erasure_gives_a_receipt_and_leaves_nothing(world: World, admin: "rpc.AdminServiceAsyncStub") -> None:
    await talk(world, "ana", "c1", "olá")
    receipt = await admin.EraseUser(pb.EraseUserRequest(user_id="ana"), metadata=manager(world))
    assert receipt.verified
    assert receipt.user_id == "ana"
    assert {item.collection: item.count for item in receipt.items}["conversations"] == 1
    assert receipt.residue
    assert not any(item.count for item in receipt.residue)
    error = await refusal(got(world, world.member("ana"), "c1"))
    assert error.code is grpc.StatusCode.NOT_FOUND


async def test_the_store_says_what_keeps_it(world: World, admin: "rpc.AdminServiceAsyncStub", engine: str) -> None:
    status = await admin.GetStoreStatus(pb.GetStoreStatusRequest(), metadata=manager(world))
    assert status == pb.StoreStatus(engine=engine)


async def test_administration_is_closed_to_members_and_to_callers_without_a_tenant(
    world: World, admin: "rpc.AdminServiceAsyncStub"
) -> None:
    nobodys = as_caller(token(world.keys, scopes=MANAGER))
    update = changed(pb.RetentionPolicy(retention_days=1), "retention_days")
    for who in (world.member(), world.admin(), nobodys):
        for refused in (
            admin.GetPolicy(pb.GetPolicyRequest(), metadata=who),
            admin.UpdatePolicy(update, metadata=who),
            admin.EraseUser(pb.EraseUserRequest(user_id="ana"), metadata=who),
        ):
            assert (await refusal(refused)).code is grpc.StatusCode.PERMISSION_DENIED
    for stream in (
        admin.ExportUser(pb.ExportUserRequest(user_id="ana"), metadata=nobodys),
        admin.VerifyAudit(pb.VerifyAuditRequest(), metadata=world.admin()),
    ):
        assert (await refusal(stream.read())).code is grpc.StatusCode.PERMISSION_DENIED
