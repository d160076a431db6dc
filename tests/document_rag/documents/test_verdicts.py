"""What an upload turns out to be, what each policy makes of it, and which version search sees."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest

from prosa.document_rag.v1 import document_service_pb2 as pb
from prosa.document_rag.v1 import filter_pb2
from prosa.document_rag.v1 import search_service_pb2 as search_pb2
from services.document_rag.__main__ import Documents
from services.document_rag.documents import admission
from services.document_rag.documents.job_queue import enqueue
from services.document_rag.documents.model import Fate, Finding, Likeness, Policy
from tests.document_rag import samples
from tests.document_rag.conftest import Client

SKIP, REPLACE = pb.DUPLICATE_POLICY_SKIP, pb.DUPLICATE_POLICY_REPLACE
KEEP_BOTH, ASK = pb.DUPLICATE_POLICY_KEEP_BOTH, pb.DUPLICATE_POLICY_ASK
NEWER = samples.LIXO.replace("sete horas", "nove horas")


async def found(client: Client, query: str) -> set[str]:
    """Ids of the documents that a search in either way finds."""
    request = search_pb2.SearchRequest(query=query, top_k=50, scope=filter_pb2.SCOPE_TENANT)
    response = await client.search_service.Search(request, metadata=client.metadata)
    return {passage.document_id for passage in response.passages}


async def listed(client: Client, **wanted: Any) -> list[pb.Document]:
    request = pb.ListDocumentsRequest(**wanted)
    return list((await client.documents.ListDocuments(request, metadata=client.metadata)).documents)


async def deleted(client: Client, document_id: str) -> None:
    request = pb.DeleteDocumentRequest(document_id=document_id)
    await client.documents.DeleteDocument(request, metadata=client.metadata)


async def test_concurrent_identical_uploads_converge_on_one_document(
    client: Client, tenant_id: str, originals_directory: Path
) -> None:
    responses = await asyncio.gather(*(client.upload(samples.POSTO.encode(), f"{n}.md") for n in range(20)))
    assert len({response.document.document_id for response in responses}) == 1
    verdicts = sorted(response.verdict for response in responses)
    assert verdicts == [pb.VERDICT_NEW] + [pb.VERDICT_DUPLICATE_OF] * 19
    assert {response.document.state for response in responses} == {pb.DOCUMENT_STATE_READY}
    assert sum(response.kept for response in responses) == 1
    assert len([path.name for path in (originals_directory / tenant_id).iterdir()]) == 1


async def test_the_index_over_the_bytes_holds_where_the_judge_does_not(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = asyncio.Barrier(4)
    insert = admission._insert

    async def nobody(*_: object) -> None:
        await asyncio.sleep(0)

    async def insert_together(*arguments: Any) -> None:
        await together.wait()
        await insert(*arguments)

    monkeypatch.setattr(admission, "one_judge", nobody)
    monkeypatch.setattr(admission, "_insert", insert_together)
    uploads = [client.upload(samples.IPTU.encode(), f"{n}.md", return_early=True) for n in range(4)]
    responses = await asyncio.gather(*uploads)
    assert len({response.document.document_id for response in responses}) == 1
    assert sum(response.kept for response in responses) == 1


async def test_a_retry_waits_for_an_upload_of_the_same_bytes_that_is_being_admitted(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = samples.pdf("")
    failed = (await client.upload(scan, "scan.pdf", return_early=True)).document
    watching = pb.WatchIngestionRequest(document_id=failed.document_id)
    *_, end = [each async for each in client.documents.WatchIngestion(watching, metadata=client.metadata)]
    assert end.state == pb.DOCUMENT_STATE_FAILED
    inserted, may_commit = asyncio.Event(), asyncio.Event()

    async def enqueue_slowly(*arguments: Any) -> None:
        inserted.set()
        await may_commit.wait()
        await enqueue(*arguments)

    monkeypatch.setattr(admission, "enqueue", enqueue_slowly)
    uploading = asyncio.create_task(client.upload(scan, "scan.pdf", return_early=True))
    await inserted.wait()
    retry = pb.RetryIngestionRequest(document_id=failed.document_id)
    retrying = client.documents.RetryIngestion(retry, metadata=client.metadata)
    await asyncio.sleep(0.2)
    may_commit.set()
    assert (await uploading).kept
    assert (await retrying).document_id == failed.document_id


async def test_the_same_words_in_another_form_are_a_duplicate(client: Client) -> None:
    first = (await client.upload(samples.POSTO.encode(), "posto.txt", mime_type="text/plain")).document
    shouted = samples.POSTO.upper().replace(" ", "  \n").encode()
    again = await client.upload(shouted, "outro.txt", mime_type="text/plain")
    assert (again.verdict, again.kept, again.related_document_id) == (pb.VERDICT_DUPLICATE_OF, False, first.document_id)
    assert again.document.document_id == first.document_id
    assert [each.document_id for each in await listed(client)] == [first.document_id]


async def test_concurrent_uploads_of_the_same_words_converge_too(client: Client) -> None:
    forms = [(" " * n + samples.POSTO).encode() for n in range(6)]
    responses = await asyncio.gather(*(client.upload(form, "posto.txt", mime_type="text/plain") for form in forms))
    assert len({response.document.document_id for response in responses}) == 1
    assert len(await listed(client)) == 1


async def test_other_bytes_of_a_source_are_its_new_version_and_search_sees_that_one(client: Client) -> None:
    first = (await client.upload(samples.LIXO.encode(), "lixo.md", source="site/lixo")).document
    second = await client.upload(NEWER.encode(), "lixo.md", source="site/lixo")
    document = second.document
    assert (second.verdict, second.kept) == (pb.VERDICT_NEW_VERSION_OF, True)
    assert second.related_document_id == document.previous_version_id == first.document_id
    assert (document.version, document.is_current) == (2, True)
    assert await found(client, "coleta de lixo domiciliar") == {document.document_id}
    request = pb.ListDocumentVersionsRequest(document_id=first.document_id)
    versions = (await client.documents.ListDocumentVersions(request, metadata=client.metadata)).documents
    assert [(each.version, each.is_current) for each in versions] == [(2, True), (1, False)]
    assert [each.document_id for each in await listed(client, current_only=True)] == [document.document_id]
    back = await client.upload(samples.LIXO.encode(), "lixo.md", source="site/lixo")
    assert (back.verdict, back.document.version, back.document.is_current) == (pb.VERDICT_NEW_VERSION_OF, 3, True)
    assert await found(client, "coleta de lixo domiciliar") == {back.document.document_id}


async def test_versions_uploaded_at_once_leave_the_last_one_current(client: Client) -> None:
    texts = [samples.LIXO.replace("sete", f"{n} e meia") for n in range(6)]
    uploads = [client.upload(text.encode(), "lixo.md", source="site/lixo") for text in texts]
    documents = [response.document for response in await asyncio.gather(*uploads)]
    assert sorted(document.version for document in documents) == list(range(1, 7))
    last = max(documents, key=lambda document: document.version)
    current = await listed(client, current_only=True)
    assert [document.document_id for document in current] == [last.document_id]
    assert await found(client, "coleta de lixo domiciliar") == {last.document_id}


async def test_deleting_the_current_version_brings_no_earlier_one_back(client: Client) -> None:
    first = (await client.upload(samples.LIXO.encode(), "lixo.md", source="site/lixo")).document
    second = (await client.upload(NEWER.encode(), "lixo.md", source="site/lixo")).document
    await deleted(client, second.document_id)
    assert await found(client, "coleta de lixo domiciliar") == set()
    assert [(each.document_id, each.is_current) for each in await listed(client)] == [(first.document_id, False)]
    retry = pb.RetryIngestionRequest(document_id=first.document_id)
    await client.documents.RetryIngestion(retry, metadata=client.metadata)
    watch = pb.WatchIngestionRequest(document_id=first.document_id)
    async for _ in client.documents.WatchIngestion(watch, metadata=client.metadata):
        pass
    assert await found(client, "coleta de lixo domiciliar") == {first.document_id}


async def test_nearly_the_same_title_is_suspected_and_kept(client: Client) -> None:
    first = (await client.upload(samples.LIXO.encode(), title="Coleta de lixo domiciliar 2026")).document
    second = await client.upload(samples.IPTU.encode(), title="COLETA DE LIXO DOMICILIÁR, 2026")
    assert (second.verdict, second.kept, second.related_document_id) == (pb.VERDICT_SUSPECTED, True, first.document_id)
    assert second.title_similarity >= 0.9
    other = await client.upload(samples.POSTO.encode(), title="Coleta de entulho de obras")
    assert other.verdict == pb.VERDICT_NEW


@pytest.mark.parametrize(
    ("policy", "kept", "number"),
    [(REPLACE, True, 1), (KEEP_BOTH, True, 2), (ASK, False, 1)],
    ids=["replace", "both", "ask"],
)
async def test_the_policy_decides_about_a_suspected_upload(
    client: Client, policy: Any, kept: bool, number: int
) -> None:
    first = (await client.upload(samples.LIXO.encode(), "coleta-de-lixo.txt", title="Coleta de lixo")).document
    second = await client.upload(samples.IPTU.encode(), "outra.md", title="Coleta de lixo", policy=policy)
    assert (second.verdict, second.kept) == (pb.VERDICT_SUSPECTED, kept)
    assert len(await listed(client, current_only=True)) == number
    assert (second.document.previous_version_id == first.document_id) == (policy == REPLACE)


async def test_both_are_kept_of_the_same_bytes_when_that_is_wanted(client: Client) -> None:
    first = (await client.upload(samples.LIXO.encode(), "a.md")).document
    second = await client.upload(samples.LIXO.encode(), "b.md", policy=KEEP_BOTH)
    assert (second.verdict, second.kept, second.related_document_id) == (
        pb.VERDICT_DUPLICATE_OF,
        True,
        first.document_id,
    )
    assert await found(client, "coleta de lixo domiciliar") == {first.document_id, second.document.document_id}
    third = await client.upload(samples.LIXO.encode(), "c.md", policy=REPLACE)
    assert (third.verdict, third.kept) == (pb.VERDICT_DUPLICATE_OF, False)


async def test_what_an_upload_would_be_is_told_without_uploading(client: Client) -> None:
    document = (await client.upload(samples.LIXO.encode(), source="s", title="Coleta de lixo")).document

    async def check(**known: Any) -> tuple[Any, str]:
        request = pb.CheckDuplicateRequest(**known)
        answer = await client.documents.CheckDuplicate(request, metadata=client.metadata)
        return answer.verdict, answer.document.document_id

    duplicate = (pb.VERDICT_DUPLICATE_OF, document.document_id)
    assert await check(sha256=document.sha256) == duplicate
    assert await check(text_sha256=document.text_sha256) == duplicate
    assert await check(source="s", sha256=document.sha256) == duplicate
    assert await check(source="s", sha256="0" * 64) == (pb.VERDICT_NEW_VERSION_OF, document.document_id)
    assert await check(title="coleta de LIXO") == (pb.VERDICT_SUSPECTED, document.document_id)
    assert await check(title="Outro assunto", sha256="0" * 64, source="t") == (pb.VERDICT_NEW, "")
    await deleted(client, document.document_id)
    assert await check(sha256=document.sha256, source="s", title="Coleta de lixo") == (pb.VERDICT_NEW, "")


async def test_a_retry_of_an_upload_that_was_not_kept_gets_the_same_answer(client: Client) -> None:
    await client.upload(samples.POSTO.encode(), "posto.txt", mime_type="text/plain")
    again = (b" " + samples.POSTO.encode(), "outro.txt")
    first = await client.upload(*again, request_id="r1", mime_type="text/plain")
    second = await client.upload(*again, request_id="r1", mime_type="text/plain")
    assert first.verdict == pb.VERDICT_DUPLICATE_OF
    assert second == first


@pytest.mark.parametrize("return_early", [True, False])
async def test_a_retry_of_an_upload_whose_document_was_deleted_says_that_it_is_gone(
    client: Client, return_early: bool
) -> None:
    said: dict[str, Any] = {"request_id": "r1", "return_early": return_early}
    first = await client.upload(samples.LIXO.encode(), "lixo.md", **said)
    await deleted(client, first.document.document_id)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.upload(samples.LIXO.encode(), "lixo.md", **said)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert await listed(client) == []


async def test_what_is_superseded_leaves_nothing_in_the_index(
    client: Client, documents: Documents, tenant_id: str
) -> None:
    await client.upload(samples.LIXO.encode(), source="s")
    totals = "select chunks from totals where tenant_id = $1"
    newest = (await client.upload(samples.IPTU.encode(), source="s")).document
    async with documents.pool.acquire() as connection, connection.transaction():
        await connection.execute("select set_config('app.tenant', $1, true)", tenant_id)
        for table in ("chunks", "postings", "document_vocabulary"):
            rows = await connection.fetch(f"select distinct document_id from {table}")
            assert [str(row["document_id"]) for row in rows] == [newest.document_id]
        assert await connection.fetchval(totals, tenant_id) == newest.chunk_count


def test_each_policy_and_likeness_has_one_fate() -> None:
    fates = {policy: [Finding(likeness, "d").fate(policy) for likeness in Likeness] for policy in Policy}
    drop, version, own = Fate.DROPPED, Fate.NEW_VERSION, Fate.OWN_DOCUMENT
    assert list(Likeness) == [Likeness.SOURCE, Likeness.BYTES, Likeness.TEXT, Likeness.TITLE]
    assert fates == {
        Policy.SKIP: [version, drop, drop, own],
        Policy.REPLACE: [version, drop, version, version],
        Policy.KEEP_BOTH: [own, own, own, own],
        Policy.ASK: [drop, drop, drop, drop],
    }
