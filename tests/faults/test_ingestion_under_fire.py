"""Ingestion while its workers and its PostgreSQL are killed again and again: in the end all is there, once."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from deploy.local.engine import start
from deploy.local.engines import Postgres
from services.document_rag.__main__ import MIGRATIONS, SCHEMA, Documents, open_documents
from services.document_rag.config import Config
from services.document_rag.documents.model import Description, DocumentState
from shared.errors import ServiceError
from shared.postgres import migrate
from tests.document_rag.documents.workers import REPOSITORY, index_rows
from tests.document_rag.samples import LIXO
from tests.faults.killing import PATIENCE_SECONDS, killed
from tests.house.ports import own_port
from tests.house.waiting import until_answered

TENANT = "prefeitura"
DOCUMENTS = 24
WORKER_KILLS = 3

WORKER = """
import asyncio, json, sys
from services.document_rag import __main__ as service
from services.document_rag.config import Config

async def main():
    async with service.open_documents(Config(**json.loads(sys.argv[1]))):
        print("at work", flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


def config_for(url: str, directory: Path) -> dict[str, Any]:
    """Settings of every process of the test."""
    return {
        "database_url": url,
        "originals_url": str(directory / "originals"),
        "ingestion_lease_seconds": 1,
        "ingests_at_once": 4,
    }


async def at_work(settings: dict[str, Any]) -> asyncio.subprocess.Process:
    """A process whose workers work."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", WORKER, json.dumps(settings)),
        cwd=REPOSITORY,
        stdout=asyncio.subprocess.PIPE,
        env={"PYTHONPATH": os.pathsep.join([str(REPOSITORY), *sys.path])},
    )
    assert process.stdout is not None
    assert await asyncio.wait_for(process.stdout.readline(), 100) == b"at work\n"
    return process


async def upload(documents: Documents, number: int) -> None:
    """Until it is taken, whatever is away meanwhile."""
    paragraphs = "\n\n".join(f"{LIXO} Edital {number}, parágrafo {n}." for n in range(60))

    async def pieces() -> AsyncIterator[bytes]:
        yield paragraphs.encode()

    said = Description(filename=f"edital {number * 7919}.md", request_id=str(number), return_early=True)
    while True:
        with suppress(ServiceError):
            await documents.ingest.upload(TENANT, said, pieces())
            return
        await asyncio.sleep(0.1)


async def all_over(documents: Documents) -> bool:
    """Whether nothing is on its way any more."""
    with suppress(ServiceError):
        kept = await documents.store.list(TENANT, before=None, limit=DOCUMENTS + 1)
        return len(kept) == DOCUMENTS and all(document.state.is_final for document in kept)
    return False


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_everything_uploaded_is_there_once_whatever_was_killed_meanwhile(
    engine_directory: Path, tmp_path: Path
) -> None:
    engine = Postgres(engine_directory / "under-fire", own_port())
    child = await asyncio.to_thread(start, engine)
    settings = config_for(engine.url(), tmp_path)
    try:
        await migrate(SecretStr(engine.url()), schema=SCHEMA, directory=MIGRATIONS)
        async with open_documents(Config(**{**settings, "ingests_at_once": 1})) as documents:
            async with asyncio.TaskGroup() as uploads:
                for number in range(DOCUMENTS):
                    uploads.create_task(upload(documents, number))
                for kill in range(WORKER_KILLS):
                    worker = await at_work(settings)
                    await asyncio.sleep(1.0 + kill / 5)
                    worker.send_signal(signal.SIGKILL)
                    await worker.communicate()
                await asyncio.to_thread(killed, child)
                child = await asyncio.to_thread(start, engine)
            await until_answered(lambda: all_over(documents), within_seconds=300)
            kept = await documents.store.list(TENANT, before=None, limit=DOCUMENTS)
            assert {document.state for document in kept} == {DocumentState.READY}
            rows = await index_rows(engine.url(), TENANT)
            assert len(rows["chunks"]) == rows["totals"][0]["chunks"] == sum(each.chunk_count for each in kept)
            assert len(rows["document_vocabulary"]) == DOCUMENTS
    finally:
        await asyncio.to_thread(child.stop, PATIENCE_SECONDS)
