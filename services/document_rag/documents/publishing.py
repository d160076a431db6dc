"""The one commit with which a document appears: its row, chunks, vectors, words and the end of its job, or none of it.

Of the versions of a document only the newest that is READY is in the index. Which that is, is decided here, by the
versions' numbers and not by who is ready first.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from services.document_rag.documents.index_writer import (
    add_chunks,
    add_vocabulary,
    one_writer,
    remove_from_index,
)
from services.document_rag.documents.job_queue import Job, enqueue_again, finish, require_lease
from services.document_rag.model import Chunk
from services.document_rag.search.postings import Vocabulary
from shared.errors import ServiceError
from shared.postgres import tenant_transaction

_NEWER = """
    select true from documents own join documents newer
      on newer.tenant_id = own.tenant_id
     and coalesce(newer.origin_id, newer.document_id) = coalesce(own.origin_id, own.document_id)
     and newer.version > own.version and newer.state = 'ready' and newer.deleted_at is null
    where own.tenant_id = $1 and own.document_id = $2 limit 1
"""

_OLDER = """
    update documents older set is_current = false, superseded = true
    from documents own
    where own.tenant_id = $1 and own.document_id = $2 and older.tenant_id = $1
      and coalesce(older.origin_id, older.document_id) = coalesce(own.origin_id, own.document_id)
      and older.version < own.version and older.state = 'ready' and not older.superseded
    returning older.document_id, older.deleted_at is null as is_there
"""

_READY = """
    update documents set state = 'ready', is_current = $3, superseded = not $3, embedding_model = $4,
                         ready_at = coalesce(ready_at, now())
    where tenant_id = $1 and document_id = $2 and deleted_at is null returning title
"""

_FAIL = "update documents set state = 'failed' where tenant_id = $1 and document_id = $2 and state = 'pending'"

_REJECT = """
    update documents set state = 'failed', deleted_at = now(), title = '', given_title = '', filename = '', source = '',
                         metadata = '{}'
    where tenant_id = $1 and document_id = $2
"""

_NEW_VECTORS = """
    update chunks set embedding_model = $3, embedding = made.embedding, number = default
    from unnest($4::integer[], $5::halfvec[]) as made(ordinal, embedding)
    where tenant_id = $1 and document_id = $2 and chunks.ordinal = made.ordinal
"""

# Chunks and their vectors, as `halfvec` gives them, a slice at a time.
Slices = Callable[[], AsyncIterator[tuple[Sequence[Chunk], Sequence[bytes]]]]
Told = Callable[[int], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Ingested:
    """What was made of a document under the title that it had."""

    title: str
    slices: Slices
    embedding_model: str
    vocabulary: Vocabulary


class Publishing:
    """Ends jobs together with what they led to."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def publish(self, job: Job, ingested: Ingested) -> None:
        """Makes the document READY, and what search finds unless a newer version is that already.

        It is read again if it was given another title meanwhile, for that stands over its chunks.

        LeaseLostError, and nothing of it, if the job is another worker's by now.
        """
        key = (job.tenant_id, UUID(job.document_id))
        async with tenant_transaction(self._pool, job.tenant_id) as connection:
            await one_writer(connection, job.tenant_id)
            await require_lease(connection, job)
            is_current = not await connection.fetchval(_NEWER, *key)
            await _take_away(connection, job)
            if is_current:
                await _put_in(connection, job, ingested)
            title = await connection.fetchval(_READY, *key, is_current, ingested.embedding_model)
            await finish(connection, job, "ready")
            if title != ingested.title:
                await enqueue_again(connection, *key, "reread")

    async def fail(self, job: Job, error: ServiceError) -> None:
        """Ends the job without a document to be found. What a client waits for is not kept at all."""
        key = (job.tenant_id, UUID(job.document_id))
        async with tenant_transaction(self._pool, job.tenant_id) as connection:
            await connection.execute(_REJECT if job.is_awaited else _FAIL, *key)
            if job.is_awaited:
                await connection.execute("delete from upload_requests where tenant_id = $1 and document_id = $2", *key)
            await finish(connection, job, "rejected" if job.is_awaited else "failed", error)

    async def replace_vectors(self, job: Job, model: str, slices: Slices) -> None:
        """Gives the chunks vectors of another model, all in one commit."""
        key = (job.tenant_id, UUID(job.document_id))
        async with tenant_transaction(self._pool, job.tenant_id) as connection:
            await one_writer(connection, job.tenant_id)
            async for chunks, vectors in slices():
                await connection.execute(_NEW_VECTORS, *key, model, [chunk.ordinal for chunk in chunks], vectors)
            await connection.execute(
                "update documents set embedding_model = $3 where tenant_id = $1 and document_id = $2", *key, model
            )
            await finish(connection, job, "ready")


async def _take_away(connection: asyncpg.Connection, job: Job) -> None:
    """Older versions, and what there was of the document itself, leave the index."""
    key = (job.tenant_id, UUID(job.document_id))
    for older in await connection.fetch(_OLDER, *key):
        if older["is_there"]:
            await remove_from_index(connection, job.tenant_id, older["document_id"])
    if job.kind != "ingest":
        await remove_from_index(connection, job.tenant_id, key[1])


async def _put_in(connection: asyncpg.Connection, job: Job, ingested: Ingested) -> None:
    async for chunks, vectors in ingested.slices():
        await add_chunks(connection, job.tenant_id, job.document_id, ingested.embedding_model, chunks, vectors)
    await add_vocabulary(connection, job.tenant_id, job.document_id, ingested.vocabulary)
