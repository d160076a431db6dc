"""Ingestion under trouble: what dies half-way is never seen, and work on one document does not stop the others."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.document_rag.__main__ import Documents
from services.document_rag.config import Config
from services.document_rag.documents.document_store import DocumentStore, IngestedText
from services.document_rag.documents.ingest import Ingest, IngestLimits
from services.document_rag.model import Description, NewDocument, SearchMode, UploadResult, Verdict
from shared.errors import Unavailable
from tests.document_rag.samples import LIXO

REPOSITORY = Path(__file__).parents[2]

# Uploads a document and stands still inside the transaction, its chunks inserted and its words not yet.
HALF_WAY = """
import asyncio, sys
from services.document_rag import __main__ as service
from services.document_rag.documents import document_store
from services.document_rag.config import Config
from services.document_rag.model import Description

async def stand_still(*_):
    print("half-way", flush=True)
    await asyncio.sleep(600)

async def pieces():
    yield sys.argv[4].encode()

async def main():
    document_store._insert_vocabulary = stand_still
    async with service.open_documents(Config(database_url=sys.argv[1], originals_url=sys.argv[2])) as documents:
        await documents.ingest.upload(sys.argv[3], Description(filename="lixo.md"), pieces())

asyncio.run(main())
"""


async def pieces_of(text: str) -> AsyncIterator[bytes]:
    yield text.encode()


async def test_a_killed_process_leaves_no_half_document(
    documents: Documents, document_config: Config, tenant_id: str, tmp_path: Path
) -> None:
    url = document_config.database_url.get_secret_value()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", HALF_WAY, url, document_config.originals_url, tenant_id, LIXO),
        cwd=REPOSITORY,
        stdout=asyncio.subprocess.PIPE,
        env={"PYTHONPATH": os.pathsep.join([str(REPOSITORY), *sys.path]), "TMPDIR": str(tmp_path)},
    )
    assert process.stdout is not None
    assert await asyncio.wait_for(process.stdout.readline(), 30) == b"half-way\n"
    process.send_signal(signal.SIGKILL)
    await process.communicate()
    assert await documents.store.list(tenant_id, before=None, limit=10) == []
    found = await documents.index.search(tenant_id, "coleta de lixo", top_k=5, mode=SearchMode.HYBRID)
    assert found.passages == ()
    again = await documents.ingest.upload(tenant_id, Description(filename="lixo.md"), pieces_of(LIXO))
    assert again.verdict is Verdict.NEW


class _FailingStore(DocumentStore):
    """Loses its database just before, or just after, the commit."""

    def __init__(self, documents: Documents, *, commits: bool) -> None:
        super().__init__(documents.pool)
        self._commits = commits

    async def add(self, tenant_id: str, upload: NewDocument, text: IngestedText) -> UploadResult:
        if self._commits:
            await super().add(tenant_id, upload, text)
        raise Unavailable("the database is unavailable", dependency="postgresql")


@pytest.mark.parametrize("commits", [False, True], ids=["before the commit", "after the commit"])
async def test_the_original_is_kept_exactly_when_the_document_is(
    documents: Documents, tenant_id: str, document_config: Config, *, commits: bool
) -> None:
    parts = documents.ingest
    store = _FailingStore(documents, commits=commits)
    ingest = Ingest(store, parts._originals, parts._embedder, parts._stemmer, IngestLimits())
    with pytest.raises(Unavailable):
        await ingest.upload(tenant_id, Description(request_id="r1", filename="lixo.md"), pieces_of(LIXO))
    directory = Path(document_config.originals_url.removeprefix("file://")) / tenant_id
    originals = [path.name for path in directory.iterdir()] if directory.exists() else []
    kept = [document.document_id for document in await documents.store.list(tenant_id, before=None, limit=10)]
    assert originals == kept
    assert len(kept) == int(commits)
    retried = await parts.upload(tenant_id, Description(request_id="r1", filename="lixo.md"), pieces_of(LIXO))
    assert len(await documents.store.list(tenant_id, before=None, limit=10)) == 1
    assert retried.verdict is Verdict.NEW


async def test_questions_are_answered_while_a_large_document_is_worked_on(documents: Documents, tenant_id: str) -> None:
    text = "\n\n".join(f"Artigo {n}. {LIXO}" for n in range(1_000))
    upload = asyncio.create_task(documents.ingest.upload(tenant_id, Description(), pieces_of(text)))
    longest = 0.0
    while not upload.done():
        started = time.monotonic()
        await asyncio.sleep(0.005)
        longest = max(longest, time.monotonic() - started)
    assert (await upload).document.chunk_count >= 500
    assert longest < 0.5


async def test_uploads_of_one_tenant_at_the_same_time_all_arrive(documents: Documents, tenant_id: str) -> None:
    texts = [f"Edital {n}: a prefeitura contrata serviço de número {n}." for n in range(12)]
    results = await asyncio.gather(
        *(documents.ingest.upload(tenant_id, Description(), pieces_of(text)) for text in texts)
    )
    assert {result.verdict for result in results} == {Verdict.NEW}
    found = await documents.index.search(tenant_id, "edital da prefeitura", top_k=50, mode=SearchMode.VECTOR)
    assert len(found.passages) == 12
