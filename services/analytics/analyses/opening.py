"""The room put together: stores, neighbours, the cascade, and what goes on in the background."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime

from prosa.analytics.v1 import analysis_service_pb2, analysis_service_pb2_grpc
from services.analytics.analyses.analysis_store import AnalysisStore
from services.analytics.analyses.analyze import Analyses
from services.analytics.analyses.budget import Budget
from services.analytics.analyses.conversations import Conversations
from services.analytics.analyses.correct import Corrections
from services.analytics.analyses.handlers import AnalysisHandlers
from services.analytics.analyses.language_model import LanguageModel
from services.analytics.analyses.neighbours import Tenants
from services.analytics.analyses.topic_map import TopicMap
from services.analytics.analyses.unasked import Unasked
from services.analytics.config import Config
from services.analytics.content.local_model import local_model
from services.analytics.rollups.projection import Projection
from services.analytics.rollups.statements import StatementStore
from shared.channels import ServiceToken, open_channel
from shared.clock import Clock, SystemClock
from shared.mongo import MongoDatabase
from shared.server import Endpoint
from shared.steadily import in_background, steadily

ABANDONED_SECONDS = 30.0
DUE_SECONDS = 10.0


@dataclass(frozen=True)
class AnalysesRoom:
    """AnalysisService; what fulfils the wishes of the intake; what is kept, for erasing and reports."""

    endpoint: Endpoint
    analyses: Analyses
    store: AnalysisStore
    topic_map: TopicMap
    unasked: Unasked

    async def prepare(self) -> None:
        """Creates the indexes; again and again is fine."""
        await self.store.prepare()
        await self.unasked.prepare()

    async def look_after(self) -> None:
        """Creates the indexes, which are there after the first time, and finishes what others have abandoned."""
        await self.prepare()
        await self.analyses.finish_abandoned()


@asynccontextmanager
async def open_analyses(
    config: Config, database: MongoDatabase, projection: Projection, clock: Clock | None = None
) -> AsyncIterator[AnalysesRoom]:
    """The room, with the finishing of abandoned analyses in the background until the end of the block."""
    now = _milliseconds(clock or SystemClock())
    async with AsyncExitStack() as stack:
        tenant_quota = await stack.enter_async_context(open_channel(config.tenant_quota_target))
        chat_store = await stack.enter_async_context(open_channel(config.chat_store_target))

        def token_for(tenant_id: str) -> Callable[[], Awaitable[str]]:
            return ServiceToken(tenant_quota, config.service_key, tenant_id=tenant_id).get

        tenants = Tenants(token_for)
        budget, topic_map = Budget(database, tenant_quota, tenants, now), TopicMap(database)
        store = AnalysisStore(database, topic_map, budget)
        conversations = Conversations(chat_store, tenants)
        statements = StatementStore(database, projection)
        language_model = await stack.enter_async_context(open_language_model(config))
        analyses = Analyses(store, conversations, statements, budget, language_model, now)
        corrections = Corrections(store, analyses, now)
        handlers = AnalysisHandlers(analyses, corrections, store, topic_map)
        unasked = Unasked(database, projection, store, analyses, conversations, now)
        room = AnalysesRoom(_endpoint(handlers), analyses, store, topic_map, unasked)
        upkeep = steadily("abandoned_analyses", room.look_after, ABANDONED_SECONDS)
        due = steadily("analyses_due", unasked.analyse_what_is_due, DUE_SECONDS)
        # Trained beside the event loop before the first conversation needs it.
        training = asyncio.to_thread(local_model)
        async with in_background(training, upkeep, due):
            yield room


@asynccontextmanager
async def open_language_model(config: Config) -> AsyncIterator[LanguageModel | None]:
    """The language model of the settings; None where they name none."""
    if not config.classification_model:
        yield None
        return
    import openai

    async with openai.AsyncOpenAI(
        api_key=config.openai_api_key.get_secret_value() or "none", base_url=config.openai_base_url, max_retries=0
    ) as client:
        yield LanguageModel(client, config.classification_model, config.classification_timeout_seconds)


def _milliseconds(clock: Clock) -> Callable[[], datetime]:
    """The time as exactly as MongoDB keeps it, so that what is answered at once is what is read later."""

    def now() -> datetime:
        moment = clock.now()
        return moment.replace(microsecond=moment.microsecond // 1000 * 1000)

    return now


def _endpoint(handlers: AnalysisHandlers) -> Endpoint:
    return Endpoint(
        add=analysis_service_pb2_grpc.add_AnalysisServiceServicer_to_server,
        servicer=handlers,
        full_name=analysis_service_pb2.DESCRIPTOR.services_by_name["AnalysisService"].full_name,
    )
