"""The queue of ingestion, in PostgreSQL: workers of any process lease jobs; a lease that ends gives its job to another.

Fencing: a worker writes only under the attempt it was given. Whoever was taken for dead and goes on finds its lease
lost, and nothing of what it did is kept.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from services.document_rag.documents.model import DocumentState, NewDocument, Policy, pause_seconds
from shared.errors import ServiceError
from shared.postgres import tenant_transaction

EVERY_TENANT = "*"
CHANNEL = "document_rag_ingestion"  # told: "" when there is a job, a document's id when its job is done
TURNS_APART = "interval '1 hour'"  # longer than a round of all tenants takes, or a backlog would be due at once
MAX_UNEXPLAINED = 4

# New vectors wait for whatever else there is to do; more work than making them takes the place of that.
_ENQUEUE = f"""
    insert into ingestion_jobs as job (tenant_id, document_id, kind, policy, is_awaited, turn)
    values ($1, $2, $3, $4, $5, case when $3 = 'reembed' then 'infinity' else greatest(now(), (
        select max(turn) + {TURNS_APART} from ingestion_jobs
        where tenant_id = $1 and finished_at is null and turn < 'infinity')) end)
    on conflict (tenant_id, document_id) do update
    set kind = case when job.finished_at is null and job.kind <> 'reembed' then job.kind else excluded.kind end,
        attempt = job.attempt + (job.kind = 'reembed')::integer,
        lease_until = case when job.kind <> 'reembed' then job.lease_until end,
        turn = case when job.finished_at is null then least(job.turn, excluded.turn) else excluded.turn end,
        is_awaited = false, run_after = now(), failures = 0, crashes = 0, outcome = null,
        finished_at = null, stage = case when job.finished_at is null then job.stage else 'queued' end
"""  # noqa: S608  (constants of ours)

# A lease that nobody gave back is that of a worker that died.
_CLAIM = """
    with due as (
        select tenant_id, document_id from ingestion_jobs
        where finished_at is null and run_after <= now() and (lease_until is null or lease_until < now())
        order by turn limit 1 for update skip locked
    )
    update ingestion_jobs job
    set attempt = attempt + 1, lease_until = now() + make_interval(secs => $1), done = 0, total = 0,
        crashes = crashes + (job.lease_until is not null)::integer
    from due where job.tenant_id = due.tenant_id and job.document_id = due.document_id
    returning job.tenant_id, job.document_id::text, kind, policy, is_awaited, attempt, crashes
"""

_MINE = "tenant_id = $1 and document_id = $2 and attempt = $3 and lease_until is not null and finished_at is null"

_RENEW = f"update ingestion_jobs set lease_until = now() + make_interval(secs => $4) where {_MINE} returning true"  # noqa: S608

_ADVANCE = f"""
    update ingestion_jobs set stage = $4, done = $5, total = $6 where {_MINE} returning true
"""  # noqa: S608

_GIVE_BACK = f"update ingestion_jobs set lease_until = null, stage = 'queued' where {_MINE}"  # noqa: S608

_POSTPONE = f"""
    update ingestion_jobs
    set lease_until = null, failures = $7, error_reason = $4, error_message = $5, error_stage = stage,
        error_at = now(), run_after = now() + make_interval(secs => $6)
    where {_MINE}
"""  # noqa: S608

_FAILURES = f"""
    select case when error_reason = $4 then failures else 0 end from ingestion_jobs where {_MINE}
"""  # noqa: S608

_HELD = f"select true from ingestion_jobs where {_MINE}"  # noqa: S608

_FINISH = f"""
    update ingestion_jobs
    set lease_until = null, finished_at = now(), outcome = $4,
        error_reason = $5, error_message = $6,
        error_stage = case when $5::text is not null then stage end,
        error_at = case when $5::text is not null then now() end
    where {_MINE} returning true
"""  # noqa: S608


class LeaseLostError(Exception):
    """Another worker was given the job, or the document was deleted: this worker's results count for nothing."""


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker was given. `attempt` is its fence; `crashes` counts workers that died over it."""

    tenant_id: str
    document_id: str
    kind: str
    policy: Policy
    is_awaited: bool
    attempt: int
    crashes: int

    @property
    def fence(self) -> tuple[str, UUID, int]:
        """Under what it may write."""
        return self.tenant_id, UUID(self.document_id), self.attempt


class JobQueue:
    """Leases jobs. `lease_seconds` is how long a dead worker keeps its job from the others."""

    def __init__(self, pool: asyncpg.Pool, lease_seconds: float) -> None:
        self._pool = pool
        self._lease_seconds = lease_seconds

    async def claim(self) -> Job | None:
        """The job whose turn it is, leased; None when there is none."""
        async with tenant_transaction(self._pool, EVERY_TENANT) as connection:
            row = await connection.fetchrow(_CLAIM, self._lease_seconds)
        return None if row is None else Job(**{**dict(row), "policy": Policy(row["policy"])})

    @asynccontextmanager
    async def held(self, job: Job) -> AsyncIterator[None]:
        """Keeps the lease while the block runs."""
        renewing = asyncio.create_task(self._renew_for_ever(job))
        try:
            yield
        finally:
            renewing.cancel()
            with suppress(asyncio.CancelledError):
                await renewing

    async def advance(self, job: Job, stage: DocumentState, done: int = 0, total: int = 0) -> None:
        """Tells those who watch how far it is. LeaseLostError if it is another's by now."""
        async with tenant_transaction(self._pool, job.tenant_id) as connection:
            if not await connection.fetchval(_ADVANCE, *job.fence, stage.value, done, total):
                raise LeaseLostError

    async def give_back(self, job: Job) -> None:
        """Lets another worker have it at once."""
        async with tenant_transaction(self._pool, job.tenant_id) as connection:
            await connection.execute(_GIVE_BACK, *job.fence)
            await tell(connection, "")

    async def failures(self, job: Job, reason: str) -> int:
        """Failures in a row for that reason before this attempt. LeaseLostError if it is another's by now."""
        async with tenant_transaction(self._pool, job.tenant_id) as connection:
            return await _failures(connection, job, reason)

    async def postpone(self, job: Job, error: ServiceError) -> None:
        """Puts it off because of the error, the longer the more often that happened; nothing if it is another's."""
        async with tenant_transaction(self._pool, job.tenant_id) as connection:
            with suppress(LeaseLostError):
                failures = 1 + await _failures(connection, job, error.reason)
                pause = max(pause_seconds(failures), error.retry_after_seconds or 0.0)
                await connection.execute(_POSTPONE, *job.fence, error.reason, error.message, pause, failures)
                await tell(connection, job.document_id)

    async def _renew_for_ever(self, job: Job) -> None:
        while True:
            await asyncio.sleep(self._lease_seconds / 3)
            with suppress(ServiceError):  # the database is away: the lease may end, and the fence decides
                async with tenant_transaction(self._pool, job.tenant_id) as connection:
                    if not await connection.fetchval(_RENEW, *job.fence, self._lease_seconds):
                        return


async def enqueue(connection: asyncpg.Connection, tenant_id: str, upload: NewDocument) -> None:
    """Adds the job of an upload to the transaction that takes it in."""
    said = upload.said
    document_id = UUID(upload.document_id)
    await connection.execute(_ENQUEUE, tenant_id, document_id, "ingest", said.policy.value, not said.return_early)
    await tell(connection, "")


async def enqueue_again(connection: asyncpg.Connection, tenant_id: str, document_id: UUID, kind: str) -> None:
    """Sets the document's job to be done anew and at once; one that is not done yet goes on without its pause."""
    await connection.execute(_ENQUEUE, tenant_id, document_id, kind, Policy.SKIP.value, False)  # noqa: FBT003
    await tell(connection, "")


async def require_lease(connection: asyncpg.Connection, job: Job) -> None:
    """LeaseLostError if the job is another's by now."""
    if not await connection.fetchval(_HELD, *job.fence):
        raise LeaseLostError


async def finish(connection: asyncpg.Connection, job: Job, outcome: str, error: ServiceError | None = None) -> None:
    """Ends the job together with what the transaction did; LeaseLostError, and so nothing, if it is another's."""
    reason, message = (error.reason, error.message) if error else (None, None)
    if not await connection.fetchval(_FINISH, *job.fence, outcome, reason, message):
        raise LeaseLostError
    await tell(connection, job.document_id)


async def tell(connection: asyncpg.Connection, what: str) -> None:
    """Wakes workers ("") or whoever waits for the document, when the transaction commits."""
    await connection.execute("select pg_notify($1, $2)", CHANNEL, what)


async def _failures(connection: asyncpg.Connection, job: Job, reason: str) -> int:
    failures: int | None = await connection.fetchval(_FAILURES, *job.fence, reason)
    if failures is None:
        raise LeaseLostError
    return failures
