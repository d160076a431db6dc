"""TaskService and EventService as their clients meet them."""

from typing import Any

import grpc
import pytest
from google.protobuf.json_format import MessageToDict

from prosa.chat_store.v1 import event_service_pb2 as event_pb
from prosa.chat_store.v1 import task_service_pb2 as task_pb
from tests.chat_store.calls import broken_fields, call, create, got, refusal
from tests.chat_store.conftest import World
from tests.house.in_process import Metadata

NAME = "minha"
BIG = {"k": "x" * 70_000}


@pytest.fixture
async def ana(world: World) -> Metadata:
    """Somebody with a conversation."""
    ana = world.member()
    await create(world, ana, conversation_id=NAME)
    return ana


async def task(world: World, who: Metadata, method: str, **fields: Any) -> task_pb.Task:
    done: task_pb.Task = await call(world, who, method, conversationId=NAME, **fields)
    return done


async def event(world: World, who: Metadata, method: str, **fields: Any) -> event_pb.ConversationEvent:
    done: event_pb.ConversationEvent = await call(world, who, method, conversationId=NAME, **fields)
    return done


async def test_a_task_is_created_worked_on_and_deleted(world: World, ana: Metadata) -> None:
    made = await task(world, ana, "CreateTask", description="ligar para a obra", metadata={"prioridade": 1})
    assert (made.conversation_id, made.status, made.revision) == (NAME, task_pb.TASK_STATUS_PENDING, 0)
    assert made.create_time == made.update_time
    begun = await task(
        world,
        ana,
        "UpdateTask",
        taskId=made.task_id,
        task={"status": "TASK_STATUS_IN_PROGRESS", "description": "não pedido", "metadata": {"prioridade": 2}},
        updateMask="status,metadata",
    )
    assert (begun.status, begun.revision) == (task_pb.TASK_STATUS_IN_PROGRESS, 1)
    assert (begun.description, MessageToDict(begun.metadata)) == ("ligar para a obra", {"prioridade": 2})
    assert await task(world, ana, "GetTask", taskId=made.task_id) == begun
    await call(world, ana, "DeleteTask", conversationId=NAME, taskId=made.task_id)
    for method in ("GetTask", "DeleteTask"):
        refused = await refusal(task(world, ana, method, taskId=made.task_id))
        assert refused.code is grpc.StatusCode.NOT_FOUND
    assert not (await call(world, ana, "ListTasks", conversationId=NAME)).tasks
    assert (await got(world, ana, NAME)).revision == 3


async def test_a_completed_task_stays_completed(world: World, ana: Metadata) -> None:
    await task(world, ana, "CreateTask", taskId="t1", description="ver")
    for status, refused in (
        ("IN_PROGRESS", False),
        ("PENDING", False),
        ("COMPLETED", False),
        ("COMPLETED", False),
        ("IN_PROGRESS", True),
        ("PENDING", True),
    ):
        asked = task(
            world, ana, "UpdateTask", taskId="t1", task={"status": f"TASK_STATUS_{status}"}, updateMask="status"
        )
        if refused:
            error = await refusal(asked)
            assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "TASK_TRANSITION_INVALID")
        else:
            assert task_pb.TaskStatus.Name((await asked).status) == f"TASK_STATUS_{status}"
    assert (await task(world, ana, "GetTask", taskId="t1")).revision == 3


async def test_a_task_that_somebody_else_changed_is_not_overwritten(world: World, ana: Metadata) -> None:
    await task(world, ana, "CreateTask", taskId="t1", description="um")
    wanted: dict[str, Any] = {"taskId": "t1", "updateMask": "description", "revision": 0}
    await task(world, ana, "UpdateTask", **wanted, task={"description": "dois"})
    refused = await refusal(task(world, ana, "UpdateTask", **wanted, task={"description": "três"}))
    assert (refused.reason, refused.metadata["revision"]) == ("REVISION_MISMATCH", "1")


async def test_an_event_is_recorded_read_and_deleted(world: World, ana: Metadata) -> None:
    content = {"de": "fila 1", "tentativas": [1, 2]}
    made = await event(world, ana, "CreateEvent", type="handoff.requested", actor="bot", content=content)
    assert (made.type, made.actor, MessageToDict(made.content)) == ("handoff.requested", "bot", content)
    assert (await event(world, ana, "CreateEvent", type="handoff.done")).actor == "ana"
    assert await event(world, ana, "GetEvent", eventId=made.event_id) == made
    listed = await call(world, ana, "ListEvents", conversationId=NAME, type="handoff.requested")
    assert list(listed.events) == [made]
    await call(world, ana, "DeleteEvent", conversationId=NAME, eventId=made.event_id)
    for method in ("GetEvent", "DeleteEvent"):
        refused = await refusal(event(world, ana, method, eventId=made.event_id))
        assert refused.code is grpc.StatusCode.NOT_FOUND


async def test_an_event_of_a_service_for_nobody_was_caused_by_its_key(world: World) -> None:
    anonymous = world.end_user()
    await create(world, anonymous, conversation_id=NAME)
    assert (await event(world, anonymous, "CreateEvent", type="opened")).actor == "test-key"


async def test_a_request_id_alone_makes_creation_safe(world: World, ana: Metadata) -> None:
    for method, fields in (("CreateTask", {"description": "ver"}), ("CreateEvent", {"type": "opened"})):
        first = await call(world, ana, method, conversationId=NAME, **fields, requestId=method)
        assert await call(world, ana, method, conversationId=NAME, **fields, requestId=method) == first


async def test_an_id_means_one_entry(world: World, ana: Metadata) -> None:
    for method, field, fields, others in (
        ("CreateTask", "taskId", {"description": "um"}, {"description": "dois"}),
        ("CreateEvent", "eventId", {"type": "um"}, {"type": "dois"}),
    ):
        made = await call(world, ana, method, conversationId=NAME, **{field: "e1"}, **fields)
        assert await call(world, ana, method, conversationId=NAME, **{field: "e1"}, **fields) == made
        refused = await refusal(call(world, ana, method, conversationId=NAME, **{field: "e1"}, **others))
        assert refused.code is grpc.StatusCode.ALREADY_EXISTS


@pytest.mark.parametrize("kind", ["Task", "Event"])
async def test_entries_are_listed_newest_first_in_pages_of_their_query(world: World, ana: Metadata, kind: str) -> None:
    made, found, token = list[str](), list[str](), ""
    for number in range(5):
        fields = {"description": f"{number}"} if kind == "Task" else {"type": "opened"}
        made.append(f"e{number}")
        await call(world, ana, f"Create{kind}", conversationId=NAME, **{f"{kind.lower()}Id": made[-1]}, **fields)
    while True:
        page = await call(world, ana, f"List{kind}s", conversationId=NAME, pageSize=2, pageToken=token)
        found += [getattr(each, f"{kind.lower()}_id") for each in getattr(page, f"{kind.lower()}s")]
        if not page.next_page_token:
            break
        token = page.next_page_token
    assert found == made[::-1]
    narrowed = {"status": "TASK_STATUS_PENDING"} if kind == "Task" else {"type": "opened"}
    for other, reason in (
        ({**narrowed, "pageToken": token}, "PAGE_TOKEN_MISMATCH"),
        ({"pageToken": f"{token}x"}, "PAGE_TOKEN_INVALID"),
    ):
        refused = await refusal(call(world, ana, f"List{kind}s", conversationId=NAME, **other))
        assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
    elsewhere = "Event" if kind == "Task" else "Task"
    refused = await refusal(call(world, ana, f"List{elsewhere}s", conversationId=NAME, pageToken=token))
    assert refused.reason == "PAGE_TOKEN_MISMATCH"


async def test_tasks_are_listed_by_status(world: World, ana: Metadata) -> None:
    for number in range(3):
        await task(world, ana, "CreateTask", taskId=f"t{number}", description="ver")
    await task(world, ana, "UpdateTask", taskId="t1", task={"status": "TASK_STATUS_COMPLETED"}, updateMask="status")
    for status, wanted in (("COMPLETED", ["t1"]), ("PENDING", ["t2", "t0"]), ("IN_PROGRESS", [])):
        page = await call(world, ana, "ListTasks", conversationId=NAME, status=f"TASK_STATUS_{status}")
        assert [each.task_id for each in page.tasks] == wanted


@pytest.mark.parametrize(
    ("method", "fields", "field"),
    [
        ("CreateTask", {}, "description"),
        ("CreateTask", {"description": "x" * 10_001}, "description"),
        ("CreateTask", {"description": "x", "metadata": BIG}, "metadata"),
        ("CreateTask", {"description": "x", "taskId": "a:b"}, "task_id"),
        ("CreateTask", {"description": "x", "requestId": "x" * 256}, "request_id"),
        ("UpdateTask", {"taskId": "t1", "task": {}, "updateMask": "status"}, "task.status"),
        ("UpdateTask", {"taskId": "t1", "task": {"status": 9}, "updateMask": "status"}, "task.status"),
        ("UpdateTask", {"taskId": "t1", "task": {}, "updateMask": "description"}, "task.description"),
        ("UpdateTask", {"taskId": "t1", "task": {"metadata": BIG}, "updateMask": "metadata"}, "task.metadata"),
        ("UpdateTask", {"taskId": "t1", "task": {"description": "x"}}, "update_mask"),
        ("UpdateTask", {"taskId": "t1", "task": {"description": "x"}, "updateMask": "taskId"}, "update_mask"),
        ("ListTasks", {"status": 9}, "status"),
        ("ListTasks", {"pageSize": -1}, "page_size"),
        ("CreateEvent", {}, "type"),
        ("CreateEvent", {"type": "com espaço"}, "type"),
        ("CreateEvent", {"type": "x", "actor": "x" * 256}, "actor"),
        ("CreateEvent", {"type": "x", "content": BIG}, "content"),
        ("CreateEvent", {"type": "x", "eventId": "$a b"}, "event_id"),
        ("ListEvents", {"pageSize": -1}, "page_size"),
    ],
)
async def test_bad_input_is_refused_with_the_field(
    world: World, ana: Metadata, method: str, fields: dict[str, Any], field: str
) -> None:
    await task(world, ana, "CreateTask", taskId="t1", description="ver")
    broken = await broken_fields(call(world, ana, method, conversationId=NAME, **fields))
    assert [each.field for each in broken] == [field]
    assert (await got(world, ana, NAME)).revision == 1


async def test_a_page_of_large_tasks_stays_small_enough_to_be_sent(world: World, ana: Metadata) -> None:
    for number in range(40):
        await task(world, ana, "CreateTask", taskId=f"t{number:02}", description="x", metadata={"k": "x" * 65_000})
    first = await call(world, ana, "ListTasks", conversationId=NAME, pageSize=1000)
    assert first.ByteSize() < 2_200_000
    rest = await call(world, ana, "ListTasks", conversationId=NAME, pageSize=1000, pageToken=first.next_page_token)
    found = [each.task_id for each in (*first.tasks, *rest.tasks)]
    assert found == [f"t{number:02}" for number in reversed(range(40))]
