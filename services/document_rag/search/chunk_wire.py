"""Pushed chunks between protobuf, JSON Lines and the model."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import numpy as np
from google.protobuf.struct_pb2 import Struct, Value

from prosa.document_rag.v1 import chunk_service_pb2 as pb
from services.document_rag.model import DEFAULT_TOP_K
from services.document_rag.search.chunk_model import (
    ChunkDraft,
    Nearest,
    Progress,
    PushedChunk,
    Written,
    canonical,
    unit_vector,
    unit_vectors,
)
from services.document_rag.search.embedders import Vectors
from services.document_rag.search.wire import RETRIEVAL_MODES
from shared.errors import FieldViolation, InvalidArgument

UpsertStream = AsyncIterator[pb.UpsertChunksRequest]

MAX_LINE_BYTES = 1024 * 1024
LINES_A_BATCH = 500
# A Struct that is nested deeper is a message that no client of gRPC can read any more, whoever finds the chunk.
MAX_METADATA_LEVELS = 20
_LARGEST_WHOLE = 2**53  # beyond it a double skips whole numbers
_FIELDS = {"chunkId", "text", "metadata", "vector"}


async def upsert_of(requests: UpsertStream) -> tuple[str, AsyncIterator[Sequence[ChunkDraft]]]:
    """The collection that the first message names, and the batches of all of them."""
    first = await anext(requests, pb.UpsertChunksRequest())
    return first.collection_id, _batches(first, requests)


async def _batches(first: pb.UpsertChunksRequest, others: UpsertStream) -> AsyncIterator[Sequence[ChunkDraft]]:
    lines = _Lines()
    for batch in _batches_of(first, lines):
        yield batch
    async for request in others:
        for batch in _batches_of(request, lines):
            yield batch
    if rest := lines.end():
        yield rest


def _batches_of(request: pb.UpsertChunksRequest, lines: "_Lines") -> list[Sequence[ChunkDraft]]:
    batches: list[Sequence[ChunkDraft]] = []
    if request.chunks:
        batches.append([_draft(chunk) for chunk in request.chunks])
    if request.lines:
        batches += lines.feed(request.lines)
    return batches


def _draft(chunk: pb.Chunk) -> ChunkDraft:
    metadata = canonical(_plain_struct(chunk.metadata)) if chunk.HasField("metadata") else "{}"
    return ChunkDraft(chunk.chunk_id, chunk.text, metadata, chunk.vector)


class _Lines:
    """JSON Lines as they come by, cut anywhere."""

    def __init__(self) -> None:
        self._rest = b""
        self._drafts: list[ChunkDraft] = []
        self._read = 0

    def feed(self, piece: bytes) -> list[Sequence[ChunkDraft]]:
        """The batches that are full now."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        if len(self._rest) > MAX_LINE_BYTES:
            raise self._refused(f"a line may have {MAX_LINE_BYTES} bytes at most")
        batches: list[Sequence[ChunkDraft]] = []
        for line in lines:
            self._take(line)
            if len(self._drafts) == LINES_A_BATCH:
                batches.append(self._drafts)
                self._drafts = []
        return batches

    def end(self) -> Sequence[ChunkDraft]:
        """What is left at the end of the file, which may lack its last line break."""
        self._take(self._rest)
        return self._drafts

    def _take(self, line: bytes) -> None:
        self._read += 1
        if not line.strip():
            return
        try:
            content = json.loads(line)
        except (ValueError, RecursionError):
            raise self._refused("is not JSON") from None
        if not isinstance(content, dict) or not content.keys() <= _FIELDS:
            raise self._refused("must be an object of chunkId, text, metadata and vector")
        self._drafts.append(self._draft(content))

    def _draft(self, content: dict[str, Any]) -> ChunkDraft:
        chunk_id, text = content.get("chunkId", ""), content.get("text", "")
        metadata, vector = content.get("metadata", {}), content.get("vector", [])
        if not isinstance(chunk_id, str) or not isinstance(text, str) or not isinstance(metadata, dict):
            raise self._refused("chunkId and text must be strings, metadata an object")
        if not _is_shallow(metadata, MAX_METADATA_LEVELS):
            raise self._refused(f"metadata may be nested {MAX_METADATA_LEVELS} levels deep at most")
        kept = canonical(metadata)
        try:
            for each in (chunk_id, text, kept):
                each.encode()
            with np.errstate(over="ignore"):
                packed = np.array(vector, dtype="<f4").reshape(-1).tobytes()
        except (ValueError, TypeError, OverflowError):
            raise self._refused("vector must be an array of numbers, texts must be Unicode") from None
        return ChunkDraft(chunk_id, text, kept, packed)

    def _refused(self, description: str) -> InvalidArgument:
        return InvalidArgument(violations=[FieldViolation("lines", f"line {self._read}: {description}", "json_lines")])


def _is_shallow(value: object, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return True
    inner = value.values() if isinstance(value, dict) else value
    return levels > 0 and all(_is_shallow(each, levels - 1) for each in inner)


def upsert_response(written: Written) -> pb.UpsertChunksResponse:
    """What became of a stream."""
    return pb.UpsertChunksResponse(
        created_count=written.created, updated_count=written.updated, unchanged_count=written.unchanged
    )


def query_vector(request: pb.QueryChunksRequest, dimensions: int) -> Vectors | None:
    """The vector that the query brings, or None when it brings a text. InvalidArgument unless it brings one thing."""
    if bool(request.vector) + bool(request.values) + bool(request.text) != 1:
        description = "exactly one of vector, values and text must be given"
        raise InvalidArgument(violations=[FieldViolation("vector", description, "query_chunks.question")])
    if request.vector:
        return np.asarray(unit_vectors([request.vector], dimensions)[0])
    return unit_vector(list(request.values), dimensions) if request.values else None


def top_k_of(request: pb.QueryChunksRequest) -> int:
    """How many chunks are wanted, the unspecified filled in."""
    return request.top_k or DEFAULT_TOP_K


def checked_deletion(request: pb.DeleteChunksRequest) -> pb.DeleteChunksRequest:
    """The request; InvalidArgument unless it names chunks by one thing, for a slip must not delete everything."""
    if bool(request.chunk_ids) + bool(request.metadata_filter) != 1:
        description = "either chunk_ids or metadata_filter must be given"
        raise InvalidArgument(violations=[FieldViolation("chunk_ids", description, "delete_chunks.selection")])
    return request


def query_response(found: Nearest) -> pb.QueryChunksResponse:
    """What a query found."""
    response = pb.QueryChunksResponse(retrieval_mode=RETRIEVAL_MODES[found.mode])
    for each in found.chunks:
        _fill(response.chunks.add(score=each.similarity).chunk, each.chunk)
    return response


def count_response(progress: Progress) -> pb.CountChunksResponse:
    """How many chunks there are, and how far their indexes are."""
    return pb.CountChunksResponse(
        chunk_count=progress.chunks,
        indexed_vector_count=progress.indexed_vectors,
        unindexed_text_count=progress.unindexed_texts,
    )


def chunk_message(chunk: PushedChunk) -> pb.Chunk:
    """A chunk as clients see it."""
    message = pb.Chunk()
    _fill(message, chunk)
    return message


def _fill(message: pb.Chunk, chunk: PushedChunk) -> None:
    """In place: a message that is put into another one is copied."""
    message.chunk_id, message.text = chunk.chunk_id, chunk.text
    message.metadata.SetInParent()
    message.metadata.update(chunk.metadata)
    message.update_time.FromDatetime(chunk.updated_at)
    if chunk.vector is not None:
        message.vector = chunk.vector.astype("<f4").tobytes()


def list_position(position: Mapping[str, Any] | None) -> int:
    """The number after which a page begins. InvalidArgument when the token says none."""
    if position is None:
        return 0
    match position.get("after"):
        case int(after) if 0 <= after < 2**63:
            return after
        case _:
            raise InvalidArgument("page_token is not valid", reason="PAGE_TOKEN_INVALID")


def _plain_struct(struct: Struct) -> dict[str, Any]:
    return {name: _plain(value) for name, value in struct.fields.items()}


def _plain(value: Value) -> Any:
    match value.WhichOneof("kind"):
        case "string_value":
            return value.string_value
        case "number_value":
            number = value.number_value
            return int(number) if number.is_integer() and abs(number) < _LARGEST_WHOLE else number
        case "bool_value":
            return value.bool_value
        case "struct_value":
            return _plain_struct(value.struct_value)
        case "list_value":
            return [_plain(each) for each in value.list_value.values]
        case _:
            return None
