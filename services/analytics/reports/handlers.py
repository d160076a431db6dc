"""ReportService: one RPC, one question."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc
from google.api import httpbody_pb2

from prosa.analytics.v1 import report_service_pb2 as pb
from prosa.analytics.v1 import report_service_pb2_grpc as pb_grpc
from services.analytics.reports import detail_wire, wire
from services.analytics.reports.activity import Activities
from services.analytics.reports.fact_list import FactList
from services.analytics.reports.live import LiveReports
from services.analytics.reports.model import Question, zone_of
from services.analytics.reports.reports import Reports
from services.analytics.reports.repricing import Repricing
from services.analytics.reports.topics import Topics
from shared.caller import current_caller
from shared.clock import Clock
from shared.paging import page_size

Context = grpc.aio.ServicerContext[Any, Any]


class ReportHandlers(pb_grpc.ReportServiceServicer):
    """The reports of the caller's own tenant."""

    def __init__(
        self,
        reports: Reports,
        activities: Activities,
        topics: Topics,
        repricing: Repricing,
        facts: FactList,
        live: LiveReports,
        clock: Clock,
    ) -> None:
        self._reports = reports
        self._activities = activities
        self._topics = topics
        self._repricing = repricing
        self._facts = facts
        self._live = live
        self._clock = clock

    async def GetUsageReport(self, request: pb.GetUsageReportRequest, _: Context) -> pb.GetUsageReportResponse:
        """Turns, tokens, cost."""
        return wire.usage_out(await self._reports.usage(self._question(request)))

    async def GetPerformanceReport(
        self, request: pb.GetPerformanceReportRequest, _: Context
    ) -> pb.GetPerformanceReportResponse:
        """How fast."""
        return wire.performance_out(await self._reports.performance(self._question(request)))

    async def GetTopicsReport(self, request: pb.GetTopicsReportRequest, _: Context) -> pb.GetTopicsReportResponse:
        """About what."""
        return wire.topics_out(await self._topics.report(self._question(request)))

    async def GetSentimentReport(
        self, request: pb.GetSentimentReportRequest, _: Context
    ) -> pb.GetSentimentReportResponse:
        """How people felt."""
        return wire.sentiment_out(await self._reports.sentiment(self._question(request)))

    async def GetUserActivityReport(
        self, request: pb.GetUserActivityReportRequest, _: Context
    ) -> pb.GetUserActivityReportResponse:
        """Who was there."""
        return wire.activity_out(await self._activities.report(self._question(request)))

    async def GetSessionsReport(self, request: pb.GetSessionsReportRequest, _: Context) -> pb.GetSessionsReportResponse:
        """How long they stayed."""
        return wire.sessions_out(await self._reports.sessions(self._question(request)))

    async def GetErrorsReport(self, request: pb.GetErrorsReportRequest, _: Context) -> pb.GetErrorsReportResponse:
        """What failed."""
        return wire.errors_out(await self._reports.errors(self._question(request)))

    async def GetRepricingReport(
        self, request: pb.GetRepricingReportRequest, _: Context
    ) -> pb.GetRepricingReportResponse:
        """What it cost, twice."""
        known = wire.asked_moment(request, "known_time")
        return detail_wire.repricing_out(await self._repricing.report(self._question(request), known))

    async def ListFacts(self, request: pb.ListFactsRequest, _: Context) -> pb.ListFactsResponse:
        """Behind a figure."""
        query, after = detail_wire.fact_query(request, current_caller().tenant_id, self._clock.now())
        page = await self._facts.page(query, after, page_size(request.page_size))
        return detail_wire.facts_out(page, request, query)

    async def ExportReport(self, request: pb.ExportReportRequest, context: Context) -> httpbody_pb2.HttpBody:
        """As a file."""
        asked, answer = detail_wire.exported(request), self._answer(request.report)
        return detail_wire.file_out(await answer(asked, context), self._question(request), request.language)

    async def WatchReport(self, request: pb.WatchReportRequest, _: Context) -> AsyncIterator[pb.WatchReportResponse]:
        """While it happens."""
        watch = self._live.watch(current_caller().tenant_id, zone_of(request.time_zone))
        async with aclosing(watch) as reports:
            async for report in reports:
                yield detail_wire.live_out(report)

    def _question(self, request: wire.Request) -> Question:
        return wire.question_of(request, current_caller().tenant_id, self._clock.now())

    def _answer(self, report: pb.ReportKind.ValueType) -> Any:
        return {
            pb.REPORT_KIND_USAGE: self.GetUsageReport,
            pb.REPORT_KIND_PERFORMANCE: self.GetPerformanceReport,
            pb.REPORT_KIND_TOPICS: self.GetTopicsReport,
            pb.REPORT_KIND_SENTIMENT: self.GetSentimentReport,
            pb.REPORT_KIND_USER_ACTIVITY: self.GetUserActivityReport,
            pb.REPORT_KIND_SESSIONS: self.GetSessionsReport,
            pb.REPORT_KIND_ERRORS: self.GetErrorsReport,
            pb.REPORT_KIND_REPRICING: self.GetRepricingReport,
        }[report]
