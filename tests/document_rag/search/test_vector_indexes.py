"""Approximate indexes: when they are built, merged and dropped, and what is left of a build that was broken off."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace

import asyncpg
import pytest

from services.document_rag.model import Comparison, Condition, RetrievalMode
from services.document_rag.search.chunk_model import ChunkDraft, PushedCollection
from services.document_rag.search.chunk_push import ChunkPush
from services.document_rag.search.embedders import HashedEmbedder
from services.document_rag.search.vector_indexes import ef_construction, next_segment
from services.document_rag.search.vectors import Kind, Segment, Space
from shared.identifiers import new_id
from tests.document_rag.chunk_program import DIMENSIONS, clustered
from tests.document_rag.search.vector_bench import WORTH, Bench, found_places, opened_bench
from tests.house.waiting import until_answered

VECTORS = clustered(3_000)


@pytest.fixture
async def bench(fresh_database: Callable[[], str]) -> AsyncIterator[Bench]:
    async with opened_bench(fresh_database) as opened:
        yield opened


def segments_of(*rows: int) -> list[Segment]:
    return [Segment(number, 8, 0, 0, count) for number, count in enumerate(rows, start=1)]


@pytest.mark.parametrize(
    ("rows", "waiting", "left", "size"),
    [
        ((), 100, None, 0),  # too few
        ((), 101, None, 101),
        ((1000,), 50, 1, 0),  # not worth it yet
        ((1000,), 51, 1, 51),
        ((1000, 100), 51, 1, 151),  # swallows what is not much larger
        ((300, 100), 100, None, 500),
        ((10_000, 400, 90), 60, 2, 150),
    ],
)
def test_a_segment_swallows_those_before_it_that_are_not_much_larger(
    rows: Sequence[int], waiting: int, left: int | None, size: int
) -> None:
    before, built = next_segment(segments_of(*rows), waiting, worth=100)
    assert built == size
    assert (before.segment_id if before else None) == left


def test_the_more_rows_a_segment_has_the_more_carefully_its_graph_is_made() -> None:
    assert [ef_construction(rows) for rows in (0, 20_000, 100_000, 320_000, 10**7)] == [100, 100, 149, 200, 200]


async def test_few_vectors_get_no_index_and_many_get_one(bench: Bench) -> None:
    collection = await bench.collection("t")
    await bench.fill(collection, VECTORS[:WORTH])
    assert await bench.indexes().keep() == 0
    await bench.fill(collection, VECTORS[WORTH : WORTH + 1], first=WORTH)
    assert await bench.indexes().keep() == 1
    assert await bench.indexes().keep() == 0
    [segment] = await bench.segments(collection)
    assert segment.rows == WORTH + 1
    assert await bench.index_names() == [segment.index_name]


async def test_a_space_that_is_being_filled_is_left_alone_until_it_is_quiet(bench: Bench) -> None:
    collection = await bench.collection("t")
    await bench.fill(collection, VECTORS[: WORTH + 1])
    indexes = bench.indexes(quiet_seconds=60)
    assert await indexes.keep() == 0
    await bench.fill(collection, VECTORS[WORTH + 1 :], first=WORTH + 1)
    assert await indexes.keep() == 0  # a bulk, of which more is on its way
    assert await indexes.keep() == 1  # unless far too many are waiting


async def test_a_load_that_has_ended_is_indexed_without_waiting(bench: Bench) -> None:
    collection = await bench.collection("t")
    await bench.fill(collection, VECTORS[: 2 * WORTH])
    indexes = bench.indexes(quiet_seconds=60)
    space = Space("t", Kind.PUSHED, collection.collection_id)
    indexes.load_ended(space, DIMENSIONS, WORTH // 2)  # one push of many, perhaps
    assert not indexes.bell.is_set()
    assert await indexes.keep() == 0
    indexes.load_ended(replace(space, key=new_id()), DIMENSIONS, 2 * WORTH)  # another collection's
    assert await indexes.keep() == 0
    indexes.load_ended(space, DIMENSIONS, 2 * WORTH)
    assert indexes.bell.is_set()
    assert await indexes.keep() == 1


async def test_a_load_has_ended_when_the_last_of_its_streams_has(bench: Bench) -> None:
    collection = await bench.collection("t")
    told: list[tuple[Space, int, int]] = []
    push = ChunkPush(bench.store(), HashedEmbedder(), lambda *load: told.append(load))
    second_is_on_its_way, second_may_end = asyncio.Event(), asyncio.Event()

    async def stream(first: int, ends: asyncio.Event) -> AsyncIterator[list[ChunkDraft]]:
        yield [ChunkDraft(f"c{place}", "", "{}", VECTORS[place].tobytes()) for place in range(first, first + 100)]
        second_is_on_its_way.set()
        await ends.wait()

    at_once = asyncio.Event()
    at_once.set()
    second = asyncio.create_task(push.upsert("t", collection.collection_id, stream(100, second_may_end)))
    await second_is_on_its_way.wait()
    await push.upsert("t", collection.collection_id, stream(0, at_once))
    assert told == []
    second_may_end.set()
    await second
    assert told == [(Space("t", Kind.PUSHED, collection.collection_id), DIMENSIONS, 200)]


async def test_how_far_an_index_is_counts_what_is_there_now(bench: Bench) -> None:
    collection = await bench.collection("t")
    store = bench.store()
    await bench.fill(collection, VECTORS[:700])
    before = await store.progress("t", collection, [])
    assert (before.chunks, before.indexed_vectors) == (700, 0)
    await bench.indexes().keep()
    await bench.fill(collection, VECTORS[700:800], first=700)
    await store.delete(collection, ["c0", "c1", "c701"], [])
    after = await store.progress("t", collection, [])
    assert (after.chunks, after.indexed_vectors) == (797, 698)
    even = await store.progress("t", collection, [Condition("half", Comparison.EQ, (0,))])
    assert (even.chunks, even.indexed_vectors) == (399, 698)


async def test_a_trickle_is_merged_into_few_segments_and_swallowed_indexes_go(bench: Bench) -> None:
    collection = await bench.collection("t")
    for start in range(0, 3_000, 300):
        await bench.fill(collection, VECTORS[start : start + 300], first=start)
        await bench.indexes().keep()
    segments = await bench.segments(collection)
    assert len(segments) <= 3
    assert await bench.index_names() == sorted(segment.index_name for segment in segments)
    assert [after.low for after in segments[1:]] == [before.high for before in segments[:-1]]
    found = await bench.ask(collection, VECTORS[5])
    assert found.mode is RetrievalMode.INDEX
    assert found_places(found)[0] == 5


async def test_an_index_that_is_not_needed_any_more_is_dropped(bench: Bench) -> None:
    collection = await bench.collection("t")
    await bench.fill(collection, VECTORS[: WORTH + 1])
    await bench.indexes().keep()
    await bench.store().delete(collection, [f"c{place}" for place in range(WORTH)], [])
    await bench.indexes().keep()
    assert await bench.index_names() == []
    found = await bench.ask(collection, VECTORS[0])
    assert found.mode is RetrievalMode.EXACT
    assert found_places(found) == [WORTH]


async def test_what_is_left_of_a_broken_build_is_cleared_and_the_index_is_built(bench: Bench) -> None:
    collection = await bench.collection("t")
    await bench.fill(collection, VECTORS)
    await _killed_while_building(bench, collection)
    broken = await bench.index_names()
    assert len(broken) == 1
    assert await bench.segments(collection) == []
    found = await bench.ask(collection, VECTORS[5])  # meanwhile everything is compared
    assert (found.mode, found_places(found)[0]) == (RetrievalMode.EXACT, 5)
    assert await _built(bench) == 1
    [segment] = await bench.segments(collection)
    assert await bench.index_names() == [segment.index_name] != broken


async def test_a_broken_build_that_is_not_needed_any_more_leaves_nothing(bench: Bench) -> None:
    collection = await bench.collection("t")
    await bench.fill(collection, VECTORS)
    await _killed_while_building(bench, collection)
    await bench.store().delete(collection, [f"c{place}" for place in range(len(VECTORS) - 10)], [])
    async with asyncio.timeout(30):
        while await bench.index_names():
            await bench.indexes().keep()


async def test_two_processes_do_not_build_the_same_index(bench: Bench) -> None:
    collection = await bench.collection("t")
    await bench.fill(collection, VECTORS)
    built = await asyncio.gather(*(bench.indexes().keep() for _ in range(3)))
    assert sum(built) == 1
    assert len(await bench.index_names()) == 1


async def _killed_while_building(bench: Bench, collection: PushedCollection) -> None:
    """Ends the database's own process at a build, as a kill -9 of it or of its client would."""
    table = Space("t", Kind.PUSHED, collection.collection_id).table
    owner, writer = [await asyncpg.connect(bench.url.get_secret_value()) for _ in range(2)]

    async def is_killed() -> bool:
        killing = "select bool_or(pg_terminate_backend(pid)) from pg_stat_progress_create_index where phase = $1"
        return bool(await owner.fetchval(killing, "waiting for writers before build"))

    async with writer.transaction():
        await writer.execute(f"lock table document_rag.{table} in row exclusive mode")
        dying = asyncio.create_task(bench.indexes().keep())
        await until_answered(is_killed)
        with pytest.raises(Exception, match="unavailable"):
            await dying
    await owner.close()
    await writer.close()


async def _built(bench: Bench) -> int:
    """The lock of the process that was killed goes a moment after it."""
    async with asyncio.timeout(30):
        while not (built := await bench.indexes().keep()):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return built
