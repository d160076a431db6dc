"""ChunkService over the wire: what a program pushes is durable, found at once, and refused whole when it is wrong."""

import asyncio
import json
from collections.abc import Callable

import grpc
import numpy as np
import pytest

from prosa.document_rag.v1 import chunk_service_pb2 as pb
from prosa.document_rag.v1 import collection_service_pb2 as collections_pb2
from prosa.document_rag.v1 import filter_pb2, search_service_pb2
from tests.document_rag.chunk_program import (
    DIMENSIONS,
    ChunkProgram,
    chunk,
    clustered,
    nearest,
    packed,
    reason_of,
    unpacked,
)
from tests.house.in_process import as_caller, token
from tests.house.signing import SigningKeys

ProgramOf = Callable[[str], ChunkProgram]
VECTORS = clustered(200)
EXACT = search_service_pb2.RETRIEVAL_MODE_EXACT


@pytest.fixture
def program_of(document_channel: grpc.aio.Channel, signing_keys: SigningKeys) -> ProgramOf:
    scopes = ("documents.read", "documents.write")
    return lambda tenant: ChunkProgram(
        document_channel, as_caller(token(signing_keys, tenant_id=tenant, scopes=scopes))
    )


@pytest.fixture
def program(program_of: ProgramOf, tenant_id: str) -> ChunkProgram:
    return program_of(tenant_id)


def equal(field: str, value: object) -> filter_pb2.MetadataCondition:
    kind = {"number_value": value} if isinstance(value, int) else {"string_value": value}
    return filter_pb2.MetadataCondition(field=field, values=[filter_pb2.MetadataValue(**kind)])


async def pushed(program: ChunkProgram, count: int = 50) -> str:
    collection_id = await program.collection()
    await program.upsert(
        collection_id,
        [chunk(f"c{place}", VECTORS[place], f"texto {place}", page=place % 5) for place in range(count)],
    )
    return collection_id


async def test_what_is_acknowledged_is_found_by_its_vector_at_once(program: ChunkProgram) -> None:
    collection_id = await pushed(program, 200)
    question = clustered(1, seed=11)[0]
    found = await program.query(collection_id, question)
    assert [each.chunk.chunk_id for each in found.chunks] == [f"c{place}" for place in nearest(VECTORS, question)]
    assert found.retrieval_mode == EXACT
    best = found.chunks[0]
    place = nearest(VECTORS, question)[0]
    assert best.score == pytest.approx(float(VECTORS[place] @ question), abs=2e-3)
    assert best.chunk.text == f"texto {place}"
    assert best.chunk.metadata["page"] == place % 5


async def test_a_ready_vector_may_be_given_as_numbers_and_of_any_length(program: ChunkProgram) -> None:
    collection_id = await pushed(program)
    question = VECTORS[3] * 1e30
    request = pb.QueryChunksRequest(collection_id=collection_id, values=question.tolist(), top_k=1)
    found = await program.chunks.QueryChunks(request, metadata=program.metadata)
    assert found.chunks[0].chunk.chunk_id == "c3"
    assert found.chunks[0].score == pytest.approx(1.0, abs=1e-3)


async def test_the_same_id_again_is_replaced_and_the_same_content_again_changes_nothing(program: ChunkProgram) -> None:
    collection_id = await program.collection()
    first = [chunk("a", VECTORS[0], "um"), chunk("b", VECTORS[1], "dois")]
    created = await program.upsert(collection_id, first)
    assert (created.created_count, created.updated_count, created.unchanged_count) == (2, 0, 0)
    before = await program.get(collection_id, ["a", "b"])
    again = await program.upsert(collection_id, [first[0], chunk("b", VECTORS[2], "três")])
    assert (again.created_count, again.updated_count, again.unchanged_count) == (0, 1, 1)
    a, b = await program.get(collection_id, ["a", "b"])
    assert a == before[0]
    assert b.text == "três"
    found = await program.query(collection_id, VECTORS[2], top_k=1)
    assert found.chunks[0].chunk.chunk_id == "b"
    assert found.chunks[0].score == pytest.approx(1.0, abs=1e-3)


async def test_chunks_come_in_the_order_asked_and_what_is_missing_is_left_out(program: ChunkProgram) -> None:
    collection_id = await pushed(program)
    chunks = await program.get(collection_id, ["c9", "nobody", "c1", "c4"], vectors=True)
    assert [each.chunk_id for each in chunks] == ["c9", "c1", "c4"]
    np.testing.assert_allclose(unpacked(chunks[1].vector), VECTORS[1], atol=1e-3)
    assert (await program.get(collection_id, ["c1"]))[0].vector == b""


async def test_pages_go_through_all_chunks_once(program: ChunkProgram) -> None:
    collection_id = await pushed(program)
    seen, token = [], ""
    while True:
        page = await program.chunks.ListChunks(
            pb.ListChunksRequest(collection_id=collection_id, page_size=20, page_token=token), metadata=program.metadata
        )
        seen += [each.chunk_id for each in page.chunks]
        token = page.next_page_token
        if not token:
            break
    assert sorted(seen) == sorted(f"c{place}" for place in range(50))
    assert len(seen) == 50


async def test_what_is_deleted_is_found_by_nothing(program: ChunkProgram) -> None:
    collection_id = await pushed(program)
    assert await program.delete(collection_id, chunk_ids=["c3", "c3", "nobody"]) == 1
    assert await program.delete(collection_id, metadata_filter=[equal("page", 0)]) == 10
    found = await program.query(collection_id, VECTORS[3], top_k=100)
    ids = {each.chunk.chunk_id for each in found.chunks}
    assert ids == {f"c{place}" for place in range(50) if place != 3 and place % 5}
    assert (await program.count(collection_id)).chunk_count == 39


async def test_a_deletion_that_names_nothing_deletes_nothing(program: ChunkProgram) -> None:
    collection_id = await pushed(program)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await program.delete(collection_id)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (await program.count(collection_id)).chunk_count == 50


async def test_a_filter_still_gives_as_many_as_there_are(program: ChunkProgram) -> None:
    collection_id = await pushed(program)
    found = await program.query(collection_id, VECTORS[0], top_k=8, metadata_filter=[equal("page", 2)])
    places = [place for place in range(50) if place % 5 == 2]
    expected = [places[at] for at in nearest(VECTORS[places], VECTORS[0], 8)]
    assert [each.chunk.chunk_id for each in found.chunks] == [f"c{place}" for place in expected]
    counted = await program.chunks.CountChunks(
        pb.CountChunksRequest(collection_id=collection_id, metadata_filter=[equal("page", 2)]),
        metadata=program.metadata,
    )
    assert counted.chunk_count == 10


async def test_the_service_makes_the_vectors_of_a_collection_without_a_model(program: ChunkProgram) -> None:
    collection_id = await program.collection(dimensions=0)
    texts = {"lixo": "A coleta de lixo passa às terças.", "iptu": "O IPTU vence em fevereiro."}
    await program.upsert(collection_id, [chunk(name, text=text) for name, text in texts.items()])
    found = await program.chunks.QueryChunks(
        pb.QueryChunksRequest(collection_id=collection_id, text="quando passa a coleta de lixo", top_k=1),
        metadata=program.metadata,
    )
    assert found.chunks[0].chunk.chunk_id == "lixo"


WRONG = {
    "too few dimensions": (chunk("bad", VECTORS[0][:7]), "VECTOR_DIMENSIONS_WRONG"),
    "no vector": (chunk("bad", text="só texto"), "VECTOR_MISSING"),
    "half a number": (pb.Chunk(chunk_id="bad", vector=packed(VECTORS[0]) + b"\0"), "VECTOR_DIMENSIONS_WRONG"),
    "not a number": (chunk("bad", np.full(DIMENSIONS, np.nan, np.float32)), "VECTOR_INVALID"),
    "infinite": (chunk("bad", np.array([np.inf] + [1.0] * 7, np.float32)), "VECTOR_INVALID"),
    "zero": (chunk("bad", np.zeros(DIMENSIONS, np.float32)), "VECTOR_INVALID"),
    "metadata too large": (chunk("bad", VECTORS[0], note="x" * 17_000), "METADATA_TOO_LARGE"),
    "twice": (chunk("c0", VECTORS[1]), "CHUNK_ID_REPEATED"),
    "no id": (chunk("", VECTORS[0]), "VALIDATION_FAILED"),
    "an id too long": (chunk("é" * 128, VECTORS[0]), "VALIDATION_FAILED"),
    "a text too long": (chunk("bad", VECTORS[0], "x" * 65_537), "VALIDATION_FAILED"),
    "NUL in the text": (chunk("bad", VECTORS[0], "a\0b"), "VALIDATION_FAILED"),
    "NUL in the metadata": (chunk("bad", VECTORS[0], note="a\0b"), "VALIDATION_FAILED"),
    "a number that is none in the metadata": (chunk("bad", VECTORS[0], note=float("nan")), "VALIDATION_FAILED"),
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_a_batch_with_one_bad_chunk_is_refused_whole(program: ChunkProgram, wrong: str) -> None:
    bad, reason = WRONG[wrong]
    collection_id = await program.collection()
    good = [chunk(f"c{place}", VECTORS[place]) for place in range(4)]
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await program.upsert(collection_id, good[:1], [*good[1:], good[0], bad])
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    info = reason_of(refused.value)
    assert info.reason == reason
    assert info.metadata["written"] == "1"
    assert [each.chunk_id for each in await program.get(collection_id, ["c0", "c1", "c2", "c3", "bad"])] == ["c0"]


@pytest.mark.parametrize("vector", [VECTORS[0][:3], np.zeros(DIMENSIONS, np.float32), VECTORS[0] * np.nan])
async def test_a_question_that_has_no_direction_is_refused(program: ChunkProgram, vector: np.ndarray) -> None:
    collection_id = await pushed(program)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await program.query(collection_id, vector)
    assert reason_of(refused.value).reason in {"VECTOR_DIMENSIONS_WRONG", "VECTOR_INVALID"}


async def test_programs_that_write_the_same_chunks_at_once_agree(program: ChunkProgram) -> None:
    collection_id = await program.collection()
    chunks = [chunk(f"c{place}", VECTORS[place]) for place in range(200)]
    written = await asyncio.gather(
        *(program.upsert(collection_id, chunks if turn % 2 else chunks[::-1]) for turn in range(8))
    )
    assert sum(each.created_count for each in written) == 200
    assert sum(each.unchanged_count for each in written) == 7 * 200
    assert (await program.count(collection_id)).chunk_count == 200


async def test_no_tenant_reaches_anothers_chunks(program_of: ProgramOf, tenant_id: str) -> None:
    owner, stranger = program_of(tenant_id), program_of(f"{tenant_id}-other")
    collection_id = await pushed(owner)
    calls = (
        lambda: stranger.query(collection_id, VECTORS[0]),
        lambda: stranger.get(collection_id, ["c0"]),
        lambda: stranger.count(collection_id),
        lambda: stranger.delete(collection_id, chunk_ids=["c0"]),
        lambda: stranger.upsert(collection_id, [chunk("c0", VECTORS[0], "outro")]),
    )
    for call in calls:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call()
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    assert (await owner.get(collection_id, ["c0"]))[0].text == "texto 0"


async def test_json_lines_cut_anywhere_are_chunks(program: ChunkProgram) -> None:
    collection_id = await program.collection()
    content = (
        "".join(
            json.dumps(
                {"chunkId": f"c{place}", "text": "ação", "vector": VECTORS[place].tolist(), "metadata": {"n": place}}
            )
            + "\n"
            for place in range(3)
        )
        .encode()
        .rstrip()
    )
    pieces = [content[start : start + 7] for start in range(0, len(content), 7)]
    requests = [pb.UpsertChunksRequest(collection_id=collection_id, lines=piece) for piece in pieces]
    written = await program.chunks.UpsertChunks(iter(requests), metadata=program.metadata)
    assert written.created_count == 3
    assert [each.metadata["n"] for each in await program.get(collection_id, ["c2", "c0"])] == [2, 0]


NO_CHUNKS = [
    b"{",
    b"[]",
    b'{"chunkId": 3}',
    b'{"chunkId": "a", "vector": "x"}',
    b'{"other": 1}',
    b'{"chunkId": "a", "vector": [0,0,0,0,0,0,0,1], "metadata": {"half": "\\ud800"}}',
    b'{"chunkId": "a", "vector": [0,0,0,0,0,0,0,1], "metadata": {"deep": ' + b"[" * 40 + b"]" * 40 + b"}}",
]


@pytest.mark.parametrize("line", NO_CHUNKS)
async def test_a_line_that_is_no_chunk_is_named(program: ChunkProgram, line: bytes) -> None:
    collection_id = await program.collection()
    good = json.dumps({"chunkId": "c0", "vector": VECTORS[0].tolist()}).encode()
    request = pb.UpsertChunksRequest(collection_id=collection_id, lines=good + b"\n" + line)
    with pytest.raises(grpc.aio.AioRpcError, match="not valid") as refused:
        await program.chunks.UpsertChunks(iter([request]), metadata=program.metadata)
    assert reason_of(refused.value).reason == "VALIDATION_FAILED"
    assert (await program.count(collection_id)).chunk_count == 0


async def test_a_deleted_collection_takes_its_chunks_with_it(program: ChunkProgram) -> None:
    collection_id = await pushed(program)
    request = collections_pb2.DeleteCollectionRequest(collection_id=collection_id)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await program.collections.DeleteCollection(request, metadata=program.metadata)
    assert reason_of(refused.value).reason == "COLLECTION_NOT_EMPTY"
    request.delete_documents = True
    await program.collections.DeleteCollection(request, metadata=program.metadata)
    with pytest.raises(grpc.aio.AioRpcError) as gone:
        await program.get(collection_id, ["c0"])
    assert gone.value.code() is grpc.StatusCode.NOT_FOUND
