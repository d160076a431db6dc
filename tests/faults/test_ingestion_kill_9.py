"""Workers die at every stage, providers and stores are away: no document is half there, none stays where it is."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from pydantic import SecretStr

from services.document_rag.__main__ import MIGRATIONS, SCHEMA, Documents, open_documents
from services.document_rag.config import Config
from services.document_rag.documents import index_writer, publishing
from services.document_rag.documents.model import Cause, Description, DocumentState, Verdict
from services.document_rag.model import SearchMode
from shared.postgres import migrate
from tests.document_rag.documents.workers import ended, index_rows, standing_still
from tests.document_rag.samples import IPTU, LIXO
from tests.house.fake_provider import FakeProvider, fake_provider
from tests.house.ports import own_port

STAGES = ("extracting", "chunking", "embedding", "indexing")
TENANT = "prefeitura"


@pytest.fixture
async def config(fresh_database: Callable[[], str], tmp_path: Path, provider: FakeProvider) -> Config:
    """A service of its own, whose vectors are bought."""
    url = SecretStr(fresh_database())
    await migrate(url, schema=SCHEMA, directory=MIGRATIONS)
    return Config(
        database_url=url,
        originals_url=str(tmp_path / "originals"),
        embedder="openai",
        openai_api_key=SecretStr("test"),
        openai_base_url=provider.base_url,
        embedding_deadline_seconds=60.0,
        ingestion_lease_seconds=60,
    )


async def leases_end(url: str) -> None:
    """What dead workers had in hand is anybody's, as after its time."""
    connection = await asyncpg.connect(url)
    await connection.execute("update document_rag.ingestion_jobs set lease_until = now()")
    await connection.close()


async def pieces_of(text: str) -> AsyncIterator[bytes]:
    yield text.encode()


async def found(documents: Documents, query: str) -> set[str]:
    result = await documents.index.search(TENANT, query, top_k=50, mode=SearchMode.HYBRID)
    return {passage.title for passage in result.passages}


async def test_a_worker_killed_at_any_stage_leaves_nothing_half_visible_and_another_finishes(
    config: Config, provider: FakeProvider
) -> None:
    url = config.database_url.get_secret_value()
    bought = len(provider.embedded)
    process = await standing_still(config, TENANT, STAGES, LIXO)
    process.send_signal(signal.SIGKILL)
    await process.communicate()
    assert all(rows == [] for rows in (await index_rows(url, TENANT)).values())
    await leases_end(url)
    async with open_documents(config) as documents:
        kept = await documents.store.list(TENANT, before=None, limit=10)
        assert {document.title for document in kept} == set(STAGES)
        states = await asyncio.gather(*(ended(documents.ingest, TENANT, document) for document in kept))
        assert set(states) == {DocumentState.READY}
        assert await found(documents, "coleta de lixo") == set(STAGES)
        rows, ready = await index_rows(url, TENANT), await documents.store.list(TENANT, before=None, limit=9)
        assert rows["totals"][0]["chunks"] == len(rows["chunks"]) == sum(document.chunk_count for document in ready)
        again = Description(title="indexing", filename="indexing.md", request_id="indexing")
        answer = await documents.ingest.upload(TENANT, again, pieces_of(LIXO + "indexing"))
        assert (answer.verdict, answer.document.state) == (Verdict.NEW, DocumentState.READY)
    texts = [text for batch in provider.embedded[bought:] for text in batch if text != "coleta de lixo"]
    assert len(texts) == len(set(texts)), "no text is bought twice, though its worker died"


async def test_a_document_waits_for_the_embedding_provider_in_sight_and_recovers_by_itself(config: Config) -> None:
    port = own_port()
    nobody = {"openai_base_url": f"http://127.0.0.1:{port}/v1", "embedding_deadline_seconds": 0.5}
    away = config.model_copy(update=nobody)
    async with open_documents(away) as documents:
        answer = await documents.ingest.upload(TENANT, Description(filename="lixo.md"), pieces_of(LIXO))
        document = answer.document
        assert (document.state, document.is_current) == (DocumentState.EMBEDDING, False)
        assert document.stage_error is not None
        assert document.stage_error.reason == "DEPENDENCY_UNAVAILABLE"
        assert document.stage_error.next_attempt_at is not None
        assert await found_by_words(documents, "coleta de lixo") == set()
        assert (await documents.ingest.diagnose(TENANT, document.document_id)).cause is Cause.WAITING
        with fake_provider(port):
            assert await ended(documents.ingest, TENANT, document) is DocumentState.READY
            assert await found_by_words(documents, "coleta de lixo") == {document.title}
        ready = await documents.store.get(TENANT, document.document_id)
        assert ready.stage_error is None


async def found_by_words(documents: Documents, query: str) -> set[str]:
    result = await documents.index.search(TENANT, query, top_k=50, mode=SearchMode.KEYWORD)
    return {passage.title for passage in result.passages}


async def test_a_database_lost_in_the_middle_of_the_commit_delays_and_doubles_nothing(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = config.database_url.get_secret_value()
    add = index_writer.add_vocabulary
    losses: list[int] = []

    async def lose_the_database(*arguments: Any) -> None:
        if not losses:
            losses.append(await cut_off(url))
        await add(*arguments)

    monkeypatch.setattr(publishing, "add_vocabulary", lose_the_database)
    async with open_documents(config) as documents:
        answer = await documents.ingest.upload(TENANT, Description(filename="lixo.md"), pieces_of(LIXO))
        assert await ended(documents.ingest, TENANT, answer.document) is DocumentState.READY
        assert losses
        rows = await index_rows(url, TENANT)
        assert len(rows["chunks"]) == rows["totals"][0]["chunks"] > 0
        assert (await documents.ingest.diagnose(TENANT, answer.document.document_id)).attempts == 2


async def cut_off(url: str) -> int:
    """Ends every other connection to the database, as a server that dies does; how many these were."""
    connection = await asyncpg.connect(url)
    try:
        ended: int = await connection.fetchval(
            "select count(pg_terminate_backend(pid)) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'"
        )
        return ended
    finally:
        await connection.close()


async def test_an_object_store_that_is_away_delays_and_loses_nothing(config: Config, tmp_path: Path) -> None:
    originals, elsewhere = tmp_path / "originals", tmp_path / "elsewhere"
    async with open_documents(config) as documents:
        first = (await documents.ingest.upload(TENANT, Description(filename="iptu.md"), pieces_of(IPTU))).document
        originals.rename(elsewhere)
        originals.write_text("no directory")
        with pytest.raises(Exception, match="object store"):
            await documents.ingest.upload(TENANT, Description(filename="lixo.md"), pieces_of(LIXO))
        assert len(await documents.store.list(TENANT, before=None, limit=10)) == 1
        await documents.ingest.delete(TENANT, first.document_id)
        originals.unlink()
        elsewhere.rename(originals)
        assert await sweep_everything(documents, config) == 1
        answer = await documents.ingest.upload(TENANT, Description(filename="lixo.md"), pieces_of(LIXO))
        assert answer.document.state is DocumentState.READY


async def sweep_everything(documents: Documents, config: Config) -> int:
    """Sweeps originals as if each were old by now; how many belonged to nothing."""
    _make_old(Path(config.originals_url.removeprefix("file://")))
    return await documents.ingestion.upkeep.sweep()


def _make_old(directory: Path) -> None:
    for path in directory.rglob("*-*-*"):
        os.utime(path, (1, 1))
