"""The whole service: what is finalized in chat_store is analysed, linked and counted without anybody asking."""

import asyncio
from collections.abc import Callable
from typing import Any

from pydantic import SecretStr

from prosa.analytics.v1 import analysis_service_pb2 as pb
from prosa.analytics.v1.analysis_service_pb2_grpc import AnalysisServiceStub
from prosa.chat_store.v1 import conversation_service_pb2 as chat_pb
from services.analytics.__main__ import open_analytics
from shared.mongo import MongoDatabase
from tests.analytics.analyses.world import BAD_LIGHT, World
from tests.house.in_process import serving

Redis = Any


async def test_a_finalized_conversation_is_analysed(
    analysed: World, database: MongoDatabase, redis: Redis, own_redis_url: str
) -> None:
    conversation_id = await analysed.conversation(BAD_LIGHT)
    config = analysed.house.config.model_copy(
        update={
            "mongodb_database": database.name,
            "redis_url": SecretStr(own_redis_url),
            "feed_checkpoint_seconds": 0.05,
            "worker_block_ms": 50,
            "session_sweep_seconds": 0.2,
        }
    )
    async with (
        open_analytics(config) as analytics,
        serving(analytics.endpoints, analysed.house.keys) as channel,
    ):
        finalize = chat_pb.FinalizeConversationRequest(conversation_id=conversation_id, reason="resolvida")
        await analysed.house.conversations.FinalizeConversation(finalize, metadata=analysed.person())
        stub: Any = AnalysisServiceStub(channel)
        listed = await _until(lambda: stub.ListAnalyses(pb.ListAnalysesRequest(), metadata=analysed.person()))
        assert [each.trigger for each in listed.analyses] == [pb.ANALYSIS_TRIGGER_FINALIZED]
        told = await _until_linked(analysed, conversation_id)
        assert list(told.analysis_ids) == [listed.analyses[0].analysis_id]


async def _until(ask: Callable[[], Any]) -> pb.ListAnalysesResponse:
    async with asyncio.timeout(20):
        while True:
            listed: pb.ListAnalysesResponse = await ask()
            if listed.analyses:
                return listed
            await asyncio.sleep(0.1)


async def _until_linked(analysed: World, conversation_id: str) -> chat_pb.Conversation:
    async with asyncio.timeout(10):
        while True:
            told = await analysed.told(conversation_id)
            if told.analysis_ids:
                return told
            await asyncio.sleep(0.1)
