"""Composition root of document_rag: `python -m services.document_rag [migrate]`."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import asyncpg
from openai import AsyncOpenAI
from prosa.document_rag.v1 import document_service_pb2, search_service_pb2
from prosa.document_rag.v1.document_service_pb2_grpc import add_DocumentServiceServicer_to_server
from prosa.document_rag.v1.search_service_pb2_grpc import add_SearchServiceServicer_to_server

from services.document_rag.chunk_index import ChunkIndex
from services.document_rag.config import Config
from services.document_rag.document_store import DocumentStore, register_vector_type
from services.document_rag.embedders import Embedder, HashedEmbedder, OpenAIEmbedder
from services.document_rag.handlers import DocumentHandlers, SearchHandlers
from services.document_rag.ingest import Ingest, IngestLimits
from services.document_rag.originals import Originals
from services.document_rag.sandbox import ExtractionLimits
from services.document_rag.stems import Stemmer
from shared.caller import TokenVerifier
from shared.command_line import command
from shared.postgres import migrate, open_pool, pool_ready
from shared.server import Endpoint, serve

SCHEMA = "document_rag"
MIGRATIONS = Path(__file__).parent / "schema"


@dataclass(frozen=True)
class Documents:
    """The documents half of the service, wired."""

    pool: asyncpg.Pool
    store: DocumentStore
    index: ChunkIndex
    ingest: Ingest


@asynccontextmanager
async def open_documents(config: Config) -> AsyncIterator[Documents]:
    """Everything between the handlers of documents and their database; closed at the end of the block."""
    async with (
        open_pool(
            config.database_url,
            schema=SCHEMA,
            max_size=config.database_max_connections,
            on_connect=register_vector_type,
        ) as pool,
        _open_embedder(config) as embedder,
    ):
        store, stemmer = DocumentStore(pool), Stemmer(pool)
        ingest = Ingest(store, Originals(config.originals_url), embedder, stemmer, _limits(config))
        yield Documents(pool, store, ChunkIndex(pool, embedder, stemmer), ingest)


def document_endpoints(documents: Documents) -> Sequence[Endpoint]:
    """DocumentService and SearchService."""
    return [
        Endpoint(
            add=add_DocumentServiceServicer_to_server,
            servicer=DocumentHandlers(documents.ingest, documents.store),
            full_name=document_service_pb2.DESCRIPTOR.services_by_name["DocumentService"].full_name,
        ),
        Endpoint(
            add=add_SearchServiceServicer_to_server,
            servicer=SearchHandlers(documents.index),
            full_name=search_service_pb2.DESCRIPTOR.services_by_name["SearchService"].full_name,
        ),
    ]


@asynccontextmanager
async def _open_embedder(config: Config) -> AsyncIterator[Embedder]:
    if config.embedder == "hashed":
        yield HashedEmbedder()
        return
    key = config.openai_api_key.get_secret_value()
    async with AsyncOpenAI(api_key=key, base_url=config.openai_base_url, max_retries=0) as client:
        yield OpenAIEmbedder(client, model=config.embedding_model, deadline_seconds=config.embedding_deadline_seconds)


def _limits(config: Config) -> IngestLimits:
    return IngestLimits(
        document_bytes=config.max_document_bytes,
        chunk_characters=config.chunk_characters,
        chunk_overlap_characters=config.chunk_overlap_characters,
        at_once=config.ingests_at_once,
        extraction=ExtractionLimits(
            memory_bytes=config.extraction_memory_bytes,
            cpu_seconds=config.extraction_cpu_seconds,
            wall_seconds=config.extraction_wall_seconds,
        ),
    )


async def _migrate() -> None:
    await migrate(Config().database_url, schema=SCHEMA, directory=MIGRATIONS)


async def _serve() -> None:
    config = Config()
    verifier = TokenVerifier(config.token_public_key)
    async with open_documents(config) as documents:
        await serve(
            config,
            "document_rag",
            document_endpoints(documents),
            verifier=verifier,
            ready={"postgresql": partial(pool_ready, documents.pool)},
        )


if __name__ == "__main__":
    command("services.document_rag", Config, serve=_serve, migrate=_migrate)
