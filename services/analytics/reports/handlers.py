"""ReportService: one RPC, one question."""

from typing import Any

import grpc

from prosa.analytics.v1 import report_service_pb2 as pb
from prosa.analytics.v1 import report_service_pb2_grpc as pb_grpc
from services.analytics.reports import wire
from services.analytics.reports.usage import Reports
from shared.caller import current_caller
from shared.clock import Clock

Context = grpc.aio.ServicerContext[Any, Any]


class ReportHandlers(pb_grpc.ReportServiceServicer):
    """The reports of the caller's own tenant."""

    def __init__(self, reports: Reports, clock: Clock) -> None:
        self._reports = reports
        self._clock = clock

    async def GetUsageReport(self, request: pb.GetUsageReportRequest, _context: Context) -> pb.GetUsageReportResponse:
        query = wire.query_of(request, current_caller().tenant_id, self._clock.now())
        return wire.report_out(await self._reports.usage(query))
