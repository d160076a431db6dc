"""AssistantService over real PostgreSQL: what may be said of an assistant, and to whom it belongs."""

import base64
import json
import math
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from prosa.document_rag.v1 import assistant_service_pb2 as pb
from prosa.document_rag.v1 import document_service_pb2 as documents_pb2
from prosa.document_rag.v1 import search_service_pb2 as search_pb2
from shared.errors import InvalidArgument, ServiceError, error_of
from tests.document_rag.neighbourhood import Neighbourhood, Tenant

FIELDS: dict[str, Any] = {
    "display_name": "Atendente",
    "instructions": "Responda com educação.",
    "model": "extractive",
    "top_k": 5,
    "temperature": 0.0,
    "max_output_tokens": 300,
    "document_ids": ["a", "b"],
}
BROKEN = [
    ("display_name", "  "),
    ("display_name", "x" * 201),
    ("display_name", "nul\0"),
    ("instructions", "ç" * 16_385),
    ("instructions", "nul\0"),
    ("model", "x" * 201),
    ("model", "nul\0"),
    ("top_k", -1),
    ("top_k", 51),
    ("temperature", -0.1),
    ("temperature", 2.1),
    ("temperature", math.nan),
    ("temperature", math.inf),
    ("max_output_tokens", -1),
    ("max_output_tokens", 100_001),
    ("document_ids", [f"d{number}" for number in range(1001)]),
    ("document_ids", ["a", "a"]),
    ("document_ids", [""]),
    ("document_ids", ["x" * 65]),
    ("document_ids", ["nul\0"]),
]


async def call(tenant: Tenant, method: str, request: Any) -> Any:
    """The response, or the error of the house."""
    try:
        return await getattr(tenant.house.assistants, method)(request, metadata=tenant.person())
    except grpc.aio.AioRpcError as error:
        raise error_of(error) from None


async def create(tenant: Tenant, request_id: str = "", **fields: Any) -> pb.Assistant:
    assistant = pb.Assistant(**{**FIELDS, **fields})
    made: pb.Assistant = await call(
        tenant, "CreateAssistant", pb.CreateAssistantRequest(assistant=assistant, request_id=request_id)
    )
    return made


async def update(tenant: Tenant, assistant_id: str, *paths: str, **fields: Any) -> pb.Assistant:
    request = pb.UpdateAssistantRequest(
        assistant_id=assistant_id, assistant=pb.Assistant(**fields), update_mask=FieldMask(paths=paths)
    )
    changed: pb.Assistant = await call(tenant, "UpdateAssistant", request)
    return changed


async def test_an_assistant_comes_back_as_it_was_made(tenant: Tenant) -> None:
    made = await create(tenant)
    assert {name: getattr(made, name) for name in FIELDS} == FIELDS
    assert made.create_time == made.update_time
    assert await call(tenant, "GetAssistant", pb.GetAssistantRequest(assistant_id=made.assistant_id)) == made
    assert not (await create(tenant, temperature=None)).HasField("temperature")


async def test_a_repeated_request_id_makes_one_assistant(tenant: Tenant) -> None:
    made = await create(tenant, "pedido-1")
    assert await create(tenant, "pedido-1") == made
    with pytest.raises(ServiceError) as refused:
        await create(tenant, "pedido-1", top_k=6)
    assert refused.value.reason == "REQUEST_ID_REUSED"
    assert len((await call(tenant, "ListAssistants", pb.ListAssistantsRequest())).assistants) == 1


async def test_only_the_fields_of_the_mask_change(tenant: Tenant) -> None:
    made = await create(tenant)
    changed = await update(tenant, made.assistant_id, "top_k", "temperature", top_k=7, display_name="", model="other")
    assert (changed.top_k, changed.HasField("temperature")) == (7, False)
    assert (changed.display_name, changed.model, changed.create_time) == ("Atendente", "extractive", made.create_time)
    assert changed.update_time.ToNanoseconds() > made.update_time.ToNanoseconds()


@pytest.mark.parametrize("paths", [[], ["assistant_id"], ["top_k", "create_time"], ["nonsense"], ["document_ids.x"]])
async def test_a_mask_names_what_can_be_changed(tenant: Tenant, paths: list[str]) -> None:
    made = await create(tenant)
    with pytest.raises(InvalidArgument):
        await update(tenant, made.assistant_id, *paths, top_k=7)


@pytest.mark.parametrize(("name", "value"), BROKEN, ids=[f"{name}-{str(value)[:8]!r}" for name, value in BROKEN])
async def test_a_broken_value_is_refused_when_made_and_when_changed(tenant: Tenant, name: str, value: Any) -> None:
    made = await create(tenant)
    for attempt in (create(tenant, **{name: value}), update(tenant, made.assistant_id, name, **{name: value})):
        with pytest.raises(InvalidArgument) as refused:
            await attempt
        assert refused.value.violations[0].field.startswith(f"assistant.{name}")
    assert await call(tenant, "GetAssistant", pb.GetAssistantRequest(assistant_id=made.assistant_id)) == made


async def test_pages_hold_every_assistant_once_newest_first(tenant: Tenant) -> None:
    made = [(await create(tenant, display_name=f"Número {number}")).assistant_id for number in range(5)]
    listed: list[str] = []
    token = ""
    for _ in range(3):
        page = await call(tenant, "ListAssistants", pb.ListAssistantsRequest(page_size=2, page_token=token))
        listed += [each.assistant_id for each in page.assistants]
        token = page.next_page_token
    assert (listed, token) == (made[::-1], "")


@pytest.mark.parametrize(
    "position",
    [
        {},
        {"time": "2026-01-01T00:00:00"},
        {"time": "2026-01-01T00:00:00", "id": "nul\0"},
        {"time": "0001-01-01T00:00:00+23:59", "id": "0192e4a0-0000-7000-8000-000000000000"},
        {"time": 5, "id": 5},
    ],
)
async def test_an_edited_page_token_is_refused(tenant: Tenant, position: dict[str, Any]) -> None:
    for _ in range(2):
        await create(tenant)
    token = (await call(tenant, "ListAssistants", pb.ListAssistantsRequest(page_size=1))).next_page_token
    content = json.loads(base64.urlsafe_b64decode(token + "=="))
    edited = base64.urlsafe_b64encode(json.dumps({**content, "p": position}).encode()).decode().rstrip("=")
    with pytest.raises(InvalidArgument) as refused:
        await call(tenant, "ListAssistants", pb.ListAssistantsRequest(page_token=edited))
    assert refused.value.reason == "PAGE_TOKEN_INVALID"


async def test_a_deleted_assistant_is_gone_and_its_id_with_it(tenant: Tenant) -> None:
    made = await create(tenant)
    request = pb.DeleteAssistantRequest(assistant_id=made.assistant_id)
    await call(tenant, "DeleteAssistant", request)
    assert not (await call(tenant, "ListAssistants", pb.ListAssistantsRequest())).assistants
    with pytest.raises(ServiceError) as refused:
        await call(tenant, "DeleteAssistant", request)
    assert refused.value.reason == "RESOURCE_NOT_FOUND"


async def test_another_tenants_assistant_is_a_missing_one(house: Neighbourhood, tenant: Tenant) -> None:
    made, other = await create(tenant), await house.tenant()
    ids = (made.assistant_id, "0192e4a0-0000-7000-8000-000000000000", "no id", "nul\0")
    for assistant_id in ids:
        attempts = [
            call(other, "GetAssistant", pb.GetAssistantRequest(assistant_id=assistant_id)),
            call(other, "DeleteAssistant", pb.DeleteAssistantRequest(assistant_id=assistant_id)),
            update(other, assistant_id, "top_k", top_k=1),
        ]
        for attempt in attempts:
            with pytest.raises(ServiceError) as refused:
                await attempt
            assert (refused.value.reason, refused.value.message) == ("RESOURCE_NOT_FOUND", "assistant not found")
    assert not (await call(other, "ListAssistants", pb.ListAssistantsRequest())).assistants
    assert await call(tenant, "GetAssistant", pb.GetAssistantRequest(assistant_id=made.assistant_id)) == made


async def test_a_nul_in_a_request_id_is_refused(tenant: Tenant) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await create(tenant, "nul\0")
    assert refused.value.violations[0].field == "request_id"


@pytest.mark.parametrize("field", ["filename", "title", "mime_type", "request_id", "source"])
async def test_a_nul_in_the_description_of_an_upload_is_refused(client: Any, field: str) -> None:
    request = documents_pb2.UploadDocumentRequest(chunk=b"texto")
    setattr(request, field, "nul\0")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await client.documents.UploadDocument(iter([request]), metadata=client.metadata)
    error = error_of(refused.value)
    assert isinstance(error, InvalidArgument)
    assert error.violations[0].field == field


async def test_a_nul_in_a_search_or_an_id_finds_nothing(client: Any) -> None:
    search, documents = client.search_service, client.documents
    found = await search.Search(
        search_pb2.SearchRequest(query="nul\0 prazo", document_ids=["nul\0"]), metadata=client.metadata
    )
    assert not found.passages
    for call_of, request in (
        (documents.GetDocument, documents_pb2.GetDocumentRequest(document_id="nul\0")),
        (documents.DeleteDocument, documents_pb2.DeleteDocumentRequest(document_id="nul\0")),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call_of(request, metadata=client.metadata)
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND
