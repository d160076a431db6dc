"""Chunks as programs push them: what one is, what it may hold, and when its vector can be compared."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from services.document_rag.model import RetrievalMode, refuse_nul
from services.document_rag.search.embedders import Vectors
from shared.errors import FieldViolation, InvalidArgument

MAX_ID_BYTES = 255
MAX_TEXT_BYTES = 65_536
MAX_METADATA_BYTES = 16_384
BYTES_A_DIMENSION = 4
_CANONICAL = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)


class VectorDimensionsWrong(InvalidArgument):
    """The vector has not as many dimensions as the vectors it would be compared with."""

    reason = "VECTOR_DIMENSIONS_WRONG"


class VectorInvalid(InvalidArgument):
    """The vector is not finite, or has no direction: all of it is zero."""

    reason = "VECTOR_INVALID"


class VectorMissing(InvalidArgument):
    """Programs bring the vectors of this collection, and this one did not."""

    reason = "VECTOR_MISSING"


class MetadataTooLarge(InvalidArgument):
    """The metadata of a chunk are larger than they may be."""

    reason = "METADATA_TOO_LARGE"


class ChunkIdRepeated(InvalidArgument):
    """A batch brings two chunks of one id: which of them is meant cannot be told."""

    reason = "CHUNK_ID_REPEATED"


@dataclass(frozen=True, slots=True)
class PushedCollection:
    """A collection as its chunks see it. `home` is the tenant that its rows belong to.

    `embedding_model` makes or made its vectors, each of `dimensions`; `brings_vectors`: it is the program that does.
    """

    home: str
    collection_id: str
    embedding_model: str
    dimensions: int
    brings_vectors: bool


@dataclass(frozen=True, slots=True)
class ChunkDraft:
    """A chunk as it was pushed. `metadata` is JSON; `vector` little-endian 4-byte floats, empty when none came."""

    chunk_id: str
    text: str
    metadata: str
    vector: bytes


@dataclass(frozen=True, slots=True)
class PushedChunk:
    """A chunk as kept; `number` ascends in the order of writing. `vector` is None where it was not asked for."""

    chunk_id: str
    number: int
    text: str
    metadata: Mapping[str, Any]
    updated_at: datetime
    vector: Vectors | None = None


@dataclass(frozen=True, slots=True)
class NearChunk:
    """A found chunk; `similarity` is the cosine of the angle to the query, from -1 to 1."""

    chunk: PushedChunk
    similarity: float


@dataclass(frozen=True, slots=True)
class Nearest:
    """What a query found, nearest first, and how."""

    chunks: tuple[NearChunk, ...]
    mode: RetrievalMode


@dataclass(frozen=True, slots=True)
class Written:
    """How many chunks were not there, were there with another content, and were there just so."""

    created: int = 0
    updated: int = 0
    unchanged: int = 0

    def __add__(self, other: "Written") -> "Written":
        return Written(self.created + other.created, self.updated + other.updated, self.unchanged + other.unchanged)

    @property
    def total(self) -> int:
        """All that a program need not send again."""
        return self.created + self.updated + self.unchanged


@dataclass(frozen=True, slots=True)
class Progress:
    """Chunks that meet a filter; of the whole collection, those behind an approximate index and those with a text whose
    words are not indexed yet."""

    chunks: int
    indexed_vectors: int
    unindexed_texts: int


def checked(drafts: Sequence[ChunkDraft], collection: PushedCollection) -> None:
    """Refuses the batch for its first chunk that cannot be kept; the vectors' numbers are checked by unit_vectors."""
    seen: set[str] = set()
    width = collection.dimensions * BYTES_A_DIMENSION
    for draft in drafts:
        about = {"chunk_id": draft.chunk_id[:MAX_ID_BYTES]}
        if draft.chunk_id in seen:
            raise ChunkIdRepeated("a message brings a chunk twice", metadata=about)
        seen.add(draft.chunk_id)
        if len(draft.metadata) > MAX_METADATA_BYTES // 4 and len(draft.metadata.encode()) > MAX_METADATA_BYTES:
            text = f"the metadata of a chunk may have {MAX_METADATA_BYTES} bytes at most"
            raise MetadataTooLarge(text, metadata=about)
        if not 0 < len(draft.chunk_id.encode()) <= MAX_ID_BYTES:
            raise _invalid("chunk_id", f"must have 1 to {MAX_ID_BYTES} bytes", about)
        if len(draft.text.encode()) > MAX_TEXT_BYTES:
            raise _invalid("text", f"may have {MAX_TEXT_BYTES} bytes at most", about)
        if "\0" in draft.chunk_id or "\0" in draft.text or "\\u0000" in draft.metadata:
            refuse_nul({"chunk_id": draft.chunk_id, "text": draft.text, "metadata": "\0"})
        if not collection.brings_vectors and draft.vector:
            raise _invalid("vector", "the service makes the vectors of this collection", about)
        if not collection.brings_vectors and not draft.text.strip():
            raise _invalid("text", "must not be empty where the service makes the vectors", about)
        if collection.brings_vectors and len(draft.vector) != width:
            raise _unfit(draft.vector, collection.dimensions, about)


def unit_vectors(raw: Sequence[bytes], dimensions: int, ids: Sequence[str] = ()) -> Vectors:
    """Little-endian floats → rows of length 1. VectorDimensionsWrong, VectorInvalid."""
    for number, each in enumerate(raw):
        if len(each) != dimensions * BYTES_A_DIMENSION:
            raise _unfit(each, dimensions, {"chunk_id": ids[number]} if ids else {})
    matrix = np.frombuffer(b"".join(raw), dtype="<f4").reshape(len(raw), dimensions)
    return _of_length_one(matrix, ids)


def unit_vector(values: Sequence[float] | npt.NDArray[np.float32], dimensions: int) -> Vectors:
    """One vector of numbers, of length 1. VectorDimensionsWrong, VectorInvalid."""
    matrix = np.asarray(values, dtype=np.float32).reshape(1, -1)
    if matrix.shape[1] != dimensions:
        raise _unfit(b"\0" * matrix.shape[1] * BYTES_A_DIMENSION, dimensions, {})
    return np.asarray(_of_length_one(matrix, ())[0])


def canonical(metadata: Mapping[str, Any]) -> str:
    """The metadata as JSON that is the same for the same content. InvalidArgument for numbers that are not finite."""
    try:
        return _CANONICAL.encode(metadata)
    except ValueError:
        raise _invalid("metadata", "must hold finite numbers only", {}) from None


def _of_length_one(matrix: npt.NDArray[np.float32], ids: Sequence[str]) -> Vectors:
    # Brought near 1 first: the squares of numbers near the ends of what 4 bytes can say would overflow, or vanish.
    with np.errstate(all="ignore"):
        largest = np.maximum(matrix.max(axis=1, keepdims=True), -matrix.min(axis=1, keepdims=True))
        units = matrix / largest
        units /= np.sqrt(np.einsum("ij,ij->i", units, units))[:, None]
    fine = np.isfinite(units[:, 0]) & np.isfinite(largest[:, 0]) & (largest[:, 0] > 0)
    if not fine.all():
        first = int(np.argmin(fine))
        raise VectorInvalid("a vector is zero or not finite", metadata={"chunk_id": ids[first]} if ids else {})
    return np.asarray(units, dtype=np.float32)


def _unfit(vector: bytes, dimensions: int, about: Mapping[str, str]) -> InvalidArgument:
    if not vector:
        return VectorMissing("the vectors of this collection are brought by the program", metadata=about)
    length = len(vector) / BYTES_A_DIMENSION
    text = f"a vector has {length:g} dimensions, the collection's have {dimensions}"
    return VectorDimensionsWrong(text, metadata={**about, "dimensions": str(dimensions)})


def _invalid(field: str, description: str, about: Mapping[str, str]) -> InvalidArgument:
    return InvalidArgument(violations=[FieldViolation(field, description, f"chunk.{field}")], metadata=about)
