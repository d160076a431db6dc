"""The embedding provider is away for ten minutes, by the clock of the job queue; documents recover by themselves.

Only the waiting is left out: whenever a job is put off, the test takes the pause off its `run_after` and counts it.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import asyncpg
import pytest
from pydantic import SecretStr

from deploy.local.ports import LOOPBACK
from services.document_rag.__main__ import MIGRATIONS, SCHEMA, open_documents
from services.document_rag.config import Config
from services.document_rag.documents.job_queue import CHANNEL
from services.document_rag.documents.model import LONGEST_PAUSE_SECONDS, Description, DocumentState
from shared.postgres import migrate
from tests.document_rag.documents.workers import ended, index_rows
from tests.document_rag.samples import LIXO
from tests.faults.test_ingestion_kill_9 import pieces_of
from tests.house.fake_provider import fake_provider
from tests.house.ports import own_port

TENANT = "prefeitura"
TEN_MINUTES = 600.0


@contextmanager
def page_of_maintenance(port: int) -> Iterator[None]:
    """What a proxy shows while the provider behind it is away, with 200 as its status."""
    page = b"<html><body>We will be back soon.</body></html>"

    class Page(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.send_header("content-length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer((LOOPBACK, port), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


@asynccontextmanager
async def watching(url: str) -> AsyncIterator[asyncpg.Connection]:
    """The database, past every service."""
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


@pytest.mark.parametrize("outage", [nullcontext, page_of_maintenance], ids=["nobody listens", "a page of maintenance"])
async def test_documents_recover_by_themselves_when_the_provider_was_away_for_ten_minutes(
    fresh_database: Callable[[], str],
    tmp_path: Path,
    outage: Callable[[int], AbstractContextManager[None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url, port = fresh_database(), own_port()
    await migrate(SecretStr(url), schema=SCHEMA, directory=MIGRATIONS)
    config = Config(
        database_url=SecretStr(url),
        originals_url=str(tmp_path / "originals"),
        embedder="openai",
        openai_api_key=SecretStr("test"),
        openai_base_url=f"http://{LOOPBACK}:{port}/v1",
        embedding_deadline_seconds=0.5,
    )
    said = Description(filename="lixo.md", return_early=True)
    async with open_documents(config) as documents, watching(url) as connection:
        with outage(port):
            document = (await documents.ingest.upload(TENANT, said, pieces_of(LIXO))).document
            pauses = [await next_pause(connection)]
            while sum(pauses) < TEN_MINUTES:
                await let_it_pass(connection)
                pauses.append(await next_pause(connection))
            waiting = await documents.store.get(TENANT, document.document_id)
            assert not waiting.state.is_final
            assert waiting.stage_error is not None
            assert waiting.stage_error.reason == "DEPENDENCY_UNAVAILABLE"
            assert max(pauses) <= LONGEST_PAUSE_SECONDS, "nor does it sleep long after the provider is back"
            assert len(pauses) >= TEN_MINUTES / LONGEST_PAUSE_SECONDS
        # Who answers late on a busy machine would be asked, and paid, twice.
        monkeypatch.setattr(documents.embedder, "_deadline_seconds", 60.0)
        with fake_provider(port) as provider:
            await let_it_pass(connection)
            assert await ended(documents.ingest, TENANT, document) is DocumentState.READY
            assert sum(map(len, provider.embedded)) == len((await index_rows(url, TENANT))["chunks"])


async def next_pause(connection: asyncpg.Connection) -> float:
    """Waits until the document's next attempt has failed; for how many seconds it is put off then."""
    async with asyncio.timeout(60):
        while True:
            pause: float | None = await connection.fetchval(
                "select extract(epoch from run_after - error_at)::float8 from document_rag.ingestion_jobs"
                " where lease_until is null and run_after > now()"
            )
            if pause is not None:
                return pause
            await asyncio.sleep(0.02)


async def let_it_pass(connection: asyncpg.Connection) -> None:
    """Makes the next attempt due at once."""
    await connection.execute("update document_rag.ingestion_jobs set run_after = now()")
    await connection.execute(f"notify {CHANNEL}, ''")
