"""Composition root of document_rag: `python -m services.document_rag [migrate]`."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

import asyncpg
from openai import AsyncOpenAI

from prosa.document_rag.v1 import (
    assistant_service_pb2,
    chunk_service_pb2,
    collection_service_pb2,
    document_service_pb2,
    search_service_pb2,
    team_service_pb2,
)
from prosa.document_rag.v1.assistant_service_pb2_grpc import add_AssistantServiceServicer_to_server
from prosa.document_rag.v1.chunk_service_pb2_grpc import add_ChunkServiceServicer_to_server
from prosa.document_rag.v1.collection_service_pb2_grpc import add_CollectionServiceServicer_to_server
from prosa.document_rag.v1.document_service_pb2_grpc import add_DocumentServiceServicer_to_server
from prosa.document_rag.v1.search_service_pb2_grpc import add_SearchServiceServicer_to_server
from prosa.document_rag.v1.team_service_pb2_grpc import add_TeamServiceServicer_to_server
from services.document_rag.assistants.answer import AnswerStory
from services.document_rag.assistants.assistant_store import AssistantStore
from services.document_rag.assistants.conversations import Conversations
from services.document_rag.assistants.handlers import AssistantHandlers
from services.document_rag.assistants.model import EXTRACTIVE, Budget
from services.document_rag.assistants.one_assistant import OneAssistant
from services.document_rag.assistants.providers_by_model import Providers
from services.document_rag.assistants.team_handlers import TeamHandlers
from services.document_rag.assistants.team_store import TeamStore
from services.document_rag.assistants.team_turn import TeamAnswerer
from services.document_rag.assistants.token_budget import TokenBudget
from services.document_rag.assistants.turn_work import AnswerSettings, TurnWork
from services.document_rag.assistants.turns import TurnStore
from services.document_rag.config import Config
from services.document_rag.documents.collection_handlers import CollectionHandlers
from services.document_rag.documents.collection_store import CollectionStore
from services.document_rag.documents.document_store import DocumentStore
from services.document_rag.documents.extracted import ChunkSize
from services.document_rag.documents.handlers import DocumentHandlers
from services.document_rag.documents.index_writer import register_vector_type
from services.document_rag.documents.ingest import Ingest, IngestLimits
from services.document_rag.documents.ingestion import Ingestion, IngestionSettings, open_ingestion
from services.document_rag.documents.sandbox import ExtractionLimits
from services.document_rag.documents.upkeep import UpkeepTimes
from services.document_rag.search.chunk_handlers import ChunkHandlers
from services.document_rag.search.chunk_index import ChunkIndex
from services.document_rag.search.chunk_push import ChunkPush
from services.document_rag.search.chunk_store import ChunkStore
from services.document_rag.search.earlier_models import EarlierModels
from services.document_rag.search.embedders import Embedder, HashedEmbedder, OpenAIEmbedder
from services.document_rag.search.handlers import SearchHandlers
from services.document_rag.search.pushed_words import PushedWords
from services.document_rag.search.recall_sampler import RecallSampler
from services.document_rag.search.rerankers import HttpReranker, LexicalReranker, Reranker
from services.document_rag.search.stems import Stemmer
from services.document_rag.search.vector_indexes import IndexSettings, VectorIndexes
from services.document_rag.search.vectors import VectorSearch
from shared.caller import TokenVerifier
from shared.channels import ServiceToken, open_channel, token_ready
from shared.command_line import command
from shared.postgres import migrate, open_pool, open_readers, pool_ready
from shared.server import Endpoint, Ready, serve
from shared.steadily import in_background, steadily

SCHEMA = "document_rag"
MIGRATIONS = Path(__file__).parent / "schema"


@dataclass(frozen=True)
class Documents:
    """The documents half of the service, wired."""

    pool: asyncpg.Pool
    embedder: Embedder
    ingestion: Ingestion
    collections: CollectionStore
    index: ChunkIndex
    push: ChunkPush
    chunks: ChunkStore

    @property
    def store(self) -> DocumentStore:
        """The documents."""
        return self.ingestion.store

    @property
    def ingest(self) -> Ingest:
        """How documents come in and go."""
        return self.ingestion.ingest


_OpenPool: TypeAlias = AbstractAsyncContextManager[asyncpg.Pool]


@asynccontextmanager
async def open_documents(config: Config) -> AsyncIterator[Documents]:
    """Everything between the handlers of documents and their database; closed at the end of the block."""

    def connected(opening: Callable[..., _OpenPool]) -> _OpenPool:
        size = config.database_max_connections
        return opening(config.database_url, schema=SCHEMA, max_size=size, on_connect=register_vector_type)

    async with (
        connected(open_pool) as pool,
        connected(open_readers) as readers,
        _open_embedder(config) as embedder,
        _open_reranker(config) as reranker,
    ):
        stemmer, earlier = Stemmer(pool), EarlierModels(embedder)
        vectors = VectorSearch(readers, config.vectors_compared_exactly)
        chunks = ChunkStore(pool, vectors, embedder.model)
        indexes = _vector_indexes(config)
        async with (
            _keeping_indexes(config, pool, vectors, indexes, stemmer),
            open_ingestion(pool, embedder, stemmer, earlier, _ingestion_settings(config)) as ingestion,
        ):
            yield Documents(
                pool=pool,
                embedder=embedder,
                ingestion=ingestion,
                collections=CollectionStore(pool),
                index=ChunkIndex(pool, embedder, stemmer, vectors, reranker, earlier),
                push=ChunkPush(chunks, embedder, indexes.load_ended),
                chunks=chunks,
            )


def _vector_indexes(config: Config) -> VectorIndexes:
    return VectorIndexes(
        config.database_url,
        SCHEMA,
        IndexSettings(memory_bytes=config.vector_index_memory_bytes, compared_exactly=config.vectors_compared_exactly),
    )


def _keeping_indexes(
    config: Config, pool: asyncpg.Pool, vectors: VectorSearch, indexes: VectorIndexes, stemmer: Stemmer
) -> AbstractAsyncContextManager[None]:
    sampler = RecallSampler(pool, vectors)
    return in_background(
        steadily("vector_indexes", indexes.keep, config.vector_index_look_seconds, indexes.bell),
        steadily("pushed_words", PushedWords(pool, stemmer).keep, config.vector_index_look_seconds),
        steadily("recall_sampling", sampler.sample, config.recall_sample_seconds),
    )


@dataclass(frozen=True)
class Assistants:
    """The answering half of the service, wired."""

    store: AssistantStore
    teams: TeamStore
    story: AnswerStory
    token: ServiceToken


def document_endpoints(documents: Documents) -> Sequence[Endpoint]:
    """DocumentService, CollectionService, ChunkService and SearchService."""
    return [
        Endpoint(
            add=add_CollectionServiceServicer_to_server,
            servicer=CollectionHandlers(documents.collections, documents.ingest),
            full_name=collection_service_pb2.DESCRIPTOR.services_by_name["CollectionService"].full_name,
        ),
        Endpoint(
            add=add_ChunkServiceServicer_to_server,
            servicer=ChunkHandlers(documents.push, documents.chunks),
            full_name=chunk_service_pb2.DESCRIPTOR.services_by_name["ChunkService"].full_name,
        ),
        Endpoint(
            add=add_DocumentServiceServicer_to_server,
            servicer=DocumentHandlers(documents.ingest, documents.store, documents.ingestion.admission),
            full_name=document_service_pb2.DESCRIPTOR.services_by_name["DocumentService"].full_name,
        ),
        Endpoint(
            add=add_SearchServiceServicer_to_server,
            servicer=SearchHandlers(documents.index, documents.collections),
            full_name=search_service_pb2.DESCRIPTOR.services_by_name["SearchService"].full_name,
        ),
    ]


@asynccontextmanager
async def _open_reranker(config: Config) -> AsyncIterator[Reranker | None]:
    if config.reranker != "http":
        yield LexicalReranker() if config.reranker else None
        return
    key = config.rerank_key.get_secret_value()
    async with AsyncOpenAI(api_key=key, base_url=config.rerank_url, max_retries=0) as client:
        yield HttpReranker(client, model=config.rerank_model, deadline_seconds=config.rerank_deadline_seconds)


@asynccontextmanager
async def _open_embedder(config: Config) -> AsyncIterator[Embedder]:
    if config.embedder == "hashed":
        yield HashedEmbedder()
        return
    key = config.openai_api_key.get_secret_value()
    async with AsyncOpenAI(api_key=key, base_url=config.openai_base_url, max_retries=0) as client:
        yield OpenAIEmbedder(client, model=config.embedding_model, deadline_seconds=config.embedding_deadline_seconds)


def _ingestion_settings(config: Config) -> IngestionSettings:
    return IngestionSettings(
        originals_url=config.originals_url,
        upload=IngestLimits(config.max_document_bytes, config.upload_patience_seconds),
        extraction=ExtractionLimits(
            memory_bytes=config.extraction_memory_bytes,
            cpu_seconds=config.extraction_cpu_seconds,
            wall_seconds=config.extraction_wall_seconds,
            chunk=ChunkSize(config.chunk_tokens, config.chunk_overlap_tokens),
        ),
        upkeep=UpkeepTimes(
            sweep_seconds=config.sweep_seconds,
            orphan_seconds=config.orphan_original_hours * 3600,
            cache_days=config.embedding_cache_days,
            request_days=config.upload_requests_kept_days,
        ),
        workers=config.ingests_at_once,
        lease_seconds=config.ingestion_lease_seconds,
        embedding_calls_at_once=config.embedding_calls_at_once,
        is_cached=config.embedder != "hashed",
    )


@asynccontextmanager
async def open_assistants(config: Config, documents: Documents) -> AsyncIterator[Assistants]:
    """Everything between the handlers of assistants, their tables, the neighbours and the model."""
    async with (
        open_channel(config.tenant_quota_target) as identity_channel,
        _open_openai(config) as client,
    ):
        token = ServiceToken(identity_channel, config.service_key)
        async with (
            open_channel(config.tenant_quota_target, token=token) as quota_channel,
            open_channel(config.chat_store_target, token=token) as chat_channel,
        ):
            store, turns = AssistantStore(documents.pool), TurnStore(documents.pool, config.turn_lease_seconds)
            teams, conversations = TeamStore(documents.pool, store), Conversations(chat_channel)
            work = TurnWork(
                conversations=conversations,
                budget=TokenBudget(quota_channel, config.reservation_lease_seconds),
                index=documents.index,
                providers=Providers(client, config.provider_silence_seconds),
                settings=_answer_settings(config, has_model=client is not None),
            )
            story = AnswerStory(
                turns=turns,
                conversations=conversations,
                budget=work.budget,
                assistant=OneAssistant(store, work),
                team=TeamAnswerer(teams, store, work),
                drain_seconds=config.turn_drain_seconds,
            )
            async with turns.forgotten_regularly(config.turns_kept_days * 86_400):
                yield Assistants(store, teams, story, token)
                await story.drained()


@asynccontextmanager
async def open_endpoints(config: Config) -> AsyncIterator[tuple[Sequence[Endpoint], Ready]]:
    """The whole service without its server: what it serves, and the probes of what it needs."""
    async with open_documents(config) as documents, open_assistants(config, documents) as assistants:
        asking = [
            Endpoint(
                add=add_AssistantServiceServicer_to_server,
                servicer=AssistantHandlers(assistants.store, documents.collections, assistants.story),
                full_name=assistant_service_pb2.DESCRIPTOR.services_by_name["AssistantService"].full_name,
            ),
            Endpoint(
                add=add_TeamServiceServicer_to_server,
                servicer=TeamHandlers(assistants.teams, assistants.story),
                full_name=team_service_pb2.DESCRIPTOR.services_by_name["TeamService"].full_name,
            ),
        ]
        ready = {
            "postgresql": partial(pool_ready, documents.pool),
            "identity": partial(token_ready, assistants.token),
        }
        yield [*document_endpoints(documents), *asking], ready


@asynccontextmanager
async def _open_openai(config: Config) -> AsyncIterator[AsyncOpenAI | None]:
    key = config.openai_api_key.get_secret_value()
    if config.answer_provider == "extractive" or not (key or config.answer_provider):
        yield None
        return
    async with AsyncOpenAI(api_key=key, base_url=config.openai_base_url, max_retries=0) as client:
        yield client


def _answer_settings(config: Config, *, has_model: bool) -> AnswerSettings:
    return AnswerSettings(
        default_model=config.answer_model if has_model else EXTRACTIVE,
        budget=Budget(passages=config.passage_tokens, history=config.history_tokens),
        history_messages=config.history_messages,
        least_answer_tokens=config.least_answer_tokens,
        timeout_seconds=config.answer_timeout_seconds,
        prices=config.model_prices,
    )


async def _migrate() -> None:
    await migrate(Config().database_url, schema=SCHEMA, directory=MIGRATIONS)


async def _serve() -> None:
    config = Config()
    verifier = TokenVerifier(config.token_public_key)
    async with open_endpoints(config) as (endpoints, ready):
        await serve(config, "document_rag", endpoints, verifier=verifier, ready=ready)


if __name__ == "__main__":
    command("services.document_rag", Config, serve=_serve, migrate=_migrate)
