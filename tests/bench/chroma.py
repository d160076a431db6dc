"""Vectors of programs that bring their own: our ChunkService over gRPC beside ChromaDB, its server and embedded.

Clustered unit vectors, the same on both sides, each side in processes of its own, one after the other. What is asked
is the ten nearest; recall is counted against comparing all. `make bench BENCH=chroma`; other sizes by
PROSA_CHROMA_SIZES, for example "384x20000,1536x20000,384x100000" (the last takes half an hour).
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from pydantic import SecretStr

from deploy.local.engine import running_engine
from deploy.local.engines import Postgres
from deploy.local.ports import free_port
from services.document_rag.__main__ import MIGRATIONS, SCHEMA
from services.document_rag.search.vectors import exact_rows
from shared.postgres import migrate
from shared.server import run
from tests.bench.chat_sides import PYTHON
from tests.bench.chunk_client import Matrix, Pusher
from tests.bench.table import Row, at_least, at_most, publish
from tests.house.processes import REPOSITORY
from tests.house.signing import SigningKeys, new_signing_keys

SIZES = "PROSA_CHROMA_SIZES"
DEFAULT_SIZES = "384x20000,1536x10000"
QUESTIONS = 200
ROWS_A_CLUSTER = 1_250
SPREAD = 1.5  # so that an index has to work for its recall, as on texts
TENANTS = 100
SMALL_TENANT = 7
ADDED = 50
CLIENTS = 8
ROUND_SECONDS = 4.0
ADD_ROUNDS = 15
START_SECONDS = 60.0
RECALL_PROMISED = ((20_000, 0.98), (100_000, 0.95))


@dataclass(frozen=True)
class Data:
    """Rows, questions, and which rows are truly nearest to each question: of all, and of the small tenant's."""

    vectors: Matrix
    questions: Matrix
    nearest: list[set[str]]
    nearest_of_tenant: list[set[str]]

    @property
    def tenant_places(self) -> range:
        """The small tenant's rows."""
        return range(SMALL_TENANT, len(self.vectors), TENANTS)


def main() -> list[Row]:
    """Measures, prints, writes .prosa/bench/chroma.json."""
    rows: list[Row] = []
    for size in os.environ.get(SIZES, DEFAULT_SIZES).split(","):
        dimensions, count = map(int, size.split("x"))
        with tempfile.TemporaryDirectory(prefix="prosa-bench-") as directory:
            Path(directory).chmod(0o755)
            data = _data(dimensions, count)
            np.save(Path(directory) / "vectors.npy", data.vectors)
            np.save(Path(directory) / "questions.npy", data.questions)
            theirs = _theirs("server", Path(directory), data)
            embedded = _theirs("embedded", Path(directory), data)
            ours = _ours(Path(directory), data)
        rows += _rows(f"{dimensions} dims, {count:,}", count, ours, theirs, embedded)
    publish("chroma", rows)
    return rows


def _rows(case: str, count: int, ours: dict[str, Any], theirs: dict[str, Any], embedded: dict[str, Any]) -> list[Row]:
    promised = max((recall for least, recall in reversed(RECALL_PROMISED) if count <= least), default=0.95)
    rows = [
        at_least(f"{case}: ingest, compared exactly", ours["exact_rate"], theirs["exact_rate"], "rows/s", 8.0),
        at_least(f"{case}: ingest, index included", ours["rate"], theirs["rate"], "rows/s", 1.3),
        at_most(f"{case}: query p50 ({ours['mode']})", ours["p50"], theirs["p50"], "ms", 0.9),
        at_least(f"{case}: recall@10", ours["recall"], theirs["recall"], "", 1.0),
        at_least(f"{case}: recall@10 as promised", ours["recall"], promised, "", 1.0),
        at_least(f"{case}: queries/s, 8 clients", ours["qps"], theirs["qps"], "", 1.6),
        at_most(f"{case}: 1 % tenant p50", ours["tenant_p50"], theirs["tenant_p50"], "ms", 0.15),
        at_least(f"{case}: 1 % tenant recall@10", ours["tenant_recall"], 0.995, "", 1.0),
        at_most(f"{case}: add 50 and ask, 1 % tenant", ours["tenant_add"], theirs["tenant_add"], "ms", 0.3),
    ]
    for name, unit in (("add", "ms"), ("p50", "ms"), ("rate", "rows/s"), ("recall", "")):
        words = {"add": "add 50 and ask, all rows", "p50": "query p50", "rate": "ingest, index included"}
        peer = theirs if name == "add" else embedded
        label = words.get(name, "recall@10") + ("" if name == "add" else ", beside embedded")
        rows.append(Row(f"{case}: {label}", ours[name], peer[name], unit, ours[name] / peer[name], None, holds=True))
    return rows


def _theirs(kind: str, directory: Path, data: Data) -> dict[str, Any]:
    few = _few(data)
    with _peer(kind, directory) as ask:
        exact_rate = few / ask(do="ingest", first=0, rows=few)
        rate = len(data.vectors) / ask(do="ingest", first=0, rows=len(data.vectors))
        alone = ask(do="alone", seconds=ROUND_SECONDS)
        tenant = ask(do="alone", seconds=ROUND_SECONDS, tenant=SMALL_TENANT)
        return {
            "exact_rate": exact_rate,
            "rate": rate,
            "p50": alone["milliseconds"],
            "recall": _recall(alone["found"], data.nearest),
            "qps": ask(do="together", clients=CLIENTS, seconds=ROUND_SECONDS),
            "tenant_p50": tenant["milliseconds"],
            "tenant_recall": _recall(tenant["found"], data.nearest_of_tenant),
            "tenant_add": ask(do="add_and_ask", first=0, rows=ADDED, tenant=SMALL_TENANT, rounds=ADD_ROUNDS),
            "add": ask(do="add_and_ask", first=ADDED, rows=ADDED, tenant=None, rounds=ADD_ROUNDS),
        }


def _ours(directory: Path, data: Data) -> dict[str, Any]:
    measured: dict[str, Any] = {}

    async def measure() -> None:
        engine = Postgres(directory / "postgres", free_port())
        with running_engine(engine):
            await migrate(SecretStr(engine.url()), schema=SCHEMA, directory=MIGRATIONS)
            async with _service(engine.url()) as (channel, keys):
                measured.update(await _asked(channel, keys, data))

    run(measure)
    return measured


async def _asked(channel: grpc.aio.Channel, keys: SigningKeys, data: Data) -> dict[str, Any]:
    def pusher(name: str) -> Pusher:
        return Pusher(channel, keys, name, data.vectors, data.questions)

    small, few, large = pusher("one-percent"), _few(data), pusher("everybody-else")
    exact_seconds = await pusher("exact").ingest(range(few))
    await small.ingest(data.tenant_places)
    seconds = await large.ingest(range(len(data.vectors)))
    if len(data.vectors) > exact_rows(data.vectors.shape[1]):
        seconds += await large.indexed(len(data.vectors))
    alone = await large.alone(ROUND_SECONDS)
    mode = large.mode
    tenant = await small.alone(ROUND_SECONDS)
    return {
        "exact_rate": few / exact_seconds,
        "rate": len(data.vectors) / seconds,
        "p50": alone["milliseconds"],
        "mode": mode,
        "recall": _recall(alone["found"], data.nearest),
        "qps": await large.together(CLIENTS, ROUND_SECONDS),
        "tenant_p50": tenant["milliseconds"],
        "tenant_recall": _recall(tenant["found"], data.nearest_of_tenant),
        "tenant_add": await small.add_and_ask(0, ADDED, ADD_ROUNDS),
        "add": await large.add_and_ask(ADDED, ADDED, ADD_ROUNDS),
    }


def _few(data: Data) -> int:
    """Rows of a tenant that is small enough to be compared exactly."""
    return min(5_000, len(data.vectors))


def _recall(found: Sequence[Sequence[str]], nearest: Sequence[set[str]]) -> float:
    shares = [len(truly & set(ids)) / len(truly) for ids, truly in zip(found, nearest, strict=True)]
    return float(np.mean(shares))


def _data(dimensions: int, count: int) -> Data:
    chance = np.random.default_rng(7)
    centres = chance.normal(size=(max(1, count // ROWS_A_CLUSTER), dimensions)).astype(np.float32)
    vectors, questions = _around(centres, count, chance), _around(centres, QUESTIONS, chance)
    tenants = range(SMALL_TENANT, count, TENANTS)
    return Data(vectors, questions, _nearest(vectors, range(count), questions), _nearest(vectors, tenants, questions))


def _around(centres: Matrix, count: int, chance: np.random.Generator) -> Matrix:
    noise = chance.normal(size=(count, centres.shape[1])).astype(np.float32)
    vectors = centres[chance.integers(len(centres), size=count)] + SPREAD * noise
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


def _nearest(vectors: Matrix, places: range, questions: Matrix) -> list[set[str]]:
    similar = questions @ vectors[places.start : places.stop : places.step].T
    best = np.argpartition(-similar, 10, axis=1)[:, :10]
    return [{f"chunk-{places[place]}" for place in row} for row in best]


@contextmanager
def _peer(kind: str, directory: Path) -> Iterator[Any]:
    command = [str(PYTHON), "-m", "tests.bench.chroma_peer", kind, str(directory), str(free_port())]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    source, sink = process.stdout, process.stdin

    def ask(**order: Any) -> Any:
        sink.write(json.dumps(order) + "\n")
        sink.flush()
        return json.loads(source.readline())

    try:
        source.readline()
        yield ask
    finally:
        sink.close()
        process.wait(60)


@asynccontextmanager
async def _service(url: str) -> AsyncIterator[tuple[grpc.aio.Channel, SigningKeys]]:
    keys, port = new_signing_keys(), free_port()
    environment = {
        "DATABASE_URL": url,
        "DOCUMENT_RAG_PORT": str(port),
        "PROSA_TOKEN_PUBLIC_KEY": keys.public_pem,
        "DOCUMENT_RAG_ORIGINALS_URL": "memory:///",
    }
    async with AsyncExitStack() as stack:
        service = subprocess.Popen(  # noqa: ASYNC220  (nothing else runs yet)
            [sys.executable, "-m", "services.document_rag"],
            cwd=REPOSITORY,
            env={**os.environ, **environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        stack.callback(service.wait, 30)
        stack.callback(service.terminate)
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))
        await asyncio.wait_for(channel.channel_ready(), START_SECONDS)
        yield channel, keys


if __name__ == "__main__":
    main()
