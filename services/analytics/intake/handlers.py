"""MetricsService: what outside producers tell is in the inbox before they hear that it was accepted."""

from collections.abc import Sequence
from typing import Any

import grpc

from prosa.analytics.v1 import metrics_service_pb2 as pb
from prosa.analytics.v1 import metrics_service_pb2_grpc as pb_grpc
from services.analytics.intake.inbox import Inbox
from services.analytics.intake.metrics_wire import stamped
from services.analytics.intake.streams import Kind
from shared.caller import current_caller
from shared.clock import Clock
from shared.errors import PermissionDenied
from shared.server import Endpoint

Context = grpc.aio.ServicerContext[Any, Any]


class MetricsHandlers(pb_grpc.MetricsServiceServicer):
    """Everything belongs to the caller's own tenant."""

    def __init__(self, inbox: Inbox, clock: Clock) -> None:
        self._inbox = inbox
        self._clock = clock

    async def RecordExecution(self, request: pb.RecordExecutionRequest, _: Context) -> pb.RecordExecutionResponse:
        """Turns."""
        now = self._clock.now()
        await self._accept(Kind.EXECUTION, [stamped(each, now) for each in request.executions])
        return pb.RecordExecutionResponse(accepted=len(request.executions))

    async def RecordContent(self, request: pb.RecordContentRequest, _: Context) -> pb.RecordContentResponse:
        """What was talked about."""
        now = self._clock.now()
        await self._accept(Kind.CONTENT, [stamped(each, now) for each in request.contents])
        return pb.RecordContentResponse(accepted=len(request.contents))

    async def RecordSession(self, request: pb.RecordSessionRequest, _: Context) -> pb.RecordSessionResponse:
        """Sessions."""
        await self._accept(Kind.SESSION, [each.SerializeToString() for each in request.sessions])
        return pb.RecordSessionResponse(accepted=len(request.sessions))

    async def RequestClassification(
        self, request: pb.RequestClassificationRequest, _: Context
    ) -> pb.RequestClassificationResponse:
        """Analyses wanted."""
        await self._accept(Kind.CLASSIFICATION, [each.SerializeToString() for each in request.classifications])
        return pb.RequestClassificationResponse(accepted=len(request.classifications))

    async def _accept(self, kind: Kind, items: Sequence[bytes]) -> None:
        tenant_id = current_caller().tenant_id
        if not tenant_id:
            raise PermissionDenied("the caller belongs to no tenant, and metrics do")
        await self._inbox.accept(kind, tenant_id, items)


def metrics_endpoint(inbox: Inbox, clock: Clock) -> Endpoint:
    """MetricsService, taking in what it is told."""
    return Endpoint(
        add=pb_grpc.add_MetricsServiceServicer_to_server,
        servicer=MetricsHandlers(inbox, clock),
        full_name=pb.DESCRIPTOR.services_by_name["MetricsService"].full_name,
    )
