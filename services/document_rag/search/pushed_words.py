"""The words of pushed chunks are indexed after the fact: a push is acknowledged without waiting for it.

Chunks are taken in the order of their numbers, a batch at a time; a batch stands in the keyword index where a document
does. Chunks that were replaced or deleted since leave places behind that lead nowhere; when too many of a batch's do,
what is left of it is indexed anew. How far it is says `CountChunks`.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import asyncpg

from services.document_rag.documents.index_writer import add_vocabulary, one_writer, remove_from_index
from services.document_rag.search.postings import vocabulary_of
from services.document_rag.search.stems import Stemmer
from services.document_rag.search.words import words_of
from shared.errors import ServiceError
from shared.identifiers import new_id
from shared.postgres import tenant_transaction

CHUNKS_A_BATCH = 500
_LIVING_SHARE = 0.7  # of a batch; with fewer it is indexed anew

_CHANGED = """
    select tenant_id, key, written_at from vector_spaces where kind = 'pushed' order by tenant_id, key
"""

# Writers hold the collection in share, and take their numbers while they do: whoever has it alone for a moment knows
# that no lower number will appear than the highest there is.
_ALONE = "select true from collections where tenant_id = $1 and collection_id = $2 for update"

_LAST = "select coalesce(max(number), 0) from pushed_chunks where tenant_id = $1 and collection_id = $2"

_NEXT = """
    select number, body from pushed_chunks
    where tenant_id = $1 and collection_id = $2 and number > $3 and number <= $4 order by number limit $5
"""

_INDEXED_TO = "select coalesce(max(high), 0) from word_batches where tenant_id = $1 and collection_id = $2"

_REMEMBER = """
    insert into word_batches (tenant_id, collection_id, low, high, batch_id, numbers) values ($1, $2, $3, $4, $5, $6)
"""

# Another process may have been faster: then the chunks behind `low` are in a batch already, or the stale batch is gone.
_STILL_DUE = """
    select coalesce(max(high), 0) = $3 or bool_or(batch_id = $4)
    from word_batches where tenant_id = $1 and collection_id = $2
"""

_STALE = """
    select low, high, batch_id from word_batches as batch
    cross join lateral (
        select count(*) as living from pushed_chunks
        where pushed_chunks.tenant_id = $1 and pushed_chunks.collection_id = $2 and number > low and number <= high
    ) as counted
    where batch.tenant_id = $1 and batch.collection_id = $2 and living < cardinality(numbers) * $3::float8
"""


@dataclass(frozen=True, slots=True)
class _Batch:
    tenant_id: str
    collection_id: UUID
    low: int
    high: int
    batch_id: str


class PushedWords:
    """Keeps the keyword index of all collections of pushed chunks."""

    def __init__(self, pool: asyncpg.Pool, stemmer: Stemmer) -> None:
        self._pool = pool
        self._stemmer = stemmer
        self._seen: dict[tuple[str, str], datetime] = {}

    async def keep(self) -> None:
        """Indexes what is not indexed yet, and what is left of batches of which too little is left.

        A collection that fails keeps no other waiting; it raises when all have had their turn.
        """
        async with tenant_transaction(self._pool, "*") as connection:
            rows = await connection.fetch(_CHANGED)
        failures: list[ServiceError] = []
        for row in rows:
            space = (row["tenant_id"], row["key"])
            if self._seen.get(space) == row["written_at"]:
                continue
            try:
                await self._index(row["tenant_id"], UUID(row["key"]))
                await self._index_anew(row["tenant_id"], UUID(row["key"]))
            except ServiceError as error:
                failures.append(error)
            else:
                self._seen[space] = row["written_at"]
        if failures:
            raise failures[0]

    async def _index(self, tenant_id: str, collection_id: UUID) -> None:
        last = await self._settled(tenant_id, collection_id)
        while True:
            async with tenant_transaction(self._pool, tenant_id) as connection:
                low = await connection.fetchval(_INDEXED_TO, tenant_id, collection_id)
                rows = await connection.fetch(_NEXT, tenant_id, collection_id, low, last, CHUNKS_A_BATCH)
            if not rows:
                return
            high = last if len(rows) < CHUNKS_A_BATCH else rows[-1]["number"]
            await self._add(_Batch(tenant_id, collection_id, low, high, new_id()), rows)

    async def _settled(self, tenant_id: str, collection_id: UUID) -> int:
        """The number up to which no chunk can appear any more."""
        async with tenant_transaction(self._pool, tenant_id) as connection:
            await connection.execute(_ALONE, tenant_id, collection_id)
            return int(await connection.fetchval(_LAST, tenant_id, collection_id))

    async def _index_anew(self, tenant_id: str, collection_id: UUID) -> None:
        async with tenant_transaction(self._pool, tenant_id) as connection:
            stale = await connection.fetch(_STALE, tenant_id, collection_id, _LIVING_SHARE)
        for row in stale:
            batch = _Batch(tenant_id, collection_id, row["low"], row["high"], str(row["batch_id"]))
            async with tenant_transaction(self._pool, tenant_id) as connection:
                rows = await connection.fetch(_NEXT, tenant_id, collection_id, batch.low, batch.high, CHUNKS_A_BATCH)
            await self._add(batch, rows)

    async def _add(self, batch: _Batch, rows: Sequence[asyncpg.Record]) -> None:
        words = await asyncio.to_thread(lambda: [words_of(row["body"]) for row in rows])
        terms = await self._stemmer.terms(word for each in words for word in each)
        vocabulary = await asyncio.to_thread(vocabulary_of, words, terms)
        async with tenant_transaction(self._pool, batch.tenant_id) as connection:
            await one_writer(connection, batch.tenant_id)
            about = (batch.tenant_id, batch.collection_id, batch.low, UUID(batch.batch_id))
            if not await connection.fetchval(_STILL_DUE, *about):
                return
            await remove_from_index(connection, batch.tenant_id, UUID(batch.batch_id))
            await connection.execute(
                "delete from word_batches where tenant_id = $1 and batch_id = $2",
                *(batch.tenant_id, UUID(batch.batch_id)),
            )
            if rows:
                await add_vocabulary(connection, batch.tenant_id, batch.batch_id, vocabulary)
                key = (batch.tenant_id, batch.collection_id, batch.low, batch.high, UUID(batch.batch_id))
                await connection.execute(_REMEMBER, *key, [row["number"] for row in rows])
