"""Search over chunks in PostgreSQL: vectors by exact scan, words by BM25, fused by reciprocal rank.

Every statement names the libraries it reads (the tenant's own, the global one) and runs under the tenant's row-level
security. Several libraries are one to BM25: how rare a word is, is counted over all of them, so that their passages
compare. Whatever is deleted is gone from the tables read here in the same commit.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from services.document_rag.documents.index_writer import halfvec
from services.document_rag.model import (
    EVERYTHING,
    GLOBAL_LIBRARY,
    Filter,
    Passage,
    RetrievalMode,
    Scope,
    SearchMode,
    SearchResult,
    fuse_by_rank,
)
from services.document_rag.search.embedders import Embedder, Vectors
from services.document_rag.search.filters import matching_documents
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
    select 'total' as kind, tenant_id, '' as word, '' as term, 0 as term_chunks, chunks, terms
    from totals where tenant_id = any($1::text[])
    union all
    select 'word', tenant_id, word, term, terms.chunks, 0, 0 from words join terms using (tenant_id, term)
    where tenant_id = any($1) and word = any($2::text[])
    union all
    select 'term', tenant_id, '', term, chunks, 0, 0 from terms where tenant_id = any($1) and term = any($3::text[])
"""

_NEAREST_WORDS = """
    with asked as materialized (
        select number, word, show_trgm(word) as trigrams from unnest($2::text[]) with ordinality as each(word, number)
    ), shared_trigrams as (
        select number, known.word as near, known.size, count(*) as common
        from asked
        cross join unnest(asked.trigrams) as part(trigram)
        join word_trigrams known on known.tenant_id = any($1::text[]) and known.trigram = part.trigram
        group by number, known.tenant_id, near, known.size
    ), nearest as (
        select distinct on (number) asked.word, near, similarity
        from shared_trigrams
        join asked using (number)
        cross join lateral (select common::float8 / (cardinality(trigrams) + size - common) as similarity) as compared
        where similarity >= $3
        order by number, similarity desc, near
    )
    select nearest.word, nearest.near, nearest.similarity, spelt.tenant_id, spelt.term, spelt.chunks as term_chunks
    from nearest
    cross join lateral (
        select tenant_id, term, terms.chunks
        from words join terms using (tenant_id, term)
        where tenant_id = any($1) and word = nearest.near
        offset 0  -- by key, not by a scan of all words
    ) as spelt
"""

_BY_WORDS = f"""
    select p.document_id, place.ordinal
    from unnest($2::text[], $3::float8[]) as asked(term, weight)
    join postings p on p.tenant_id = any($1::text[]) and p.term = asked.term
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
    where tenant_id = any($1::text[]) and embedding_model = $2 and ($4::uuid[] is null or document_id = any($4))
    order by (embedding <#> $3::halfvec) + 0, document_id desc, ordinal
    limit $5
"""

_PASSAGES = """
    select c.chunk_id, c.document_id, c.ordinal, d.title, d.version, c.page, c.section, c.char_start, c.char_end,
           c.body, d.tenant_id, d.collection_id, d.language, d.metadata
    from unnest($2::uuid[], $3::integer[]) as wanted(document_id, ordinal)
    join chunks c on c.tenant_id = any($1::text[]) and c.document_id = wanted.document_id
        and c.ordinal = wanted.ordinal
    join documents d on d.tenant_id = c.tenant_id and d.document_id = c.document_id and d.deleted_at is null
"""


@dataclass(frozen=True, slots=True)
class _Question:
    """A query as the index understands it, in the libraries (tenants) that it is asked of."""

    libraries: tuple[str, ...]
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
        filter: Filter = EVERYTHING,  # noqa: A002  (the name callers know it by)
        vector: Vectors | None = None,
    ) -> SearchResult:
        """The passages that fit the query best, best first: of the tenant and the global library, as the filter says.

        `vector` is the query as a ready vector; else the embedder makes one. Only vectors of one embedding model are
        compared; chunks with another model's are found by words.
        """
        question = await self._understood(tenant_id, query, filter)
        weights = word_weights(question.uses, question.statistics)
        if mode is SearchMode.KEYWORD:
            vector = None
        elif vector is None:
            vector = await self._embedder.embed_query(query, weights)
        limit = top_k if mode is not SearchMode.HYBRID else max(_CANDIDATES, top_k)
        async with tenant_transaction(self._pool, tenant_id) as connection:
            only = await matching_documents(connection, question.libraries, filter)
            by_words: list[_Place] = []
            if mode is not SearchMode.VECTOR:
                by_words = await _by_words(connection, question, only, limit)
            by_vector: list[_Place] = []
            if vector is not None:
                by_vector = await self._by_vector(connection, question, vector, only, limit)
            scores = dict(list(fuse_by_rank(by_vector, by_words).items())[:top_k])
            passages = await _passages(connection, question, scores)
        return SearchResult(passages, RetrievalMode.NONE if vector is None else RetrievalMode.EXACT, weights)

    async def _understood(self, tenant_id: str, query: str, filter: Filter) -> _Question:  # noqa: A002
        words = list(dict.fromkeys(words_of(query)))
        stems = await self._stemmer.terms({*words, *map(fold, words)})
        asked = filter.libraries(tenant_id)
        async with tenant_transaction(self._pool, tenant_id) as connection:
            rows = await connection.fetch(
                _KNOWN_WORDS, asked, [fold(word) for word in words], list(set(stems.values()))
            )
            libraries = tuple(row["tenant_id"] for row in rows if row["kind"] == "total")
            statistics, uses = _uses(words, stems, rows)
            unknown = [use.word for use in uses if not use.terms and _is_correctable(use.word)]
            if unknown and libraries:
                wanted = unknown[:_MOST_CORRECTED]
                near = await connection.fetch(_NEAREST_WORDS, libraries, wanted, MIN_SIMILARITY)
                uses = [_corrected(use, near) for use in uses]
        return _Question(libraries, tuple(uses), statistics)

    async def _by_vector(
        self,
        connection: asyncpg.Connection,
        question: _Question,
        vector: Vectors,
        only: list[UUID] | None,
        limit: int,
    ) -> list[_Place]:
        model = self._embedder.model
        rows = await connection.fetch(_BY_VECTOR, question.libraries, model, halfvec(vector), only, limit)
        return [(row["document_id"], row["ordinal"]) for row in rows]


async def _by_words(
    connection: asyncpg.Connection, question: _Question, only: list[UUID] | None, limit: int
) -> list[_Place]:
    weights = term_weights(question.uses, question.statistics)
    if not weights:
        return []
    rows = await connection.fetch(
        _BY_WORDS,
        question.libraries,
        list(weights),
        list(weights.values()),
        question.statistics.mean_length,
        only,
        limit,
    )
    return [(row["document_id"], row["ordinal"]) for row in rows]


async def _passages(
    connection: asyncpg.Connection, question: _Question, scores: dict[_Place, float]
) -> tuple[Passage, ...]:
    document_ids = [document_id for document_id, _ in scores]
    rows = await connection.fetch(_PASSAGES, question.libraries, document_ids, [ordinal for _, ordinal in scores])
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
        collection_id=str(row["collection_id"] or ""),
        scope=Scope.GLOBAL if row["tenant_id"] == GLOBAL_LIBRARY else Scope.TENANT,
        language=row["language"],
        metadata=row["metadata"],
    )


def _uses(
    words: Sequence[str], stems: Mapping[str, str], rows: Sequence[asyncpg.Record]
) -> tuple[Statistics, list[WordUse]]:
    """What the words of the query are in the libraries, each counted over all of them."""
    totals = [row for row in rows if row["kind"] == "total"]
    statistics = Statistics(sum(row["chunks"] for row in totals), sum(row["terms"] for row in totals))
    spelt: dict[str, set[str]] = defaultdict(set)
    counts: dict[str, dict[str, int]] = defaultdict(dict)
    for row in rows:
        if row["kind"] != "total":
            counts[row["term"]][row["tenant_id"]] = row["term_chunks"]
        if row["kind"] == "word":
            spelt[row["word"]].add(row["term"])
    summed = {term: sum(by_library.values()) for term, by_library in counts.items()}
    return statistics, [_use(word, stems, spelt, summed) for word in words]


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
    terms: Counter[str] = Counter()
    for row in meant:
        terms[row["term"]] += row["term_chunks"]
    return WordUse(meant[0]["near"], terms, min(1.0, meant[0]["similarity"] / _SURE_SIMILARITY))


def _is_correctable(word: str) -> bool:
    return len(word) >= MIN_CORRECTED_LENGTH and not any(letter.isdigit() for letter in word)
