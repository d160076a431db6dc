"""Documents in PostgreSQL: a document, its chunks, their vectors and their index entries appear and vanish together."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from services.document_rag.model import Chunk, Document, NewDocument, UploadResult, Verdict
from services.document_rag.search.embedders import Vectors
from services.document_rag.search.postings import Vocabulary
from shared.errors import NotFound, RequestIdReused
from shared.identifiers import derived_id
from shared.postgres import tenant_transaction

_COLUMNS = """document_id, title, filename, mime_type, size_bytes, sha256, version, page_count, chunk_count,
    token_count, char_count, embedding_model, created_at"""

_INSERT_DOCUMENT = f"""
    insert into documents (tenant_id, document_id, title, filename, mime_type, size_bytes, sha256,
                           page_count, chunk_count, token_count, char_count, embedding_model)
    values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
    returning {_COLUMNS}
"""  # noqa: S608  (columns of ours)

# Arrays and not COPY: PostgreSQL refuses COPY FROM into a table whose row-level security binds the role.
_ADD_CHUNKS = """
    insert into chunks (tenant_id, document_id, embedding_model, ordinal, chunk_id, page, char_start, char_end,
                        section, body, tokens, embedding)
    select $1, $2, $3, * from unnest($4::integer[], $5::uuid[], $6::integer[], $7::bigint[], $8::bigint[],
                                     $9::text[], $10::text[], $11::integer[], $12::halfvec[])
"""

_ADD_POSTINGS = """
    insert into postings (tenant_id, document_id, term, ordinals, counts, lengths)
    select $1, $2, term, array_agg(ordinal order by ordinal), array_agg(count order by ordinal),
           array_agg(length order by ordinal)
    from unnest($3::text[], $4::integer[], $5::integer[], $6::integer[]) as place(term, ordinal, count, length)
    group by term
"""

_CHUNKS_A_STATEMENT = 100  # a few milliseconds of the event loop

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


@dataclass(frozen=True, slots=True)
class IngestedText:
    """Everything that was made of an upload: what becomes visible with it in one commit."""

    title: str
    mime_type: str
    page_count: int
    char_count: int
    chunks: Sequence[Chunk]
    vectors: Vectors
    embedding_model: str
    vocabulary: Vocabulary


async def register_vector_type(connection: asyncpg.Connection) -> None:
    """Lets a new connection send vectors in binary, an eighth of their text."""
    await connection.set_type_codec("halfvec", schema="public", encoder=bytes, decoder=bytes, format="binary")


def halfvec(vector: Vectors) -> bytes:
    """A vector as PostgreSQL receives it: dimensions, zero, big-endian halves."""
    return len(vector).to_bytes(2, "big") + b"\0\0" + vector.astype(">f2").tobytes()


class DocumentStore:
    """The documents of all tenants; every method sees one tenant's."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def earlier(self, tenant_id: str, upload: NewDocument) -> UploadResult | None:
        """What this request_id, or these bytes, led to before. RequestIdReused for the id of another upload."""
        async with tenant_transaction(self._pool, tenant_id) as connection:
            await _one_writer(connection, tenant_id)
            return await _earlier(connection, tenant_id, upload)

    async def add(self, tenant_id: str, upload: NewDocument, text: IngestedText) -> UploadResult:
        """Makes the document searchable, all of it at once; or finds that somebody else just uploaded these bytes."""
        async with tenant_transaction(self._pool, tenant_id) as connection:
            await _one_writer(connection, tenant_id)
            if result := await _earlier(connection, tenant_id, upload):
                return result
            document = await _insert_document(connection, tenant_id, upload, text)
            await _insert_chunks(connection, tenant_id, upload.document_id, text)
            await _insert_vocabulary(connection, tenant_id, upload.document_id, text.vocabulary)
            result = UploadResult(Verdict.NEW, document)
            await _remember_request(connection, tenant_id, upload, result)
            return result

    async def get(self, tenant_id: str, document_id: str) -> Document:
        """The document. NotFound for a foreign, deleted or missing one."""
        async with tenant_transaction(self._pool, tenant_id) as connection:
            row = await connection.fetchrow(
                f"select {_COLUMNS} from documents"  # noqa: S608
                " where tenant_id = $1 and document_id = $2 and deleted_at is null",
                tenant_id,
                _uuid(document_id),
            )
        if row is None:
            raise NotFound("document", document_id)
        return _document(row)

    async def list(self, tenant_id: str, *, before: str | None, limit: int) -> Sequence[Document]:
        """Documents uploaded before the one named, or the newest; newest first (their ids are ordered by time)."""
        async with tenant_transaction(self._pool, tenant_id) as connection:
            rows = await connection.fetch(
                f"select {_COLUMNS} from documents"  # noqa: S608
                " where tenant_id = $1 and deleted_at is null and ($2::uuid is null or document_id < $2)"
                " order by document_id desc limit $3",
                tenant_id,
                _uuid(before) if before else None,
                limit,
            )
        return [_document(row) for row in rows]

    async def delete(self, tenant_id: str, document_id: str) -> None:
        """Leaves a tombstone and takes away everything a search could find. NotFound as in get."""
        async with tenant_transaction(self._pool, tenant_id) as connection:
            await _one_writer(connection, tenant_id)
            deleted = await connection.fetchval(
                "update documents set deleted_at = now(), title = '', filename = ''"
                " where tenant_id = $1 and document_id = $2 and deleted_at is null returning true",
                tenant_id,
                _uuid(document_id),
            )
            if deleted is None:
                raise NotFound("document", document_id)
            await connection.execute(
                "delete from chunks where tenant_id = $1 and document_id = $2", tenant_id, _uuid(document_id)
            )
            await connection.execute(_SUBTRACT, tenant_id, _uuid(document_id))
            await connection.execute(_FORGET_TERMS, tenant_id)
            await connection.execute(_FORGET_WORDS, tenant_id)


async def _one_writer(connection: asyncpg.Connection, tenant_id: str) -> None:
    """Uploads of one tenant commit one after another, so that equal bytes meet and hot terms never deadlock."""
    await connection.execute(
        "select pg_advisory_xact_lock(hashtextextended($1, 0))", f"document_rag documents of {tenant_id}"
    )


async def _earlier(connection: asyncpg.Connection, tenant_id: str, upload: NewDocument) -> UploadResult | None:
    if upload.said.request_id and (answered := await _answered(connection, tenant_id, upload)):
        return answered
    row = await connection.fetchrow(
        f"select {_COLUMNS} from documents where tenant_id = $1 and sha256 = $2 and deleted_at is null",  # noqa: S608
        tenant_id,
        upload.sha256,
    )
    if row is None:
        return None
    result = UploadResult(Verdict.DUPLICATE_OF, _document(row))
    await _remember_request(connection, tenant_id, upload, result)
    return result


async def _answered(connection: asyncpg.Connection, tenant_id: str, upload: NewDocument) -> UploadResult | None:
    row = await connection.fetchrow(
        f"select verdict, fingerprint, {_COLUMNS} from upload_requests join documents using (tenant_id, document_id)"  # noqa: S608
        " where tenant_id = $1 and request_id = $2",
        tenant_id,
        upload.said.request_id,
    )
    if row is None:
        return None
    if row["fingerprint"] != upload.fingerprint():
        raise RequestIdReused
    return UploadResult(Verdict(row["verdict"]), _document(row))


async def _remember_request(
    connection: asyncpg.Connection, tenant_id: str, upload: NewDocument, result: UploadResult
) -> None:
    if not upload.said.request_id:
        return
    await connection.execute(
        "insert into upload_requests (tenant_id, request_id, fingerprint, document_id, verdict)"
        " values ($1, $2, $3, $4, $5)",
        tenant_id,
        upload.said.request_id,
        upload.fingerprint(),
        UUID(result.document.document_id),
        result.verdict.value,
    )


async def _insert_document(
    connection: asyncpg.Connection, tenant_id: str, upload: NewDocument, text: IngestedText
) -> Document:
    row = await connection.fetchrow(
        _INSERT_DOCUMENT,
        tenant_id,
        UUID(upload.document_id),
        text.title,
        upload.said.filename,
        text.mime_type,
        upload.size_bytes,
        upload.sha256,
        text.page_count,
        len(text.chunks),
        sum(chunk.tokens for chunk in text.chunks),
        text.char_count,
        text.embedding_model,
    )
    return _document(row)


async def _insert_chunks(connection: asyncpg.Connection, tenant_id: str, document_id: str, text: IngestedText) -> None:
    for start in range(0, len(text.chunks), _CHUNKS_A_STATEMENT):
        chunks = text.chunks[start : start + _CHUNKS_A_STATEMENT]
        await connection.execute(
            _ADD_CHUNKS,
            tenant_id,
            UUID(document_id),
            text.embedding_model,
            [chunk.ordinal for chunk in chunks],
            [derived_id(document_id, str(chunk.ordinal)) for chunk in chunks],
            [chunk.page for chunk in chunks],
            [chunk.char_start for chunk in chunks],
            [chunk.char_end for chunk in chunks],
            [chunk.section for chunk in chunks],
            [chunk.text for chunk in chunks],
            [chunk.tokens for chunk in chunks],
            [halfvec(vector) for vector in text.vectors[start : start + _CHUNKS_A_STATEMENT]],
        )


async def _insert_vocabulary(
    connection: asyncpg.Connection, tenant_id: str, document_id: str, vocabulary: Vocabulary
) -> None:
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


def _uuid(document_id: str) -> UUID | None:
    """The id as kept, or None, which equals no row, for text that cannot be one."""
    try:
        return UUID(document_id)
    except ValueError:
        return None


def _document(row: asyncpg.Record | None) -> Document:
    if row is None:
        raise RuntimeError("a statement that must give a row gave none")
    columns = {name: row[name] for name in Document.__slots__}
    return Document(**{**columns, "document_id": str(row["document_id"])})
