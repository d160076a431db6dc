"""The way of pushed chunks: batches are taken one behind the other, each checked, given its vectors, and written whole.

While a batch is being written the next one is checked, given its vectors and packed, and the one after that is read; a
stream therefore goes as fast as the slowest of the three, and never holds more than three batches or, between them, a
connection to the database.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass

import numpy as np

from services.document_rag.model import Condition
from services.document_rag.search.chunk_model import (
    ChunkDraft,
    PushedCollection,
    VectorMissing,
    Written,
    checked,
    unit_vectors,
)
from services.document_rag.search.chunk_store import ChunkStore, PackedChunks, packed
from services.document_rag.search.embedders import Embedder, Vectors
from services.document_rag.search.vectors import Kind, Space
from services.document_rag.search.words import fold, words_of
from shared.errors import InvalidArgument, NotFound

_KNOWN_SECONDS = 1.0
_MOST_KNOWN = 10_000


LoadEnded = Callable[[Space, int, int], None]
"""Told the space, its dimensions, and how many chunks the streams brought of which the last one has just ended."""


@dataclass(slots=True)
class _Load:
    """What is being pushed into a collection by the streams under way."""

    streams: int = 0
    chunks: int = 0


class ChunkPush:
    """Takes chunks in and out of collections."""

    def __init__(self, store: ChunkStore, embedder: Embedder, load_ended: LoadEnded) -> None:
        self._store = store
        self._embedder = embedder
        self._load_ended = load_ended
        self._loads: dict[str, _Load] = {}
        self._known: dict[tuple[str, str], tuple[float, PushedCollection]] = {}

    async def upsert(self, tenant_id: str, collection_id: str, batches: AsyncIterator[Sequence[ChunkDraft]]) -> Written:
        """What became of the chunks. An InvalidArgument says in its metadata how many were `written` before it."""
        collection = await self._own(tenant_id, collection_id)
        with self._load_into(collection) as load:
            written = await self._written(collection, batches)
            load.chunks += written.created + written.updated
        return written

    async def _written(self, collection: PushedCollection, batches: AsyncIterator[Sequence[ChunkDraft]]) -> Written:
        written = Written()
        writing: asyncio.Task[Written] | None = None
        try:
            async with aclosing(_one_ahead(batches)) as coming:
                async for batch in coming:
                    rows = await self._packed(collection, batch)
                    if writing is not None:
                        written, writing = written + await writing, None
                    writing = asyncio.create_task(self._store.write(collection, rows))
            return written + await writing if writing is not None else written
        except InvalidArgument as refusal:
            if writing is not None:
                written, writing = written + await writing, None
            refusal.metadata = {**refusal.metadata, "written": str(written.total)}
            raise
        finally:
            if writing is not None:
                await asyncio.gather(writing, return_exceptions=True)

    async def delete(
        self, tenant_id: str, collection_id: str, chunk_ids: Sequence[str], conditions: Sequence[Condition]
    ) -> int:
        """How many chunks there were. NotFound for a collection that the tenant does not own."""
        collection = await self._own(tenant_id, collection_id)
        return await self._store.delete(collection, chunk_ids, conditions)

    async def known(self, tenant_id: str, collection_id: str) -> PushedCollection:
        """The collection as it was at most a second ago; one that was deleted since holds no chunks."""
        key = tenant_id, collection_id
        at, collection = self._known.get(key, (0.0, None))
        if collection is None or time.monotonic() - at > _KNOWN_SECONDS:
            collection = await self._store.collection(tenant_id, collection_id)
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[key] = time.monotonic(), collection
        return collection

    async def embedded_query(self, collection: PushedCollection, text: str) -> Vectors:
        """The text's vector. VectorMissing where programs bring the vectors: their model is not here."""
        if collection.brings_vectors:
            raise VectorMissing("texts cannot be compared here: programs bring the vectors of this collection")
        return await self._embedder.embed_query(text, dict.fromkeys(map(fold, words_of(text)), 1.0))

    @contextmanager
    def _load_into(self, collection: PushedCollection) -> Iterator[_Load]:
        load = self._loads.setdefault(collection.collection_id, _Load())
        load.streams += 1
        try:
            yield load
        finally:
            load.streams -= 1
            if not load.streams:
                del self._loads[collection.collection_id]
                space = Space(collection.home, Kind.PUSHED, collection.collection_id)
                self._load_ended(space, collection.dimensions, load.chunks)

    async def _own(self, tenant_id: str, collection_id: str) -> PushedCollection:
        collection = await self._store.collection(tenant_id, collection_id)
        if collection.home != tenant_id:
            raise NotFound("collection", collection_id)
        return collection

    async def _packed(self, collection: PushedCollection, batch: Sequence[ChunkDraft]) -> PackedChunks:
        # Beside the event loop, which has the batch before to send: PostgreSQL waited for that half of the time.
        if collection.brings_vectors:
            return await asyncio.to_thread(_packed_as_brought, collection, batch)
        checked(batch, collection)
        vectors = np.asarray(await self._embedder.embed_documents([draft.text for draft in batch]))
        return await asyncio.to_thread(packed, batch, vectors)


async def _one_ahead(batches: AsyncIterator[Sequence[ChunkDraft]]) -> AsyncGenerator[Sequence[ChunkDraft]]:
    """The same batches; the next one is being read while one is in use."""
    coming = asyncio.ensure_future(anext(batches, None))
    try:
        while (batch := await coming) is not None:
            coming = asyncio.ensure_future(anext(batches, None))
            yield batch
    finally:
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)


def _packed_as_brought(collection: PushedCollection, batch: Sequence[ChunkDraft]) -> PackedChunks:
    checked(batch, collection)
    ids = [draft.chunk_id for draft in batch]
    vectors = unit_vectors([draft.vector for draft in batch], collection.dimensions, ids)
    return packed(batch, vectors)
