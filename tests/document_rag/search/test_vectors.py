"""The recall guard: small sets are compared whole, large ones through an index that must give enough."""

from collections.abc import AsyncIterator, Callable

import asyncpg
import numpy as np
import pytest

from services.document_rag.model import RetrievalMode
from services.document_rag.search.chunk_model import PushedCollection
from services.document_rag.search.recall_sampler import RecallSampler
from services.document_rag.search.vectors import (
    Kind,
    Restriction,
    Segment,
    Space,
    VectorSearch,
    approximate,
    approximate_settings,
    candidates_for,
    exact,
    from_halfvec,
    halfvec_rows,
)
from shared.postgres import tenant_transaction
from tests.document_rag.chunk_program import DIMENSIONS, clustered, nearest
from tests.document_rag.search.vector_bench import WORTH, Bench, found_places, opened_bench

ROWS = 4_000
VECTORS = clustered(ROWS, dimensions=DIMENSIONS)
QUESTIONS = clustered(20, seed=11)


@pytest.fixture(scope="module")
async def bench(fresh_database: Callable[[], str]) -> AsyncIterator[Bench]:
    async with opened_bench(fresh_database) as opened:
        yield opened


@pytest.fixture(scope="module")
async def large(bench: Bench) -> PushedCollection:
    """A collection with an index."""
    collection = await bench.collection("large")
    await bench.fill(collection, VECTORS)
    assert await bench.indexes().keep() == 1
    return collection


def recall(found: list[int], truly: list[int]) -> float:
    return len(set(found) & set(truly)) / len(truly)


async def test_a_tenant_with_1_percent_of_the_chunks_still_gets_a_full_top_k_with_recall_of_at_least_95_percent(
    bench: Bench, large: PushedCollection
) -> None:
    small = await bench.collection("one-percent")
    places = list(range(0, ROWS, 100))
    await bench.fill(small, VECTORS[places])
    recalls = []
    for question in QUESTIONS:
        found = await bench.ask(small, question)
        assert len(found.chunks) == 10
        assert found.mode is RetrievalMode.EXACT
        recalls.append(recall(found_places(found), nearest(VECTORS[places], question)))
    assert np.mean(recalls) == 1.0
    # The same as a filter over the large tenant's index, which alone would find a handful of the ten.
    recalls = []
    for question in QUESTIONS:
        found = await bench.ask(large, question, percent=0)
        assert len(found.chunks) == 10
        assert found.mode is RetrievalMode.INDEX
        truly = [places[at] for at in nearest(VECTORS[places], question)]
        recalls.append(recall(found_places(found), truly))
    assert np.mean(recalls) >= 0.95


async def test_a_large_space_is_searched_through_its_index(bench: Bench, large: PushedCollection) -> None:
    recalls = []
    for question in QUESTIONS:
        found = await bench.ask(large, question)
        assert found.mode is RetrievalMode.INDEX
        similarities = [each.similarity for each in found.chunks]
        assert similarities == sorted(similarities, reverse=True)
        recalls.append(recall(found_places(found), nearest(VECTORS, question)))
    assert np.mean(recalls) >= 0.98


@pytest.mark.parametrize("rows", [WORTH + 1, ROWS])
async def test_the_planner_uses_the_index_where_we_decided_so_and_never_where_we_did_not(
    bench: Bench, rows: int
) -> None:
    collection = await bench.collection("planned")
    await bench.fill(collection, VECTORS[:rows])
    await bench.indexes().keep()
    space = Space(collection.home, Kind.PUSHED, collection.collection_id)
    await bench.analyze()
    segments = await bench.segments(collection)
    question = halfvec_rows(QUESTIONS[:1])[0]
    async with tenant_transaction(bench.pool, collection.home, settings=approximate_settings(100)) as connection:
        with_index = await _plan(connection, approximate(space, segments, 10), question)
        # A restriction that the planner, left alone, would rather follow to a few rows and sort them.
        tempting = Restriction("chunk_id = any($2::text[])", (["c1", "c2"],))
        tempted = await _plan(connection, approximate(space, segments, 10, tempting), question, ["c1", "c2"])
        forced = await _plan(connection, exact(space, 10), question)
    assert f"Index Scan using {segments[0].index_name}" in with_index
    assert "Index Cond" not in with_index.split(segments[0].index_name)[1].split("Index Scan")[0]
    assert f"Index Scan using {segments[0].index_name}" in tempted
    assert "vector_segment_" not in forced


async def _plan(connection: asyncpg.Connection, statement: str, *parameters: object) -> str:
    # Six times: from then on a prepared statement may be planned without knowing its parameters.
    for _ in range(6):
        rows = await connection.fetch(f"explain {statement}", *parameters)
    return "\n".join(row[0] for row in rows)


async def test_an_index_that_gives_too_few_is_not_believed(bench: Bench, large: PushedCollection) -> None:
    found = await bench.ask(large, QUESTIONS[0], count=100, percent=3)
    assert found.mode is RetrievalMode.EXACT_FALLBACK
    places = list(range(3, ROWS, 100))
    assert found_places(found) == [places[at] for at in nearest(VECTORS[places], QUESTIONS[0], 100)]


async def test_what_is_written_after_the_index_is_found_at_once_and_what_is_deleted_is_not(bench: Bench) -> None:
    collection = await bench.collection("changing")
    await bench.fill(collection, VECTORS[: WORTH + 100])
    assert await bench.indexes().keep() == 1
    await bench.fill(collection, QUESTIONS[:1], first=9_000)
    found = await bench.ask(collection, QUESTIONS[0])
    assert found.mode is RetrievalMode.INDEX
    assert found_places(found)[0] == 9_000
    best = [f"c{place}" for place in found_places(found)[:5]]
    assert await bench.store().delete(collection, best, []) == 5
    again = await bench.ask(collection, QUESTIONS[0])
    assert not set(best) & {each.chunk.chunk_id for each in again.chunks}
    assert len(again.chunks) == 10


async def test_a_replaced_chunk_is_found_by_its_new_vector_only(bench: Bench) -> None:
    collection = await bench.collection("replacing")
    await bench.fill(collection, VECTORS[: WORTH + 100])
    await bench.indexes().keep()
    place = nearest(VECTORS[: WORTH + 100], QUESTIONS[0], 1)[0]
    await bench.fill(collection, -QUESTIONS[:1], first=place)
    found = await bench.ask(collection, QUESTIONS[0])
    assert place not in found_places(found)
    assert found_places(await bench.ask(collection, -QUESTIONS[0]))[0] == place


async def test_no_tenant_is_found_through_anothers_index(bench: Bench, large: PushedCollection) -> None:
    store = bench.store()
    found = await store.nearest("stranger", large, QUESTIONS[0], 10)
    assert found.chunks == ()


async def test_vectors_of_several_dimensions_live_in_one_table(bench: Bench) -> None:
    short, long = await bench.collection("dims", 4), await bench.collection("dims", 64)
    fours, many = clustered(WORTH + 50, 4), clustered(WORTH + 50, 64)
    await bench.fill(short, fours)
    await bench.fill(long, many)
    assert await bench.indexes().keep() == 2
    for collection, vectors in ((short, fours), (long, many)):
        found = await bench.ask(collection, vectors[7])
        assert found.mode is RetrievalMode.INDEX
        assert found.chunks[0].similarity == pytest.approx(1.0, abs=2e-3)


async def test_recall_is_sampled_and_a_search_that_misses_too_much_gets_wider(
    bench: Bench, large: PushedCollection
) -> None:
    search = VectorSearch(bench.readers, WORTH)
    sampled = await RecallSampler(bench.pool, search).sample()
    assert sampled is not None
    assert sampled >= 0.95
    space, segments = Space(large.home, Kind.PUSHED, large.collection_id), [Segment(1, 8, 0, 9, 20_000)]
    usual = search.candidates(space, segments)
    search.heed(space, 0.5)
    wider = search.candidates(space, segments)
    assert wider > usual
    search.heed(space, 0.97)
    assert search.candidates(space, segments) == wider
    search.heed(space, 1.0)
    assert search.candidates(space, segments) == usual


def test_more_candidates_are_kept_where_there_are_more_rows() -> None:
    assert 100 <= candidates_for(20_000) < candidates_for(100_000) <= 400


def test_vectors_survive_their_way_to_the_database_and_back() -> None:
    row = halfvec_rows(VECTORS[:1])[0]
    np.testing.assert_allclose(from_halfvec(row), VECTORS[0], atol=1e-3)
