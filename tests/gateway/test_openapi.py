"""The contract as OpenAPI: fresh, valid, complete, and true of what the gateway does."""

import json
from typing import Any

import httpx
import jsonschema  # type: ignore[import-untyped]
import pytest
from openapi_spec_validator import validate

from gateway.openapi import text
from gateway.routes import RouteTable, registered_routes
from gateway.site import OPENAPI
from tests.gateway.conftest import KEY


@pytest.fixture(scope="module")
def contract() -> dict[str, Any]:
    """The committed document."""
    document: dict[str, Any] = json.loads(OPENAPI.read_text())
    return document


def operations(contract: dict[str, Any]) -> list[dict[str, Any]]:
    """Every operation."""
    return [operation for methods in contract["paths"].values() for operation in methods.values()]


def test_the_committed_document_is_what_the_contracts_say() -> None:
    assert OPENAPI.read_text() == text(), "stale: python -m gateway.openapi"


def test_the_document_is_openapi_3_1(contract: dict[str, Any]) -> None:
    validate(contract)


def test_every_route_is_an_operation_with_words(contract: dict[str, Any]) -> None:
    assert len(operations(contract)) == len(list(RouteTable(registered_routes())))
    for operation in operations(contract):
        assert operation["summary"], operation["operationId"]
        assert "default" in operation["responses"]
    identifiers = [operation["operationId"] for operation in operations(contract)]
    assert len(set(identifiers)) == len(identifiers)


def test_every_field_of_every_message_has_a_meaning(contract: dict[str, Any]) -> None:
    for name, schema in contract["components"]["schemas"].items():
        for field, inner in schema.get("properties", {}).items():
            assert inner.get("description") or name in ("Status", "ErrorDetail"), f"{name}.{field}"


def test_rules_of_the_contract_become_limits(contract: dict[str, Any]) -> None:
    ask = contract["paths"]["/v1/assistants/{assistantId}:ask"]["post"]
    body = ask["requestBody"]["content"]["application/json"]["schema"]
    assert "assistantId" not in body["properties"]
    assert (body["required"], body["properties"]["question"]["maxLength"]) == (["question"], 32000)
    assert body["properties"]["maxOutputTokens"]["maximum"] == 100000
    assert body["additionalProperties"] is False
    create = contract["paths"]["/v1/tenants/{tenantId}/users"]["post"]["requestBody"]
    role = create["content"]["application/json"]["schema"]["properties"]["role"]
    assert role["enum"] == ["ROLE_TENANT_ADMIN", "ROLE_MEMBER"]


def test_streams_uploads_and_public_methods_are_marked(contract: dict[str, Any]) -> None:
    ask = contract["paths"]["/v1/assistants/{assistantId}:ask"]["post"]
    stream = ask["responses"]["200"]["content"]["text/event-stream"]
    assert "event: text_delta" in stream["example"]
    upload = contract["paths"]["/v1/documents:upload"]["post"]
    assert set(upload["requestBody"]["content"]) == {"application/octet-stream", "multipart/form-data"}
    parameters = {each["name"]: each for each in upload["parameters"]}
    assert {"filename", "title", "mimeType", "requestId", "source", "metadata"} <= set(parameters)
    assert parameters["metadata"]["content"]["application/json"]["schema"]["type"] == "object"
    assert contract["paths"]["/v1/credentials:authenticate"]["post"]["security"] == []
    assert ask["x-permission"] == "assistants.ask"


def test_files_are_marked(contract: dict[str, Any]) -> None:
    download = contract["paths"]["/v1/documents/{documentId}:download"]["get"]["responses"]
    assert list(download["200"]["content"]) == ["*/*", "text/event-stream", "application/x-ndjson"]
    assert {"content-disposition", "etag"} <= download["200"]["headers"].keys()
    assert "304" in download
    export = contract["paths"]["/v1/reports:export"]["get"]["responses"]
    assert list(export["200"]["content"]) == ["*/*"]


def test_examples_fit_their_schemas(contract: dict[str, Any]) -> None:
    for operation in operations(contract):
        media = operation.get("requestBody", {}).get("content", {}).get("application/json")
        if media is not None:
            schema = {**media["schema"], "components": contract["components"]}
            jsonschema.validate(media["example"], schema)


async def test_answers_fit_the_schemas(client: httpx.AsyncClient, contract: dict[str, Any]) -> None:
    def fits(answer: object, name: str) -> None:
        jsonschema.validate(answer, {"$ref": f"#/components/schemas/{name}", "components": contract["components"]})

    fits((await client.get("/v1/conversations/c", headers=KEY)).json(), "Conversation")
    fits((await client.get("/v1/conversations/over", headers=KEY)).json(), "Status")
    fits((await client.get("/nowhere")).json(), "Status")
