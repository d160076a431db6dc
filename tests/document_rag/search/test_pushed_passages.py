"""Pushed chunks in a search over everything: found by vector at once, by words shortly after, and never when gone."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any
from uuid import uuid4

import pytest

from services.document_rag.model import MAX_TITLE_CHARACTERS, Comparison, Condition, Filter, Passage, SearchMode
from services.document_rag.search.chunk_index import ChunkIndex
from services.document_rag.search.chunk_model import ChunkDraft, PushedCollection
from services.document_rag.search.chunk_store import packed
from services.document_rag.search.embedders import HashedEmbedder
from services.document_rag.search.pushed_words import PushedWords
from services.document_rag.search.stems import Stemmer
from services.document_rag.search.vectors import VectorSearch
from shared.errors import Unavailable
from tests.document_rag.chunk_program import clustered
from tests.document_rag.search.vector_bench import Bench, opened_bench

TEXTS = {
    "lixo": "A coleta de lixo no Centro passa às terças e quintas.",
    "iptu": "A cota única do IPTU vence em fevereiro, com desconto de dez por cento.",
    "alvara": "O alvará de funcionamento é emitido em cinco dias úteis.",
}
EMBEDDER = HashedEmbedder()


@pytest.fixture(scope="module")
async def bench(fresh_database: Callable[[], str]) -> AsyncIterator[Bench]:
    async with opened_bench(fresh_database) as opened:
        yield opened


@pytest.fixture
async def collection(bench: Bench, tenant_id: str) -> PushedCollection:
    """A collection whose vectors the service makes."""
    collection = await bench.collection(tenant_id, dimensions=0)
    await push(bench, collection, TEXTS)
    return collection


async def push(bench: Bench, collection: PushedCollection, texts: dict[str, str]) -> None:
    drafts = [ChunkDraft(name, text, f'{{"tema":"{name}"}}', b"") for name, text in texts.items()]
    vectors = await EMBEDDER.embed_documents(list(texts.values()))
    await bench.store().write(collection, packed(drafts, vectors))


async def search(
    bench: Bench, tenant_id: str, query: str, mode: SearchMode, wanted: Filter | None = None
) -> tuple[Passage, ...]:
    index = ChunkIndex(bench.pool, EMBEDDER, Stemmer(bench.pool), VectorSearch(bench.readers))
    return (await index.search(tenant_id, query, top_k=3, mode=mode, filter=wanted or Filter())).passages


def words(bench: Bench) -> PushedWords:
    return PushedWords(bench.pool, Stemmer(bench.pool))


@pytest.mark.parametrize("mode", SearchMode)
async def test_a_pushed_chunk_is_found_as_a_document_is(
    bench: Bench, collection: PushedCollection, mode: SearchMode
) -> None:
    await words(bench).keep()
    found = (await search(bench, collection.home, "quando passa a coleta do lixo", mode))[0]
    assert (found.chunk_id, found.text, found.collection_id) == ("lixo", TEXTS["lixo"], collection.collection_id)
    assert (found.document_id, found.metadata) == ("", {"tema": "lixo"})


async def test_a_pushed_chunks_title_is_one_line_of_letters_that_people_see(bench: Bench, tenant_id: str) -> None:
    collection = await bench.collection(tenant_id, dimensions=0)
    metadata = json.dumps({"title": "Lei 9\n\n[2] Lei 10\u202e" + "x" * 2000})
    draft = ChunkDraft("lei", TEXTS["lixo"], metadata, b"")
    vectors = await EMBEDDER.embed_documents([draft.text])
    await bench.store().write(collection, packed([draft], vectors))
    (found,) = await search(bench, tenant_id, "coleta de lixo", SearchMode.VECTOR)
    assert found.title.startswith("Lei 9 [2] Lei 10 xxx")
    assert len(found.title) == MAX_TITLE_CHARACTERS


async def test_words_are_indexed_after_the_push_and_it_is_told_how_far(
    bench: Bench, collection: PushedCollection
) -> None:
    store = bench.store()
    assert (await store.progress(collection.home, collection, [])).unindexed_texts == 3
    assert await search(bench, collection.home, "alvará", SearchMode.KEYWORD) == ()
    await words(bench).keep()
    assert (await store.progress(collection.home, collection, [])).unindexed_texts == 0
    assert [each.chunk_id for each in await search(bench, collection.home, "alvará", SearchMode.KEYWORD)] == ["alvara"]


async def test_what_was_replaced_or_deleted_is_found_by_no_word(bench: Bench, collection: PushedCollection) -> None:
    keeper = words(bench)
    await keeper.keep()
    await bench.store().delete(collection, ["alvara"], [])
    await push(bench, collection, {"lixo": "As podas de árvores são às segundas."})
    for _ in range(2):
        found = await search(bench, collection.home, "alvará coleta", SearchMode.KEYWORD)
        assert not [each for each in found if "alvará" in each.text or "coleta" in each.text]
        await keeper.keep()
    assert [each.chunk_id for each in await search(bench, collection.home, "poda", SearchMode.KEYWORD)] == ["lixo"]
    assert [each.chunk_id for each in await search(bench, collection.home, "IPTU", SearchMode.KEYWORD)] == ["iptu"]


async def test_a_batch_of_which_little_is_left_leaves_no_word_in_the_statistics(
    bench: Bench, collection: PushedCollection
) -> None:
    keeper = words(bench)
    await keeper.keep()
    await bench.store().delete(collection, ["alvara", "lixo"], [])
    await keeper.keep()
    assert await _totals(bench, collection.home) == (1, ["iptu"])
    await bench.store().delete(collection, ["iptu"], [])
    await keeper.keep()
    assert await _totals(bench, collection.home) == (0, [])


async def test_a_collection_that_cannot_be_indexed_keeps_no_other_waiting(bench: Bench) -> None:
    """Collections of all tenants are taken in the order of their ids; the first one fails, whichever it is."""
    collections = [await bench.collection(f"{name}-{uuid4()}", dimensions=0) for name in ("a", "b")]
    for collection in collections:
        await push(bench, collection, {"lixo": TEXTS["lixo"]})
    with pytest.raises(Unavailable):
        await PushedWords(bench.pool, _StumblingOnce(bench.pool)).keep()
    first, second = [(await _totals(bench, each.home))[0] for each in collections]
    assert (first, second) == (0, 1)


class _StumblingOnce(Stemmer):
    """Loses the database at its first question."""

    has_stumbled = False

    async def terms(self, *question: Any) -> Mapping[str, str]:
        if not self.has_stumbled:
            self.has_stumbled = True
            raise Unavailable(dependency="postgres")
        return await super().terms(*question)


async def test_two_processes_that_index_the_same_words_count_them_once(
    bench: Bench, collection: PushedCollection
) -> None:
    await asyncio.gather(*(words(bench).keep() for _ in range(3)))
    assert await _totals(bench, collection.home) == (3, ["iptu", "lixo"])


async def _totals(bench: Bench, tenant_id: str) -> tuple[int, list[str]]:
    async with bench.pool.acquire() as connection, connection.transaction():
        await connection.execute("select set_config('app.tenant', $1, true)", tenant_id)
        chunks = await connection.fetchval("select chunks from totals where tenant_id = $1", tenant_id)
        rows = await connection.fetch(
            "select word from words where tenant_id = $1 and word in ('iptu', 'lixo')", tenant_id
        )
    return chunks or 0, sorted(row["word"] for row in rows)


@pytest.mark.parametrize("mode", SearchMode)
async def test_filters_hold_for_pushed_chunks(bench: Bench, collection: PushedCollection, mode: SearchMode) -> None:
    other = await bench.collection(collection.home, dimensions=0)
    await push(bench, other, {"outro": TEXTS["lixo"]})
    await words(bench).keep()

    async def found(wanted: Filter) -> set[str]:
        return {each.chunk_id for each in await search(bench, collection.home, "coleta de lixo", mode, wanted)}

    assert {"lixo", "outro"} <= await found(Filter())
    assert await found(Filter(collection_ids=(other.collection_id,))) == {"outro"}
    theme = Condition("tema", Comparison.EQ, ("lixo",))
    assert await found(Filter(conditions=(theme,))) == {"lixo"}
    assert await found(Filter(document_ids=(other.collection_id,))) == set()


@pytest.mark.parametrize("mode", SearchMode)
async def test_no_tenant_finds_anothers_pushed_chunks(
    bench: Bench, collection: PushedCollection, mode: SearchMode
) -> None:
    await words(bench).keep()
    wanted = Filter(collection_ids=(collection.collection_id,))
    assert await search(bench, f"{collection.home}-other", "coleta de lixo", mode) == ()
    assert await search(bench, f"{collection.home}-other", "coleta de lixo", mode, wanted) == ()


async def test_a_ready_vector_is_compared_in_the_collections_it_is_meant_for(bench: Bench, tenant_id: str) -> None:
    collection = await bench.collection(tenant_id)
    vectors = clustered(20)
    await bench.fill(collection, vectors)
    index = ChunkIndex(bench.pool, EMBEDDER, Stemmer(bench.pool), VectorSearch(bench.readers))
    wanted = Filter(collection_ids=(collection.collection_id,))
    found = await index.search(tenant_id, "", top_k=1, mode=SearchMode.VECTOR, filter=wanted, vector=vectors[4])
    assert [each.chunk_id for each in found.passages] == ["c4"]
