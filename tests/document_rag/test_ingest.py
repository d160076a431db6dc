"""Ingestion under trouble: what dies half-way is never seen, and work on one document does not stop the others."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.document_rag.__main__ import Documents
from services.document_rag.config import Config
from services.document_rag.documents.admission import Admission
from services.document_rag.documents.ingest import Ingest, IngestLimits
from services.document_rag.documents.listener import Listener
from services.document_rag.documents.model import Description, NewDocument, UploadResult, Verdict
from services.document_rag.model import SearchMode
from shared.errors import Unavailable
from tests.document_rag.samples import LIXO


async def pieces_of(text: str) -> AsyncIterator[bytes]:
    yield text.encode()


class _FailingAdmission(Admission):
    """Loses its database just before, or just after, the commit."""

    def __init__(self, documents: Documents, *, commits: bool) -> None:
        super().__init__(documents.pool)
        self._commits = commits

    async def admit(self, tenant_id: str, upload: NewDocument) -> UploadResult:
        if self._commits:
            await super().admit(tenant_id, upload)
        raise Unavailable("the database is unavailable", dependency="postgresql")


@pytest.mark.parametrize("commits", [False, True], ids=["before the commit", "after the commit"])
async def test_the_original_is_kept_exactly_when_the_document_is(
    documents: Documents, tenant_id: str, document_config: Config, *, commits: bool
) -> None:
    admission = _FailingAdmission(documents, commits=commits)
    parts = documents.ingestion
    ingest = Ingest(
        parts.store, admission, parts.workshop.originals, Listener(documents.pool), IngestLimits(), searched_model="m"
    )
    with pytest.raises(Unavailable):
        await ingest.upload(tenant_id, Description(request_id="r1", filename="lixo.md"), pieces_of(LIXO))
    directory = Path(document_config.originals_url.removeprefix("file://")) / tenant_id
    originals = [path.name for path in directory.iterdir()] if directory.exists() else []
    kept = [document.document_id for document in await documents.store.list(tenant_id, before=None, limit=10)]
    assert originals == kept
    assert len(kept) == int(commits)
    said = Description(request_id="r1", filename="lixo.md")
    retried = await documents.ingest.upload(tenant_id, said, pieces_of(LIXO))
    assert len(await documents.store.list(tenant_id, before=None, limit=10)) == 1
    assert retried.verdict is Verdict.NEW


async def test_questions_are_answered_while_a_large_document_is_worked_on(documents: Documents, tenant_id: str) -> None:
    text = "\n\n".join(f"Artigo {n}. {LIXO}" for n in range(1_000))
    upload = asyncio.create_task(documents.ingest.upload(tenant_id, Description(), pieces_of(text)))
    longest = 0.0
    while not upload.done():
        # What the loop's own thread computes: on a busy machine the clock on the wall says nothing.
        started = time.thread_time()
        await asyncio.sleep(0.005)
        longest = max(longest, time.thread_time() - started)
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
