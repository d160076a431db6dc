"""A program that pushes chunks over gRPC and asks for them: asks our service what `chroma_peer` asks the peer."""

import asyncio
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import numpy.typing as npt

from prosa.document_rag.v1 import chunk_service_pb2 as pb
from prosa.document_rag.v1 import collection_service_pb2, search_service_pb2
from prosa.document_rag.v1.chunk_service_pb2_grpc import ChunkServiceStub
from prosa.document_rag.v1.collection_service_pb2_grpc import CollectionServiceStub
from shared.identifiers import new_id
from tests.bench.pace import alone, together
from tests.house.in_process import Metadata, as_caller, token
from tests.house.signing import SigningKeys

TEXT = "Qual é o prazo para pagar o IPTU deste ano, e onde encontro a segunda via do boleto? " * 5
BATCH = 500
PERMISSIONS = {"documents.read", "documents.write"}
SECONDS = 600.0
INDEX_SECONDS = 1800.0

if TYPE_CHECKING:  # exists for type checkers only
    from prosa.document_rag.v1.chunk_service_pb2_grpc import ChunkServiceAsyncStub

Matrix = npt.NDArray[np.float32]


class Pusher:
    """One tenant's program with one collection."""

    def __init__(
        self, channel: grpc.aio.Channel, keys: SigningKeys, tenant: str, vectors: Matrix, asked: Matrix
    ) -> None:
        signed = token(keys, tenant_id=tenant, user_id="ana", scopes=PERMISSIONS, lifetime_seconds=36_000)
        self._metadata: Metadata = as_caller(signed)
        self._collections = CollectionServiceStub(channel)
        self._stub: ChunkServiceAsyncStub = ChunkServiceStub(channel)
        self._vectors = vectors
        self._questions = [vector.astype("<f4").tobytes() for vector in asked]
        self._collection_id = ""
        self.candidates = 0
        self.modes: set[search_service_pb2.RetrievalMode.ValueType] = set()

    async def ingest(self, places: Sequence[int]) -> float:
        """Seconds to put these rows into a collection of their own, durable and searchable."""
        made = await self._collections.CreateCollection(
            collection_service_pb2.CreateCollectionRequest(
                collection=collection_service_pb2.Collection(
                    display_name=new_id(), embedding_model="bench", dimensions=self._vectors.shape[1]
                )
            ),
            metadata=self._metadata,
        )
        self._collection_id = made.collection_id
        began = time.perf_counter()
        await self._stub.UpsertChunks(self._requests(places), metadata=self._metadata, timeout=SECONDS)
        return time.perf_counter() - began

    async def indexed(self, rows: int) -> float:
        """Waits until an approximate index covers so many; the seconds since it was asked first."""
        return await self._counted(lambda counted: counted.indexed_vector_count >= rows)

    async def found_by_words(self) -> float:
        """Waits until all words are indexed; the seconds since it was asked first."""
        return await self._counted(lambda counted: not counted.unindexed_text_count)

    async def _counted(self, holds: Callable[[pb.CountChunksResponse], bool]) -> float:
        began = time.perf_counter()
        request = pb.CountChunksRequest(collection_id=self._collection_id)
        while time.perf_counter() - began < INDEX_SECONDS:
            if holds(await self._stub.CountChunks(request, metadata=self._metadata, timeout=SECONDS)):
                return time.perf_counter() - began
            await asyncio.sleep(0.1)
        raise TimeoutError("no index came")

    async def alone(self, seconds: float) -> dict[str, Any]:
        """Milliseconds, median, of one caller; and what each question found."""
        found = [await self.ask(str(number)) for number in range(len(self._questions))]
        numbers = iter(range(10**9))
        milliseconds = await alone(lambda _: self.ask(str(next(numbers))), "", seconds)
        return {"milliseconds": milliseconds, "found": found}

    async def together(self, clients: int, seconds: float) -> float:
        """Calls per second of so many callers."""
        counts = [iter(range(client * 37, 10**9)) for client in range(clients)]
        return await together(
            lambda client: self.ask(str(next(counts[int(client)]))), list(map(str, range(clients))), seconds
        )

    async def add_and_ask(self, first: int, rows: int, rounds: int) -> float:
        """Milliseconds, median, to add so many rows and ask at once."""
        took = []
        for number in range(rounds):
            began = time.perf_counter()
            requests = self._requests(range(first, first + rows), f"-{number}")
            await self._stub.UpsertChunks(requests, metadata=self._metadata, timeout=SECONDS)
            await self.ask(str(number))
            took.append(time.perf_counter() - began)
        return statistics.median(took) * 1000

    async def ask(self, number: str) -> list[str]:
        """The chunks that the question finds."""
        question = self._questions[int(number) % len(self._questions)]
        request = pb.QueryChunksRequest(
            collection_id=self._collection_id, vector=question, top_k=10, candidates=self.candidates
        )
        found = await self._stub.QueryChunks(request, metadata=self._metadata, timeout=SECONDS)
        self.modes.add(found.retrieval_mode)
        return [each.chunk.chunk_id for each in found.chunks]

    @property
    def mode(self) -> str:
        """How the last questions were answered."""
        return "/".join(
            search_service_pb2.RetrievalMode.Name(each).removeprefix("RETRIEVAL_MODE_") for each in sorted(self.modes)
        )

    def _requests(self, places: Sequence[int], suffix: str = "") -> Iterator[pb.UpsertChunksRequest]:
        for start in range(0, len(places), BATCH):
            request = pb.UpsertChunksRequest(collection_id=self._collection_id)
            for place in places[start : start + BATCH]:
                chunk = request.chunks.add(
                    chunk_id=f"chunk-{place}{suffix}", text=TEXT, vector=self._vectors[place].tobytes()
                )
                chunk.metadata["page"] = place % 40
            yield request
