"""Finding the paragraph that answers a Portuguese question, beside PostgreSQL's own full text on the same rows.

The questions are read from PROSA_SQUAD_PT (a file in SQuAD's format; without it nothing is measured), each asked as
written and with typing errors. The peer ranks by `ts_rank(…, 1)` over any word, Portuguese stems, accents folded: the
best of its kinds.
"""

import os
import random
import re
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import asyncpg
from pydantic import SecretStr

from deploy.local.engine import running_engine
from deploy.local.engines import Postgres
from deploy.local.ports import free_port
from services.document_rag.__main__ import MIGRATIONS, SCHEMA
from services.document_rag.documents.index_writer import register_vector_type
from services.document_rag.model import SearchMode
from services.document_rag.search.chunk_index import ChunkIndex
from services.document_rag.search.embedders import HashedEmbedder
from services.document_rag.search.stems import Stemmer
from services.document_rag.search.vectors import VectorSearch
from shared.postgres import migrate, open_pool
from shared.server import run
from tests.bench.table import Row, at_least, publish
from tests.eval.corpus import index_paragraphs
from tests.eval.questions import Question, mistyped, sampled, squad

DATA = "PROSA_SQUAD_PT"
TENANT = "bench"

# Recall at 1 and at 5 of the hybrid over that of the peer: as written, mistyped.
BARS = {"as written": (1.08, 1.05), "mistyped": (1.25, 1.15)}

_PEER = """
    create extension if not exists unaccent;
    create text search configuration folded (copy = portuguese);
    alter text search configuration folded alter mapping for hword, hword_part, word with unaccent, portuguese_stem;
    create table peer (id integer, words tsvector);
"""
_PEER_QUERY = """
    select id from peer, to_tsquery('folded', $1) as asked
    where words @@ asked order by ts_rank(words, asked, 1) desc limit 10
"""

Find = Callable[[str], Awaitable[list[str]]]


@dataclass(frozen=True)
class Figure:
    """How well the right paragraphs were ranked, and how long a query took."""

    recall_at_1: float
    recall_at_5: float
    reciprocal_rank: float
    milliseconds: float


def main() -> list[Row]:
    """Measures, prints, writes .prosa/bench/retrieval.json."""
    path = os.environ.get(DATA)
    if not path:
        print(f"retrieval: not measured; set {DATA} to a Portuguese file in SQuAD's format")
        return []
    paragraphs, questions = squad(Path(path))
    questions = sampled(questions)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="prosa-bench-") as directory:
        Path(directory).chmod(0o755)
        engine = Postgres(Path(directory) / "postgres", free_port())
        with running_engine(engine):

            async def measure() -> None:
                rows.extend(await _measure(engine.url(), paragraphs, questions))

            run(measure)
    publish("retrieval", rows)
    return rows


async def _measure(url: str, paragraphs: Sequence[str], questions: Sequence[Question]) -> list[Row]:
    await migrate(SecretStr(url), schema=SCHEMA, directory=MIGRATIONS)
    async with open_pool(SecretStr(url), schema=SCHEMA, on_connect=register_vector_type) as pool:
        index = ChunkIndex(pool, HashedEmbedder(), Stemmer(pool), VectorSearch(pool))
        numbers = await index_paragraphs(pool, TENANT, HashedEmbedder(), paragraphs)
        peer = await _peer(url, paragraphs)
        rows: list[Row] = []
        for kind, asked in (("as written", questions), ("mistyped", mistyped(questions, random.Random(11)))):
            theirs = await _figure(lambda query: _found_by_peer(peer, query), asked)
            for mode in SearchMode:
                ours = await _figure(lambda query, mode=mode: _found(index, numbers, query, mode), asked)  # type: ignore[misc]
                rows += _rows(f"{mode.value}, {kind}", ours, theirs, BARS[kind] if mode is SearchMode.HYBRID else None)
        await peer.close()
    return rows


def _rows(case: str, ours: Figure, theirs: Figure, bars: tuple[float, float] | None) -> list[Row]:
    recalls = [
        (f"{case}: recall@1", ours.recall_at_1, theirs.recall_at_1),
        (f"{case}: recall@5", ours.recall_at_5, theirs.recall_at_5),
    ]
    rows = [
        at_least(name, mine, peer, "", bars[place]) if bars else Row(name, mine, peer, "", mine / peer, None, True)
        for place, (name, mine, peer) in enumerate(recalls)
    ]
    for name, mine, peer, unit in (
        ("MRR@10", ours.reciprocal_rank, theirs.reciprocal_rank, ""),
        ("query", ours.milliseconds, theirs.milliseconds, "ms"),
    ):
        rows.append(Row(f"{case}: {name}", mine, peer, unit, mine / peer, None, holds=True))
    return rows


async def _figure(find: Find, questions: Sequence[Question]) -> Figure:
    ranks: list[int] = []
    started = time.perf_counter()
    for question in questions:
        found = await find(question.text)
        ranks.append(found.index(question.document) + 1 if question.document in found else 0)
    seconds = time.perf_counter() - started
    count = len(questions)
    return Figure(
        recall_at_1=sum(rank == 1 for rank in ranks) / count,
        recall_at_5=sum(1 <= rank <= 5 for rank in ranks) / count,
        reciprocal_rank=sum(1 / rank for rank in ranks if rank) / count,
        milliseconds=seconds / count * 1000,
    )


async def _found(index: ChunkIndex, numbers: dict[str, str], query: str, mode: SearchMode) -> list[str]:
    result = await index.search(TENANT, query, top_k=10, mode=mode)
    return [numbers[passage.document_id] for passage in result.passages]


async def _found_by_peer(peer: asyncpg.Connection, query: str) -> list[str]:
    rows = await peer.fetch(_PEER_QUERY, " | ".join(re.findall(r"\w+", query)))
    return [str(row["id"]) for row in rows]


async def _peer(url: str, paragraphs: Sequence[str]) -> asyncpg.Connection:
    connection = await asyncpg.connect(url)
    await connection.execute(_PEER)
    await connection.executemany("insert into peer values ($1, to_tsvector('folded', $2))", list(enumerate(paragraphs)))
    return connection


if __name__ == "__main__":
    main()
