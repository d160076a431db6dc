"""A program of one tenant that pushes chunks, as tests need it."""

from collections.abc import Iterable, Sequence

import grpc
import numpy as np
import numpy.typing as npt
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from prosa.document_rag.v1 import chunk_service_pb2 as pb
from prosa.document_rag.v1 import collection_service_pb2 as collections_pb2
from prosa.document_rag.v1.chunk_service_pb2_grpc import ChunkServiceStub
from prosa.document_rag.v1.collection_service_pb2_grpc import CollectionServiceStub
from shared.identifiers import new_id
from tests.house.in_process import Metadata

DIMENSIONS = 8
Matrix = npt.NDArray[np.float32]


class ChunkProgram:
    """Calls ChunkService as one tenant; most calls concern one collection."""

    def __init__(self, channel: grpc.aio.Channel, metadata: Metadata) -> None:
        self.metadata = metadata
        self.chunks = ChunkServiceStub(channel)
        self.collections = CollectionServiceStub(channel)

    async def collection(self, dimensions: int = DIMENSIONS) -> str:
        """A new collection; with dimensions, one whose vectors are brought."""
        brings = {"embedding_model": "test-model", "dimensions": dimensions} if dimensions else {}
        made = await self.collections.CreateCollection(
            collections_pb2.CreateCollectionRequest(
                collection=collections_pb2.Collection(display_name=new_id(), **brings)  # type: ignore[arg-type]
            ),
            metadata=self.metadata,
        )
        return str(made.collection_id)

    async def upsert(self, collection_id: str, *batches: Iterable[pb.Chunk]) -> pb.UpsertChunksResponse:
        """One message a batch."""
        requests = [pb.UpsertChunksRequest(collection_id=collection_id, chunks=batch) for batch in batches]
        return await self.chunks.UpsertChunks(iter(requests), metadata=self.metadata)

    async def get(self, collection_id: str, ids: Sequence[str], *, vectors: bool = False) -> list[pb.Chunk]:
        """The chunks of these ids."""
        request = pb.GetChunksRequest(collection_id=collection_id, chunk_ids=ids, include_vectors=vectors)
        return list((await self.chunks.GetChunks(request, metadata=self.metadata)).chunks)

    async def query(
        self, collection_id: str, vector: Matrix, top_k: int = 10, **more: object
    ) -> pb.QueryChunksResponse:
        """What is nearest to the vector."""
        request = pb.QueryChunksRequest(
            collection_id=collection_id,
            vector=packed(vector),
            top_k=top_k,
            **more,  # type: ignore[arg-type]
        )
        return await self.chunks.QueryChunks(request, metadata=self.metadata)

    async def count(self, collection_id: str) -> pb.CountChunksResponse:
        """How many there are, and how far the indexes are."""
        return await self.chunks.CountChunks(pb.CountChunksRequest(collection_id=collection_id), metadata=self.metadata)

    async def delete(self, collection_id: str, **what: object) -> int:
        """By chunk_ids or metadata_filter."""
        request = pb.DeleteChunksRequest(collection_id=collection_id, **what)  # type: ignore[arg-type]
        return int((await self.chunks.DeleteChunks(request, metadata=self.metadata)).deleted_count)


def reason_of(refused: grpc.aio.AioRpcError) -> error_details_pb2.ErrorInfo:
    """What a program branches on."""
    info = error_details_pb2.ErrorInfo()
    status = rpc_status.from_call(refused)
    assert status is not None
    assert status.details[0].Unpack(info)
    return info


def chunk(chunk_id: str, vector: Matrix | None = None, text: str = "", **metadata: object) -> pb.Chunk:
    """A chunk to push."""
    made = pb.Chunk(chunk_id=chunk_id, text=text, vector=b"" if vector is None else packed(vector))
    made.metadata.update(metadata)  # type: ignore[arg-type]
    return made


def packed(vector: Matrix) -> bytes:
    """As the wire carries it."""
    return vector.astype("<f4").tobytes()


def unpacked(vector: bytes) -> Matrix:
    """The way back."""
    return np.frombuffer(vector, dtype="<f4")


def clustered(count: int, dimensions: int = DIMENSIONS, seed: int = 7, clusters: int = 20) -> Matrix:
    """Unit vectors in clusters, always the same."""
    chance = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(clusters, dimensions))
    vectors = centres[chance.integers(clusters, size=count)] + chance.normal(size=(count, dimensions))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


def nearest(vectors: Matrix, question: Matrix, count: int = 10) -> list[int]:
    """The places of the truly nearest, nearest first."""
    return [int(place) for place in np.argsort(-(vectors @ question), kind="stable")[:count]]
