"""Tasks and events: proto ↔ model."""

from prosa.chat_store.v1 import event_service_pb2 as event_pb
from prosa.chat_store.v1 import task_service_pb2 as task_pb
from services.chat_store.acts import AddEntry, UpdateTask
from services.chat_store.entries import Entry, EntryKind, TaskStatus
from services.chat_store.limits import broken
from services.chat_store.wire.values import changed_fields, json_of, struct_of, timestamp_to_proto
from shared.identifiers import derived_id, new_id

_STATUSES = {
    task_pb.TASK_STATUS_PENDING: TaskStatus.PENDING,
    task_pb.TASK_STATUS_IN_PROGRESS: TaskStatus.IN_PROGRESS,
    task_pb.TASK_STATUS_COMPLETED: TaskStatus.COMPLETED,
}
_STATUSES_OUT = {status.value: number for number, status in _STATUSES.items()}
_CHANGEABLE = ("description", "status", "metadata")


def new_entry_id(kind: EntryKind, tenant_id: str, conversation_id: str, request_id: str) -> str:
    """An id for what has none: with a request_id the same one each time."""
    return derived_id(kind.value, tenant_id, conversation_id, request_id) if request_id else new_id()


def new_task(request: task_pb.CreateTaskRequest, actor: str) -> AddEntry:
    """The task wanted; tasks begin as PENDING."""
    return AddEntry(
        actor=actor,
        request_id=request.request_id,
        label=TaskStatus.PENDING.value,
        text=request.description,
        content=json_of(request.metadata, "metadata"),
    )


def task_changes(request: task_pb.UpdateTaskRequest, actor: str) -> UpdateTask:
    """The fields that the mask names, with their new values."""
    sent = request.task
    paths = changed_fields(sent, request.update_mask.paths, _CHANGEABLE, "task")
    if "status" in paths and not sent.status:
        raise broken("task.status", "must be stated", "enum.not_in")
    return UpdateTask(
        actor=actor,
        request_id=request.request_id,
        status=_STATUSES[sent.status] if "status" in paths else None,
        description=sent.description if "description" in paths else None,
        metadata=json_of(sent.metadata, "task.metadata") if "metadata" in paths else None,
        revision=request.revision if request.HasField("revision") else None,
    )


def task_label(sent: task_pb.TaskStatus.ValueType) -> str:
    """The label of tasks of that status; "" = any."""
    return _STATUSES[sent].value if sent else ""


def task_to_proto(kept: Entry, conversation_id: str) -> task_pb.Task:
    """A task as clients see it."""
    return task_pb.Task(
        task_id=kept.entry_id,
        conversation_id=conversation_id,
        status=_STATUSES_OUT[kept.label],
        description=kept.text,
        metadata=struct_of(kept.content),
        revision=kept.revision,
        create_time=timestamp_to_proto(kept.create_time),
        update_time=timestamp_to_proto(kept.update_time),
    )


def new_event(request: event_pb.CreateEventRequest, actor: str) -> AddEntry:
    """The event wanted; one that names nobody was caused by `actor`."""
    return AddEntry(
        actor=actor,
        request_id=request.request_id,
        label=request.type,
        content=json_of(request.content, "content"),
        by=request.actor or actor,
    )


def event_to_proto(kept: Entry, conversation_id: str) -> event_pb.ConversationEvent:
    """An event as clients see it."""
    return event_pb.ConversationEvent(
        event_id=kept.entry_id,
        conversation_id=conversation_id,
        type=kept.label,
        actor=kept.actor,
        content=struct_of(kept.content),
        create_time=timestamp_to_proto(kept.create_time),
    )
