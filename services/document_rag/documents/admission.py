"""Taking an upload in: what it turns out to be, and, if it is kept, its row and its job in one commit.

Every method of a tenant that judges what is there holds one lock, so that equal uploads meet; a unique index over the
bytes stands behind it. An upload is judged twice: by what is known of it when it arrives, and by its text when that
has been read.
"""

from dataclasses import dataclass, replace
from uuid import UUID

import asyncpg

from services.document_rag.documents.document_rows import COLUMNS, DOCUMENTS, document_of
from services.document_rag.documents.job_queue import Job, enqueue, finish, require_lease
from services.document_rag.documents.model import (
    ALIKE_TITLES,
    Document,
    Fate,
    Finding,
    Known,
    Likeness,
    NewDocument,
    UploadResult,
    Verdict,
)
from services.document_rag.documents.read_text import ReadText
from services.document_rag.ids import uuid_of
from services.document_rag.model import document_title
from shared.errors import NotFound, RequestIdReused
from shared.postgres import tenant_transaction

# What an upload may be like: what is on its way or there, in its newest version, but for itself and its later ones.
_THERE = """deleted_at is null and not superseded and state in ('pending', 'ready')
    and document_id <> $2 and coalesce(origin_id, document_id) <> $2"""

_BY_SOURCE = f"""
    select document_id, sha256, text_sha256 from documents
    where tenant_id = $1 and {_THERE} and source = $3 order by document_id desc limit 1
"""  # noqa: S608  (conditions of ours)

_BY_BYTES = f"select document_id from documents where tenant_id = $1 and {_THERE} and sha256 = $3 limit 1"  # noqa: S608

_BY_TEXT = f"""
    select document_id from documents where tenant_id = $1 and {_THERE} and text_sha256 = $3
    order by document_id limit 1
"""  # noqa: S608

# Titles of which one has far more trigrams than the other cannot be alike: the index leaves them out.
_BY_TITLE = f"""
    with asked as (select folded_title($3) as title, cardinality(show_trgm(folded_title($3))) as trigrams)
    select document_id, similarity(folded_title(documents.title), asked.title)::float8 as similarity
    from documents cross join asked
    where tenant_id = $1 and {_THERE}
      and title_trigrams between floor(asked.trigrams * $4::float8) and ceil(asked.trigrams / $4::float8)
      and similarity(folded_title(documents.title), asked.title) >= $4::float8
    order by similarity desc, document_id limit 1
"""  # noqa: S608

_ADMIT = """
    insert into documents (tenant_id, document_id, title, filename, mime_type, size_bytes, sha256, page_count,
                           chunk_count, token_count, char_count, embedding_model, source, collection_id, metadata,
                           language, version, origin_id, previous_version_id, verdict, related_document_id,
                           title_similarity, kept_beside, given_title)
    values ($1, $2, $3, $4, $5, $6, $7, 0, 0, 0, 0, '', $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)
"""

# The line that a new version continues: its origin, the newest of it, and the number that comes next.
_LINE = """
    select coalesce(origin_id, document_id) as origin_id, document_id as previous_version_id,
           (select max(version) + 1 from documents
            where tenant_id = $1 and coalesce(origin_id, document_id) = coalesce(found.origin_id, found.document_id)
           ) as version
    from documents found where tenant_id = $1 and document_id = $2
"""

_REMEMBER = """
    insert into upload_requests (tenant_id, request_id, fingerprint, document_id, verdict, kept, title_similarity)
    values ($1, $2, $3, $4, $5, $6, $7)
"""

_SETTLE = """
    update documents
    set title = $3, mime_type = $4, language = case when language = 'und' then $5 else language end,
        page_count = $6, char_count = $7, text_sha256 = $8, chunk_count = $9, token_count = $10,
        verdict = $11, related_document_id = $12, title_similarity = $13,
        version = coalesce($14, version), origin_id = coalesce($15, origin_id),
        previous_version_id = coalesce($16, previous_version_id), empty_page_count = $17
    where tenant_id = $1 and document_id = $2 and deleted_at is null
"""

_SKIP = """
    update documents
    set state = 'skipped', verdict = $3, related_document_id = $4, title_similarity = $5,
        deleted_at = case when $6::boolean then now() end
    where tenant_id = $1 and document_id = $2
"""

_FORWARD_REQUESTS = """
    update upload_requests set document_id = $3, verdict = $4, kept = false, title_similarity = $5
    where tenant_id = $1 and document_id = $2
"""

_NOBODY = UUID(int=0)


@dataclass(frozen=True, slots=True)
class _Line:
    """Where a document stands among versions: alone, unless it continues a line."""

    version: int | None = None
    origin_id: UUID | None = None
    previous_version_id: UUID | None = None


class Admission:
    """Judges uploads and takes them in; every method sees one tenant's documents."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def check(self, tenant_id: str, known: Known) -> tuple[Finding, Document] | None:
        """What a file of which so much is known is like; None for nothing that is there."""
        async with tenant_transaction(self._pool, tenant_id) as connection:
            finding = await _resembled(connection, tenant_id, known)
            if finding is None:
                return None
            return finding, await _document(connection, tenant_id, UUID(finding.document_id))

    async def earlier(self, tenant_id: str, upload: NewDocument) -> UploadResult | None:
        """What this upload led to before, or why it is not kept; None if it is to be admitted.

        RequestIdReused for the request_id of another upload; NotFound for a collection that is not there.
        """
        async with tenant_transaction(self._pool, tenant_id) as connection:
            await one_judge(connection, tenant_id)
            await _require_collection(connection, tenant_id, upload.said.collection_id)
            result, _ = await _judged(connection, tenant_id, upload)
            return result

    async def admit(self, tenant_id: str, upload: NewDocument) -> UploadResult:
        """Takes the upload in, its job with it; or finds that somebody else just did, as `earlier` would."""
        try:
            return await self._admit(tenant_id, upload)
        except asyncpg.UniqueViolationError:  # the index saw the same bytes where the judge did not
            return await self._admit(tenant_id, upload)

    async def _admit(self, tenant_id: str, upload: NewDocument) -> UploadResult:
        async with tenant_transaction(self._pool, tenant_id) as connection:
            await one_judge(connection, tenant_id)
            await _require_collection(connection, tenant_id, upload.said.collection_id)
            result, finding = await _judged(connection, tenant_id, upload)
            if result is not None:
                return result
            await _insert(connection, tenant_id, upload, finding)
            await enqueue(connection, tenant_id, upload)
            document = await _document(connection, tenant_id, UUID(upload.document_id))
            result = _result(document)
            await _remember(connection, tenant_id, upload, result)
            return result

    async def settle(self, job: Job, text: ReadText) -> bool:
        """Judges the document by its text and writes down what was read; False if it is not kept after all."""
        async with tenant_transaction(self._pool, job.tenant_id) as connection:
            await one_judge(connection, job.tenant_id)
            await require_lease(connection, job)
            document = await _document(connection, job.tenant_id, UUID(job.document_id), locked=True)
            title = document_title(document.given_title, text.title, document.filename)
            finding, line = await _finding_by_text(connection, job, document, title, text), _Line()
            if finding is not None and finding.fate(job.policy) is Fate.DROPPED:
                await _skip(connection, job, finding)
                return False
            if (
                finding is not None
                and finding.fate(job.policy) is Fate.NEW_VERSION
                and not document.previous_version_id
            ):
                line = await _line(connection, job.tenant_id, finding)
            await _write_down(connection, job, document, title, text, finding, line)
            return True


async def one_judge(connection: asyncpg.Connection, tenant_id: str) -> None:
    """Until the end of the transaction nobody else judges what the tenant has, or changes what judges go by."""
    await connection.execute(
        "select pg_advisory_xact_lock(hashtextextended($1, 0))", f"document_rag admissions of {tenant_id}"
    )


async def _require_collection(connection: asyncpg.Connection, tenant_id: str, collection_id: str) -> None:
    """A document goes into a collection of its own tenant; the row is kept from being deleted meanwhile."""
    if collection_id and not await connection.fetchval(
        "select true from collections where tenant_id = $1 and collection_id = $2 and deleted_at is null for share",
        tenant_id,
        uuid_of(collection_id),
    ):
        raise NotFound("collection", collection_id)


async def _judged(
    connection: asyncpg.Connection, tenant_id: str, upload: NewDocument
) -> tuple[UploadResult | None, Finding | None]:
    """The answer, if it is known already; else what the upload is like."""
    said = upload.said
    if said.request_id and (answered := await _answered(connection, tenant_id, upload)):
        return answered, None
    finding = await _resembled(connection, tenant_id, Known(upload.sha256, b"", said.source, said.title))
    if finding is None or finding.fate(said.policy) is not Fate.DROPPED:
        return None, finding
    if not said.return_early:
        return await _not_kept(connection, tenant_id, upload, finding), finding
    await connection.execute(
        "update ingestion_jobs set is_awaited = false where tenant_id = $1 and document_id = $2",
        tenant_id,
        UUID(finding.document_id),
    )
    return await _not_kept(connection, tenant_id, upload, finding), finding


async def _not_kept(
    connection: asyncpg.Connection, tenant_id: str, upload: NewDocument, finding: Finding
) -> UploadResult:
    document = await _document(connection, tenant_id, UUID(finding.document_id))
    result = UploadResult(finding.verdict, document, False, finding.document_id, finding.similarity)  # noqa: FBT003
    await _remember(connection, tenant_id, upload, result)
    return result


async def _resembled(
    connection: asyncpg.Connection, tenant_id: str, known: Known, own_id: UUID = _NOBODY
) -> Finding | None:
    """What a file is like: its source says more than its bytes, these more than its text, and that than its title."""
    if known.source and (row := await connection.fetchrow(_BY_SOURCE, tenant_id, own_id, known.source)):
        return Finding(_likeness_to_source(known, row), str(row["document_id"]))
    if known.sha256 and (found := await connection.fetchval(_BY_BYTES, tenant_id, own_id, known.sha256)):
        return Finding(Likeness.BYTES, str(found))
    if known.text_sha256 and (found := await connection.fetchval(_BY_TEXT, tenant_id, own_id, known.text_sha256)):
        return Finding(Likeness.TEXT, str(found))
    if known.title and (row := await connection.fetchrow(_BY_TITLE, tenant_id, own_id, known.title, ALIKE_TITLES)):
        return Finding(Likeness.TITLE, str(row["document_id"]), row["similarity"])
    return None


def _likeness_to_source(known: Known, row: asyncpg.Record) -> Likeness:
    if known.sha256 and row["sha256"] == known.sha256:
        return Likeness.BYTES
    return Likeness.TEXT if known.text_sha256 and row["text_sha256"] == known.text_sha256 else Likeness.SOURCE


async def _finding_by_text(
    connection: asyncpg.Connection, job: Job, document: Document, title: str, text: ReadText
) -> Finding | None:
    """A new version of a source is compared with that source alone."""
    own_id = UUID(document.document_id)
    if job.kind != "ingest" or document.verdict is Verdict.DUPLICATE_OF:
        return None
    known = Known(text_sha256=text.text_sha256)
    if document.verdict is Verdict.NEW_VERSION_OF:
        known = replace(known, source=document.source)
    elif title != document_title("", "", ""):
        known = replace(known, title=title)
    return await _resembled(connection, job.tenant_id, known, own_id)


async def _insert(connection: asyncpg.Connection, tenant_id: str, upload: NewDocument, finding: Finding | None) -> None:
    said = upload.said
    fate = finding.fate(said.policy) if finding else Fate.OWN_DOCUMENT
    line = await _line(connection, tenant_id, finding) if finding and fate is Fate.NEW_VERSION else _Line()
    beside = finding is not None and await connection.fetchval(_BY_BYTES, tenant_id, _NOBODY, upload.sha256) is not None
    await connection.execute(
        _ADMIT,
        tenant_id,
        UUID(upload.document_id),
        document_title(said.title, "", said.filename),
        said.filename,
        said.mime_type,
        upload.size_bytes,
        upload.sha256,
        said.source,
        uuid_of(said.collection_id),
        dict(said.metadata),
        said.language or "und",
        line.version or 1,
        line.origin_id,
        line.previous_version_id,
        (finding.verdict if finding else Verdict.NEW).value,
        UUID(finding.document_id) if finding else None,
        finding.similarity if finding else 0.0,
        beside,
        said.title,
    )


async def _line(connection: asyncpg.Connection, tenant_id: str, finding: Finding) -> _Line:
    row = await connection.fetchrow(_LINE, tenant_id, UUID(finding.document_id))
    return _Line(**dict(row)) if row else _Line()


async def _write_down(
    connection: asyncpg.Connection,
    job: Job,
    document: Document,
    title: str,
    text: ReadText,
    finding: Finding | None,
    line: _Line,
) -> None:
    await connection.execute(
        _SETTLE,
        job.tenant_id,
        UUID(document.document_id),
        title,
        text.mime_type,
        text.language or "pt",
        text.page_count,
        text.char_count,
        text.text_sha256,
        text.chunk_count,
        text.token_count,
        (finding.verdict if finding else document.verdict).value,
        UUID(finding.document_id) if finding else uuid_of(document.related_document_id),
        finding.similarity if finding else document.title_similarity,
        line.version,
        line.origin_id,
        line.previous_version_id,
        text.empty_pages,
    )


async def _skip(connection: asyncpg.Connection, job: Job, finding: Finding) -> None:
    """What a client waits for goes without a trace, its request_id leads to what is there; else it stays visible."""
    key = (job.tenant_id, UUID(job.document_id))
    found = (UUID(finding.document_id), finding.verdict.value)
    if job.is_awaited:
        await connection.execute(_FORWARD_REQUESTS, *key, *found, finding.similarity)
    await connection.execute(_SKIP, *key, found[1], found[0], finding.similarity, job.is_awaited)
    await finish(connection, job, "skipped")


async def _answered(connection: asyncpg.Connection, tenant_id: str, upload: NewDocument) -> UploadResult | None:
    row = await connection.fetchrow(
        "select fingerprint, document_id, verdict, kept, title_similarity from upload_requests"
        " where tenant_id = $1 and request_id = $2",
        tenant_id,
        upload.said.request_id,
    )
    if row is None:
        return None
    if row["fingerprint"] != upload.fingerprint():
        raise RequestIdReused
    document = await _document(connection, tenant_id, row["document_id"])
    if row["kept"]:
        return _result(document)
    return UploadResult(Verdict(row["verdict"]), document, False, document.document_id, row["title_similarity"])  # noqa: FBT003


async def _remember(connection: asyncpg.Connection, tenant_id: str, upload: NewDocument, result: UploadResult) -> None:
    if upload.said.request_id:
        document_id = UUID(result.document.document_id)
        key = (tenant_id, upload.said.request_id, upload.fingerprint(), document_id)
        await connection.execute(_REMEMBER, *key, result.verdict.value, result.kept, result.similarity)


async def _document(
    connection: asyncpg.Connection, tenant_id: str, document_id: UUID, *, locked: bool = False
) -> Document:
    """The document; `locked`: nobody changes it until the transaction ends. NotFound for a deleted one."""
    lock = "for update of d" if locked else ""
    row = await connection.fetchrow(
        f"select {COLUMNS} from {DOCUMENTS}"  # noqa: S608
        f" where tenant_id = $1 and document_id = $2 and d.deleted_at is null {lock}",
        tenant_id,
        document_id,
    )
    if row is None:
        raise NotFound("document", str(document_id))
    return document_of(row)


def _result(document: Document) -> UploadResult:
    """What an upload that was kept led to."""
    return UploadResult(
        verdict=document.verdict,
        document=document,
        kept=True,
        related_document_id=document.related_document_id,
        similarity=document.title_similarity,
    )
