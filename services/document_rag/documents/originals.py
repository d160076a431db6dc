"""Uploaded files as they came, in an object store: a local directory, S3, or what else obstore speaks.

A key is the tenant and the document, never a name that somebody chose. An object without a document (its ingestion died
before the commit) can be reached by nobody; sweeping such orphans is left to the store's own lifecycle rules.
"""

from pathlib import Path
from typing import Any

import obstore
from obstore.store import from_url

from shared.errors import Unavailable


class Originals:
    """Keeps, and takes away, the original of a document."""

    def __init__(self, url: str) -> None:
        """`url`: file:///path (made if missing), s3://bucket/prefix, gs://…, az://…"""
        if url.startswith("file://"):
            Path(url.removeprefix("file://")).mkdir(parents=True, exist_ok=True)
        self._store: Any = from_url(url)

    async def put(self, tenant_id: str, document_id: str, path: Path) -> None:
        """Copies the file at `path` in; readers see all of it or nothing."""
        try:
            await obstore.put_async(self._store, _key(tenant_id, document_id), path)
        except (obstore.exceptions.BaseError, OSError) as error:
            raise Unavailable("the object store is unavailable", dependency="originals") from error

    async def remove(self, tenant_id: str, document_id: str) -> None:
        """Takes the object away; one that is not there is no error."""
        try:
            await obstore.delete_async(self._store, _key(tenant_id, document_id))
        except (obstore.exceptions.NotFoundError, FileNotFoundError):
            return
        except (obstore.exceptions.BaseError, OSError) as error:
            raise Unavailable("the object store is unavailable", dependency="originals") from error


def _key(tenant_id: str, document_id: str) -> str:
    return f"{tenant_id}/{document_id}"
