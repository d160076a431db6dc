"""A team of two members with a document each, and a leader; what a test does with it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from prosa.document_rag.v1 import team_service_pb2 as pb
from shared.errors import ServiceError, error_of
from tests.document_rag.neighbourhood import Tenant, Told

TAXES, WASTE = "Guia do IPTU", "Guia da coleta"
_TAXES_TEXT = "A cota única do IPTU vence em 10 de março de 2027 e tem desconto de 12%.\n"
_WASTE_TEXT = "A coleta de lixo passa às terças e quintas-feiras, a partir das 7 horas.\n"


@dataclass
class Team:
    """A team of a tenant."""

    tenant: Tenant
    team_id: str
    leader_id: str
    member_ids: list[str]

    def request(self, question: str, **fields: Any) -> pb.ExecuteTeamRequest:
        return pb.ExecuteTeamRequest(team_id=self.team_id, question=question, **fields)

    async def asked(self, question: str, told: Told | None = None, **fields: Any) -> Told:
        """A turn read to its end; the error of the house when it fails."""
        told = told or Told()
        try:
            call = self.tenant.house.teams.ExecuteTeam(self.request(question, **fields), metadata=self.tenant.person())
            async for event in call:
                told.events.append(event)
        except grpc.aio.AioRpcError as error:
            raise error_of(error) from None
        return told

    async def refused(self, question: str, told: Told | None = None, **fields: Any) -> str:
        """The reason with which a turn fails."""
        try:
            await self.asked(question, told, **fields)
        except ServiceError as error:
            return error.reason
        raise AssertionError("it was answered")


async def team_of(
    tenant: Tenant,
    strategy: pb.TeamStrategy.ValueType,
    *,
    leader: str = "extractive",
    members: Sequence[str] = ("extractive", "extractive"),
    threshold: float | None = None,
    on_member_failure: pb.OnMemberFailure.ValueType = pb.ON_MEMBER_FAILURE_UNSPECIFIED,
    max_output_tokens: int = 0,
    waste_text: str = _WASTE_TEXT,
) -> Team:
    """Tributos knows the taxes, Limpeza the waste, each by one document; Chefia leads."""
    taxes, waste = await tenant.document(_TAXES_TEXT, title=TAXES), await tenant.document(waste_text, title=WASTE)
    limit = {"max_output_tokens": max_output_tokens}
    member_ids = [
        await tenant.assistant(
            members[0],
            display_name="Tributos",
            description="Impostos municipais.",
            keywords=["IPTU"],
            document_ids=[taxes],
            **limit,
        ),
        await tenant.assistant(
            members[1],
            display_name="Limpeza",
            description="Coleta de lixo.",
            keywords=["lixo"],
            document_ids=[waste],
            **limit,
        ),
    ]
    leader_id = await tenant.assistant(leader, display_name="Chefia", **limit)
    team = pb.Team(
        display_name="Atendimento",
        leader_id=leader_id,
        member_ids=member_ids,
        strategy=strategy,
        route_threshold=threshold,
        on_member_failure=on_member_failure,
    )
    made = await tenant.house.teams.CreateTeam(pb.CreateTeamRequest(team=team), metadata=tenant.person())
    return Team(tenant, made.team_id, leader_id, member_ids)
