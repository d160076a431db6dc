"""Vectors of texts, none of them bought twice: a tenant's texts are looked up by their hash before a provider is asked.

What a worker that died has bought is there for the one that takes over. Tenants share nothing here, or one could find
out what another has.
"""

import asyncio
import hashlib
from collections.abc import Sequence

import asyncpg

from services.document_rag.documents.index_writer import halfvec
from services.document_rag.search.embedders import Embedder
from shared.postgres import tenant_transaction

_LOOK_UP = """
    select text_sha256, embedding, used_on < current_date - 7 as is_stale from embedding_cache
    where tenant_id = $1 and embedding_model = $2 and text_sha256 = any($3::bytea[])
"""

_KEEP = """
    insert into embedding_cache (tenant_id, embedding_model, text_sha256, embedding)
    select $1, $2, * from unnest($3::bytea[], $4::halfvec[]) on conflict do nothing
"""

_TOUCH = """
    update embedding_cache set used_on = current_date
    where tenant_id = $1 and embedding_model = $2 and text_sha256 = any($3::bytea[])
"""


class EmbeddingCache:
    """Embeds through the cache, `at_once` calls of the provider at a time. `is_kept` False: vectors cost nothing."""

    def __init__(self, pool: asyncpg.Pool, embedder: Embedder, *, is_kept: bool, at_once: int = 4) -> None:
        self._pool = pool
        self._embedder = embedder
        self._is_kept = is_kept
        self._turns = asyncio.Semaphore(at_once)

    @property
    def model(self) -> str:
        """Name stored with every vector."""
        return self._embedder.model

    async def vectors(self, tenant_id: str, texts: Sequence[str]) -> list[bytes]:
        """A vector a text, as PostgreSQL takes it. Unavailable if the provider stays away until its deadline."""
        if not self._is_kept:
            return await self._embedded(texts)
        keys = [hashlib.sha256(text.encode("utf-8", "replace")).digest() for text in texts]
        known = await self._known(tenant_id, keys)
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        if missing:
            made = dict(zip(missing, await self._embedded(list(missing.values())), strict=True))
            async with tenant_transaction(self._pool, tenant_id) as connection:
                await connection.execute(_KEEP, tenant_id, self.model, list(made), list(made.values()))
            known.update(made)
        return [known[key] for key in keys]

    async def _embedded(self, texts: Sequence[str]) -> list[bytes]:
        async with self._turns:
            vectors = await self._embedder.embed_documents(texts)
        return [halfvec(vector) for vector in vectors]

    async def _known(self, tenant_id: str, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        async with tenant_transaction(self._pool, tenant_id) as connection:
            rows = await connection.fetch(_LOOK_UP, tenant_id, self.model, keys)
            if stale := [row["text_sha256"] for row in rows if row["is_stale"]]:
                await connection.execute(_TOUCH, tenant_id, self.model, stale)
        return {row["text_sha256"]: row["embedding"] for row in rows}
