"""What the database makes of a batch of pushed chunks."""

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from uuid import UUID

import pytest

from services.document_rag.search.chunk_model import ChunkDraft, PushedCollection, Written
from services.document_rag.search.chunk_store import packed
from services.document_rag.search.embedders import DIMENSIONS
from shared.errors import NotFound
from shared.postgres import tenant_transaction
from tests.document_rag.chunk_program import Matrix, clustered
from tests.document_rag.search.vector_bench import Bench, opened_bench

ONE, OTHER = (vectors.reshape(1, -1) for vectors in clustered(2, DIMENSIONS))
DRAFT = ChunkDraft("c", "Quando vence o IPTU?", '{"page":1}', b"")
BESIDE_A_VECTOR = 800  # bytes of text in half a page, which a vector takes 3 kB of


@pytest.fixture(scope="module")
async def bench(fresh_database: Callable[[], str]) -> AsyncIterator[Bench]:
    async with opened_bench(fresh_database) as opened:
        yield opened


async def write(bench: Bench, collection: PushedCollection, draft: ChunkDraft, vector: Matrix) -> Written:
    return await bench.store().write(collection, packed([draft], vector))


@pytest.mark.parametrize(
    ("draft", "vector"),
    [
        (replace(DRAFT, text="Quando vence o ISS?"), ONE),
        (replace(DRAFT, metadata='{"page":2}'), ONE),
        (DRAFT, OTHER),
    ],
    ids=["text", "metadata", "vector"],
)
async def test_a_chunk_that_was_pushed_is_replaced_by_one_with_another(
    bench: Bench, tenant_id: str, draft: ChunkDraft, vector: Matrix
) -> None:
    collection = await bench.collection(tenant_id, DIMENSIONS)
    assert await write(bench, collection, DRAFT, ONE) == Written(created=1)
    assert await write(bench, collection, draft, vector) == Written(updated=1)
    assert await write(bench, collection, draft, vector) == Written(unchanged=1)


async def test_a_vector_that_the_service_makes_anew_otherwise_changes_no_chunk(bench: Bench, tenant_id: str) -> None:
    collection = await bench.collection(tenant_id, dimensions=0)
    await write(bench, collection, DRAFT, ONE)
    assert await write(bench, collection, DRAFT, OTHER) == Written(unchanged=1)
    other_model = replace(collection, embedding_model="another")
    assert await write(bench, other_model, DRAFT, OTHER) == Written(updated=1)


async def test_nothing_is_written_into_a_collection_that_is_gone_or_anothers(bench: Bench, tenant_id: str) -> None:
    collection = await bench.collection(tenant_id, DIMENSIONS)
    with pytest.raises(NotFound):
        await write(bench, replace(collection, home=f"{tenant_id}-other"), DRAFT, ONE)
    async with tenant_transaction(bench.pool, tenant_id) as connection:
        gone = "update collections set deleted_at = now() where collection_id = $1"
        await connection.execute(gone, UUID(collection.collection_id))
    with pytest.raises(NotFound):
        await write(bench, collection, DRAFT, ONE)


async def test_a_text_stands_beside_its_vector_as_long_as_two_of_both_fill_a_page(bench: Bench, tenant_id: str) -> None:
    collection = await bench.collection(tenant_id, DIMENSIONS)
    fits, too_long = (replace(DRAFT, text="á" * (size // 2)) for size in (BESIDE_A_VECTOR, 8_000))
    await write(bench, collection, fits, ONE)
    await write(bench, collection, replace(too_long, chunk_id="long"), ONE)
    async with tenant_transaction(bench.pool, tenant_id) as connection:
        rows = await connection.fetch(
            "select pg_column_size(body) - octet_length(body) as more, pg_column_compression(body) as packed"
            " from pushed_chunks where tenant_id = $1 order by chunk_id = 'long'",
            tenant_id,
        )
    assert [(0 <= row["more"] <= 4, row["packed"]) for row in rows] == [(True, None), (False, "pglz")]
