"""The way of a document from its original to the index, as the worker goes it that was given the job.

Every attempt begins at the original: what costs money, the vectors, is remembered from the attempt before, and the rest
takes seconds. Until the one commit at the end nothing of it is to be seen but how far it is.
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import asyncpg

from services.document_rag.documents.admission import Admission
from services.document_rag.documents.document_store import DocumentStore
from services.document_rag.documents.embedding_cache import EmbeddingCache
from services.document_rag.documents.job_queue import MAX_UNEXPLAINED, Job, JobQueue, LeaseLostError
from services.document_rag.documents.model import (
    MAX_CRASHES,
    Document,
    DocumentState,
    IngestionCrashed,
    OriginalMissing,
)
from services.document_rag.documents.originals import Originals
from services.document_rag.documents.publishing import Ingested, Publishing
from services.document_rag.documents.read_text import ReadText
from services.document_rag.documents.sandbox import ExtractionLimits, reading
from services.document_rag.model import Chunk
from services.document_rag.search.postings import Vocabulary, vocabulary_of
from services.document_rag.search.stems import Stemmer
from services.document_rag.search.words import words_of
from shared.errors import Internal, InvalidArgument, NotFound, ServiceError, Unavailable
from shared.postgres import tenant_transaction
from shared.telemetry import get_logger

DATABASE_PAUSE_SECONDS = 1.0

_CHUNKS_OF = """
    select ordinal, page, char_start, char_end, section, body, tokens from chunks
    where tenant_id = $1 and document_id = $2 and ordinal >= $3 order by ordinal limit $4
"""
_CHUNKS_A_SLICE = 256

_log = get_logger()


@dataclass(frozen=True)
class Workshop:
    """What a worker works with."""

    pool: asyncpg.Pool
    queue: JobQueue
    store: DocumentStore
    admission: Admission
    publishing: Publishing
    originals: Originals
    embeddings: EmbeddingCache
    stemmer: Stemmer
    limits: ExtractionLimits


class Worker:
    """Takes one job after another."""

    def __init__(self, workshop: Workshop) -> None:
        self._shop = workshop

    async def work(self) -> None:
        """Until no job is left whose turn it is."""
        while job := await self._shop.queue.claim():
            async with self._shop.queue.held(job):
                await self._carry_out(job)

    async def _carry_out(self, job: Job) -> None:
        """Ends the job, puts it off, or, when this process is stopping, gives it back."""
        try:
            await self._go_the_way(job)
        except (LeaseLostError, NotFound):
            _log.info("ingestion_lease_lost", document_id=job.document_id, attempt=job.attempt)
        except (InvalidArgument, OriginalMissing, IngestionCrashed) as error:
            await _surely(self._give_up, job, error)
        except ServiceError as error:
            await _surely(self._shop.queue.postpone, job, error)
            _log.warning("ingestion_postponed", document_id=job.document_id, reason=error.reason)
        except asyncio.CancelledError:
            with suppress(ServiceError):
                await asyncio.shield(self._shop.queue.give_back(job))
            raise
        except BaseException:
            await _surely(self._put_off_unexplained, job, Internal())
            raise

    async def _put_off_unexplained(self, job: Job, error: ServiceError) -> None:
        if await self._shop.queue.failures(job, error.reason) + 1 >= MAX_UNEXPLAINED:
            await self._give_up(job, error)
        else:
            await self._shop.queue.postpone(job, error)

    async def _give_up(self, job: Job, error: ServiceError) -> None:
        await self._shop.publishing.fail(job, error)
        if job.is_awaited:
            await self._shop.originals.discard(job.tenant_id, job.document_id)

    async def _go_the_way(self, job: Job) -> None:
        if job.crashes >= MAX_CRASHES:
            raise IngestionCrashed
        document = await self._shop.store.get(job.tenant_id, job.document_id)
        if job.kind == "reembed":
            await self._embed_anew(job, document)
            return
        await self._shop.queue.advance(job, DocumentState.EXTRACTING)
        with tempfile.NamedTemporaryFile(prefix="prosa-original-") as original, tempfile.TemporaryFile() as vectors:
            await self._shop.originals.fetch(job.tenant_id, job.document_id, Path(original.name))
            said = (document.filename, document.mime_type)
            async with reading(Path(original.name), *said, self._shop.limits) as text:
                await self._shop.queue.advance(job, DocumentState.CHUNKING, text.chunk_count, text.chunk_count)
                if await self._shop.admission.settle(job, text):
                    await self._make_searchable(job, text, vectors)
                elif job.is_awaited:
                    await self._shop.originals.discard(job.tenant_id, job.document_id)

    async def _make_searchable(self, job: Job, text: ReadText, vectors: IO[bytes]) -> None:
        settled = await self._shop.store.get(job.tenant_id, job.document_id)
        spool = _VectorSpool(vectors)
        words: list[list[str]] = []
        spellings: dict[str, str] = {}
        for chunks in text.slices(_CHUNKS_A_SLICE):
            await self._shop.queue.advance(job, DocumentState.EMBEDDING, len(words), text.chunk_count)
            searchable = [chunk.searchable(settled.title) for chunk in chunks]
            spool.add(await self._shop.embeddings.vectors(job.tenant_id, searchable))
            words += await asyncio.to_thread(_words, searchable, settled.language, spellings)
        await self._shop.queue.advance(job, DocumentState.INDEXING, 0, text.chunk_count)
        vocabulary = await self._vocabulary(words, settled.language)

        async def slices() -> AsyncIterator[tuple[Sequence[Chunk], Sequence[bytes]]]:
            spool.rewind()
            for chunks in text.slices(_CHUNKS_A_SLICE):
                yield chunks, spool.take(len(chunks))

        ingested = Ingested(settled.title, slices, self._shop.embeddings.model, vocabulary)
        await self._shop.publishing.publish(job, ingested)

    async def _vocabulary(self, words: Sequence[Sequence[str]], language: str) -> Vocabulary:
        terms = await self._shop.stemmer.terms((word for each in words for word in each), language)
        return await asyncio.to_thread(vocabulary_of, words, terms)

    async def _embed_anew(self, job: Job, document: Document) -> None:
        """New vectors for the chunks as they are, spooled first: search has the old ones until the commit."""
        with tempfile.TemporaryFile() as vectors:
            spool, done = _VectorSpool(vectors), 0
            async for chunks in self._chunks_of(job):
                await self._shop.queue.advance(job, DocumentState.EMBEDDING, done, document.chunk_count)
                searchable = [chunk.searchable(document.title) for chunk in chunks]
                spool.add(await self._shop.embeddings.vectors(job.tenant_id, searchable))
                done += len(chunks)

            async def slices() -> AsyncIterator[tuple[Sequence[Chunk], Sequence[bytes]]]:
                spool.rewind()
                async for chunks in self._chunks_of(job):
                    yield chunks, spool.take(len(chunks))

            await self._shop.publishing.replace_vectors(job, self._shop.embeddings.model, slices)

    async def _chunks_of(self, job: Job) -> AsyncIterator[Sequence[Chunk]]:
        next_ordinal = 0
        while True:
            async with tenant_transaction(self._shop.pool, job.tenant_id) as connection:
                rows = await connection.fetch(_CHUNKS_OF, *job.fence[:2], next_ordinal, _CHUNKS_A_SLICE)
            if not rows:
                return
            yield [Chunk(*row) for row in rows]
            next_ordinal = rows[-1]["ordinal"] + 1


class _VectorSpool:
    """Vectors in a file: those of a long document are more than all else of it together."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._bytes_each = 0

    def add(self, vectors: Sequence[bytes]) -> None:
        """Appends vectors, all of one length."""
        self._bytes_each = len(vectors[0])
        self._file.write(b"".join(vectors))

    def rewind(self) -> None:
        """Begins to take from the first one."""
        self._file.seek(0)

    def take(self, count: int) -> list[bytes]:
        """The next ones."""
        return [self._file.read(self._bytes_each) for _ in range(count)]


async def _surely(write_down: Callable[[Job, ServiceError], Awaitable[None]], job: Job, error: ServiceError) -> None:
    """Writes down how an attempt ended, when the database is back: or it would count as the death of its worker."""
    with suppress(LeaseLostError):
        while True:
            try:
                return await write_down(job, error)
            except Unavailable:
                await asyncio.sleep(DATABASE_PAUSE_SECONDS)


def _words(texts: Sequence[str], language: str, spellings: dict[str, str]) -> list[list[str]]:
    """The words of each text; one that comes again is the same object: a book costs what its vocabulary does."""
    return [[spellings.setdefault(word, word) for word in words_of(text, language)] for text in texts]
