"""The way of an upload: spooled to disk, read in its own process, cut, embedded, and committed all at once.

Until the one commit nothing of a document is visible; after it all of it is. Work that keeps a processor busy runs in
threads or in the extraction process, so that questions are answered meanwhile.
"""

import asyncio
import hashlib
import tempfile
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from services.document_rag.documents.document_store import DocumentStore, IngestedText
from services.document_rag.documents.originals import Originals
from services.document_rag.documents.sandbox import ExtractionLimits, reading
from services.document_rag.model import (
    Description,
    DocumentTooLarge,
    NewDocument,
    UploadResult,
    document_title,
)
from services.document_rag.search.embedders import Embedder
from services.document_rag.search.postings import vocabulary_of
from services.document_rag.search.stems import Stemmer
from services.document_rag.search.words import words_of
from shared.errors import FieldViolation, InvalidArgument, NotFound, ServiceError
from shared.identifiers import new_id


@dataclass(frozen=True, slots=True)
class IngestLimits:
    """What one upload may cost, and how many are worked on at once."""

    document_bytes: int = 128 * 1024 * 1024
    at_once: int = 2
    extraction: ExtractionLimits = field(default_factory=ExtractionLimits)


class Ingest:
    """Takes documents in and out."""

    def __init__(
        self,
        store: DocumentStore,
        originals: Originals,
        embedder: Embedder,
        stemmer: Stemmer,
        limits: IngestLimits,
    ) -> None:
        self._store = store
        self._originals = originals
        self._embedder = embedder
        self._stemmer = stemmer
        self._limits = limits
        self._turns = asyncio.Semaphore(limits.at_once)

    async def upload(self, tenant_id: str, said: Description, pieces: AsyncIterator[bytes]) -> UploadResult:
        """Makes a document of the bytes, or finds the one that holds them.

        Raises DocumentTooLarge, DocumentUnreadable, DocumentEmpty, RequestIdReused; nothing is kept then.
        """
        with tempfile.NamedTemporaryFile(prefix="prosa-upload-") as spool:
            upload = await self._received(said, pieces, spool.file)
            if earlier := await self._store.earlier(tenant_id, upload):
                return earlier
            async with self._turns:
                text = await self._read(upload, Path(spool.name))
                return await self._commit(tenant_id, upload, text, Path(spool.name))

    async def delete(self, tenant_id: str, document_id: str) -> None:
        """Takes the document out of every search, then its original. NotFound for a foreign, deleted or missing one."""
        await self._store.delete(tenant_id, document_id)
        await self._originals.remove(tenant_id, document_id)

    async def _received(self, said: Description, pieces: AsyncIterator[bytes], spool: IO[bytes]) -> NewDocument:
        digest = hashlib.sha256()
        size = 0
        async for piece in pieces:
            size += len(piece)
            if size > self._limits.document_bytes:
                raise DocumentTooLarge(f"a document may have {self._limits.document_bytes:,} bytes at most")
            digest.update(piece)
            spool.write(piece)
        if size == 0:
            raise InvalidArgument(
                "the file is empty",
                violations=[FieldViolation("chunk", "no message carried any bytes", "bytes.min_len")],
            )
        spool.flush()
        return NewDocument(new_id(), said, size, digest.digest())

    async def _read(self, upload: NewDocument, path: Path) -> IngestedText:
        said = upload.said
        async with reading(path, said.filename, said.mime_type, self._limits.extraction) as read:
            title = document_title(said.title, read.title, said.filename)
            chunks = [chunk for piece in read.slices() for chunk in piece]
        searchable = [chunk.searchable(title) for chunk in chunks]
        vectors = await self._embedder.embed_documents(searchable)
        chunk_words = await asyncio.to_thread(lambda: [words_of(text) for text in searchable])
        terms = await self._stemmer.terms(word for words in chunk_words for word in words)
        return IngestedText(
            title=title,
            mime_type=read.mime_type,
            page_count=read.page_count,
            char_count=read.char_count,
            chunks=chunks,
            vectors=vectors,
            embedding_model=self._embedder.model,
            vocabulary=await asyncio.to_thread(vocabulary_of, chunk_words, terms),
        )

    async def _commit(self, tenant_id: str, upload: NewDocument, text: IngestedText, path: Path) -> UploadResult:
        await self._originals.put(tenant_id, upload.document_id, path)
        try:
            result = await self._store.add(tenant_id, upload, text)
        except BaseException:
            await asyncio.shield(self._discard(tenant_id, upload.document_id))
            raise
        if result.document.document_id != upload.document_id:
            await self._originals.remove(tenant_id, upload.document_id)
        return result

    async def _discard(self, tenant_id: str, document_id: str) -> None:
        """Removes the original of a document that surely does not exist; a commit of unknown outcome keeps it."""
        with suppress(ServiceError):
            try:
                await self._store.get(tenant_id, document_id)
            except NotFound:
                await self._originals.remove(tenant_id, document_id)
