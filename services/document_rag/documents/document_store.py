"""Documents in PostgreSQL, as clients ask for them and change them. A tenant reads the global library's, too."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import asyncpg

from services.document_rag.documents.admission import one_judge
from services.document_rag.documents.document_rows import COLUMNS, DOCUMENTS, STATE, document_of, stage_error_of
from services.document_rag.documents.index_writer import one_writer, remove_from_index
from services.document_rag.documents.job_queue import enqueue_again, tell
from services.document_rag.documents.model import (
    Diagnosis,
    Document,
    DocumentState,
    ListFilter,
    Progress,
    Standing,
    Verdict,
)
from services.document_rag.ids import uuid_of
from services.document_rag.model import GLOBAL_LIBRARY
from shared.errors import NotFound
from shared.postgres import tenant_transaction

_LIST = f"""
    select {COLUMNS} from {DOCUMENTS}
    where tenant_id = any($1::text[]) and d.deleted_at is null and ($2::uuid is null or document_id < $2)
      and ($4::text[] is null or {STATE} = any($4))
      and ($5::uuid is null or d.collection_id = $5) and ($6 = '' or d.source = $6) and ($7 = false or d.is_current)
    order by document_id desc limit $3
"""  # noqa: S608  (columns of ours)

_VERSIONS = f"""
    select {COLUMNS} from {DOCUMENTS}
    where d.tenant_id = any($1::text[]) and d.deleted_at is null and ($3::integer is null or d.version < $3)
      and coalesce(d.origin_id, d.document_id) = (
          select coalesce(origin_id, document_id) from documents
          where tenant_id = any($1::text[]) and document_id = $2 and deleted_at is null)
    order by d.version desc limit $4
"""  # noqa: S608

_PROGRESS = f"""
    select document_id::text, {STATE} as state, coalesce(j.done, 0) as done, coalesce(j.total, 0) as total,
           coalesce(j.attempt, 0) as attempt, d.related_document_id::text,
           d.verdict, d.title_similarity, j.outcome, j.stage, d.deleted_at, j.finished_at,
           j.error_reason, j.error_message, j.error_stage, j.error_at,
           case when j.finished_at is null then j.run_after end as next_attempt_at
    from {DOCUMENTS} where tenant_id = any($1::text[]) and document_id = $2
"""  # noqa: S608

_DIAGNOSE = f"""
    select {COLUMNS}, coalesce(j.attempt, 0) as attempts, coalesce(j.crashes, 0) as crashes, j.lease_until,
           coalesce(j.lease_until > now(), false) as is_leased,
           (select coalesce(sum(cardinality(terms)), 0) from document_vocabulary v
            where v.tenant_id = d.tenant_id and v.document_id = d.document_id) as indexed_terms,
           (select coalesce(jsonb_object_agg(embedding_model, many), '{{}}') from (
                select embedding_model, count(*) as many from chunks c
                where c.tenant_id = d.tenant_id and c.document_id = d.document_id group by 1) as each
           ) as chunks_by_model
    from {DOCUMENTS} where tenant_id = any($1::text[]) and document_id = $2 and d.deleted_at is null
"""  # noqa: S608

_DELETE = """
    update documents
    set deleted_at = now(), is_current = false, title = '', given_title = '', filename = '', source = '',
        metadata = '{}'
    where tenant_id = $1 and document_id = $2 and deleted_at is null returning true
"""

_UPDATE = """
    update documents
    set title = coalesce($3, title), given_title = coalesce($3, given_title), metadata = coalesce($4, metadata),
        collection_id = case when $5::text is null then collection_id else nullif($5, '')::uuid end
    where tenant_id = $1 and document_id = $2 and deleted_at is null returning state
"""

# What failed is on its way again, or an earlier version may become current; the same bytes, come meanwhile as another
# document, must not stop it.
_REVIVE = """
    update documents failed
    set state = case when state = 'ready' then 'ready' else 'pending' end,
        verdict = case when state = 'skipped' then 'new' else verdict end,
        kept_beside = kept_beside or exists (
            select from documents other
            where other.tenant_id = $1 and other.sha256 = failed.sha256 and other.deleted_at is null
              and not other.superseded and other.state in ('pending', 'ready') and other.document_id <> $2)
    where tenant_id = $1 and document_id = $2 and deleted_at is null
      and (state in ('failed', 'skipped') or superseded)
"""


class DocumentStore:
    """The documents of all tenants; a method sees those of one tenant and reads those of the library."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def get(self, tenant_id: str, document_id: str) -> Document:
        """The document. NotFound for a foreign, deleted or missing one."""
        async with tenant_transaction(self._pool, tenant_id) as connection:
            return await _get(connection, _readable(tenant_id), document_id)

    async def list(
        self, tenant_id: str, *, before: str | None, limit: int, wanted: ListFilter | None = None
    ) -> Sequence[Document]:
        """The tenant's documents before the one named, or the newest; newest first (their ids are ordered by time)."""
        wanted = wanted or ListFilter()
        if wanted.collection_id and uuid_of(wanted.collection_id) is None:
            return []
        async with tenant_transaction(self._pool, tenant_id) as connection:
            rows = await connection.fetch(
                _LIST,
                [tenant_id],
                uuid_of(before) if before else None,
                limit,
                [state.value for state in wanted.states] or None,
                uuid_of(wanted.collection_id),
                wanted.source,
                wanted.current_only,
            )
        return [document_of(row) for row in rows]

    async def versions(self, tenant_id: str, document_id: str, *, before: int | None, limit: int) -> Sequence[Document]:
        """Versions of the document below the number given, or the newest; newest first. NotFound as in get."""
        async with tenant_transaction(self._pool, tenant_id) as connection:
            await _get(connection, _readable(tenant_id), document_id)
            rows = await connection.fetch(_VERSIONS, _readable(tenant_id), uuid_of(document_id), before, limit)
        return [document_of(row) for row in rows]

    async def update(self, tenant_id: str, document_id: str, changes: Mapping[str, Any]) -> Document:
        """The document with its new title, metadata or collection_id. A new title has it read anew, for its chunks.

        NotFound as in get, and for a collection that the tenant does not own.
        """
        key = (tenant_id, uuid_of(document_id))
        collection_id = changes.get("collection_id")
        async with tenant_transaction(self._pool, tenant_id) as connection:
            if collection_id:
                await _require_collection(connection, tenant_id, collection_id)
            state = await connection.fetchval(
                _UPDATE, *key, changes.get("title"), changes.get("metadata"), collection_id
            )
            if state is None:
                raise NotFound("document", document_id)
            if "title" in changes and state == "ready":
                await enqueue_again(connection, tenant_id, UUID(document_id), "reread")
            return await _get(connection, [tenant_id], document_id)

    async def retry(self, tenant_id: str, document_id: str) -> Document:
        """Sets the document to be worked on at once: anew, without a pause, or read again. NotFound as in get."""
        async with tenant_transaction(self._pool, tenant_id) as connection:
            await one_judge(connection, tenant_id)
            document = await _get(connection, [tenant_id], document_id)
            key = UUID(document.document_id)
            await connection.execute(_REVIVE, tenant_id, key)
            kind = "reread" if document.state is DocumentState.READY else "ingest"
            await enqueue_again(connection, tenant_id, key, kind)
            return await _get(connection, [tenant_id], document_id)

    async def delete(self, tenant_id: str, document_id: str) -> None:
        """Leaves a tombstone and takes away everything a search could find. NotFound as in get."""
        key = (tenant_id, uuid_of(document_id))
        async with tenant_transaction(self._pool, tenant_id) as connection:
            await one_writer(connection, tenant_id)
            if await connection.fetchval(_DELETE, *key) is None:
                raise NotFound("document", document_id)
            await connection.execute("delete from ingestion_jobs where tenant_id = $1 and document_id = $2", *key)
            await remove_from_index(connection, tenant_id, UUID(document_id))
            await tell(connection, document_id)

    async def progress(self, tenant_id: str, document_id: str) -> Standing:
        """How far the document is and how it ended. NotFound for a foreign or missing one, and for one deleted."""
        async with tenant_transaction(self._pool, tenant_id) as connection:
            row = await connection.fetchrow(_PROGRESS, _readable(tenant_id), uuid_of(document_id))
        if row is None or (row["deleted_at"] is not None and row["outcome"] not in ("rejected", "skipped")):
            raise NotFound("document", document_id)
        return _standing(row)

    async def diagnose(self, tenant_id: str, document_id: str, searched_model: str) -> Diagnosis:
        """What there is of the document; whether its original is there is for others to say. NotFound as in get."""
        async with tenant_transaction(self._pool, tenant_id) as connection:
            row = await connection.fetchrow(_DIAGNOSE, _readable(tenant_id), uuid_of(document_id))
        if row is None:
            raise NotFound("document", document_id)
        return Diagnosis(
            document=document_of(row),
            attempts=row["attempts"],
            crashes=row["crashes"],
            is_leased=row["is_leased"],
            lease_until=row["lease_until"],
            indexed_terms=row["indexed_terms"],
            chunks_by_model=row["chunks_by_model"],
            searched_model=searched_model,
            has_original=True,
        )


def _standing(row: asyncpg.Record) -> Standing:
    """A document that is read again is as far as that is."""
    is_over = row["finished_at"] is not None or row["stage"] is None
    progress = Progress(
        document_id=row["document_id"],
        state=DocumentState(row["state"] if is_over else row["stage"]),
        done=row["done"],
        total=row["total"],
        attempt=row["attempt"],
        stage_error=stage_error_of(row),
        related_document_id=row["related_document_id"] or "",
    )
    return Standing(progress, is_over, row["outcome"] or "", Verdict(row["verdict"]), row["title_similarity"])


async def _get(connection: asyncpg.Connection, tenants: Sequence[str], document_id: str) -> Document:
    row = await connection.fetchrow(
        f"select {COLUMNS} from {DOCUMENTS}"  # noqa: S608
        " where tenant_id = any($1::text[]) and document_id = $2 and d.deleted_at is null",
        tenants,
        uuid_of(document_id),
    )
    if row is None:
        raise NotFound("document", document_id)
    return document_of(row)


async def _require_collection(connection: asyncpg.Connection, tenant_id: str, collection_id: str) -> None:
    if not await connection.fetchval(
        "select true from collections where tenant_id = $1 and collection_id = $2 and deleted_at is null for share",
        tenant_id,
        uuid_of(collection_id),
    ):
        raise NotFound("collection", collection_id)


def _readable(tenant_id: str) -> list[str]:
    return [tenant_id, GLOBAL_LIBRARY]
