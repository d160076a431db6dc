"""Ingestion over the wire: answered early, watched, diagnosed, retried, listed, changed, downloaded."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from prosa.document_rag.v1 import collection_service_pb2 as collections_pb2
from prosa.document_rag.v1 import document_service_pb2 as pb
from prosa.document_rag.v1 import filter_pb2
from prosa.document_rag.v1 import search_service_pb2 as search_pb2
from prosa.document_rag.v1.collection_service_pb2_grpc import CollectionServiceStub
from shared.errors import error_of
from tests.document_rag import samples
from tests.document_rag.conftest import Client
from tests.house.in_process import as_caller, token
from tests.house.signing import SigningKeys
from tests.house.waiting import until

READY, FAILED, SKIPPED = pb.DOCUMENT_STATE_READY, pb.DOCUMENT_STATE_FAILED, pb.DOCUMENT_STATE_SKIPPED


async def watched(client: Client, document_id: str) -> list[pb.IngestionProgress]:
    request = pb.WatchIngestionRequest(document_id=document_id)
    return [each async for each in client.documents.WatchIngestion(request, metadata=client.metadata)]


async def got(client: Client, document_id: str) -> pb.Document:
    request = pb.GetDocumentRequest(document_id=document_id)
    return await client.documents.GetDocument(request, metadata=client.metadata)


async def diagnosis(client: Client, document_id: str) -> pb.Diagnosis:
    request = pb.DiagnoseDocumentRequest(document_id=document_id)
    return await client.documents.DiagnoseDocument(request, metadata=client.metadata)


async def listed(client: Client, **wanted: Any) -> list[str]:
    request = pb.ListDocumentsRequest(**wanted)
    response = await client.documents.ListDocuments(request, metadata=client.metadata)
    return [document.document_id for document in response.documents]


async def found(client: Client, query: str) -> list[str]:
    request = search_pb2.SearchRequest(query=query, scope=filter_pb2.SCOPE_TENANT)
    response = await client.search_service.Search(request, metadata=client.metadata)
    return [passage.document_id for passage in response.passages]


async def reason_of(call: Any) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return error_of(caught.value).reason


async def test_an_upload_may_be_answered_before_it_is_searchable_and_watched_until_it_is(client: Client) -> None:
    answer = await client.upload(samples.LIXO.encode(), "lixo.md", return_early=True)
    assert (answer.verdict, answer.kept) == (pb.VERDICT_NEW, True)
    progress = await watched(client, answer.document.document_id)
    states = [each.state for each in progress]
    assert states == sorted(states)
    assert progress[-1].state == READY
    document = await got(client, answer.document.document_id)
    assert (document.state, document.is_current) == (READY, True)
    assert document.HasField("ready_time")
    assert document.text_sha256
    assert await found(client, "coleta de lixo") != []
    assert [each.state for each in await watched(client, document.document_id)] == [READY]


async def test_what_cannot_be_read_fails_in_sight_when_nobody_waits(client: Client) -> None:
    answer = await client.upload(samples.pdf(""), "scan.pdf", return_early=True)
    document_id = answer.document.document_id
    progress = await watched(client, document_id)
    assert progress[-1].state == FAILED
    assert progress[-1].stage_error.reason == "DOCUMENT_EMPTY"
    assert progress[-1].stage_error.stage == pb.DOCUMENT_STATE_EXTRACTING
    assert await listed(client, states=[FAILED]) == [document_id]
    assert await listed(client, current_only=True) == []
    told = await diagnosis(client, document_id)
    assert (told.cause, told.is_searchable) == (pb.Diagnosis.CAUSE_FAILED, False)
    assert "scan" in told.explanation
    request = pb.RetryIngestionRequest(document_id=document_id)
    assert (await client.documents.RetryIngestion(request, metadata=client.metadata)).state != FAILED
    assert (await watched(client, document_id))[-1].state == FAILED


async def test_a_duplicate_that_is_known_only_by_its_text_is_skipped_in_sight_and_kept_when_that_is_gone(
    client: Client,
) -> None:
    first = (await client.upload(samples.POSTO.encode(), "posto.txt", mime_type="text/plain")).document
    again = (" " + samples.POSTO).encode()
    second = (await client.upload(again, "posto.txt", mime_type="text/plain", return_early=True)).document
    progress = await watched(client, second.document_id)
    assert (progress[-1].state, progress[-1].related_document_id) == (SKIPPED, first.document_id)
    assert (await diagnosis(client, second.document_id)).cause == pb.Diagnosis.CAUSE_SKIPPED
    delete = pb.DeleteDocumentRequest(document_id=first.document_id)
    await client.documents.DeleteDocument(delete, metadata=client.metadata)
    retry = pb.RetryIngestionRequest(document_id=second.document_id)
    await client.documents.RetryIngestion(retry, metadata=client.metadata)
    assert (await watched(client, second.document_id))[-1].state == READY


async def test_an_upload_that_is_cut_off_leaves_nothing(
    client: Client, originals_directory: Path, tenant_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    async def without_end() -> AsyncIterator[pb.UploadDocumentRequest]:
        yield pb.UploadDocumentRequest(filename="lixo.md", request_id="r1", chunk=samples.LIXO.encode())
        await asyncio.sleep(600)

    call = client.documents.UploadDocument(without_end(), metadata=client.metadata)
    await until(lambda: list(tmp_path.iterdir()))
    call.cancel()
    await until(lambda: not list(tmp_path.iterdir()))
    assert await listed(client) == []
    assert not (originals_directory / tenant_id).exists()
    assert (await client.upload(samples.LIXO.encode(), "lixo.md", request_id="r1")).verdict == pb.VERDICT_NEW


async def test_pages_without_text_are_counted(client: Client) -> None:
    document = (await client.upload(samples.pdf("", "A taxa de lixo custa dez reais."), "taxa.pdf")).document
    assert (document.page_count, document.empty_page_count) == (2, 1)


async def test_a_searchable_document_is_diagnosed_as_such(client: Client) -> None:
    document = (await client.upload(samples.LIXO.encode(), "lixo.md")).document
    told = await diagnosis(client, document.document_id)
    assert (told.cause, told.is_searchable, told.has_original) == (pb.Diagnosis.CAUSE_SEARCHABLE, True, True)
    assert told.indexed_chunks == document.chunk_count
    assert told.indexed_terms > 20
    assert [(each.embedding_model, each.chunks, each.is_searched) for each in told.embedded_chunks] == [
        (document.embedding_model, document.chunk_count, True)
    ]
    assert told.attempts == 1


async def test_a_document_is_read_again_without_ceasing_to_be_found(client: Client) -> None:
    document = (await client.upload(samples.LIXO.encode(), "lixo.md")).document
    request = pb.RetryIngestionRequest(document_id=document.document_id)
    again = await client.documents.RetryIngestion(request, metadata=client.metadata)
    assert (again.state, again.is_current) == (READY, True)
    assert await found(client, "coleta de lixo") == [document.document_id] * document.chunk_count
    assert (await watched(client, document.document_id))[-1].state == READY
    assert await found(client, "coleta de lixo") == [document.document_id] * document.chunk_count
    assert (await got(client, document.document_id)).create_time == document.create_time


async def test_the_original_comes_back_as_it_was_sent(client: Client) -> None:
    content = b"Uma linha da lei.\n" * 40_000
    document = (await client.upload(content, "lei.txt")).document
    request = pb.DownloadOriginalRequest(document_id=document.document_id)
    pieces = [each async for each in client.documents.DownloadOriginal(request, metadata=client.metadata)]
    assert (pieces[0].filename, pieces[0].mime_type, pieces[0].size_bytes) == ("lei.txt", "text/plain", len(content))
    downloaded = hashlib.sha256(b"".join(piece.chunk for piece in pieces)).hexdigest()
    assert downloaded == document.sha256 == pieces[0].sha256


async def test_an_original_that_is_lost_is_said_to_be(
    client: Client, originals_directory: Path, tenant_id: str
) -> None:
    document = (await client.upload(samples.LIXO.encode(), "lixo.md")).document
    (originals_directory / tenant_id / document.document_id).unlink()
    request = pb.DownloadOriginalRequest(document_id=document.document_id)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        [each async for each in client.documents.DownloadOriginal(request, metadata=client.metadata)]
    assert error_of(caught.value).reason == "ORIGINAL_MISSING"
    told = await diagnosis(client, document.document_id)
    assert (told.cause, told.is_searchable) == (pb.Diagnosis.CAUSE_ORIGINAL_MISSING, True)


async def test_documents_are_listed_by_source_and_collection_and_changed(
    client: Client, document_channel: grpc.aio.Channel
) -> None:
    collections = CollectionServiceStub(document_channel)
    request = collections_pb2.CreateCollectionRequest(collection=collections_pb2.Collection(display_name="Leis"))
    collection = await collections.CreateCollection(request, metadata=client.metadata)
    law = await client.upload(
        samples.IPTU.encode(), "iptu.md", source="leis/iptu", collection_id=collection.collection_id, language="pt"
    )
    other = (await client.upload(samples.LIXO.encode(), "lixo.md")).document
    assert await listed(client, collection_id=collection.collection_id) == [law.document.document_id]
    assert await listed(client, source="leis/iptu") == [law.document.document_id]
    mask = {"paths": ["title", "metadata", "collection_id"]}
    change = pb.UpdateDocumentRequest(document_id=other.document_id, update_mask=mask)  # type: ignore[arg-type]
    change.document.title = "Calendário da limpeza urbana"
    change.document.collection_id = collection.collection_id
    change.document.metadata.update({"ano": 2026, "orgao": "limpeza"})
    changed = await client.documents.UpdateDocument(change, metadata=client.metadata)
    assert (changed.title, changed.collection_id) == ("Calendário da limpeza urbana", collection.collection_id)
    assert dict(changed.metadata) == {"ano": 2026.0, "orgao": "limpeza"}
    assert (await watched(client, other.document_id))[-1].state == READY
    assert other.document_id in await found(client, "calendário da limpeza urbana")
    change.update_mask.paths[:] = ["sha256"]
    assert await reason_of(client.documents.UpdateDocument(change, metadata=client.metadata)) == "VALIDATION_FAILED"


async def test_a_collection_that_is_not_there_takes_no_document(client: Client) -> None:
    assert await reason_of(client.upload(samples.LIXO.encode(), collection_id="nowhere")) == "RESOURCE_NOT_FOUND"
    assert await listed(client) == []


async def test_the_platform_s_documents_are_read_by_every_tenant_and_written_by_none(
    client: Client, document_channel: grpc.aio.Channel, signing_keys: SigningKeys, client_of: Callable[[str], Client]
) -> None:
    scopes = ("documents.read", "documents.write", "library.write")
    platform = Client(document_channel, as_caller(token(signing_keys, scopes=scopes)))
    text = "A Lei de Acesso à Informação garante transparência.".encode()
    document = (await platform.upload(text, "lai.txt", scope=filter_pb2.SCOPE_GLOBAL)).document
    assert document.scope == filter_pb2.SCOPE_GLOBAL
    assert (await got(client, document.document_id)).title == "lai"
    assert await listed(client, scope=filter_pb2.SCOPE_GLOBAL) == [document.document_id]
    assert await listed(client) == []
    assert (await diagnosis(client, document.document_id)).has_original
    delete = pb.DeleteDocumentRequest(document_id=document.document_id)
    assert await reason_of(client.documents.DeleteDocument(delete, metadata=client.metadata)) == "RESOURCE_NOT_FOUND"
    upload = client.upload(text, "lai.txt", scope=filter_pb2.SCOPE_GLOBAL)
    assert await reason_of(upload) == "PERMISSION_MISSING"
    assert (await client.upload(text, "lai.txt")).verdict == pb.VERDICT_NEW
    await platform.documents.DeleteDocument(delete, metadata=platform.metadata)


async def test_a_document_is_stemmed_in_its_own_language(client: Client) -> None:
    text = "# City libraries\n\nThe municipal libraries are lending books to all the children of the town every week. "
    document = (await client.upload(text.encode(), "library.md")).document
    assert document.language == "en"
    said = (await client.upload(samples.IPTU.encode(), "iptu.md", language="es")).document
    assert said.language == "es"
    request = search_pb2.SearchRequest(query="library", mode=search_pb2.SEARCH_MODE_KEYWORD)
    response = await client.search_service.Search(request, metadata=client.metadata)
    assert [passage.document_id for passage in response.passages] == [document.document_id]


async def test_an_edited_page_token_of_versions_is_refused(client: Client) -> None:
    document = (await client.upload(samples.LIXO.encode(), "lixo.md")).document
    request = pb.ListDocumentVersionsRequest(document_id=document.document_id, page_token="x")
    versions = client.documents.ListDocumentVersions(request, metadata=client.metadata)
    assert await reason_of(versions) == "PAGE_TOKEN_INVALID"


@pytest.mark.parametrize("metadata", [{"nome": "a\0b"}, {"nome": "x" * 70_000}], ids=["nul", "too large"])
async def test_metadata_that_cannot_be_kept_are_refused(client: Client, metadata: dict[str, str]) -> None:
    assert await reason_of(client.upload(samples.LIXO.encode(), metadata=metadata)) == "VALIDATION_FAILED"
