"""Leases and fences: who was given up for dead writes nothing, and whoever stops gives back what it holds."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest
from pydantic import SecretStr

from services.document_rag.__main__ import MIGRATIONS, SCHEMA
from services.document_rag.documents.admission import Admission
from services.document_rag.documents.embedding_cache import EmbeddingCache
from services.document_rag.documents.index_writer import register_vector_type
from services.document_rag.documents.ingestion import Ingestion, IngestionSettings, wired
from services.document_rag.documents.job_queue import EVERY_TENANT, Job, JobQueue, LeaseLostError, enqueue_again
from services.document_rag.documents.model import Cause, Description, DocumentState, IngestionCrashed, pause_seconds
from services.document_rag.documents.publishing import Publishing
from services.document_rag.documents.worker import Worker
from services.document_rag.search.earlier_models import EarlierModels
from services.document_rag.search.embedders import HashedEmbedder
from services.document_rag.search.stems import Stemmer
from shared.errors import ServiceError, Unavailable
from shared.postgres import migrate, open_pool, tenant_transaction
from tests.document_rag.documents.workers import INDEX_TABLES, index_rows
from tests.document_rag.samples import LIXO, POSTO

TENANT = "prefeitura"


@pytest.fixture(scope="module")
async def database(fresh_database: Callable[[], str]) -> str:
    """A database in which no worker is at work but those of the test."""
    url = fresh_database()
    await migrate(SecretStr(url), schema=SCHEMA, directory=MIGRATIONS)
    return url


@pytest.fixture
async def idle(database: str, tmp_path: Path) -> AsyncIterator[Ingestion]:
    """Everything of ingestion but workers, on tables that are empty."""
    connection = await asyncpg.connect(database)
    tables = ", ".join(f"document_rag.{table}" for table in ("documents", "embedding_cache", *INDEX_TABLES))
    await connection.execute(f"truncate {tables} cascade")
    await connection.close()
    async with open_pool(SecretStr(database), schema=SCHEMA, on_connect=register_vector_type) as pool:
        settings = IngestionSettings(originals_url=tmp_path.as_uri(), lease_seconds=60)
        ingestion, _ = wired(pool, HashedEmbedder(), Stemmer(pool), EarlierModels(HashedEmbedder()), settings)
        yield ingestion


async def taken(ingestion: Ingestion, text: str = LIXO, tenant_id: str = TENANT) -> str:
    """Id of a document that was uploaded and waits for a worker."""

    async def pieces() -> AsyncIterator[bytes]:
        yield text.encode()

    said = Description(filename="lixo.md", return_early=True)
    return (await ingestion.ingest.upload(tenant_id, said, pieces())).document.document_id


async def claimed(queue: JobQueue) -> Job:
    job = await queue.claim()
    assert job is not None
    return job


async def expire(ingestion: Ingestion) -> None:
    """Ends all leases, as their time would."""
    async with ingestion.workshop.pool.acquire() as connection, connection.transaction():
        await connection.execute("select set_config('app.tenant', '*', true)")
        await connection.execute("update ingestion_jobs set lease_until = now() - interval '1 s'")


async def test_a_worker_that_lost_its_lease_writes_nothing(
    idle: Ingestion, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    document_id = await taken(idle)
    arrived, go_on = asyncio.Event(), asyncio.Event()
    publish = Publishing.publish

    async def late(self: Publishing, job: Job, ingested: object) -> None:
        if job.attempt == 1:
            arrived.set()
            await go_on.wait()
        await publish(self, job, ingested)  # type: ignore[arg-type]

    monkeypatch.setattr(Publishing, "publish", late)
    zombie = asyncio.create_task(Worker(idle.workshop).work())
    await arrived.wait()
    await expire(idle)
    await Worker(idle.workshop).work()
    before = await index_rows(database, TENANT)
    assert (await idle.store.get(TENANT, document_id)).state is DocumentState.READY
    go_on.set()
    await zombie
    assert await index_rows(database, TENANT) == before
    assert (await idle.store.diagnose(TENANT, document_id, "m")).attempts == 2


async def test_a_fence_holds_for_every_word_of_a_worker(idle: Ingestion) -> None:
    await taken(idle)
    queue = idle.workshop.queue
    first = await claimed(queue)
    await expire(idle)
    second = await claimed(queue)
    assert (second.attempt, second.crashes) == (2, 1)
    with pytest.raises(LeaseLostError):
        await queue.advance(first, DocumentState.EMBEDDING)
    with pytest.raises(LeaseLostError):
        await idle.workshop.publishing.fail(first, Unavailable())
    await queue.postpone(first, Unavailable())
    await queue.give_back(first)
    await queue.advance(second, DocumentState.EMBEDDING)


@pytest.mark.parametrize("table", ["ingestion_jobs", "embedding_cache"])
async def test_another_tenant_sees_and_changes_no_row_of_the_tables_of_ingestion(idle: Ingestion, table: str) -> None:
    await taken(idle)
    pool = idle.workshop.pool
    await EmbeddingCache(pool, HashedEmbedder(), is_kept=True).vectors(TENANT, ["um texto"])
    async with tenant_transaction(pool, TENANT) as connection:
        assert await connection.fetchval(f"select count(*) from {table}") == 1
    async with tenant_transaction(pool, "outra") as connection:
        assert await connection.fetchval(f"select count(*) from {table}") == 0
        assert await connection.execute(f"delete from {table}") == "DELETE 0"
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(f"insert into {table} select * from {table} union all {_ROWS[table]}")


_ROWS = {
    "ingestion_jobs": 'select (jsonb_populate_record(null::ingestion_jobs, \'{"tenant_id": "prefeitura"}\')).*',
    "embedding_cache": 'select (jsonb_populate_record(null::embedding_cache, \'{"tenant_id": "prefeitura"}\')).*',
}


async def test_a_job_is_one_worker_s_at_a_time(idle: Ingestion) -> None:
    for n in range(6):
        await taken(idle, f"{LIXO} {n}")
    jobs = await asyncio.gather(*(idle.workshop.queue.claim() for _ in range(12)))
    assert len({job.document_id for job in jobs if job}) == len([job for job in jobs if job]) == 6


async def test_one_tenant_s_thousand_documents_keep_another_s_one_waiting_for_a_few_only(idle: Ingestion) -> None:
    for n in range(20):
        await taken(idle, f"{LIXO} {n}", "grande")
    await taken(idle, POSTO, "pequena")
    tenants = [(await claimed(idle.workshop.queue)).tenant_id for _ in range(21)]
    assert tenants.index("pequena") <= 6


async def test_a_tenant_s_backlog_that_grows_old_keeps_nobody_waiting_either(idle: Ingestion) -> None:
    for n in range(20):
        await taken(idle, f"{LIXO} {n}", "grande")
    async with tenant_transaction(idle.workshop.pool, EVERY_TENANT) as connection:
        await connection.execute("update ingestion_jobs set turn = turn - interval '10 minutes'")
    await taken(idle, POSTO, "pequena")
    tenants = [(await claimed(idle.workshop.queue)).tenant_id for _ in range(21)]
    assert tenants.index("pequena") <= 6


async def test_new_vectors_for_all_documents_keep_no_upload_waiting(idle: Ingestion) -> None:
    kept = [await taken(idle, f"{LIXO} {n}") for n in range(8)]
    await Worker(idle.workshop).work()
    async with tenant_transaction(idle.workshop.pool, TENANT) as connection:
        for document_id in kept:
            await enqueue_again(connection, TENANT, UUID(document_id), "reembed")
    upload = await taken(idle, POSTO)
    assert (await claimed(idle.workshop.queue)).document_id == upload
    assert {(await claimed(idle.workshop.queue)).kind for _ in kept} == {"reembed"}


async def test_a_document_that_kills_its_workers_fails_in_the_end(idle: Ingestion) -> None:
    document_id = await taken(idle)
    for _ in range(4):
        await claimed(idle.workshop.queue)
        await expire(idle)
    await Worker(idle.workshop).work()
    document = await idle.store.get(TENANT, document_id)
    assert document.state is DocumentState.FAILED
    assert document.stage_error is not None
    assert document.stage_error.reason == IngestionCrashed.reason
    await idle.store.retry(TENANT, document_id)
    await Worker(idle.workshop).work()
    assert (await idle.store.get(TENANT, document_id)).state is DocumentState.READY


async def test_a_worker_that_is_stopped_gives_its_document_back_at_once(
    idle: Ingestion, monkeypatch: pytest.MonkeyPatch
) -> None:
    await taken(idle)
    arrived = asyncio.Event()

    async def stand_still(*_: object) -> None:
        arrived.set()
        await asyncio.sleep(600)

    monkeypatch.setattr(Publishing, "publish", stand_still)
    worker = asyncio.create_task(Worker(idle.workshop).work())
    await arrived.wait()
    worker.cancel()
    with pytest.raises(asyncio.CancelledError):
        await worker
    assert (await claimed(idle.workshop.queue)).crashes == 0


async def test_a_document_deleted_while_it_is_worked_on_stays_deleted(
    idle: Ingestion, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    document_id = await taken(idle)
    publish = Publishing.publish

    async def after_deletion(self: Publishing, job: Job, ingested: object) -> None:
        await idle.ingest.delete(TENANT, document_id)
        await publish(self, job, ingested)  # type: ignore[arg-type]

    monkeypatch.setattr(Publishing, "publish", after_deletion)
    await Worker(idle.workshop).work()
    assert all(rows == [] for rows in (await index_rows(database, TENANT)).values())


async def test_an_error_that_nobody_foresaw_is_tried_again_a_few_times_and_then_told(
    idle: Ingestion, monkeypatch: pytest.MonkeyPatch
) -> None:
    document_id = await taken(idle)

    async def break_down(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Publishing, "publish", break_down)
    monkeypatch.setattr("services.document_rag.documents.job_queue.pause_seconds", lambda _: -1.0)
    monkeypatch.setattr("shared.errors.Internal.usual_wait_seconds", None)
    for _ in range(4):
        with pytest.raises(ZeroDivisionError):
            await Worker(idle.workshop).work()
    document = await idle.store.get(TENANT, document_id)
    assert document.state is DocumentState.FAILED
    assert document.stage_error is not None
    assert document.stage_error.reason == "INTERNAL"


async def test_a_provider_that_was_long_away_uses_up_no_patience_with_what_nobody_foresaw(
    idle: Ingestion, monkeypatch: pytest.MonkeyPatch
) -> None:
    document_id = await taken(idle)
    faults: list[Exception] = [Unavailable() for _ in range(12)] + [ZeroDivisionError() for _ in range(3)]
    publish = Publishing.publish

    async def break_down(self: Publishing, job: Job, ingested: object) -> None:
        if faults:
            raise faults.pop(0)
        await publish(self, job, ingested)  # type: ignore[arg-type]

    monkeypatch.setattr(Publishing, "publish", break_down)
    monkeypatch.setattr("services.document_rag.documents.job_queue.pause_seconds", lambda _: -1.0)
    monkeypatch.setattr("shared.errors.Internal.usual_wait_seconds", None)
    while faults:
        with suppress(ZeroDivisionError):
            await Worker(idle.workshop).work()
    await Worker(idle.workshop).work()
    assert (await idle.store.get(TENANT, document_id)).state is DocumentState.READY


async def test_a_database_that_is_away_when_a_worker_would_say_so_is_no_death_of_it(
    idle: Ingestion, monkeypatch: pytest.MonkeyPatch
) -> None:
    document_id = await taken(idle)
    postpone, failures = JobQueue.postpone, [Unavailable(), Unavailable()]

    async def fail(*_: object) -> None:
        raise Unavailable

    async def postpone_later(self: JobQueue, job: Job, error: ServiceError) -> None:
        if failures:
            raise failures.pop()
        await postpone(self, job, error)

    monkeypatch.setattr(Publishing, "publish", fail)
    monkeypatch.setattr(JobQueue, "postpone", postpone_later)
    monkeypatch.setattr("services.document_rag.documents.worker.DATABASE_PAUSE_SECONDS", 0.01)
    await Worker(idle.workshop).work()
    told = await idle.store.diagnose(TENANT, document_id, "m")
    assert (told.cause, told.crashes) == (Cause.WAITING, 0)


async def test_a_title_that_is_given_while_the_document_is_worked_on_is_kept_and_found(
    idle: Ingestion, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    document_id = await taken(idle)
    settle, publish, titles = Admission.settle, Publishing.publish, ["Limpeza urbana", "Calendário da limpeza"]

    async def retitled_before(self: Admission, *arguments: object) -> bool:
        if len(titles) == 2:
            await idle.store.update(TENANT, document_id, {"title": titles.pop(0)})
            kept = await settle(self, *arguments)  # type: ignore[arg-type]
            assert (await idle.store.get(TENANT, document_id)).title == "Limpeza urbana"
            return kept
        return await settle(self, *arguments)  # type: ignore[arg-type]

    async def retitled_after(self: Publishing, job: Job, ingested: object) -> None:
        if titles:
            await idle.store.update(TENANT, document_id, {"title": titles.pop(0)})
        await publish(self, job, ingested)  # type: ignore[arg-type]

    monkeypatch.setattr(Admission, "settle", retitled_before)
    monkeypatch.setattr(Publishing, "publish", retitled_after)
    await Worker(idle.workshop).work()
    document = await idle.store.get(TENANT, document_id)
    assert (document.title, document.state) == ("Calendário da limpeza", DocumentState.READY)
    words = (await index_rows(database, TENANT))["words"]
    assert "calendario" in {row["word"] for row in words}
    assert (await idle.store.diagnose(TENANT, document_id, "m")).attempts == 2


def test_pauses_grow_to_a_minute() -> None:
    assert all(0.5 <= pause_seconds(1) <= 1.0 for _ in range(20))
    assert all(2.0 <= pause_seconds(3) <= 4.0 for _ in range(20))
    assert all(30.0 <= pause_seconds(1000) <= 60.0 for _ in range(20))
