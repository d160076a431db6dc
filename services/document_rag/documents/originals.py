"""Uploaded files as they came, in an object store: a local directory, S3, or what else obstore speaks.

A key is the tenant and the document, never a name that somebody chose. An object without a document (its ingestion died
before the commit) can be reached by nobody, and is swept (upkeep.py).
"""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import obstore
from obstore.store import from_url

from services.document_rag.documents.model import OriginalMissing
from shared.errors import Unavailable

_PARTS_AT_ONCE = 4  # of 5 MiB each, all in memory
_PIECE_BYTES = 256 * 1024
_LISTED_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class StoredOriginal:
    """An object of the store: whose it says it is, and since when it is there."""

    tenant_id: str
    document_id: str
    stored_at: datetime


class Originals:
    """Keeps, gives out, and takes away the original of a document."""

    def __init__(self, url: str) -> None:
        """`url`: file:///path (made if missing), s3://bucket/prefix, gs://…, az://…"""
        if url.startswith("file://"):
            Path(url.removeprefix("file://")).mkdir(parents=True, exist_ok=True)
        self._store: Any = from_url(url)

    async def put(self, tenant_id: str, document_id: str, path: Path) -> None:
        """Copies the file at `path` in; readers see all of it or nothing."""
        with _store_errors():
            await obstore.put_async(self._store, _key(tenant_id, document_id), path, max_concurrency=_PARTS_AT_ONCE)

    async def pieces(self, tenant_id: str, document_id: str) -> AsyncIterator[bytes]:
        """The bytes, a piece at a time. OriginalMissing if the store does not have them."""
        with _store_errors():
            try:
                found = await obstore.get_async(self._store, _key(tenant_id, document_id))
                async for piece in found.stream(min_chunk_size=_PIECE_BYTES):
                    yield bytes(piece)
            except (obstore.exceptions.NotFoundError, FileNotFoundError) as error:
                raise OriginalMissing from error

    async def fetch(self, tenant_id: str, document_id: str, path: Path) -> None:
        """Copies the original to `path`. OriginalMissing as in pieces."""
        with path.open("wb") as file:
            async for piece in self.pieces(tenant_id, document_id):
                file.write(piece)

    async def has(self, tenant_id: str, document_id: str) -> bool:
        """Whether the store has the original."""
        with _store_errors():
            try:
                await obstore.head_async(self._store, _key(tenant_id, document_id))
            except (obstore.exceptions.NotFoundError, FileNotFoundError):
                return False
        return True

    async def remove(self, tenant_id: str, document_id: str) -> None:
        """Takes the object away; one that is not there is no error."""
        with _store_errors():
            try:
                await obstore.delete_async(self._store, _key(tenant_id, document_id))
            except (obstore.exceptions.NotFoundError, FileNotFoundError):
                return

    async def discard(self, tenant_id: str, document_id: str) -> None:
        """Takes away what belongs to nothing any more; if the store is away, the sweep will."""
        with suppress(Unavailable):
            await self.remove(tenant_id, document_id)

    async def listed(self) -> AsyncIterator[Sequence[StoredOriginal]]:
        """All originals of all tenants, so many at a time."""
        with _store_errors():
            async for batch in obstore.list(self._store, chunk_size=_LISTED_AT_ONCE):
                yield [_stored(each["path"], each["last_modified"]) for each in batch if each["path"].count("/") == 1]


@contextmanager
def _store_errors() -> Iterator[None]:
    try:
        yield
    except (obstore.exceptions.BaseError, OSError) as error:
        raise Unavailable("the object store is unavailable", dependency="originals") from error


def _stored(path: str, stored_at: datetime) -> StoredOriginal:
    tenant_id, _, document_id = path.partition("/")
    return StoredOriginal(tenant_id, document_id, stored_at)


def _key(tenant_id: str, document_id: str) -> str:
    return f"{tenant_id}/{document_id}"
