"""What search can find of a document: its chunks with their vectors, its words and what they add to the statistics.

Written and taken away inside the caller's transaction, so that it appears and vanishes with the document.
"""

from collections.abc import Sequence
from uuid import UUID

import asyncpg

from services.document_rag.model import Chunk
from services.document_rag.search.embedders import Vectors
from services.document_rag.search.postings import Vocabulary
from shared.identifiers import derived_id

# PostgreSQL refuses COPY into a table whose row-level security binds the role, so that rows go through a table of the
# connection's own: measured 0.7 times what arrays take.
_STAGE = """
    create temporary table if not exists staged_chunks (
        ordinal integer, chunk_id uuid, page integer, char_start bigint, char_end bigint, section text, body text,
        tokens integer, embedding public.halfvec
    ) on commit delete rows
"""

_ADD_CHUNKS = """
    insert into chunks (tenant_id, document_id, embedding_model, ordinal, chunk_id, page, char_start, char_end,
                        section, body, tokens, embedding)
    select $1, $2, $3, * from pg_temp.staged_chunks where ordinal between $4 and $5
"""

_ADD_POSTINGS = """
    insert into postings (tenant_id, document_id, term, ordinals, counts, lengths)
    select $1, $2, term, array_agg(ordinal order by ordinal), array_agg(count order by ordinal),
           array_agg(length order by ordinal)
    from unnest($3::text[], $4::integer[], $5::integer[], $6::integer[]) as place(term, ordinal, count, length)
    group by term
"""

_CHUNKS_A_COPY = 128  # a few milliseconds of the event loop

_ADD_TERMS = """
    insert into terms (tenant_id, term, chunks)
    select $1, * from unnest($2::text[], $3::integer[]) order by 2
    on conflict (tenant_id, term) do update set chunks = terms.chunks + excluded.chunks
"""

_ADD_WORDS = """
    with added as (
        insert into words (tenant_id, word, term, chunks)
        select $1, * from unnest($2::text[], $3::text[], $4::integer[])
        on conflict (tenant_id, word, term) do update set chunks = words.chunks + excluded.chunks
        returning word
    )
    insert into word_trigrams (tenant_id, trigram, word, size)
    select $1, trigram, word, cardinality(show_trgm(word))
    from (select distinct word from added where length(word) >= 3) as spelt, unnest(show_trgm(word)) as trigram
    on conflict do nothing
"""

_ADD_TOTALS = """
    insert into totals (tenant_id, chunks, terms) values ($1, $2, $3)
    on conflict (tenant_id)
    do update set chunks = totals.chunks + excluded.chunks, terms = totals.terms + excluded.terms
"""

_ADD_VOCABULARY = """
    insert into document_vocabulary (tenant_id, document_id, terms, term_chunks, words, word_terms, word_chunks,
                                     chunk_total, term_total)
    values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
"""

_SUBTRACT = """
    with gone as (
        delete from document_vocabulary where tenant_id = $1 and document_id = $2 returning *
    ), fewer_postings as (
        delete from postings using gone
        where postings.tenant_id = $1 and postings.term = any(gone.terms) and postings.document_id = $2
    ), fewer_terms as (
        update terms set chunks = terms.chunks - lost.chunks
        from gone, unnest(gone.terms, gone.term_chunks) as lost(term, chunks)
        where terms.tenant_id = $1 and terms.term = lost.term
    ), fewer_words as (
        update words set chunks = words.chunks - lost.chunks
        from gone, unnest(gone.words, gone.word_terms, gone.word_chunks) as lost(word, term, chunks)
        where words.tenant_id = $1 and words.word = lost.word and words.term = lost.term
    )
    update totals set chunks = totals.chunks - gone.chunk_total, terms = totals.terms - gone.term_total
    from gone where totals.tenant_id = $1
"""

_FORGET_TERMS = "delete from terms where tenant_id = $1 and chunks = 0"

_FORGET_WORDS = """
    with gone as (
        delete from words where tenant_id = $1 and chunks = 0 returning word
    ), unspelt as (
        select distinct word from gone
        where not exists (
            select from words other where other.tenant_id = $1 and other.word = gone.word and other.chunks > 0
        )
    )
    delete from word_trigrams using unspelt, unnest(show_trgm(unspelt.word)) as known
    where word_trigrams.tenant_id = $1 and word_trigrams.trigram = known and word_trigrams.word = unspelt.word
"""


async def register_vector_type(connection: asyncpg.Connection) -> None:
    """Lets a new connection send vectors in binary, an eighth of their text."""
    await connection.set_type_codec("halfvec", schema="public", encoder=bytes, decoder=bytes, format="binary")


def halfvec(vector: Vectors) -> bytes:
    """A vector as PostgreSQL receives it: dimensions, zero, big-endian halves."""
    return len(vector).to_bytes(2, "big") + b"\0\0" + vector.astype(">f2").tobytes()


async def one_writer(connection: asyncpg.Connection, tenant_id: str) -> None:
    """What changes a tenant's index commits one after another, so that hot terms never deadlock."""
    await connection.execute(
        "select pg_advisory_xact_lock(hashtextextended($1, 0))", f"document_rag documents of {tenant_id}"
    )


async def add_chunks(
    connection: asyncpg.Connection,
    tenant_id: str,
    document_id: str,
    model: str,
    chunks: Sequence[Chunk],
    vectors: Sequence[bytes],
) -> None:
    """Adds chunks, in the order of their ordinals, under vectors of the model as `halfvec` gives them."""
    await connection.execute(_STAGE)
    for start in range(0, len(chunks), _CHUNKS_A_COPY):
        rows = zip(chunks[start : start + _CHUNKS_A_COPY], vectors[start : start + _CHUNKS_A_COPY], strict=True)
        await connection.copy_records_to_table(
            "staged_chunks",
            schema_name="pg_temp",
            records=[_staged(document_id, chunk, vector) for chunk, vector in rows],
        )
    places = (chunks[0].ordinal, chunks[-1].ordinal)
    await connection.execute(_ADD_CHUNKS, tenant_id, UUID(document_id), model, *places)


def _staged(document_id: str, chunk: Chunk, vector: bytes) -> tuple[object, ...]:
    chunk_id = UUID(derived_id(document_id, str(chunk.ordinal)))
    place = (chunk.page, chunk.char_start, chunk.char_end)
    return (chunk.ordinal, chunk_id, *place, chunk.section, chunk.text, chunk.tokens, vector)


async def add_vocabulary(
    connection: asyncpg.Connection, tenant_id: str, document_id: str, vocabulary: Vocabulary
) -> None:
    """Adds the document's words."""
    key = (tenant_id, UUID(document_id))
    terms, term_chunks = list(vocabulary.terms), list(vocabulary.terms.values())
    words, word_terms = [word for word, _ in vocabulary.words], [term for _, term in vocabulary.words]
    word_chunks = list(vocabulary.words.values())
    for places in vocabulary.places:
        await connection.execute(_ADD_POSTINGS, *key, *places)
    await connection.execute(_ADD_TERMS, tenant_id, terms, term_chunks)
    await connection.execute(_ADD_WORDS, tenant_id, words, word_terms, word_chunks)
    totals = (vocabulary.chunk_total, vocabulary.term_total)
    await connection.execute(_ADD_TOTALS, tenant_id, *totals)
    await connection.execute(_ADD_VOCABULARY, *key, terms, term_chunks, words, word_terms, word_chunks, *totals)


async def remove_from_index(connection: asyncpg.Connection, tenant_id: str, document_id: UUID) -> None:
    """Takes away all that search could find of the document, and exactly what it added to the statistics."""
    await connection.execute("delete from chunks where tenant_id = $1 and document_id = $2", tenant_id, document_id)
    await connection.execute(_SUBTRACT, tenant_id, document_id)
    await connection.execute(_FORGET_TERMS, tenant_id)
    await connection.execute(_FORGET_WORDS, tenant_id)
