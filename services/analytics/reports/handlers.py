"""ReportService: one RPC, one question."""

from typing import Any

import grpc

from prosa.analytics.v1 import report_service_pb2 as pb
from prosa.analytics.v1 import report_service_pb2_grpc as pb_grpc
from services.analytics.reports import wire
from services.analytics.reports.model import Question
from services.analytics.reports.reports import Reports
from shared.caller import current_caller
from shared.clock import Clock

Context = grpc.aio.ServicerContext[Any, Any]


class ReportHandlers(pb_grpc.ReportServiceServicer):
    """The reports of the caller's own tenant."""

    def __init__(self, reports: Reports, clock: Clock) -> None:
        self._reports = reports
        self._clock = clock

    async def GetUsageReport(self, request: pb.GetUsageReportRequest, _: Context) -> pb.GetUsageReportResponse:
        """Turns, tokens, cost."""
        return wire.usage_out(await self._reports.usage(self._question(request)))

    async def GetPerformanceReport(
        self, request: pb.GetPerformanceReportRequest, _: Context
    ) -> pb.GetPerformanceReportResponse:
        """How fast."""
        return wire.performance_out(await self._reports.performance(self._question(request)))

    async def GetErrorsReport(self, request: pb.GetErrorsReportRequest, _: Context) -> pb.GetErrorsReportResponse:
        """What failed."""
        return wire.errors_out(await self._reports.errors(self._question(request)))

    def _question(self, request: wire.Request) -> Question:
        return wire.question_of(request, current_caller().tenant_id, self._clock.now())
