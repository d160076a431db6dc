"""TeamService: one RPC, one intent."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty

from prosa.document_rag.v1 import assistant_service_pb2, team_service_pb2_grpc
from prosa.document_rag.v1 import team_service_pb2 as pb
from services.document_rag.assistants import event_wire, team_wire
from services.document_rag.assistants.answer import AnswerStory
from services.document_rag.assistants.team_store import TeamStore
from services.document_rag.assistants.wire import newest_first_position
from shared.caller import current_caller
from shared.paging import page_position, page_size, page_token

Context = grpc.aio.ServicerContext[Any, Any]

_LIST = {"list": "teams"}


class TeamHandlers(team_service_pb2_grpc.TeamServiceServicer):
    """Teams of the caller's tenant, and turns with them."""

    def __init__(self, store: TeamStore, story: AnswerStory) -> None:
        self._store = store
        self._story = story

    async def CreateTeam(self, request: pb.CreateTeamRequest, _context: Context) -> pb.Team:
        fields = team_wire.team_fields_from_proto(request)
        team = await self._store.create(current_caller().tenant_id, fields, request.request_id)
        return team_wire.team_to_proto(team)

    async def GetTeam(self, request: pb.GetTeamRequest, _context: Context) -> pb.Team:
        return team_wire.team_to_proto(await self._store.get(current_caller().tenant_id, request.team_id))

    async def ListTeams(self, request: pb.ListTeamsRequest, _context: Context) -> pb.ListTeamsResponse:
        size = page_size(request.page_size)
        before = newest_first_position(page_position(request.page_token, _LIST))
        found = await self._store.list_newest_first(current_caller().tenant_id, size + 1, before)
        last = found[size - 1] if len(found) > size else None
        token = page_token(_LIST, {"time": last.created_at.isoformat(), "id": last.team_id}) if last else ""
        return pb.ListTeamsResponse(teams=map(team_wire.team_to_proto, found[:size]), next_page_token=token)

    async def UpdateTeam(self, request: pb.UpdateTeamRequest, _context: Context) -> pb.Team:
        changes = team_wire.team_changes_from_proto(request)
        return team_wire.team_to_proto(await self._store.update(current_caller().tenant_id, request.team_id, changes))

    async def DeleteTeam(self, request: pb.DeleteTeamRequest, _context: Context) -> Empty:
        await self._store.delete(current_caller().tenant_id, request.team_id)
        return Empty()

    async def ExecuteTeam(
        self, request: pb.ExecuteTeamRequest, _context: Context
    ) -> AsyncIterator[assistant_service_pb2.AskEvent]:
        telling = self._story.tell(team_wire.team_question_from_proto(request))
        async for event in telling.events():
            yield event_wire.event_to_proto(event)

    async def ExecuteTeamTask(
        self, request: pb.ExecuteTeamTaskRequest, _context: Context
    ) -> pb.ExecuteTeamTaskResponse:
        telling = self._story.tell(team_wire.task_from_proto(request))
        return event_wire.task_response(request.team_id, await event_wire.gathered(telling.events()))
