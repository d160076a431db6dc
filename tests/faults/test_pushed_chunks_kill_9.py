"""PostgreSQL is killed while programs push chunks."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deploy.local.engine import start
from deploy.local.engines import Postgres
from services.document_rag.search.chunk_model import ChunkDraft, PushedCollection
from services.document_rag.search.chunk_push import ChunkPush
from services.document_rag.search.embedders import HashedEmbedder
from shared.errors import Unavailable
from tests.document_rag.chunk_program import clustered
from tests.document_rag.search.vector_bench import Bench, opened_bench
from tests.faults.killing import PATIENCE_SECONDS, killed
from tests.house.ports import own_port
from tests.house.waiting import until

PROGRAMS = 3
MESSAGES, CHUNKS = 4, 25
STREAMS = 10
RETRY_SECONDS = 0.05
VECTORS = [vector.tobytes() for vector in clustered(CHUNKS)]


@dataclass
class Program:
    """Pushes one stream after the other, and sends none again that broke."""

    push: ChunkPush
    collection: PushedCollection
    name: int
    acknowledged: list[int] = field(default_factory=list)
    broken: list[int] = field(default_factory=list)

    async def work(self, stop: asyncio.Event) -> None:
        """Until told to stop."""
        while not stop.is_set():
            stream = len(self.acknowledged) + len(self.broken)
            try:
                await self.push.upsert(self.collection.home, self.collection.collection_id, self._messages(stream))
                self.acknowledged.append(stream)
            except Unavailable:
                self.broken.append(stream)
                await asyncio.sleep(RETRY_SECONDS)

    async def _messages(self, stream: int) -> AsyncIterator[Sequence[ChunkDraft]]:
        for ids in self.messages_of(stream):
            yield [ChunkDraft(name, "texto", "{}", vector) for name, vector in zip(ids, VECTORS, strict=True)]

    def messages_of(self, stream: int) -> list[list[str]]:
        """The ids that each message of the stream brings."""
        return [[f"{self.name}-{stream}-{each}-{chunk}" for chunk in range(CHUNKS)] for each in range(MESSAGES)]


async def test_pushed_chunks_are_durable_when_acknowledged_and_never_half_a_message_when_postgres_is_killed(
    engine_directory: Path,
) -> None:
    engine = Postgres(engine_directory / "pushed", own_port())
    child = await asyncio.to_thread(start, engine)
    try:
        async with opened_bench(lambda: engine.url("postgres")) as bench:
            push = ChunkPush(bench.store(), HashedEmbedder(), lambda *_: None)
            collection = await bench.collection("t")
            programs = [Program(push, collection, name) for name in range(PROGRAMS)]
            stop = asyncio.Event()
            async with asyncio.TaskGroup() as working:
                for program in programs:
                    working.create_task(program.work(stop))
                await _acknowledged_by_all(programs)
                await asyncio.to_thread(killed, child)
                child = await asyncio.to_thread(start, engine)
                await _acknowledged_by_all(programs)
                stop.set()
            assert any(program.broken for program in programs), "nobody noticed"
            await _check(bench, collection, programs)
    finally:
        await asyncio.to_thread(child.stop, PATIENCE_SECONDS)


async def _acknowledged_by_all(programs: list[Program]) -> None:
    wanted = [len(program.acknowledged) + STREAMS for program in programs]
    await until(lambda: all(len(each.acknowledged) >= count for each, count in zip(programs, wanted, strict=True)))


async def _check(bench: Bench, collection: PushedCollection, programs: list[Program]) -> None:
    store = bench.store()
    kept = {each.chunk_id for each in await store.list(collection.home, collection, after=0, limit=1_000_000)}
    assert (await store.progress(collection.home, collection, ())).chunks == len(kept)
    for program in programs:
        for stream in program.acknowledged:
            assert all(kept.issuperset(ids) for ids in program.messages_of(stream))
        for stream in program.broken:
            assert all(len(kept.intersection(ids)) in (0, CHUNKS) for ids in program.messages_of(stream))
