"""The whole service: what is finalized in chat_store is analysed, linked and counted without anybody asking."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pydantic import SecretStr

from prosa.analytics.v1 import analysis_service_pb2 as pb
from prosa.analytics.v1.analysis_service_pb2_grpc import AnalysisServiceStub
from prosa.chat_store.v1 import conversation_service_pb2 as chat_pb
from services.analytics.__main__ import open_analytics
from services.analytics.admin.rebuild import Rebuilding
from services.analytics.analyses.opening import open_analyses
from services.analytics.rollups.projection import Projection
from shared.mongo import MongoDatabase
from tests.analytics.analyses.world import BAD_LIGHT, House, World, world
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
    async with open_analyses(config, database, Projection(database)) as room:
        await room.prepare()  # as `migrate` does, before anybody serves
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
    async with asyncio.timeout(60):
        while True:
            listed: pb.ListAnalysesResponse = await ask()
            if listed.analyses:
                return listed
            await asyncio.sleep(0.1)


async def _until_linked(analysed: World, conversation_id: str) -> chat_pb.Conversation:
    async with asyncio.timeout(60):
        while True:
            told = await analysed.told(conversation_id)
            if told.analysis_ids:
                return told
            await asyncio.sleep(0.1)


async def test_a_projection_that_is_built_anew_counts_analyses_as_before(
    analysts: House, database: MongoDatabase
) -> None:
    async with world(analysts, database) as opened:
        await opened.room.prepare()
        await (await opened.projection.current()).prepare()
        conversation_id = await opened.conversation(BAD_LIGHT)
        await opened.analyze(conversation_id)
        await opened.analyze(conversation_id, again=True)
        before = await opened.counted(), await opened.counted("topic", "Iluminação pública")

        rebuilding = Rebuilding(database, Projection(database), None, settled_seconds=0.0)
        async for _ in rebuilding.run(accept_loss=False):
            pass
        anew = Projection(database)
        assert (await anew.current()).number > 0
        seen = replace(opened, projection=anew)
        assert (await seen.counted(), await seen.counted("topic", "Iluminação pública")) == before
