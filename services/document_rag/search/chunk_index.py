"""Search over chunks in PostgreSQL: vectors, words by BM25, fused by reciprocal rank and read again.

Every statement names the libraries it reads (the tenant's own, the global one) and runs under the tenant's row-level
security. Whatever is deleted is gone from the tables read here in the same commit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from operator import itemgetter
from uuid import UUID

import asyncpg

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
from services.document_rag.search.closeness import closeness
from services.document_rag.search.earlier_models import EarlierModels
from services.document_rag.search.embedders import DIMENSIONS, Embedder, HashedEmbedder, Vectors
from services.document_rag.search.filters import matching_documents
from services.document_rag.search.postings import BM25_B, BM25_DELTA, BM25_K1, term_weights, word_weights
from services.document_rag.search.pushed_passages import (
    Reach,
    batches_of,
    by_number,
    near_in,
    pushed_passage,
    pushed_rows,
    reach_of,
)
from services.document_rag.search.rerankers import MOST_RERANKED, LexicalReranker, Reranker
from services.document_rag.search.stems import Stemmer
from services.document_rag.search.understanding import Understood, understood
from services.document_rag.search.vectors import Kind, Restriction, Space, VectorSearch
from shared.errors import FieldViolation, InvalidArgument
from shared.postgres import tenant_transaction

_CANDIDATES = 50
# Hashed vectors are made of the same words that are read again afterwards: they bring candidates and decide little.
_WORDS_OVER_HASHED_VECTORS = 30.0

# A document and a chunk of it: what both legs rank, cheaper to carry than the chunk.
_Place = tuple[UUID, int]

# "offset 0": by key, also when nobody has counted the rows yet. Numbers without ::float8 would be of type numeric, and
# arrays unnested anywhere but in a select list a function call a row: together twice the time.
_BY_WORDS = f"""
    select place.document_id, place.ordinal,
           sum(asked.weight * (place.count * {BM25_K1 + 1}::float8
               / (place.count + {BM25_K1}::float8 * ({1 - BM25_B}::float8
                                                     + {BM25_B}::float8 * place.length / $4::float8))
               + {BM25_DELTA}::float8)) as score
    from unnest($2::text[], $3::float8[]) as asked(term, weight)
    cross join lateral (
        select document_id, unnest(ordinals) as ordinal, unnest(counts) as count, unnest(lengths) as length
        from postings
        where tenant_id = any($1::text[]) and postings.term = asked.term
          and ($5::uuid[] is null or document_id = any($5))
        offset 0
    ) as place
    group by place.document_id, place.ordinal
    order by score desc, place.document_id desc, place.ordinal
    limit $6
"""  # noqa: S608  (constants of ours)

_CHUNKS_OF = """
    select coalesce(sum(chunk_count), 0) from documents
    where tenant_id = any($1::text[]) and document_id = any($2::uuid[])
"""

_PASSAGES = """
    select c.chunk_id, c.document_id, c.ordinal, d.title, d.version, c.page, c.section, c.char_start, c.char_end,
           c.body, d.tenant_id, d.collection_id, d.language, d.metadata
    from unnest($2::uuid[], $3::integer[]) as wanted(document_id, ordinal)
    cross join lateral (
        select * from chunks
        where tenant_id = any($1::text[]) and document_id = wanted.document_id and ordinal = wanted.ordinal
        offset 0  -- by key, also when nobody has counted the rows yet
    ) as c
    join documents d on d.tenant_id = c.tenant_id and d.document_id = c.document_id and d.deleted_at is null
"""


class ChunkIndex:
    """The searchable side of the documents."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        embedder: Embedder,
        stemmer: Stemmer,
        vectors: VectorSearch,
        reranker: Reranker | None = None,
        earlier: EarlierModels | None = None,
    ) -> None:
        """With a `reranker` every search is reranked that does not say otherwise. `earlier`: models going out."""
        self._earlier = earlier or EarlierModels(embedder)
        self._pool = pool
        self._reranker = reranker
        self._vectors = vectors
        self._embedder = embedder
        self._stemmer = stemmer
        self._words_weigh = _WORDS_OVER_HASHED_VECTORS if isinstance(embedder, HashedEmbedder) else 1.0

    async def search(
        self,
        tenant_id: str,
        query: str,
        *,
        top_k: int,
        mode: SearchMode,
        filter: Filter = EVERYTHING,  # noqa: A002  (the name callers know it by)
        vector: Vectors | None = None,
        rerank: bool | None = None,
    ) -> SearchResult:
        """The passages that fit the query best, best first: of the tenant and the global library, as the filter says.

        `vector` is the query as a ready vector; else the embedder makes one, and one for each earlier model whose
        documents are still being embedded anew. `rerank` None: as this index was set up.
        """
        given, libraries = vector, filter.libraries(tenant_id)
        async with tenant_transaction(self._pool, tenant_id) as connection:
            question = await understood(connection, self._stemmer, libraries, query)
            pushed = await reach_of(connection, libraries, filter, given)
        if not pushed.comparable:
            _refuse_other_dimensions(vector)
        weights = word_weights(question.uses, question.statistics)
        earlier: Mapping[str, Vectors] = {}
        if mode is SearchMode.KEYWORD:
            vector = None
        elif vector is None:
            vector = await self._embedder.embed_query(query, weights)
            earlier = await self._earlier.embed_query(query, weights)
        limit = max(_CANDIDATES, top_k)
        async with tenant_transaction(self._pool, tenant_id) as connection:
            only = await matching_documents(connection, question.libraries, filter)
            by_words: Mapping[_Place, float] = {}
            if mode is not SearchMode.VECTOR:
                by_words = await _by_words(connection, question, await _with_batches(connection, only, pushed), limit)
                by_words = await by_number(connection, pushed, by_words)
            by_vector: Sequence[_Place] = []
            compared = RetrievalMode.NONE
            if vector is not None:
                own = self._embedder.model
                near, modes = await self._near_in_documents(connection, question, own, vector, only, limit)
                model = own if given is None else None
                others, their_modes = await near_in(connection, self._vectors, pushed, vector, limit, model=model)
                by_vector = [place for _, place in sorted([*near, *others], key=itemgetter(0))[:limit]]
                for former, its_vector in earlier.items():
                    near, more = await self._near_in_documents(connection, question, former, its_vector, only, limit)
                    modes += more
                    by_vector = _alternating(by_vector, [place for _, place in sorted(near, key=itemgetter(0))])
                compared = max([RetrievalMode.EXACT, *modes, *their_modes], key=list(RetrievalMode).index)
            candidates = list(fuse_by_rank(by_vector, list(by_words)))[:limit]
            found = await _found(connection, question, candidates)
            found |= await pushed_rows(connection, pushed, candidates)
        if mode is not SearchMode.VECTOR:
            by_words = _read_again(question, by_words, found)
        scores = fuse_by_rank(by_vector, list(by_words), self._words_weigh)
        passages = [
            _passage_at(place, found[place], score, pushed) for place, score in scores.items() if place in found
        ]
        ranked, reranker = await self._reranked(query, passages, rerank)
        return SearchResult(tuple(ranked[:top_k]), compared, weights, reranker)

    async def _reranked(
        self,
        query: str,
        passages: Sequence[Passage],
        wanted: bool | None,  # noqa: FBT001  (a third state: as set up)
    ) -> tuple[Sequence[Passage], str]:
        """The passages in their final order, and who put them in it; their scores still fall."""
        reranker = self._reranker or (LexicalReranker() if wanted else None)
        if reranker is None or wanted is False or not query or not passages:
            return passages, ""
        head, rest = passages[:MOST_RERANKED], passages[MOST_RERANKED:]
        order = await reranker.reranked(query, head)
        if order is None:
            return passages, ""
        scored = [replace(new, score=old.score) for new, old in zip(order, head, strict=True)]
        return [*scored, *rest], reranker.name

    async def _near_in_documents(
        self,
        connection: asyncpg.Connection,
        question: Understood,
        model: str,
        vector: Vectors,
        only: Sequence[UUID] | None,
        limit: int,
    ) -> tuple[list[tuple[float, _Place]], list[RetrievalMode]]:
        """Distances and places of the nearest chunks of each library, and how each was searched."""
        found: list[tuple[float, _Place]] = []
        modes: list[RetrievalMode] = []
        restriction = await _only_of(connection, question, only)
        for library in question.libraries if len(vector) == DIMENSIONS else ():
            space = Space(library, Kind.DOCUMENTS, model)
            near = await self._vectors.nearest_within(
                connection, space, vector, limit, columns="document_id, ordinal", restriction=restriction
            )
            found += [(row["distance"], (row["document_id"], row["ordinal"])) for row in near.rows]
            modes.append(near.mode)
        return found, modes


def _alternating(first: Sequence[_Place], second: Sequence[_Place]) -> Sequence[_Place]:
    """Distances of two models do not compare; ranks do."""
    pairs = zip_longest(first, second)
    return list(dict.fromkeys(place for pair in pairs for place in pair if place is not None))


async def _with_batches(
    connection: asyncpg.Connection, only: Sequence[UUID] | None, pushed: Reach
) -> Sequence[UUID] | None:
    """What stands in the keyword index for all that may be found."""
    return only if only is None else [*only, *await batches_of(connection, pushed)]


def _refuse_other_dimensions(vector: Vectors | None) -> None:
    if vector is not None and len(vector) != DIMENSIONS:
        text = f"has {len(vector)} dimensions, the documents' vectors have {DIMENSIONS}"
        raise InvalidArgument(violations=[FieldViolation("vector", text, "vector.dimensions")])


async def _only_of(connection: asyncpg.Connection, question: Understood, only: Sequence[UUID] | None) -> Restriction:
    if only is None:
        return Restriction()
    chunks = await connection.fetchval(_CHUNKS_OF, question.libraries, only)
    return Restriction("document_id = any($2::uuid[])", (only,), at_most=int(chunks))


async def _by_words(
    connection: asyncpg.Connection, question: Understood, only: Sequence[UUID] | None, limit: int
) -> dict[_Place, float]:
    """BM25 of the best chunks, best first."""
    weights = term_weights(question.uses, question.statistics)
    if not weights:
        return {}
    rows = await connection.fetch(
        _BY_WORDS,
        question.libraries,
        list(weights),
        list(weights.values()),
        question.statistics.mean_length,
        only,
        limit,
    )
    return {(row["document_id"], row["ordinal"]): row["score"] for row in rows}


async def _found(
    connection: asyncpg.Connection, question: Understood, places: Sequence[_Place]
) -> dict[_Place, asyncpg.Record]:
    document_ids = [document_id for document_id, _ in places]
    rows = await connection.fetch(_PASSAGES, question.libraries, document_ids, [ordinal for _, ordinal in places])
    return {(row["document_id"], row["ordinal"]): row for row in rows}


def _read_again(
    question: Understood, by_words: Mapping[_Place, float], found: Mapping[_Place, asyncpg.Record]
) -> dict[_Place, float]:
    """The candidates that hold any word of the question, by BM25 and by how closely the words stand in them."""
    texts = [f"{row['title']}\n{row['section']}\n{row['body']}" for row in found.values()]
    near = closeness(question.uses, question.statistics, texts)
    scores = {place: by_words.get(place, 0.0) + more for place, more in zip(found, near, strict=True)}
    held = [(place, score) for place, score in scores.items() if score > 0]
    return dict(sorted(held, key=lambda entry: (-entry[1], entry[0])))


def _passage_at(place: _Place, row: asyncpg.Record, score: float, pushed: Reach) -> Passage:
    return pushed_passage(row, score) if place[0] in pushed.spaces else _passage(row, score)


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
