"""AnalysisService: one RPC, one intent."""

from typing import Any

import grpc

from prosa.analytics.v1 import analysis_service_pb2 as pb
from prosa.analytics.v1 import analysis_service_pb2_grpc as pb_grpc
from services.analytics.analyses import wire
from services.analytics.analyses.analysis_store import AnalysisStore
from services.analytics.analyses.analyze import Analyses
from services.analytics.analyses.correct import Corrections
from services.analytics.analyses.model import Trigger
from services.analytics.analyses.topic_map import TopicMap
from shared.caller import current_caller
from shared.paging import page_size

Context = grpc.aio.ServicerContext[Any, Any]

TOPICS_SHOWN = 100


class AnalysisHandlers(pb_grpc.AnalysisServiceServicer):
    """The analyses of the caller's own tenant."""

    def __init__(self, analyses: Analyses, corrections: Corrections, store: AnalysisStore, topic_map: TopicMap) -> None:
        self._analyses = analyses
        self._corrections = corrections
        self._store = store
        self._topic_map = topic_map

    async def AnalyzeConversation(self, request: pb.AnalyzeConversationRequest, _: Context) -> pb.Analysis:
        """An analysis now."""
        tenant_id, name = current_caller().tenant_id, request.conversation_id
        analysis = await self._analyses.analyze(
            tenant_id, name, Trigger.REQUESTED, again=request.again, request_id=request.request_id
        )
        return wire.analysis_out(analysis)

    async def GetAnalysis(self, request: pb.GetAnalysisRequest, _: Context) -> pb.Analysis:
        """One version."""
        return wire.analysis_out(await self._store.get(current_caller().tenant_id, request.analysis_id))

    async def ListAnalyses(self, request: pb.ListAnalysesRequest, _: Context) -> pb.ListAnalysesResponse:
        """A page of analyses."""
        size = page_size(request.page_size)
        page = await self._store.page(wire.wanted_of(request, current_caller().tenant_id), size + 1)
        return wire.page_out(page, request, size)

    async def CorrectAnalysis(self, request: pb.CorrectAnalysisRequest, _: Context) -> pb.Analysis:
        """What a person says instead."""
        caller, values = current_caller(), wire.corrections_of(request)
        by = caller.user_id or caller.key_id
        corrected = await self._corrections.correct(
            caller.tenant_id, request.analysis_id, values, by, request.request_id
        )
        return wire.analysis_out(corrected)

    async def GetTopicMap(self, request: pb.GetTopicMapRequest, _: Context) -> pb.TopicMap:
        """What the tenant's conversations are about."""
        tenant_id = current_caller().tenant_id
        floor = (await self._store.settings(tenant_id)).k_anonymity
        topics = await self._topic_map.read(tenant_id)
        return wire.topic_map_out(topics, floor, request.max_topics or TOPICS_SHOWN)

    async def GetAnalysisSettings(self, request: pb.GetAnalysisSettingsRequest, _: Context) -> pb.AnalysisSettings:
        """When, and for how much."""
        del request
        return wire.settings_out(await self._store.settings(current_caller().tenant_id))

    async def UpdateAnalysisSettings(
        self, request: pb.UpdateAnalysisSettingsRequest, _: Context
    ) -> pb.AnalysisSettings:
        """Other settings."""
        changes = wire.changes_of(request)
        return wire.settings_out(await self._store.change_settings(current_caller().tenant_id, changes))
