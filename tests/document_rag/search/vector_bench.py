"""Spaces of vectors for tests: filled straight, indexed when the test says so."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID

import asyncpg
from pydantic import SecretStr

from services.document_rag.__main__ import MIGRATIONS, SCHEMA
from services.document_rag.documents.index_writer import register_vector_type
from services.document_rag.model import Comparison, Condition
from services.document_rag.search.chunk_model import ChunkDraft, Nearest, PushedCollection
from services.document_rag.search.chunk_store import ChunkStore, packed
from services.document_rag.search.embedders import HashedEmbedder
from services.document_rag.search.vector_indexes import IndexSettings, VectorIndexes
from services.document_rag.search.vectors import Kind, Segment, Space, VectorSearch, ready_segments
from shared.identifiers import new_id
from shared.postgres import migrate, open_pool, open_readers, tenant_transaction
from tests.document_rag.chunk_program import DIMENSIONS, Matrix

WORTH = 500
"""More vectors than this are indexed here."""

_CREATE = """
    insert into collections (tenant_id, collection_id, display_name, description, embedding_model, dimensions,
                             fingerprint)
    values ($1, $2, $3, '', case when $4 > 0 then 'test-model' else '' end, $4, '')
"""


@dataclass(frozen=True)
class Bench:
    """A database, and what keeps and searches its vectors."""

    url: SecretStr
    pool: asyncpg.Pool
    readers: asyncpg.Pool

    def indexes(self, quiet_seconds: float = 0.0) -> VectorIndexes:
        """The builder of another process."""
        return VectorIndexes(self.url, SCHEMA, IndexSettings(quiet_seconds, compared_exactly=WORTH))

    def store(self) -> ChunkStore:
        """The chunks, as a process sees them that has just been started."""
        return ChunkStore(self.pool, VectorSearch(self.readers, WORTH), HashedEmbedder.model)

    async def collection(self, tenant_id: str, dimensions: int = DIMENSIONS) -> PushedCollection:
        """A new one of the tenant; without dimensions, one that the service makes the vectors of."""
        collection_id = new_id()
        async with tenant_transaction(self.pool, tenant_id) as connection:
            await connection.execute(_CREATE, tenant_id, UUID(collection_id), collection_id, dimensions)
        return await self.store().collection(tenant_id, collection_id)

    async def fill(self, collection: PushedCollection, vectors: Matrix, first: int = 0) -> None:
        """Chunks c0, c1, … with these vectors; their metadata say `half`, `percent` and the place."""
        for start in range(0, len(vectors), 1000):
            drafts = [
                ChunkDraft(f"c{first + at}", "", f'{{"half":{at % 2},"percent":{at % 100}}}', vectors[at].tobytes())
                for at in range(start, min(start + 1000, len(vectors)))
            ]
            await self.store().write(collection, packed(drafts, vectors[start : start + 1000]))

    async def ask(self, collection: PushedCollection, vector: Matrix, count: int = 10, **equal: int) -> Nearest:
        """What is nearest, among the chunks whose metadata equal these."""
        conditions = [Condition(field, Comparison.EQ, (value,)) for field, value in equal.items()]
        return await self.store().nearest(collection.home, collection, vector, count, conditions=conditions)

    async def segments(self, collection: PushedCollection) -> list[Segment]:
        """Those in use."""
        space = Space(collection.home, Kind.PUSHED, collection.collection_id)
        async with tenant_transaction(self.pool, collection.home) as connection:
            return list(await ready_segments(connection, space))

    async def analyze(self) -> None:
        """Tells the planner what the tables hold, as PostgreSQL does by itself after a while."""
        owner = await asyncpg.connect(self.url.get_secret_value())
        try:
            await owner.execute(f"analyze {SCHEMA}.pushed_chunks")
        finally:
            await owner.close()

    async def index_names(self) -> list[str]:
        """All approximate indexes that there are, broken ones too."""
        owner = await asyncpg.connect(self.url.get_secret_value())
        try:
            rows = await owner.fetch(
                "select relname from pg_class where relname like 'vector_segment\\_%' and relkind = 'i'"
            )
        finally:
            await owner.close()
        return sorted(row["relname"] for row in rows)


@asynccontextmanager
async def opened_bench(fresh_database: Callable[[], str]) -> AsyncIterator[Bench]:
    """On a migrated database of its own."""
    url = SecretStr(fresh_database())
    await migrate(url, schema=SCHEMA, directory=MIGRATIONS)
    async with (
        open_pool(url, schema=SCHEMA, on_connect=register_vector_type) as pool,
        open_readers(url, schema=SCHEMA, on_connect=register_vector_type) as readers,
    ):
        yield Bench(url, pool, readers)


def found_places(found: Nearest) -> list[int]:
    """The places of the chunks found."""
    return [int(each.chunk.chunk_id[1:]) for each in found.chunks]
