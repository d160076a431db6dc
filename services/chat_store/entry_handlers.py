"""TaskService and EventService: what stands in a conversation beside its messages."""

from typing import Any

from google.protobuf.empty_pb2 import Empty

from prosa.chat_store.v1 import event_service_pb2 as event_pb
from prosa.chat_store.v1 import event_service_pb2_grpc as event_rpc
from prosa.chat_store.v1 import task_service_pb2 as task_pb
from prosa.chat_store.v1 import task_service_pb2_grpc as task_rpc
from services.chat_store.acts import EntryAct, RemoveEntry
from services.chat_store.entries import Entry, EntryKind
from services.chat_store.pages import place_at, position_of, query_of, within_page
from services.chat_store.reach import actor_of, reach_of
from services.chat_store.selection import EntrySelection
from services.chat_store.store import EntryStore
from services.chat_store.wire.entries import (
    event_to_proto,
    new_entry_id,
    new_event,
    new_task,
    task_changes,
    task_label,
    task_to_proto,
)
from shared.caller import current_caller
from shared.paging import JSON, page_position, page_size, page_token

TASK, EVENT = EntryKind.TASK, EntryKind.EVENT


class TaskHandler(task_rpc.TaskServiceServicer):
    """TaskService over any store."""

    def __init__(self, entries: EntryStore) -> None:
        self._entries = entries

    async def CreateTask(self, request: task_pb.CreateTaskRequest, _: Any) -> task_pb.Task:
        caller, name = current_caller(), request.conversation_id
        task_id = request.task_id or new_entry_id(TASK, caller.tenant_id, name, request.request_id)
        return await self._act(name, task_id, new_task(request, actor_of(caller)))

    async def GetTask(self, request: task_pb.GetTaskRequest, _: Any) -> task_pb.Task:
        name = request.conversation_id
        entry = await self._entries.get(reach_of(current_caller()), name, TASK, request.task_id)
        return task_to_proto(entry, name)

    async def ListTasks(self, request: task_pb.ListTasksRequest, _: Any) -> task_pb.ListTasksResponse:
        reach, name = reach_of(current_caller()), request.conversation_id
        query = query_of(request, reach)
        after = place_at(page_position(request.page_token, query))
        selection = EntrySelection(TASK, task_label(request.status), after, page_size(request.page_size))
        found = await self._entries.select(reach, name, selection)
        tasks, more = within_page([task_to_proto(each, name) for each in found.entries], more=found.more)
        token = page_token(query, _position(found.entries[len(tasks) - 1])) if more else ""
        return task_pb.ListTasksResponse(tasks=tasks, next_page_token=token)

    async def UpdateTask(self, request: task_pb.UpdateTaskRequest, _: Any) -> task_pb.Task:
        changes = task_changes(request, actor_of(current_caller()))
        return await self._act(request.conversation_id, request.task_id, changes)

    async def DeleteTask(self, request: task_pb.DeleteTaskRequest, _: Any) -> Empty:
        act = RemoveEntry(actor=actor_of(current_caller()), request_id=request.request_id)
        await self._act(request.conversation_id, request.task_id, act)
        return Empty()

    async def _act(self, name: str, task_id: str, act: EntryAct) -> task_pb.Task:
        entry = await self._entries.act(reach_of(current_caller()), name, TASK, task_id, act)
        return task_to_proto(entry, name)


class EventHandler(event_rpc.EventServiceServicer):
    """EventService over any store."""

    def __init__(self, entries: EntryStore) -> None:
        self._entries = entries

    async def CreateEvent(self, request: event_pb.CreateEventRequest, _: Any) -> event_pb.ConversationEvent:
        caller, name = current_caller(), request.conversation_id
        event_id = request.event_id or new_entry_id(EVENT, caller.tenant_id, name, request.request_id)
        return await self._act(name, event_id, new_event(request, actor_of(caller)))

    async def GetEvent(self, request: event_pb.GetEventRequest, _: Any) -> event_pb.ConversationEvent:
        name = request.conversation_id
        entry = await self._entries.get(reach_of(current_caller()), name, EVENT, request.event_id)
        return event_to_proto(entry, name)

    async def ListEvents(self, request: event_pb.ListEventsRequest, _: Any) -> event_pb.ListEventsResponse:
        reach, name = reach_of(current_caller()), request.conversation_id
        query = query_of(request, reach)
        after = place_at(page_position(request.page_token, query))
        selection = EntrySelection(EVENT, request.type, after, page_size(request.page_size))
        found = await self._entries.select(reach, name, selection)
        events, more = within_page([event_to_proto(each, name) for each in found.entries], more=found.more)
        token = page_token(query, _position(found.entries[len(events) - 1])) if more else ""
        return event_pb.ListEventsResponse(events=events, next_page_token=token)

    async def DeleteEvent(self, request: event_pb.DeleteEventRequest, _: Any) -> Empty:
        act = RemoveEntry(actor=actor_of(current_caller()), request_id=request.request_id)
        await self._act(request.conversation_id, request.event_id, act)
        return Empty()

    async def _act(self, name: str, event_id: str, act: EntryAct) -> event_pb.ConversationEvent:
        entry = await self._entries.act(reach_of(current_caller()), name, EVENT, event_id, act)
        return event_to_proto(entry, name)


def _position(last: Entry) -> dict[str, JSON]:
    return position_of(last.create_time, last.entry_id)
