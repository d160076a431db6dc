"""AssistantService: one RPC, one intent."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty

from prosa.document_rag.v1 import assistant_service_pb2 as pb
from prosa.document_rag.v1 import assistant_service_pb2_grpc
from services.document_rag.assistants import event_wire, wire
from services.document_rag.assistants.answer import AnswerStory
from services.document_rag.assistants.assistant_store import AssistantStore
from services.document_rag.documents.collection_store import CollectionStore
from shared.caller import current_caller
from shared.paging import page_position, page_size, page_token

Context = grpc.aio.ServicerContext[Any, Any]

_LIST = {"list": "assistants"}


class AssistantHandlers(assistant_service_pb2_grpc.AssistantServiceServicer):
    """Assistants of the caller's tenant, and turns with them."""

    def __init__(self, store: AssistantStore, collections: CollectionStore, story: AnswerStory) -> None:
        self._store = store
        self._collections = collections
        self._story = story

    async def CreateAssistant(self, request: pb.CreateAssistantRequest, _context: Context) -> pb.Assistant:
        fields = wire.fields_from_proto(request)
        await self._collections.require(current_caller().tenant_id, fields.collection_ids)
        assistant = await self._store.create(current_caller().tenant_id, fields, request.request_id)
        return wire.assistant_to_proto(assistant)

    async def GetAssistant(self, request: pb.GetAssistantRequest, _context: Context) -> pb.Assistant:
        return wire.assistant_to_proto(await self._store.get(current_caller().tenant_id, request.assistant_id))

    async def ListAssistants(self, request: pb.ListAssistantsRequest, _context: Context) -> pb.ListAssistantsResponse:
        size = page_size(request.page_size)
        before = wire.newest_first_position(page_position(request.page_token, _LIST))
        found = await self._store.list_newest_first(current_caller().tenant_id, size + 1, before)
        last = found[size - 1] if len(found) > size else None
        token = page_token(_LIST, {"time": last.created_at.isoformat(), "id": last.assistant_id}) if last else ""
        shown = [wire.assistant_to_proto(each) for each in found[:size]]
        return pb.ListAssistantsResponse(assistants=shown, next_page_token=token)

    async def UpdateAssistant(self, request: pb.UpdateAssistantRequest, _context: Context) -> pb.Assistant:
        changes = wire.changes_from_proto(request)
        if "collection_ids" in changes:
            await self._collections.require(current_caller().tenant_id, request.assistant.collection_ids)
        return wire.assistant_to_proto(
            await self._store.update(current_caller().tenant_id, request.assistant_id, changes)
        )

    async def DeleteAssistant(self, request: pb.DeleteAssistantRequest, _context: Context) -> Empty:
        await self._store.delete(current_caller().tenant_id, request.assistant_id)
        return Empty()

    async def Ask(self, request: pb.AskRequest, _context: Context) -> AsyncIterator[pb.AskEvent]:
        telling = self._story.tell(wire.question_from_proto(request))
        async for event in telling.events():
            yield event_wire.event_to_proto(event)

    async def ChatWithAgent(self, request: pb.ChatWithAgentRequest, _context: Context) -> pb.ChatWithAgentResponse:
        telling = self._story.tell(wire.chat_from_proto(request))
        return event_wire.chat_response(request.agent_id, await event_wire.gathered(telling.events()))
