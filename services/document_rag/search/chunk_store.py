"""Pushed chunks in PostgreSQL: written a batch at a time, durable and found by their vectors when that is acknowledged.

A batch goes in by one statement in one round trip, as binary arrays: as fast as COPY into a staging table was measured,
and bound by row-level security, which COPY refuses.
"""

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

import asyncpg

from services.document_rag.ids import uuid_of
from services.document_rag.model import GLOBAL_LIBRARY, Condition
from services.document_rag.search import vectors as space_of
from services.document_rag.search.chunk_model import (
    ChunkDraft,
    NearChunk,
    Nearest,
    Progress,
    PushedChunk,
    PushedCollection,
    Written,
)
from services.document_rag.search.embedders import DIMENSIONS, Vectors
from services.document_rag.search.filters import Parameters, metadata_condition
from services.document_rag.search.vectors import (
    Kind,
    Space,
    VectorSearch,
    from_halfvec,
    gaps,
    halfvec_rows,
    ready_segments,
)
from shared.errors import NotFound
from shared.postgres import postgres_errors, tenant_transaction

_COLUMNS = "chunk_id, body, metadata, updated_at"

_COLLECTION = """
    select tenant_id, embedding_model, dimensions from collections
    where tenant_id = any($1::text[]) and collection_id = $2 and deleted_at is null
"""

_WRITE = "select * from push_chunks($1, $2, $3, $4, $5, $6, $7)"

_GET = f"""
    select number, {_COLUMNS}, case when $4 then embedding end as embedding
    from unnest($3::text[]) with ordinality as wanted (chunk_id, place)
    join pushed_chunks using (chunk_id)
    where tenant_id = $1 and collection_id = $2
    order by place
"""  # noqa: S608  (columns of ours)

_LIST = f"""
    select number, {_COLUMNS} from pushed_chunks
    where tenant_id = $1 and collection_id = $2 and number > $3 order by number limit $4
"""  # noqa: S608

_ALL = "select coalesce(sum(rows), 0) from vector_spaces where tenant_id = $1 and kind = 'pushed' and key = $2"

_UNINDEXED_TEXTS = """
    select count(*) from pushed_chunks
    where tenant_id = $1 and collection_id = $2 and body <> ''
      and number > coalesce((select max(high) from word_batches where tenant_id = $1 and collection_id = $2), 0)
"""


class PackedChunks(NamedTuple):
    """A batch as PostgreSQL receives it, column by column, in the order of its ids."""

    ids: Sequence[str]
    texts: Sequence[str]
    metadata: Sequence[str]
    vectors: Sequence[bytes]


def packed(drafts: Sequence[ChunkDraft], vectors: Vectors) -> PackedChunks:
    """The batch with its vectors, which are of length 1, ready to be written."""
    order = sorted(range(len(drafts)), key=lambda place: drafts[place].chunk_id)
    batch = [drafts[place] for place in order]
    return PackedChunks(
        ids=[draft.chunk_id for draft in batch],
        texts=[draft.text for draft in batch],
        metadata=[draft.metadata for draft in batch],
        vectors=halfvec_rows(vectors[order]),
    )


class ChunkStore:
    """The pushed chunks of all tenants. A collection is asked for first, as the tenant that calls."""

    def __init__(self, pool: asyncpg.Pool, search: VectorSearch, embedding_model: str) -> None:
        """`embedding_model` is the one with which the service makes vectors itself."""
        self._pool = pool
        self._search = search
        self._embedding_model = embedding_model

    async def collection(self, tenant_id: str, collection_id: str) -> PushedCollection:
        """The collection, of the tenant or of the global library. NotFound for a foreign or missing one."""
        async with tenant_transaction(self._pool, tenant_id) as connection:
            row = await connection.fetchrow(_COLLECTION, [tenant_id, GLOBAL_LIBRARY], uuid_of(collection_id))
        if row is None:
            raise NotFound("collection", collection_id)
        brings = bool(row["embedding_model"])
        return PushedCollection(
            home=row["tenant_id"],
            collection_id=str(uuid_of(collection_id)),
            embedding_model=row["embedding_model"] or self._embedding_model,
            dimensions=row["dimensions"] if brings else DIMENSIONS,
            brings_vectors=brings,
        )

    async def write(self, collection: PushedCollection, chunks: PackedChunks) -> Written:
        """All of the batch, or none of it. NotFound when the collection has just gone."""
        with postgres_errors():
            rows = await self._pool.fetch(_WRITE, *_key(collection), collection.embedding_model, *chunks)
        if not rows:
            raise NotFound("collection", collection.collection_id)
        created, updated = rows[0]
        return Written(created, updated, len(chunks.ids) - created - updated)

    async def get(
        self, tenant_id: str, collection: PushedCollection, chunk_ids: Sequence[str], *, with_vectors: bool
    ) -> Sequence[PushedChunk]:
        """Those that exist, in the order asked."""
        async with tenant_transaction(self._pool, tenant_id) as connection:
            rows = await connection.fetch(_GET, *_key(collection), list(chunk_ids), with_vectors)
        return [_chunk(row, from_halfvec(row["embedding"]) if with_vectors else None) for row in rows]

    async def list(
        self, tenant_id: str, collection: PushedCollection, *, after: int, limit: int
    ) -> Sequence[PushedChunk]:
        """Chunks written after the number, in the order of writing."""
        async with tenant_transaction(self._pool, tenant_id) as connection:
            return [_chunk(row) for row in await connection.fetch(_LIST, *_key(collection), after, limit)]

    async def progress(self, tenant_id: str, collection: PushedCollection, conditions: Sequence[Condition]) -> Progress:
        """How many chunks meet the conditions, and how far the collection's indexes are."""
        async with tenant_transaction(self._pool, tenant_id, snapshot=True) as connection:
            of_all = int(await connection.fetchval(_ALL, collection.home, collection.collection_id))
            chunks = await _count(connection, collection, conditions) if conditions else of_all
            waiting = await _behind_no_index(connection, collection, of_all)
            unindexed = await connection.fetchval(_UNINDEXED_TEXTS, *_key(collection))
        return Progress(chunks, of_all - waiting, unindexed)

    async def delete(
        self, collection: PushedCollection, chunk_ids: Sequence[str], conditions: Sequence[Condition]
    ) -> int:
        """Takes away the chunks named and those that meet the conditions; how many there were."""
        parameters = Parameters(_key(collection))
        where = _where(conditions, parameters)
        if chunk_ids:
            where += f" and chunk_id = any({parameters.add(sorted(set(chunk_ids)))}::text[])"
        async with tenant_transaction(self._pool, collection.home) as connection:
            done = await connection.execute(f"delete from pushed_chunks where {where}", *parameters)  # noqa: S608
        return int(done.split()[-1])

    async def nearest(
        self,
        tenant_id: str,
        collection: PushedCollection,
        vector: Vectors,
        limit: int,
        *,
        conditions: Sequence[Condition] = (),
        candidates: int = 0,
    ) -> Nearest:
        """The chunks nearest to a vector of length 1, among those that meet the conditions."""
        parameters = space_of.condition_parameters()
        clauses = [metadata_condition(each, parameters) for each in conditions]
        if not collection.brings_vectors:
            clauses.append(f"embedding_model = {parameters.add(collection.embedding_model)}")
        near = await self._search.nearest(
            _space(collection),
            vector,
            limit,
            columns=_COLUMNS,
            as_tenant=tenant_id,
            restriction=space_of.Restriction(" and ".join(clauses), tuple(parameters[1:])),
            candidates=candidates,
        )
        return Nearest(tuple(NearChunk(_chunk(row), -row["distance"]) for row in near.rows), near.mode)


async def _count(connection: asyncpg.Connection, collection: PushedCollection, conditions: Sequence[Condition]) -> int:
    parameters = Parameters(_key(collection))
    where = _where(conditions, parameters)
    return int(await connection.fetchval(f"select count(*) from pushed_chunks where {where}", *parameters))  # noqa: S608


async def _behind_no_index(connection: asyncpg.Connection, collection: PushedCollection, of_all: int) -> int:
    """How many of all vectors no segment covers: those are counted, for they are few where there is any."""
    space = _space(collection)
    segments = await ready_segments(connection, space)
    if not segments:
        return of_all
    counting = f"select count(*) from {space.table} where {space.members} and"  # noqa: S608
    return sum([await connection.fetchval(f"{counting} {gap}") for gap in gaps(segments)])


def _where(conditions: Sequence[Condition], parameters: Parameters) -> str:
    members = ["tenant_id = $1", "collection_id = $2"]
    return " and ".join(members + [metadata_condition(each, parameters) for each in conditions])


def _key(collection: PushedCollection) -> tuple[str, UUID]:
    return collection.home, UUID(collection.collection_id)


def _space(collection: PushedCollection) -> Space:
    return Space(collection.home, Kind.PUSHED, collection.collection_id)


def _chunk(row: asyncpg.Record, vector: Vectors | None = None) -> PushedChunk:
    return PushedChunk(row["chunk_id"], row["number"], row["body"], row["metadata"], row["updated_at"], vector)
