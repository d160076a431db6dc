"""Processes that ingest, for tests that end them: and what they left behind, seen past every service."""

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import asyncpg

from services.document_rag.config import Config
from services.document_rag.documents.ingest import Ingest
from services.document_rag.documents.model import Document, DocumentState

REPOSITORY = Path(__file__).parents[3]
INDEX_TABLES = ("chunks", "postings", "terms", "words", "totals", "document_vocabulary")

# Takes one document a stage, and stands still with each at the stage that its title names.
STANDING_STILL = """
import asyncio, json, sys
from contextlib import asynccontextmanager
from services.document_rag import __main__ as service
from services.document_rag.config import Config
from services.document_rag.documents import admission, embedding_cache, publishing, worker
from services.document_rag.documents.document_store import DocumentStore
from services.document_rag.documents.model import Description

arrived = []

async def stand_still(stage):
    arrived.append(stage)
    if sorted(arrived) == sorted(stages):
        print("all stand still", flush=True)
    await asyncio.sleep(600)

stages = json.loads(sys.argv[3])
real_reading, real_settle = worker.reading, admission.Admission.settle
real_vectors, real_add = embedding_cache.EmbeddingCache.vectors, publishing.add_vocabulary

@asynccontextmanager
async def reading(path, filename, *rest):
    if filename == "extracting.md":
        await stand_still("extracting")
    async with real_reading(path, filename, *rest) as text:
        yield text

async def settle(self, job, text):
    if (await DocumentStore(self._pool).get(job.tenant_id, job.document_id)).title == "chunking":
        await stand_still("chunking")
    return await real_settle(self, job, text)

async def vectors(self, tenant_id, texts):
    made = await real_vectors(self, tenant_id, texts)
    if texts[0].startswith("embedding"):
        await stand_still("embedding")
    return made

async def add_vocabulary(connection, tenant_id, document_id, vocabulary):
    title = await connection.fetchval("select title from documents where document_id = $1", document_id)
    if title == "indexing":
        await stand_still("indexing")
    await real_add(connection, tenant_id, document_id, vocabulary)

worker.reading, admission.Admission.settle = reading, settle
embedding_cache.EmbeddingCache.vectors, publishing.add_vocabulary = vectors, add_vocabulary

async def pieces(text):
    yield text.encode()

async def main():
    config = Config(**json.loads(sys.argv[1]))
    async with service.open_documents(config) as documents:
        for stage in stages:
            said = Description(title=stage, filename=f"{stage}.md", request_id=stage, return_early=True)
            await documents.ingest.upload(sys.argv[2], said, pieces(sys.argv[4] + stage))
        await asyncio.sleep(600)

asyncio.run(main())
"""


async def standing_still(
    config: Config, tenant_id: str, stages: Sequence[str], text: str
) -> asyncio.subprocess.Process:
    """A process that has taken a document for each of the stages and stands still there with all of them."""
    settings = config.model_dump(include={"originals_url", "embedder", "embedding_model", "openai_base_url"})
    settings |= {"database_url": config.database_url.get_secret_value(), "openai_api_key": "test"}
    settings |= {"ingests_at_once": len(stages), "ingestion_lease_seconds": 60}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", STANDING_STILL, json.dumps(settings), tenant_id, json.dumps(stages), text),
        cwd=REPOSITORY,
        stdout=asyncio.subprocess.PIPE,
        env={"PYTHONPATH": os.pathsep.join([str(REPOSITORY), *sys.path])},
    )
    assert process.stdout is not None
    assert await asyncio.wait_for(process.stdout.readline(), 100) == b"all stand still\n"
    return process


async def index_rows(url: str, tenant_id: str) -> dict[str, list[Any]]:
    """Everything of the tenant that a search could see, as the superuser sees it, without what differs by chance."""
    connection = await asyncpg.connect(url)
    try:
        return {
            table: [
                {name: value for name, value in dict(row).items() if name not in ("number", "embedding")}
                for row in await connection.fetch(
                    f"select * from document_rag.{table} where tenant_id = $1 order by 1, 2, 3", tenant_id
                )
            ]
            for table in INDEX_TABLES
        }
    finally:
        await connection.close()


async def ended(ingest: Ingest, tenant_id: str, document: Document, within_seconds: float = 90.0) -> DocumentState:
    """The state in which its ingestion ends, within the time."""
    state = document.state
    async with asyncio.timeout(within_seconds):
        async for progress in ingest.watch(tenant_id, document.document_id):
            state = progress.state
    return state
