"""Documents over the wire: in once, found at once, gone for good."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from prosa.document_rag.v1 import document_service_pb2 as pb
from prosa.document_rag.v1 import search_service_pb2 as search_pb2
from services.document_rag.__main__ import Documents
from services.document_rag.model import document_title
from shared.caller import Caller, acting_as
from shared.paging import page_token
from tests.document_rag import samples
from tests.document_rag.conftest import Client

UNKNOWN_ID = "018f0000-0000-7000-8000-000000000000"


async def refusal(call: object) -> tuple[grpc.StatusCode, str]:
    """Status and reason of a call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call  # type: ignore[misc]
    info = error_details_pb2.ErrorInfo()
    status = rpc_status.from_call(caught.value)
    assert status is not None
    assert any(detail.Unpack(info) for detail in status.details)
    return caught.value.code(), info.reason


def originals_of(directory: Path, tenant_id: str) -> list[str]:
    """Ids of the documents whose originals are kept."""
    return [path.name for path in directory.glob(f"{tenant_id}/*")]


async def found(client: Client, query: str, **fields: object) -> list[search_pb2.Passage]:
    request = search_pb2.SearchRequest(query=query, **fields)  # type: ignore[arg-type]
    response = await client.search_service.Search(request, metadata=client.metadata)
    return list(response.passages)


async def test_an_uploaded_document_is_described_and_searchable_at_once(client: Client, tenant_id: str) -> None:
    content = samples.LIXO.encode()
    response = await client.upload(content, "lixo.md", piece=100)
    document = response.document
    assert response.verdict == pb.VERDICT_NEW
    assert (document.title, document.mime_type, document.version) == ("Coleta de lixo", "text/markdown", 1)
    assert (document.size_bytes, document.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert document.char_count == len(samples.LIXO)
    assert document.chunk_count >= 1
    assert document.token_count > 50
    passage = (await found(client, "quando recolhem vidro?"))[0]
    assert passage.document_id == document.document_id
    assert samples.LIXO[passage.char_start : passage.char_end] == passage.text


@pytest.mark.parametrize(
    ("content", "filename", "words"),
    [
        (samples.pdf("", "A taxa de entulho é de cem reais."), "taxa.pdf", "taxa de entulho"),
        (samples.docx_of("Cemitério", "Velório", "O velório municipal é gratuito."), "v.docx", "velorio"),
        (samples.HTML.encode(), "alvara.html", "laudo dos bombeiros"),
        ("O horário é das oito às dezessete.".encode("cp1252"), "horario.txt", "horario"),
    ],
    ids=["pdf", "docx", "html", "text"],
)
async def test_every_type_is_found_by_its_words(client: Client, content: bytes, filename: str, words: str) -> None:
    uploaded = await client.upload(content, filename)
    passages = await found(client, words)
    assert passages[0].document_id == uploaded.document.document_id
    assert passages[0].page == (2 if filename.endswith("pdf") else 0)


async def test_the_same_bytes_again_are_the_document_that_exists(client: Client) -> None:
    first = await client.upload(samples.IPTU.encode(), "iptu.md")
    again = await client.upload(samples.IPTU.encode(), "outro nome.md", title="Outro título")
    assert again.verdict == pb.VERDICT_DUPLICATE_OF
    assert again.document == first.document


async def test_a_retry_with_the_same_request_id_gets_the_same_answer(client: Client) -> None:
    first = await client.upload(samples.LIXO.encode(), "lixo.md", request_id="r1")
    again = await client.upload(samples.LIXO.encode(), "lixo.md", request_id="r1")
    assert again == first


async def test_a_request_id_with_other_bytes_is_refused(client: Client) -> None:
    await client.upload(samples.LIXO.encode(), "lixo.md", request_id="r1")
    refused = await refusal(client.upload(samples.IPTU.encode(), "lixo.md", request_id="r1"))
    assert refused == (grpc.StatusCode.FAILED_PRECONDITION, "REQUEST_ID_REUSED")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "VALIDATION_FAILED"),
        (b"\0\1\2\3binary", "DOCUMENT_UNREADABLE"),
        (samples.pdf(""), "DOCUMENT_EMPTY"),
        (b"a " * 500_001, "DOCUMENT_TOO_LARGE"),
    ],
    ids=["no bytes", "binary", "scan", "too large"],
)
async def test_what_gives_no_text_is_refused_and_leaves_nothing(
    client: Client, tenant_id: str, originals_directory: Path, content: bytes, reason: str
) -> None:
    assert await refusal(client.upload(content, "x")) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
    listed = await client.documents.ListDocuments(pb.ListDocumentsRequest(), metadata=client.metadata)
    assert not listed.documents
    assert originals_of(originals_directory, tenant_id) == []


async def test_a_stream_without_messages_is_an_empty_file(client: Client) -> None:
    call = client.documents.UploadDocument(iter(()), metadata=client.metadata)
    assert await refusal(call) == (grpc.StatusCode.INVALID_ARGUMENT, "VALIDATION_FAILED")


async def test_documents_are_listed_newest_first_page_by_page(client: Client) -> None:
    uploaded = [
        (await client.upload(f"Aviso número {n} da prefeitura.".encode(), f"{n}.txt")).document for n in range(5)
    ]
    listed: list[pb.Document] = []
    token = ""
    while True:
        request = pb.ListDocumentsRequest(page_size=2, page_token=token)
        page = await client.documents.ListDocuments(request, metadata=client.metadata)
        listed.extend(page.documents)
        token = page.next_page_token
        if not token:
            break
    assert listed == uploaded[::-1]


@pytest.mark.parametrize("position", [{}, {"before": 5}, {"before": None}, {"before": "no id"}])
async def test_an_edited_page_token_is_refused(client: Client, tenant_id: str, position: dict[str, Any]) -> None:
    with acting_as(Caller(tenant_id, "", "k", frozenset(), "", 0.0)):
        token = page_token({"list": "documents"}, position)
    listing = client.documents.ListDocuments(pb.ListDocumentsRequest(page_token=token), metadata=client.metadata)
    assert await refusal(listing) == (grpc.StatusCode.INVALID_ARGUMENT, "PAGE_TOKEN_INVALID")


def test_a_title_is_one_line_of_bounded_length_whatever_the_file_says() -> None:
    assert document_title("", "Lei\x00 nº 5\n\tde 2026 \udc80", "lei.pdf") == "Lei nº 5 de 2026"
    assert len(document_title("", "Título longo " * 1000, "x.pdf")) <= 500
    assert document_title(" ", "\x00", "pasta/aviso.final.md") == "aviso.final"
    assert document_title("", "", "") == "Sem título"


async def test_a_deleted_document_is_never_found_again(
    client: Client, documents: Documents, tenant_id: str, originals_directory: Path
) -> None:
    kept = (await client.upload(samples.POSTO.encode(), "posto.md")).document
    gone = (await client.upload(samples.IPTU.encode(), "iptu.md")).document
    request = pb.DeleteDocumentRequest(document_id=gone.document_id)
    await client.documents.DeleteDocument(request, metadata=client.metadata)
    for mode in (search_pb2.SEARCH_MODE_VECTOR, search_pb2.SEARCH_MODE_KEYWORD, search_pb2.SEARCH_MODE_HYBRID):
        passages = await found(client, "isenção do imposto para aposentados", mode=mode)
        assert all(passage.document_id == kept.document_id for passage in passages)
    get = client.documents.GetDocument(pb.GetDocumentRequest(document_id=gone.document_id), metadata=client.metadata)
    assert await refusal(get) == (grpc.StatusCode.NOT_FOUND, "RESOURCE_NOT_FOUND")
    again = client.documents.DeleteDocument(request, metadata=client.metadata)
    assert await refusal(again) == (grpc.StatusCode.NOT_FOUND, "RESOURCE_NOT_FOUND")
    assert [path.name for path in (originals_directory / tenant_id).iterdir()] == [kept.document_id]


async def test_deleted_bytes_may_be_uploaded_anew(client: Client) -> None:
    first = (await client.upload(samples.IPTU.encode(), "iptu.md")).document
    await client.documents.DeleteDocument(
        pb.DeleteDocumentRequest(document_id=first.document_id), metadata=client.metadata
    )
    again = await client.upload(samples.IPTU.encode(), "iptu.md")
    assert again.verdict == pb.VERDICT_NEW
    assert (await found(client, "isenção"))[0].document_id == again.document.document_id


async def test_second_tenant_sees_nothing(client: Client, client_of: Callable[[str], Client], tenant_id: str) -> None:
    uploaded = (await client.upload(samples.ORCAMENTO.encode(), "orcamento.md")).document
    other = client_of(f"{tenant_id}-other")
    listed = await other.documents.ListDocuments(pb.ListDocumentsRequest(), metadata=other.metadata)
    assert not listed.documents
    assert await found(other, "orçamento do município") == []
    assert await found(other, "orçamento do município", document_ids=[uploaded.document_id]) == []
    same_bytes = await other.upload(samples.ORCAMENTO.encode(), "orcamento.md")
    assert same_bytes.verdict == pb.VERDICT_NEW


async def test_a_foreign_document_answers_exactly_as_a_missing_one(
    client: Client, client_of: Callable[[str], Client], tenant_id: str
) -> None:
    uploaded = (await client.upload(samples.ORCAMENTO.encode(), "orcamento.md")).document
    other = client_of(f"{tenant_id}-other")

    async def answer(document_id: str, call: str) -> tuple[object, ...]:
        request = pb.GetDocumentRequest if call == "GetDocument" else pb.DeleteDocumentRequest
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await getattr(other.documents, call)(request(document_id=document_id), metadata=other.metadata)
        status = rpc_status.from_call(caught.value)
        assert status is not None
        resource = error_details_pb2.ResourceInfo()
        assert any(detail.Unpack(resource) for detail in status.details)
        assert resource.resource_name == document_id
        return caught.value.code(), status.message, len(status.details), resource.resource_type

    for call in ("GetDocument", "DeleteDocument"):
        assert await answer(uploaded.document_id, call) == await answer(UNKNOWN_ID, call)
        assert (await answer("no-uuid", call))[0] == grpc.StatusCode.NOT_FOUND
