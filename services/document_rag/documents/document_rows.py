"""Documents as rows of PostgreSQL: which columns one is read from, with the job that says how far it is."""

from typing import Any

import asyncpg

from services.document_rag.documents.model import Document, DocumentState, StageError, Verdict
from services.document_rag.model import GLOBAL_LIBRARY, Scope

# How far a document is, as far as the job knows it that is not done yet.
STATE = """case when d.state <> 'pending' then d.state else coalesce(j.stage, 'queued') end"""

DOCUMENTS = "documents d left join ingestion_jobs j using (tenant_id, document_id)"

COLUMNS = f"""d.tenant_id, d.document_id, d.title, d.filename, d.mime_type, d.size_bytes, d.sha256, d.version,
    d.page_count, d.chunk_count, d.token_count, d.char_count, d.embedding_model, d.created_at, d.source, d.is_current,
    d.previous_version_id, d.text_sha256, d.collection_id, d.metadata, d.language, d.verdict, d.related_document_id,
    d.title_similarity, d.given_title, d.ready_at, d.empty_page_count, {STATE} as state, j.error_reason,
    j.error_message, j.error_stage, j.error_at,
    case when j.finished_at is null then j.run_after end as next_attempt_at"""


def document_of(row: asyncpg.Record) -> Document:
    """The document in a row of COLUMNS."""
    own = {name: row[name] for name in Document.__slots__ if name in _AS_KEPT}
    return Document(
        **own,
        document_id=str(row["document_id"]),
        state=DocumentState(row["state"]),
        stage_error=stage_error_of(row),
        previous_version_id=_text(row["previous_version_id"]),
        text_sha256=row["text_sha256"] or b"",
        collection_id=_text(row["collection_id"]),
        scope=Scope.GLOBAL if row["tenant_id"] == GLOBAL_LIBRARY else Scope.TENANT,
        verdict=Verdict(row["verdict"]),
        related_document_id=_text(row["related_document_id"]),
    )


def stage_error_of(row: asyncpg.Record) -> StageError | None:
    """What went wrong last, if nothing went well since."""
    if row["error_reason"] is None:
        return None
    stage = DocumentState(row["error_stage"])
    return StageError(row["error_reason"], row["error_message"], stage, row["error_at"], row["next_attempt_at"])


_AS_KEPT = frozenset(
    {
        *("title", "filename", "mime_type", "size_bytes", "sha256", "version", "page_count", "chunk_count"),
        *("token_count", "char_count", "embedding_model", "created_at", "source", "is_current", "metadata"),
        *("language", "ready_at", "title_similarity", "given_title", "empty_page_count"),
    }
)


def _text(value: Any) -> str:
    return "" if value is None else str(value)
