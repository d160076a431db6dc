"""ChromaDB as its users meet it: its server through its own HTTP client, or embedded in this process.

A process of its own, in the environment of the peers (`make bench` makes it), that is told what to do line by line: a
JSON object on standard input, the outcome on standard output. The vectors are read from a file that both sides read.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import chromadb
import numpy as np
from chromadb.config import Settings

TENANTS = 100
TEXT = "Qual é o prazo para pagar o IPTU deste ano, e onde encontro a segunda via do boleto? " * 5
START_SECONDS = 60.0


class Chroma:
    """One collection; every hundredth row belongs to the same tenant, as its metadata say."""

    def __init__(self, client: Any, vectors: np.ndarray, questions: np.ndarray) -> None:
        self._client = client
        self._vectors = vectors
        self._questions = questions
        self._collection: Any = None
        self._batch = 500

    def ingest(self, first: int, rows: int) -> float:
        """Seconds to put so many rows into a collection of their own."""
        name = f"c{first}-{rows}-{time.monotonic_ns()}"
        self._collection = self._client.create_collection(name, configuration={"hnsw": {"space": "cosine"}})
        began = time.perf_counter()
        for start in range(first, first + rows, self._batch):
            self._add(start, min(self._batch, first + rows - start))
        return time.perf_counter() - began

    def alone(self, seconds: float, tenant: int | None = None) -> dict[str, Any]:
        """Milliseconds, median, of one caller; and what each question found."""
        found = [self._ask(number, tenant) for number in range(len(self._questions))]
        took: list[float] = []
        end = time.perf_counter() + seconds
        while (began := time.perf_counter()) < end:
            self._ask(len(took) % len(self._questions), tenant)
            took.append(time.perf_counter() - began)
        return {"milliseconds": statistics.median(took) * 1000, "found": found}

    def together(self, clients: int, seconds: float) -> float:
        """Calls per second of so many callers."""
        end = time.perf_counter() + seconds

        def count(client: int) -> int:
            done = 0
            while time.perf_counter() < end:
                self._ask((client * 37 + done) % len(self._questions), None)
                done += 1
            return done

        began = time.perf_counter()
        with ThreadPoolExecutor(clients) as pool:
            total = sum(pool.map(count, range(clients)))
        return total / (time.perf_counter() - began)

    def add_and_ask(self, first: int, rows: int, tenant: int, rounds: int) -> float:
        """Milliseconds, median, to add so many rows and ask inside the tenant at once."""
        took = []
        for number in range(rounds):
            began = time.perf_counter()
            self._add(first, rows, f"-{number}", tenant)
            self._ask(number, tenant)
            took.append(time.perf_counter() - began)
        return statistics.median(took) * 1000

    def _add(self, start: int, rows: int, suffix: str = "", tenant: int | None = None) -> None:
        places = range(start, start + rows)
        self._collection.add(
            ids=[f"chunk-{place}{suffix}" for place in places],
            embeddings=self._vectors[start : start + rows],
            documents=[TEXT] * rows,
            metadatas=[
                {"tenant": place % TENANTS if tenant is None else tenant, "page": place % 40} for place in places
            ],
        )

    def _ask(self, number: int, tenant: int | None) -> list[str]:
        where = None if tenant is None else {"tenant": tenant}
        found = self._collection.query(query_embeddings=[self._questions[number]], n_results=10, where=where)
        return list(found["ids"][0])


def serve(kind: str, directory: Path, port: int) -> None:
    """Does what it is told until standard input ends."""
    quiet = Settings(anonymized_telemetry=False)
    server = None
    if kind == "server":
        program = Path(sys.executable).parent / "chroma"
        command = [str(program), "run", "--path", str(directory / "chroma"), "--port", str(port), "--host", "127.0.0.1"]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        client = _connected(lambda: chromadb.HttpClient("127.0.0.1", port, settings=quiet))
    else:
        client = chromadb.PersistentClient(str(directory / "embedded"), settings=quiet)
    try:
        side = Chroma(client, np.load(directory / "vectors.npy"), np.load(directory / "questions.npy"))
        print(json.dumps("ready"), flush=True)
        while line := sys.stdin.readline():
            order = json.loads(line)
            print(json.dumps(getattr(side, order.pop("do"))(**order)), flush=True)
    finally:
        if server is not None:
            server.terminate()
            server.wait(30)


def _connected(connect: Callable[[], Any]) -> Any:
    give_up = time.monotonic() + START_SECONDS
    while True:
        try:
            client = connect()
            client.heartbeat()
        except Exception:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.2)
        else:
            return client


if __name__ == "__main__":
    serve(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
