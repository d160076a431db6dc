"""What holds for every method on a conversation: who reaches it, what a permission is for, what a retry answers.

The cases are held against the descriptors: a new method without a case fails here.
"""

from copy import deepcopy
from typing import Any

import grpc
import pytest
from grpc_status import rpc_status

from tests.chat_store.calls import append, call, create, got, refusal, said, streamed
from tests.chat_store.conftest import METHODS, World
from tests.house.in_process import Metadata, as_caller

NAME = "minha"
NOT_ON_ONE = {"CreateConversation", "ListConversations", "SearchMessages"}
# Each method on one conversation, with fields that change something where it writes.
CASES: dict[str, dict[str, Any]] = {
    "GetConversation": {},
    "UpdateConversation": {"conversation": {"title": "novo"}, "updateMask": "title"},
    "ArchiveConversation": {},
    "UnarchiveConversation": {},
    "FinalizeConversation": {"reason": "resolvida"},
    "DeleteConversation": {},
    "UndeleteConversation": {},
    "GetStats": {},
    "LinkAnalysis": {"analysisId": "a1"},
    "AppendMessages": {"messages": [{"type": "MESSAGE_TYPE_USER", "text": "x"}]},
    "ListMessages": {},
    "GetMessage": {"messageId": "m1"},
    "UpdateMessage": {"messageId": "m1", "message": {"text": "novo", "type": 1}, "updateMask": "text"},
    "ListMessageRevisions": {"messageId": "m1"},
    "ReadMessageText": {"messageId": "m1"},
    "SetFeedback": {"messageId": "m1", "feedback": {"rating": 5}},
    "ClearFeedback": {"messageId": "m1"},
    "WatchConversation": {},
    "CreateTask": {"description": "ligar"},
    "GetTask": {"taskId": "t1"},
    "ListTasks": {},
    "UpdateTask": {"taskId": "t1", "task": {"description": "novo"}, "updateMask": "description"},
    "DeleteTask": {"taskId": "t1"},
    "CreateEvent": {"type": "escalated"},
    "GetEvent": {"eventId": "e1"},
    "ListEvents": {},
    "DeleteEvent": {"eventId": "e1"},
}
# The same method, asked for something else.
OTHERWISE: dict[str, dict[str, Any]] = {
    "UpdateConversation": {"conversation": {"title": "outro"}},
    "FinalizeConversation": {"reason": "outra"},
    "LinkAnalysis": {"analysisId": "a2"},
    "AppendMessages": {"messages": [{"type": "MESSAGE_TYPE_USER", "text": "y"}]},
    "UpdateMessage": {"message": {"text": "outro", "type": 1}},
    "SetFeedback": {"feedback": {"rating": 1}},
    "CreateTask": {"description": "escrever"},
    "UpdateTask": {"task": {"description": "outro"}},
    "CreateEvent": {"type": "closed"},
}
READS = {name for name, method in METHODS.items() if "request_id" not in method.input_type.fields_by_name}
WRITES = set(METHODS) - READS - NOT_ON_ONE


@pytest.fixture
async def ana(world: World) -> Metadata:
    """Somebody with one of everything."""
    ana = world.member()
    await create(world, ana, conversation_id=NAME)
    await append(world, ana, NAME, said("oi", message_id="m1"), said("olá", message_id="m2"))
    await call(world, ana, "CreateTask", conversationId=NAME, taskId="t1", description="ver")
    await call(world, ana, "CreateEvent", conversationId=NAME, eventId="e1", type="opened")
    return ana


def test_every_method_has_a_case() -> None:
    assert set(CASES) | NOT_ON_ONE == set(METHODS)
    assert set(OTHERWISE) == {name for name in WRITES if CASES[name].keys() - {"messageId", "taskId", "eventId"}}


@pytest.mark.parametrize("name", CASES)
async def test_a_conversation_of_somebody_else_looks_like_none(world: World, ana: Metadata, name: str) -> None:
    strangers = {
        "another member": (world, world.member("bia")),
        "somebody anonymous": (world, world.end_user()),
        "a service for another member": (world, world.service_for("bia")),
        "another tenant's administrator": (world.other(), world.other().admin()),
        "another tenant's member of that name": (world.other(), world.other().member()),
    }
    before = await got(world, ana, NAME)
    for who, (their, stranger) in strangers.items():
        foreign = await _refused(their, stranger, name, NAME)
        missing = await _refused(their, stranger, name, "outra")
        assert foreign == missing.replace(b"outra", NAME.encode()), who
        assert b"conversation not found" in foreign, who
    assert await got(world, ana, NAME) == before


@pytest.mark.parametrize("name", sorted(METHODS))
async def test_each_method_needs_its_permission(world: World, name: str) -> None:
    fields = _fields(name)
    powerless = as_caller(world.token("ana", {"assistants.ask"}))
    refused = [await refusal(_asked(world, powerless, name, fields))]
    if name not in READS:
        refused.append(await refusal(_asked(world, world.reader(), name, fields)))
    assert {each.code for each in refused} == {grpc.StatusCode.PERMISSION_DENIED}
    for nobody in (world.service(), as_caller(world.token("", set()))):
        code = (await refusal(_asked(world, nobody, name, fields))).code
        assert code is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize("name", sorted(WRITES))
async def test_a_retried_write_answers_with_the_same_bytes(world: World, ana: Metadata, name: str) -> None:
    await _made_ready(world, ana, name)
    first = await call(world, ana, name, **_fields(name), requestId="r1")
    count = (await got(world, world.admin(), NAME)).revision if name != "DeleteConversation" else None
    again = await call(world, ana, name, **_fields(name), requestId="r1")
    assert again.SerializeToString(deterministic=True) == first.SerializeToString(deterministic=True)
    if count is not None:
        assert (await got(world, ana, NAME)).revision == count


@pytest.mark.parametrize("name", sorted(OTHERWISE))
async def test_a_request_id_means_one_thing(world: World, ana: Metadata, name: str) -> None:
    await call(world, ana, name, **_fields(name), requestId="r1")
    changed = {**_fields(name), **OTHERWISE[name]}
    refused = await refusal(call(world, ana, name, **changed, requestId="r1"))
    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "REQUEST_ID_REUSED")


@pytest.mark.parametrize("name", ["UpdateMessage", "SetFeedback"])
async def test_a_request_id_is_for_one_message(world: World, ana: Metadata, name: str) -> None:
    await call(world, ana, name, **_fields(name), requestId="r1")
    elsewhere = {**_fields(name), "messageId": "m2"}
    refused = await refusal(call(world, ana, name, **elsewhere, requestId="r1"))
    assert refused.reason == "REQUEST_ID_REUSED"


@pytest.mark.parametrize(
    ("name", "field"), [(name, f) for name in CASES for f in ("messageId", "taskId", "eventId") if f in CASES[name]]
)
async def test_what_is_not_in_the_conversation_is_not_found(world: World, ana: Metadata, name: str, field: str) -> None:
    for missing in ("m9", "$where", "a:b", "x" * 100):
        refused = await refusal(_asked(world, ana, name, {**_fields(name), field: missing}))
        assert refused.code in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT), missing
    assert refused.code is grpc.StatusCode.NOT_FOUND


def _fields(name: str) -> dict[str, Any]:
    fields = deepcopy(CASES.get(name, {"query": "x"} if name == "SearchMessages" else {}))
    return fields if name in NOT_ON_ONE else {"conversationId": NAME, **fields}


async def _asked(world: World, who: Metadata, name: str, fields: dict[str, Any]) -> object:
    if METHODS[name].server_streaming:
        return await streamed(world, who, name, **fields)
    return await call(world, who, name, **fields)


async def _refused(world: World, who: Metadata, name: str, conversation_id: str) -> bytes:
    """All that a stranger learns, byte for byte, without what names the call itself."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await _asked(world, who, name, {**_fields(name), "conversationId": conversation_id})
    status = rpc_status.from_call(refused.value)
    assert status.code == grpc.StatusCode.NOT_FOUND.value[0]
    kept = [detail for detail in status.details if not detail.type_url.endswith("RequestInfo")]
    del status.details[:]
    status.details.extend(kept)
    return bytes(status.SerializeToString())


async def _made_ready(world: World, ana: Metadata, name: str) -> None:
    """The state in which the method changes something."""
    before = {"UnarchiveConversation": "ArchiveConversation", "UndeleteConversation": "DeleteConversation"}.get(name)
    if before:
        await call(world, ana, before, conversationId=NAME)
    if name == "ClearFeedback":
        await call(world, ana, "SetFeedback", **_fields("SetFeedback"))
