"""The way of documents, put together: those who take them in, those who work on them, and those who tidy up."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import asyncpg

from services.document_rag.documents.admission import Admission
from services.document_rag.documents.document_store import DocumentStore
from services.document_rag.documents.embedding_cache import EmbeddingCache
from services.document_rag.documents.ingest import Ingest, IngestLimits
from services.document_rag.documents.job_queue import JobQueue
from services.document_rag.documents.listener import Listener
from services.document_rag.documents.originals import Originals
from services.document_rag.documents.publishing import Publishing
from services.document_rag.documents.sandbox import ExtractionLimits
from services.document_rag.documents.upkeep import Upkeep, UpkeepTimes
from services.document_rag.documents.worker import Worker, Workshop
from services.document_rag.search.earlier_models import EarlierModels
from services.document_rag.search.embedders import Embedder
from services.document_rag.search.stems import Stemmer
from shared.steadily import in_background, steadily

_LOOK_FOR_WORK_EVERY_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class IngestionSettings:
    """What ingestion may cost. `workers`: documents worked on at once. `is_cached`: whether vectors cost money."""

    originals_url: str
    upload: IngestLimits = field(default_factory=IngestLimits)
    extraction: ExtractionLimits = field(default_factory=ExtractionLimits)
    upkeep: UpkeepTimes = field(default_factory=UpkeepTimes)
    workers: int = 2
    lease_seconds: float = 30.0
    embedding_calls_at_once: int = 4
    is_cached: bool = False


@dataclass(frozen=True)
class Ingestion:
    """The documents' stories and stores, wired."""

    store: DocumentStore
    admission: Admission
    ingest: Ingest
    upkeep: Upkeep
    workshop: Workshop


@asynccontextmanager
async def open_ingestion(
    pool: asyncpg.Pool, embedder: Embedder, stemmer: Stemmer, earlier: EarlierModels, settings: IngestionSettings
) -> AsyncIterator[Ingestion]:
    """Documents with workers at work; at the end of the block the workers give back what they hold."""
    ingestion, listener = wired(pool, embedder, stemmer, earlier, settings)
    workers = (
        steadily("ingestion", Worker(ingestion.workshop).work, _LOOK_FOR_WORK_EVERY_SECONDS, listener.work)
        for _ in range(settings.workers)
    )
    async with in_background(listener.run(), ingestion.upkeep.run(), *workers):
        yield ingestion


def wired(
    pool: asyncpg.Pool, embedder: Embedder, stemmer: Stemmer, earlier: EarlierModels, settings: IngestionSettings
) -> tuple[Ingestion, Listener]:
    """The same without anybody at work, and the listener that wakes workers."""
    store, admission, originals = DocumentStore(pool), Admission(pool), Originals(settings.originals_url)
    listener = Listener(pool)
    workshop = Workshop(
        pool=pool,
        queue=JobQueue(pool, settings.lease_seconds),
        store=store,
        admission=admission,
        publishing=Publishing(pool),
        originals=originals,
        embeddings=EmbeddingCache(pool, embedder, is_kept=settings.is_cached, at_once=settings.embedding_calls_at_once),
        stemmer=stemmer,
        limits=settings.extraction,
    )
    ingest = Ingest(store, admission, originals, listener, settings.upload, searched_model=embedder.model)
    return Ingestion(
        store, admission, ingest, Upkeep(pool, originals, embedder.model, earlier, settings.upkeep), workshop
    ), listener
