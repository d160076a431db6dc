"""What nobody asks for and somebody must do: new vectors when the model changes, and clearing away what is left over.

Every replica does it; each step does nothing that is done already.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NoReturn
from uuid import UUID

import asyncpg

from services.document_rag.documents.job_queue import EVERY_TENANT, enqueue_again
from services.document_rag.documents.originals import Originals, StoredOriginal
from services.document_rag.ids import uuid_of
from services.document_rag.search.earlier_models import EarlierModels
from shared.postgres import tenant_transaction
from shared.steadily import steadily
from shared.telemetry import get_logger

_DECLARE = """
    insert into embedding_targets (embedding_model) values ($1)
    on conflict (embedding_model) do update set declared_at = clock_timestamp()
"""

_WANTED = "select embedding_model from embedding_targets order by declared_at desc limit 1"

_OF_ANOTHER_MODEL = """
    select d.tenant_id, d.document_id from documents d left join ingestion_jobs j using (tenant_id, document_id)
    where d.is_current and d.embedding_model <> $1 and (j.document_id is null or j.finished_at is not null)
    limit $2
"""

_MODELS = "select distinct key from vector_spaces where kind = 'documents' and rows > 0"

_THERE = (
    "select document_id from documents where tenant_id = $1 and document_id = any($2::uuid[]) and deleted_at is null"
)

_SKIPPED = """
    select tenant_id, document_id from documents
    where state = 'skipped' and deleted_at is null and created_at < now() - interval '7 days' limit 1000
"""

_BURY = """
    update documents set deleted_at = now(), title = '', given_title = '', filename = '', source = '', metadata = '{}'
    where tenant_id = $1 and document_id = $2
"""

_FORGET_JOBS = """
    delete from ingestion_jobs where outcome in ('rejected', 'skipped') and finished_at < now() - interval '8 days'
"""

_FORGET_VECTORS = "delete from embedding_cache where used_on < current_date - $1::integer"

_FORGET_REQUESTS = """
    delete from upload_requests where ctid = any(array(
        select ctid from upload_requests where answered_at < now() - make_interval(days => $1)
        order by answered_at limit $2)) returning 1
"""

_BATCH = 500

_log = get_logger()


@dataclass(frozen=True, slots=True)
class UpkeepTimes:
    """How often vectors and leftovers are looked after, and how old something must be to be one.

    An original without a document is left alone for `orphan_seconds`: its document may be about to be committed.
    """

    look_seconds: float = 30.0
    sweep_seconds: float = 3600.0
    orphan_seconds: float = 86_400.0
    cache_days: int = 90
    request_days: int = 30


class Upkeep:
    """Looks after the documents of all tenants."""

    def __init__(
        self, pool: asyncpg.Pool, originals: Originals, model: str, earlier: EarlierModels, times: UpkeepTimes
    ) -> None:
        self._pool = pool
        self._earlier = earlier
        self._originals = originals
        self._model = model
        self._times = times
        self._is_declared = False
        self._sweep_at = time.monotonic() + times.sweep_seconds

    async def run(self) -> NoReturn:
        """Until cancelled."""
        await steadily("ingestion_upkeep", self.look, self._times.look_seconds)

    async def look(self) -> None:
        """One round."""
        await self.embed_anew()
        if time.monotonic() >= self._sweep_at:
            self._sweep_at = time.monotonic() + self._times.sweep_seconds
            await self.sweep()

    async def embed_anew(self) -> int:
        """Sets documents whose vectors are of another model to be embedded anew; how many that were.

        Only replicas with the model that was declared last do it: two that differ, as while a new one is rolled out,
        would undo each other's work for ever.
        """
        async with tenant_transaction(self._pool, EVERY_TENANT) as connection:
            self._earlier.are(row["key"] for row in await connection.fetch(_MODELS))
        if not await self._is_wanted():
            return 0
        total = 0
        async with tenant_transaction(self._pool, EVERY_TENANT) as connection:
            rows = await connection.fetch(_OF_ANOTHER_MODEL, self._model, _BATCH)
        for row in rows:
            async with tenant_transaction(self._pool, row["tenant_id"]) as connection:
                await enqueue_again(connection, row["tenant_id"], row["document_id"], "reembed")
            total += 1
        if total:
            _log.info("documents_to_be_embedded_anew", count=total, model=self._model)
        return total

    async def sweep(self) -> int:
        """Takes away originals that belong to nothing, and forgets what was skipped, refused or not used for long."""
        await self._bury_skipped()
        async with tenant_transaction(self._pool, EVERY_TENANT) as connection:
            await connection.execute(_FORGET_JOBS)
            await connection.execute(_FORGET_VECTORS, self._times.cache_days)
        await self._forget_requests()
        swept = 0
        oldest = datetime.now(UTC) - timedelta(seconds=self._times.orphan_seconds)
        async for stored in self._originals.listed():
            swept += await self._sweep([each for each in stored if each.stored_at < oldest])
        if swept:
            _log.info("originals_swept", count=swept)
        return swept

    async def _forget_requests(self) -> None:
        gone = _BATCH
        while gone == _BATCH:
            async with tenant_transaction(self._pool, EVERY_TENANT) as connection:
                gone = len(await connection.fetch(_FORGET_REQUESTS, self._times.request_days, _BATCH))

    async def _is_wanted(self) -> bool:
        async with tenant_transaction(self._pool, EVERY_TENANT) as connection:
            if not self._is_declared:
                await connection.execute(_DECLARE, self._model)
            wanted = await connection.fetchval(_WANTED)
        self._is_declared = True
        return bool(wanted == self._model)

    async def _sweep(self, stored: Sequence[StoredOriginal]) -> int:
        by_tenant: dict[str, dict[UUID, StoredOriginal]] = {}
        for each in stored:
            if (document_id := uuid_of(each.document_id)) is not None:
                by_tenant.setdefault(each.tenant_id, {})[document_id] = each
        swept = 0
        for tenant_id, originals in by_tenant.items():
            async with tenant_transaction(self._pool, tenant_id) as connection:
                rows = await connection.fetch(_THERE, tenant_id, list(originals))
            orphans = originals.keys() - {row["document_id"] for row in rows}
            for document_id in orphans:
                await self._originals.remove(tenant_id, str(document_id))
            swept += len(orphans)
            await asyncio.sleep(0)
        return swept

    async def _bury_skipped(self) -> None:
        async with tenant_transaction(self._pool, EVERY_TENANT) as connection:
            rows = await connection.fetch(_SKIPPED)
        for row in rows:
            async with tenant_transaction(self._pool, row["tenant_id"]) as connection:
                await connection.execute(_BURY, row["tenant_id"], row["document_id"])
