"""AdminService: what keeps figures right."""

from collections.abc import AsyncIterator
from typing import Any

import grpc

from prosa.analytics.v1 import admin_service_pb2 as pb
from prosa.analytics.v1 import admin_service_pb2_grpc as pb_grpc
from services.analytics.admin import wire
from services.analytics.admin.forgetting import Forgetting
from services.analytics.admin.rebuild import Rebuilding
from services.analytics.admin.replaying import Replaying
from services.analytics.admin.retention import Retentions
from shared.caller import current_caller
from shared.errors import PermissionDenied
from shared.paging import page_size
from shared.server import Endpoint

Context = grpc.aio.ServicerContext[Any, Any]


class AdminHandlers(pb_grpc.AdminServiceServicer):
    """Everything but rebuilding is about the caller's own tenant."""

    def __init__(
        self, replaying: Replaying, rebuilding: Rebuilding, forgetting: Forgetting, retentions: Retentions
    ) -> None:
        self._replaying = replaying
        self._rebuilding = rebuilding
        self._forgetting = forgetting
        self._retentions = retentions

    async def ListDeadLetters(self, request: pb.ListDeadLettersRequest, _: Context) -> pb.ListDeadLettersResponse:
        """A page of them."""
        size = page_size(request.page_size)
        found = await self._replaying.listed(
            current_caller().tenant_id, wire.kind_of(request.stream), wire.behind(request), size + 1
        )
        return wire.letters_out(request, found, size)

    async def ReplayDeadLetters(self, request: pb.ReplayDeadLettersRequest, _: Context) -> pb.ReplayDeadLettersResponse:
        """The named ones, or all."""
        tenant_id = current_caller().tenant_id
        if request.all:
            replayed = await self._replaying.replay_all(tenant_id, wire.kind_of(request.stream))
        else:
            replayed = await self._replaying.replay(tenant_id, request.dead_letter_ids)
        return pb.ReplayDeadLettersResponse(replayed=replayed)

    async def RebuildProjection(
        self, request: pb.RebuildProjectionRequest, _: Context
    ) -> AsyncIterator[pb.RebuildProgress]:
        """Everything anew."""
        async for progress in self._rebuilding.run(accept_loss=request.accept_loss):
            yield wire.progress_out(progress)

    async def ForgetUser(self, request: pb.ForgetUserRequest, _: Context) -> pb.ForgetUserResponse:
        """A person, but no sum."""
        return wire.receipt_out(await self._forgetting.forget(_own_tenant(), request.user_id))

    async def GetRetention(self, _request: pb.GetRetentionRequest, _: Context) -> pb.Retention:
        """How long facts are kept."""
        return pb.Retention(facts_days=await self._retentions.days(_own_tenant()))

    async def SetRetention(self, request: pb.SetRetentionRequest, _: Context) -> pb.Retention:
        """How long from now on."""
        await self._retentions.set_days(_own_tenant(), request.retention.facts_days)
        return request.retention


def _own_tenant() -> str:
    tenant_id = current_caller().tenant_id
    if not tenant_id:
        raise PermissionDenied("the caller belongs to no tenant, and facts do")
    return tenant_id


def admin_endpoint(handlers: AdminHandlers) -> Endpoint:
    """AdminService, answered by `handlers`."""
    return Endpoint(
        add=pb_grpc.add_AdminServiceServicer_to_server,
        servicer=handlers,
        full_name=pb.DESCRIPTOR.services_by_name["AdminService"].full_name,
    )
