"""An upload, as the client who sends it lives through it: spooled to disk, judged, kept, and waited for.

What is kept is kept for good before the slow part begins: the original in the object store, the document and its job in
one commit. Whoever works on it then (worker.py) may die; the document goes its way.
"""

import asyncio
import hashlib
import tempfile
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from services.document_rag.documents.admission import Admission
from services.document_rag.documents.document_store import DocumentStore
from services.document_rag.documents.listener import Listener
from services.document_rag.documents.model import (
    Description,
    Diagnosis,
    Document,
    NewDocument,
    Progress,
    Standing,
    UploadResult,
)
from services.document_rag.documents.originals import Originals
from services.document_rag.model import DocumentEmpty, DocumentTooLarge, DocumentUnreadable
from shared.errors import FieldViolation, InvalidArgument, NotFound, ServiceError
from shared.identifiers import new_id

_LOOK_EVERY_SECONDS = 0.5
_FAULTS_OF_FILES = {kind.reason: kind for kind in (DocumentUnreadable, DocumentEmpty)}


@dataclass(frozen=True, slots=True)
class IngestLimits:
    """What one upload may cost, and how long its client waits before it is told how far the document is."""

    document_bytes: int = 128 * 1024 * 1024
    patience_seconds: float = 120.0


class Ingest:
    """Takes documents in and out."""

    def __init__(
        self,
        store: DocumentStore,
        admission: Admission,
        originals: Originals,
        listener: Listener,
        limits: IngestLimits,
        *,
        searched_model: str,
    ) -> None:
        self._store = store
        self._admission = admission
        self._originals = originals
        self._listener = listener
        self._limits = limits
        self._searched_model = searched_model

    async def upload(self, tenant_id: str, said: Description, pieces: AsyncIterator[bytes]) -> UploadResult:
        """Makes a document of the bytes, or says what is there; answers when it is searchable, unless told not to wait.

        Raises DocumentTooLarge, DocumentUnreadable, DocumentEmpty, RequestIdReused, NotFound for the collection;
        nothing is kept then.
        """
        result = await self._kept(tenant_id, said, pieces)
        return result if said.return_early else await self._awaited(tenant_id, result)

    async def delete(self, tenant_id: str, document_id: str) -> None:
        """Takes the document out of every search, then its original, at the latest with the next sweep.

        NotFound for a foreign, deleted or missing one.
        """
        await self._store.delete(tenant_id, document_id)
        await self._originals.discard(tenant_id, document_id)

    async def watch(self, tenant_id: str, document_id: str) -> AsyncIterator[Progress]:
        """How far the document is, now and whenever that changes, until it is over. NotFound once it is gone."""
        told: Progress | None = None
        async with self._listener.news_of(document_id) as bell:
            while True:
                standing = await self._store.progress(tenant_id, document_id)
                if standing.progress != told:
                    told = standing.progress
                    yield told
                if standing.is_over:
                    return
                await _rest(bell)

    async def diagnose(self, tenant_id: str, document_id: str) -> Diagnosis:
        """Why the document is searchable or is not. NotFound for a foreign, deleted or missing one."""
        diagnosis = await self._store.diagnose(tenant_id, document_id, self._searched_model)
        owner = diagnosis.document.owner(tenant_id)
        return replace(diagnosis, has_original=await self._originals.has(owner, document_id))

    async def download(self, tenant_id: str, document_id: str) -> tuple[Document, AsyncIterator[bytes]]:
        """The document and the bytes of its original. NotFound; OriginalMissing while the bytes are read."""
        document = await self._store.get(tenant_id, document_id)
        return document, self._originals.pieces(document.owner(tenant_id), document.document_id)

    async def _kept(self, tenant_id: str, said: Description, pieces: AsyncIterator[bytes]) -> UploadResult:
        with tempfile.NamedTemporaryFile(prefix="prosa-upload-") as spool:
            upload = await self._received(said, pieces, spool.file)
            if earlier := await self._admission.earlier(tenant_id, upload):
                return earlier
            await self._originals.put(tenant_id, upload.document_id, Path(spool.name))
        try:
            result = await self._admission.admit(tenant_id, upload)
        except BaseException:
            await asyncio.shield(self._discard(tenant_id, upload.document_id))
            raise
        if result.document.document_id != upload.document_id:
            await self._originals.discard(tenant_id, upload.document_id)
        return result

    async def _received(self, said: Description, pieces: AsyncIterator[bytes], spool: IO[bytes]) -> NewDocument:
        digest = hashlib.sha256()
        size = 0
        async for piece in pieces:
            size += len(piece)
            if size > self._limits.document_bytes:
                most = self._limits.document_bytes
                raise DocumentTooLarge(f"a document may have {most:,} bytes at most", metadata={"max_bytes": str(most)})
            digest.update(piece)
            spool.write(piece)
        if size == 0:
            raise InvalidArgument(
                "the file is empty",
                violations=[FieldViolation("chunk", "no message carried any bytes", "bytes.min_len")],
            )
        spool.flush()
        return NewDocument(new_id(), said, size, digest.digest())

    async def _discard(self, tenant_id: str, document_id: str) -> None:
        """Removes the original of a document that surely does not exist; a commit of unknown outcome keeps it."""
        with suppress(ServiceError):
            try:
                await self._store.get(tenant_id, document_id)
            except NotFound:
                await self._originals.discard(tenant_id, document_id)

    async def _awaited(self, tenant_id: str, result: UploadResult) -> UploadResult:
        """The answer once the document is searchable, or is delayed by what the client need not wait for."""
        document_id = result.document.document_id
        if not result.document.state.is_final:
            standing = await self._over_or_delayed(tenant_id, document_id)
            if standing.outcome in ("rejected", "skipped"):
                await self._originals.discard(tenant_id, document_id)
            error = standing.progress.stage_error
            if standing.outcome in ("failed", "rejected") and error and error.reason in _FAULTS_OF_FILES:
                raise _FAULTS_OF_FILES[error.reason](error.message)
            if standing.outcome == "skipped":
                return await self._skipped(tenant_id, standing)
        document = await self._store.get(tenant_id, document_id)
        if not result.kept:
            return replace(result, document=document)
        return replace(
            result,
            document=document,
            verdict=document.verdict,
            related_document_id=document.related_document_id,
            similarity=document.title_similarity,
        )

    async def _skipped(self, tenant_id: str, standing: Standing) -> UploadResult:
        """Its text turned out to be that of another document, which the client is given when it is searchable."""
        related_id = standing.progress.related_document_id
        document = await self._store.get(tenant_id, related_id)
        result = UploadResult(standing.verdict, document, False, related_id, standing.similarity)  # noqa: FBT003
        return await self._awaited(tenant_id, result)

    async def _over_or_delayed(self, tenant_id: str, document_id: str) -> Standing:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._limits.patience_seconds), self._listener.news_of(document_id) as bell:
                while True:
                    standing = await self._store.progress(tenant_id, document_id)
                    if standing.is_over or standing.progress.stage_error is not None:
                        return standing
                    await _rest(bell)
        return await self._store.progress(tenant_id, document_id)


async def _rest(bell: asyncio.Event) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(_LOOK_EVERY_SECONDS):
            await bell.wait()
    bell.clear()
