"""Search over a tenant's chunks in PostgreSQL: vectors by exact scan, words by BM25, fused by reciprocal rank.

Every statement names the tenant and runs under its row-level security. Whatever is deleted is gone from the tables read
here in the same commit.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from services.document_rag.documents.document_store import halfvec
from services.document_rag.model import Passage, RetrievalMode, SearchMode, SearchResult, fuse_by_rank
from services.document_rag.search.embedders import Embedder, Vectors
from services.document_rag.search.postings import (
    BM25_B,
    BM25_K1,
    MIN_CORRECTED_LENGTH,
    Statistics,
    WordUse,
    term_weights,
    word_weights,
)
from services.document_rag.search.stems import Stemmer
from services.document_rag.search.words import fold, words_of
from shared.postgres import tenant_transaction

MIN_SIMILARITY = 0.3
_SURE_SIMILARITY = 0.5  # below it the nearest word may well be another word: it counts less
_CANDIDATES = 50
_MOST_CORRECTED = 32  # words; a question of random letters must not cost a thousand look-ups

# A document and a chunk of it: what both legs rank, cheaper to carry than the chunk.
_Place = tuple[UUID, int]

_KNOWN_WORDS = """
    select 'total' as kind, '' as word, '' as term, 0 as term_chunks, chunks, terms from totals where tenant_id = $1
    union all
    select 'word', word, term, terms.chunks, 0, 0 from words join terms using (tenant_id, term)
    where tenant_id = $1 and word = any($2::text[])
    union all
    select 'term', '', term, chunks, 0, 0 from terms where tenant_id = $1 and term = any($3::text[])
"""

_NEAREST_WORDS = """
    with asked as materialized (
        select number, word, show_trgm(word) as trigrams from unnest($2::text[]) with ordinality as each(word, number)
    ), shared_trigrams as (
        select number, known.word as near, known.size, count(*) as common
        from asked
        cross join unnest(asked.trigrams) as part(trigram)
        join word_trigrams known on known.tenant_id = $1 and known.trigram = part.trigram
        group by number, near, known.size
    ), nearest as (
        select distinct on (number) asked.word, near, similarity
        from shared_trigrams
        join asked using (number)
        cross join lateral (select common::float8 / (cardinality(trigrams) + size - common) as similarity) as compared
        where similarity >= $3
        order by number, similarity desc, near
    )
    select nearest.word, nearest.near, nearest.similarity, spelt.term, spelt.chunks as term_chunks
    from nearest
    cross join lateral (
        select term, terms.chunks
        from words join terms using (tenant_id, term)
        where tenant_id = $1 and word = nearest.near
        offset 0  -- by key, not by a scan of all words
    ) as spelt
"""

_BY_WORDS = f"""
    select p.document_id, place.ordinal
    from unnest($2::text[], $3::float8[]) as asked(term, weight)
    join postings p on p.tenant_id = $1 and p.term = asked.term
    cross join unnest(p.ordinals, p.counts, p.lengths) as place(ordinal, count, length)
    where $5::uuid[] is null or p.document_id = any($5)
    group by p.document_id, place.ordinal
    order by sum(asked.weight * place.count * {BM25_K1 + 1}
                 / (place.count + {BM25_K1} * ({1 - BM25_B} + {BM25_B} * place.length / $4::float8))) desc,
             p.document_id desc, place.ordinal
    limit $6
"""  # noqa: S608  (constants of ours)

# "+ 0" keeps the planner from any approximate index: the filtered set is compared whole.
_BY_VECTOR = """
    select document_id, ordinal
    from chunks
    where tenant_id = $1 and embedding_model = $2 and ($4::uuid[] is null or document_id = any($4))
    order by (embedding <#> $3::halfvec) + 0, document_id desc, ordinal
    limit $5
"""

_PASSAGES = """
    select c.chunk_id, c.document_id, c.ordinal, d.title, d.version, c.page, c.section, c.char_start, c.char_end, c.body
    from unnest($2::uuid[], $3::integer[]) as wanted(document_id, ordinal)
    join chunks c on c.tenant_id = $1 and c.document_id = wanted.document_id and c.ordinal = wanted.ordinal
    join documents d on d.tenant_id = $1 and d.document_id = c.document_id and d.deleted_at is null
"""


@dataclass(frozen=True, slots=True)
class _Question:
    """A query as the index understands it."""

    text: str
    uses: tuple[WordUse, ...]
    statistics: Statistics


class ChunkIndex:
    """The searchable side of the documents."""

    def __init__(self, pool: asyncpg.Pool, embedder: Embedder, stemmer: Stemmer) -> None:
        self._pool = pool
        self._embedder = embedder
        self._stemmer = stemmer

    async def search(
        self,
        tenant_id: str,
        query: str,
        *,
        top_k: int,
        mode: SearchMode,
        document_ids: Sequence[str] = (),
    ) -> SearchResult:
        """The passages of the tenant that fit the query best, best first; of `document_ids` only, when there are any.

        Only vectors of the configured embedding model are compared; chunks with another model's are found by words.
        """
        only = _uuids(document_ids) if document_ids else None
        question = await self._understood(tenant_id, query)
        weights = word_weights(question.uses, question.statistics)
        vector = None
        if mode is not SearchMode.KEYWORD:
            vector = await self._embedder.embed_query(query, weights)
        limit = top_k if mode is not SearchMode.HYBRID else max(_CANDIDATES, top_k)
        async with tenant_transaction(self._pool, tenant_id) as connection:
            by_words: list[_Place] = []
            if mode is not SearchMode.VECTOR:
                by_words = await _by_words(connection, tenant_id, question, only, limit)
            by_vector: list[_Place] = []
            if vector is not None:
                by_vector = await self._by_vector(connection, tenant_id, vector, only, limit)
            scores = dict(list(fuse_by_rank(by_vector, by_words).items())[:top_k])
            passages = await _passages(connection, tenant_id, scores)
        return SearchResult(passages, RetrievalMode.NONE if vector is None else RetrievalMode.EXACT, weights)

    async def _understood(self, tenant_id: str, query: str) -> _Question:
        words = list(dict.fromkeys(words_of(query)))
        stems = await self._stemmer.terms({*words, *map(fold, words)})
        async with tenant_transaction(self._pool, tenant_id) as connection:
            rows = await connection.fetch(
                _KNOWN_WORDS, tenant_id, [fold(word) for word in words], list(set(stems.values()))
            )
            statistics, uses = _uses(words, stems, rows)
            unknown = [use.word for use in uses if not use.terms and _is_correctable(use.word)]
            if unknown:
                wanted = unknown[:_MOST_CORRECTED]
                near = await connection.fetch(_NEAREST_WORDS, tenant_id, wanted, MIN_SIMILARITY)
                uses = [_corrected(use, near) for use in uses]
        return _Question(query, tuple(uses), statistics)

    async def _by_vector(
        self,
        connection: asyncpg.Connection,
        tenant_id: str,
        vector: Vectors,
        only: list[UUID] | None,
        limit: int,
    ) -> list[_Place]:
        model = self._embedder.model
        rows = await connection.fetch(_BY_VECTOR, tenant_id, model, halfvec(vector), only, limit)
        return [(row["document_id"], row["ordinal"]) for row in rows]


async def _by_words(
    connection: asyncpg.Connection,
    tenant_id: str,
    question: _Question,
    only: list[UUID] | None,
    limit: int,
) -> list[_Place]:
    weights = term_weights(question.uses, question.statistics)
    if not weights:
        return []
    mean_length = question.statistics.mean_length
    rows = await connection.fetch(_BY_WORDS, tenant_id, list(weights), list(weights.values()), mean_length, only, limit)
    return [(row["document_id"], row["ordinal"]) for row in rows]


async def _passages(connection: asyncpg.Connection, tenant_id: str, scores: dict[_Place, float]) -> tuple[Passage, ...]:
    document_ids = [document_id for document_id, _ in scores]
    rows = await connection.fetch(_PASSAGES, tenant_id, document_ids, [ordinal for _, ordinal in scores])
    found = {(row["document_id"], row["ordinal"]): row for row in rows}
    return tuple(_passage(found[place], score) for place, score in scores.items() if place in found)


def _passage(row: asyncpg.Record, score: float) -> Passage:
    return Passage(
        chunk_id=str(row["chunk_id"]),
        document_id=str(row["document_id"]),
        title=row["title"],
        version=row["version"],
        page=row["page"],
        section=row["section"],
        char_start=row["char_start"],
        char_end=row["char_end"],
        text=row["body"],
        score=score,
    )


def _uses(
    words: Sequence[str], stems: Mapping[str, str], rows: Sequence[asyncpg.Record]
) -> tuple[Statistics, list[WordUse]]:
    statistics = Statistics(0, 0)
    spelt: dict[str, set[str]] = defaultdict(set)
    counts: dict[str, int] = {}
    for row in rows:
        match row["kind"]:
            case "total":
                statistics = Statistics(row["chunks"], row["terms"])
            case "word":
                spelt[row["word"]].add(row["term"])
                counts[row["term"]] = row["term_chunks"]
            case _:
                counts[row["term"]] = row["term_chunks"]
    return statistics, [_use(word, stems, spelt, counts) for word in words]


def _use(word: str, stems: Mapping[str, str], spelt: Mapping[str, set[str]], counts: Mapping[str, int]) -> WordUse:
    """A word means the terms of its spelling in the documents; of one they do not have, its own stems."""
    folded = fold(word)
    terms = spelt.get(folded, set()) | {stems[word]}
    if counts.keys().isdisjoint(terms):
        terms = {stems[folded]}
    return WordUse(folded, {term: counts[term] for term in terms if term in counts})


def _corrected(use: WordUse, near: Sequence[asyncpg.Record]) -> WordUse:
    meant = [row for row in near if row["word"] == use.word]
    if not meant:
        return use
    terms = {row["term"]: row["term_chunks"] for row in meant}
    return WordUse(meant[0]["near"], terms, min(1.0, meant[0]["similarity"] / _SURE_SIMILARITY))


def _is_correctable(word: str) -> bool:
    return len(word) >= MIN_CORRECTED_LENGTH and not any(letter.isdigit() for letter in word)


def _uuids(ids: Sequence[str]) -> list[UUID]:
    """The ids that can exist; one that is no UUID names nothing."""
    found = []
    for each in ids:
        with suppress(ValueError):
            found.append(UUID(each))
    return found
