"""Vectors of programs that bring their own: our ChunkService over gRPC beside ChromaDB, its server and embedded.

Clustered unit vectors, the same on both sides, each side in processes of its own, in turns. What is asked
is the ten nearest; recall is counted against comparing all. `make bench BENCH=chroma`; other sizes by
PROSA_CHROMA_SIZES, for example "384x20000,1536x20000,384x100000" (the last takes half an hour).
"""

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
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
ROUNDS = 3
ROUND_SECONDS = 2.0
ADD_ROUNDS = 15
START_SECONDS = 60.0
CANDIDATES = (*range(50, 150, 5), 150, 180, 220, 300, 400)
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
            rows += _measured(f"{dimensions} dims, {count:,}", Path(directory), data)
    publish("chroma", rows)
    return rows


def _measured(case: str, directory: Path, data: Data) -> list[Row]:
    rows: list[Row] = []

    async def measure() -> None:
        engine = Postgres(directory / "postgres", free_port())
        with running_engine(engine):
            await migrate(SecretStr(engine.url()), schema=SCHEMA, directory=MIGRATIONS)
            async with _service(engine.url()) as (channel, keys):
                ours = Ours(channel, keys, data)
                with _peer("server", directory) as theirs:
                    rows.extend(await _loads(case, ours, theirs, data))
                    rows.extend(await _questions(case, ours, theirs, data))
                    rows.extend(await _additions(case, ours, theirs))
                with _peer("embedded", directory) as theirs:
                    rows.extend(await _beside_embedded(case, ours, theirs, data))

    run(measure)
    return rows


class Ours:
    """Programs of three tenants: one small enough to be compared exactly, one with 1 % of the rows, one with all."""

    def __init__(self, channel: grpc.aio.Channel, keys: SigningKeys, data: Data) -> None:
        self.exact, self.small, self.large = (
            Pusher(channel, keys, name, data.vectors, data.questions) for name in ("exact", "one-percent", "all")
        )
        self.rate = 0.0


async def _loads(case: str, ours: Ours, theirs: Any, data: Data) -> list[Row]:
    few, count = _few(data), len(data.vectors)
    exact = Turns()
    for _ in range(ROUNDS):
        _write_out()
        peer_seconds = theirs(do="ingest", first=0, rows=few)
        _write_out()
        exact.took({"rows": few / await ours.exact.ingest(range(few))}, {"rows": few / peer_seconds})
        await ours.exact.found_by_words()
    await ours.small.ingest(data.tenant_places)
    _write_out()
    peer = count / theirs(do="ingest", first=0, rows=count)
    _write_out()
    seconds = await ours.large.ingest(range(count))
    if count > exact_rows(data.vectors.shape[1]):
        seconds += await ours.large.indexed(count)
    ours.rate = count / seconds
    later = await ours.large.found_by_words()
    return [
        at_least(f"{case}: ingest, compared exactly", *exact.both("rows"), "rows/s", 8.0, ratio=exact.ratio("rows")),
        at_least(f"{case}: ingest, index included", ours.rate, peer, "rows/s", 1.3),
        _told(f"{case}: words indexed after the vectors (beside all of the ingest)", later, count / ours.rate, "s"),
    ]


def _write_out() -> None:
    """What was written before, by whichever side, is on the disk: the next one's commits do not wait for it."""
    os.sync()


async def _questions(case: str, ours: Ours, theirs: Any, data: Data) -> list[Row]:
    """Both sides in turns, when our words are indexed, too: what else the machine does hits them alike; ratios are
    medians of the rounds.
    """
    promised = next((recall for most, recall in RECALL_PROMISED if len(data.vectors) <= most), 0.0)
    default = _recall((await ours.large.alone(0.0))["found"], data.nearest)
    await _as_good_as(_recall(theirs(do="alone", seconds=0.1)["found"], data.nearest), ours.large, data)
    alone, tenant, together = Turns(), Turns(), Turns()
    for _ in range(ROUNDS):
        alone.took(await ours.large.alone(ROUND_SECONDS), theirs(do="alone", seconds=ROUND_SECONDS))
        mode = ours.large.mode
        tenant.took(
            await ours.small.alone(ROUND_SECONDS), theirs(do="alone", seconds=ROUND_SECONDS, tenant=SMALL_TENANT)
        )
        together.took(
            {"calls": await ours.large.together(CLIENTS, ROUND_SECONDS)},
            {"calls": theirs(do="together", clients=CLIENTS, seconds=ROUND_SECONDS)},
        )
    recall, peer = (_recall(side[0]["found"], data.nearest) for side in (alone.ours, alone.theirs))
    inside, peer_inside = (_recall(side[0]["found"], data.nearest_of_tenant) for side in (tenant.ours, tenant.theirs))
    return [
        at_most(
            f"{case}: query p50 ({mode}, {ours.large.candidates} candidates)",
            *alone.both("milliseconds"),
            "ms",
            0.9,
            ratio=alone.ratio("milliseconds"),
        ),
        at_least(f"{case}: recall@10", recall, peer, "", 1.0),
        at_least(f"{case}: recall@10 by default, as promised", default, promised, "", 1.0),
        at_least(f"{case}: queries/s, 8 clients", *together.both("calls"), "", 1.6, ratio=together.ratio("calls")),
        at_most(
            f"{case}: 1 % tenant p50", *tenant.both("milliseconds"), "ms", 0.15, ratio=tenant.ratio("milliseconds")
        ),
        at_least(f"{case}: 1 % tenant recall@10 (theirs {peer_inside:.3f})", inside, 0.995, "", 1.0),
    ]


async def _as_good_as(recall: float, ours: Pusher, data: Data) -> None:
    """Sets how many candidates are kept: the fewest that find no less than the peer does."""
    for ours.candidates in CANDIDATES:
        if _recall((await ours.alone(0.0))["found"], data.nearest) >= recall:
            return


async def _additions(case: str, ours: Ours, theirs: Any) -> list[Row]:
    few = await ours.small.add_and_ask(0, ADDED, ADD_ROUNDS)
    peer = theirs(do="add_and_ask", first=0, rows=ADDED, tenant=SMALL_TENANT, rounds=ADD_ROUNDS)
    many = await ours.large.add_and_ask(ADDED, ADDED, ADD_ROUNDS)
    peer_many = theirs(do="add_and_ask", first=ADDED, rows=ADDED, tenant=None, rounds=ADD_ROUNDS)
    return [
        at_most(f"{case}: add 50 and ask, 1 % tenant", few, peer, "ms", 0.3),
        _told(f"{case}: add 50 and ask, all rows", many, peer_many, "ms"),
    ]


async def _beside_embedded(case: str, ours: Ours, theirs: Any, data: Data) -> list[Row]:
    rate = len(data.vectors) / theirs(do="ingest", first=0, rows=len(data.vectors))
    alone = Turns()
    for _ in range(ROUNDS):
        alone.took(await ours.large.alone(ROUND_SECONDS), theirs(do="alone", seconds=ROUND_SECONDS))
    return [
        _told(f"{case}: ingest, index included, beside embedded", ours.rate, rate, "rows/s"),
        _told(f"{case}: query p50, beside embedded", *alone.both("milliseconds"), "ms"),
    ]


@dataclass
class Turns:
    """What both sides were measured at, round by round."""

    ours: list[dict[str, Any]] = field(default_factory=list)
    theirs: list[dict[str, Any]] = field(default_factory=list)

    def took(self, ours: dict[str, Any], theirs: dict[str, Any]) -> None:
        """One round."""
        self.ours.append(ours)
        self.theirs.append(theirs)

    def both(self, figure: str) -> tuple[float, float]:
        """The medians."""
        return tuple(statistics.median(each[figure] for each in side) for side in (self.ours, self.theirs))

    def ratio(self, figure: str) -> float:
        """The median of the rounds' ratios."""
        rounds = zip(self.ours, self.theirs, strict=True)
        return float(statistics.median(ours[figure] / theirs[figure] for ours, theirs in rounds))


def _told(case: str, ours: float, peer: float, unit: str) -> Row:
    return Row(case, ours, peer, unit, ours / peer, None, holds=True)


def _few(data: Data) -> int:
    """Rows of a tenant that is small enough to be compared exactly."""
    return min(exact_rows(data.vectors.shape[1]), len(data.vectors))


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
