"""Calls with one answer, over real sockets: what arrives, what comes back, what happens when the client leaves."""

import asyncio
import json

import httpx
import pytest
from opentelemetry.sdk.trace import TracerProvider

from gateway import observation
from shared.telemetry import sampler
from tests.gateway.conftest import KEY, SOON_SECONDS, Gateway
from tests.gateway.upstream import Seen


async def test_a_key_and_a_path_become_a_call_and_its_json(client: httpx.AsyncClient, seen: Seen) -> None:
    response = await client.get("/v1/conversations/c%2042", headers=KEY)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert body["conversationId"] == "c 42"
    assert body["userId"] == "ana"
    assert body["messageCount"] == "9007199254740993"
    assert body["title"] == ""  # defaults are shown
    assert "usage" not in body  # what is absent is not


async def test_every_answer_carries_the_trace_as_its_request_id(client: httpx.AsyncClient, seen: Seen) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    headers = {**KEY, "traceparent": f"00-{trace}-b7ad6b7169203331-01"}
    response = await client.get("/v1/conversations/missing", headers=headers)
    assert response.headers["x-request-id"] == trace
    assert {"@type": "type.googleapis.com/google.rpc.RequestInfo", "requestId": trace, "servingData": ""} in [
        {"servingData": "", **detail} for detail in response.json()["details"]
    ]
    assert seen.metadata[-1]["traceparent"].split("-")[1] == trace


@pytest.mark.parametrize(
    ("wished", "ratio", "follows", "recorded"),
    [("01", 0.0, False, False), ("00", 1.0, False, True), ("01", 0.0, True, True), ("00", 1.0, True, False)],
)
async def test_the_public_decides_about_no_recording_unless_it_is_trusted(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, wished: str, ratio: float, *, follows: bool, recorded: bool
) -> None:
    provider = TracerProvider(sampler=sampler(ratio, follows_callers=follows))
    monkeypatch.setattr(observation, "tracer", provider.get_tracer("test"))
    headers = {**KEY, "traceparent": f"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{wished}"}
    response = await gateway.client.get("/v1/conversations/c", headers=headers)
    assert response.headers["x-request-id"] == "0af7651916cd43dd8448eb211c80319c"
    assert gateway.seen.metadata[-1]["traceparent"].endswith("-01" if recorded else "-00")
    provider.shutdown()


async def test_internal_headers_of_the_client_go_nowhere(client: httpx.AsyncClient, seen: Seen) -> None:
    headers = {**KEY, "x-prosa-subject-token": "x", "grpc-timeout": "1n", "x-tenant-id": "other", "cookie": "a=b"}
    assert (await client.get("/v1/conversations/c", headers=headers)).status_code == 200
    arrived = seen.metadata[-1]
    assert not {"x-prosa-subject-token", "x-tenant-id", "cookie", "x-api-key"} & arrived.keys()


async def test_a_json_body_becomes_the_request(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/conversations", headers=KEY, json={"title": "olá", "metadata": {"a": [1, None]}})
    assert response.status_code == 200
    assert response.json()["title"] == "olá"
    assert response.json()["metadata"] == {"a": [1, None]}


async def test_a_file_comes_as_it_is_and_never_opens_in_the_page(client: httpx.AsyncClient) -> None:
    response = await client.get("/v1/reports:export", headers=KEY, params={"report": "REPORT_KIND_USAGE"})
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    assert response.headers["content-disposition"] == "attachment"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.content == "dia;conversões\r\n".encode()


async def test_delete_answers_an_empty_object(client: httpx.AsyncClient) -> None:
    response = await client.delete("/v1/assistants/a", headers=KEY)
    assert (response.status_code, response.content) == (200, b"{}")


@pytest.mark.parametrize(
    ("conversation", "http", "code", "reason"),
    [
        ("missing", 404, 5, "RESOURCE_NOT_FOUND"),
        ("busy", 409, 10, "REQUEST_IN_PROGRESS"),
        ("over", 429, 8, "QUOTA_EXCEEDED"),
        ("down", 503, 14, "DEPENDENCY_UNAVAILABLE"),
        ("denied", 403, 7, "PERMISSION_MISSING"),
        ("bug", 500, 13, "INTERNAL"),
    ],
)
async def test_an_error_of_a_service_is_its_status_as_json(
    client: httpx.AsyncClient, conversation: str, http: int, code: int, reason: str
) -> None:
    response = await client.get(f"/v1/conversations/{conversation}", headers=KEY)
    body = response.json()
    info = next(detail for detail in body["details"] if detail["@type"].endswith("ErrorInfo"))
    assert (response.status_code, body["code"], info["reason"], info["domain"]) == (http, code, reason, "prosa")
    assert "secret" not in response.text


async def test_what_can_be_tried_again_says_when(client: httpx.AsyncClient) -> None:
    quota = await client.get("/v1/conversations/over", headers=KEY)
    assert quota.headers["retry-after"] == "42"
    down = await client.get("/v1/conversations/down", headers=KEY)
    assert down.headers["retry-after"] == "1"


async def test_an_unknown_path_and_a_wrong_method_are_told_apart(client: httpx.AsyncClient) -> None:
    lost = await client.get("/v1/nowhere", headers=KEY)
    assert (lost.status_code, lost.json()["code"]) == (404, 5)
    assert "ROUTE_NOT_FOUND" in lost.text
    wrong = await client.put("/v1/conversations", headers=KEY)
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "GET, POST")
    assert "METHOD_NOT_ALLOWED" in wrong.text
    verb = await client.get("/v1/assistants/a:ask", headers=KEY)
    assert (verb.status_code, verb.headers["allow"]) == (405, "POST")


async def test_a_service_that_is_away_is_unavailable(gateways: object) -> None:
    gateway: Gateway = await gateways.start(upstream_port=1)  # type: ignore[attr-defined]
    response = await gateway.client.get("/v1/conversations/c", headers={"authorization": "Bearer eyJ.a.b"}, timeout=20)
    assert response.status_code == 503
    info = response.json()["details"][0]
    assert (info["reason"], info["metadata"]["dependency"]) == ("DEPENDENCY_UNAVAILABLE", "chat_store")


async def test_a_method_the_service_does_not_know_is_not_implemented(client: httpx.AsyncClient) -> None:
    response = await client.get("/v1/plan", headers=KEY)
    assert response.status_code == 501
    assert response.json()["code"] == 12


async def test_a_deadline_that_passes_is_504(client: httpx.AsyncClient) -> None:
    headers = {**KEY, "x-request-timeout-seconds": "1"}
    response = await client.get("/v1/conversations/slow", headers=headers)
    assert (response.status_code, response.json()["code"]) == (504, 4)
    assert "DEADLINE_EXCEEDED" in response.text
    wrong = await client.get("/v1/conversations/slow", headers={**KEY, "x-request-timeout-seconds": "soon"})
    assert wrong.status_code == 400


async def test_a_client_that_leaves_cancels_its_call_within_a_second(gateway: Gateway) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(b"GET /v1/conversations/slow HTTP/1.1\r\nhost: x\r\nauthorization: Bearer pk_test_ana\r\n\r\n")
    await asyncio.wait_for(gateway.seen.started.wait(), 20)
    writer.close()
    await asyncio.wait_for(gateway.seen.cancelled.wait(), SOON_SECONDS)


async def test_unknown_fields_bad_types_and_bad_json_are_refused_with_their_place(client: httpx.AsyncClient) -> None:
    unknown = await client.post("/v1/conversations", headers=KEY, json={"title": "x", "colour": "red"})
    assert unknown.status_code == 400
    details = unknown.json()["details"]
    assert details[0]["reason"] == "MALFORMED_MESSAGE"
    assert details[1]["fieldViolations"][0]["field"] == "colour"
    kind = await client.post(
        "/v1/conversations/c/messages", headers=KEY, json={"messages": [{"type": "MESSAGE_TYPE_USER"}, {"seq": "x"}]}
    )
    details = kind.json()["details"]
    assert details[0]["reason"] == "VALIDATION_FAILED"
    assert [each["field"] for each in details[1]["fieldViolations"]] == ["messages[1].seq"]
    bad = await client.post(
        "/v1/conversations", headers={**KEY, "content-type": "application/json"}, content=b'{"title": '
    )
    assert (bad.status_code, bad.json()["details"][0]["reason"]) == (400, "MALFORMED_MESSAGE")
    query = await client.get("/v1/conversations?pageSize=5&colour=red", headers=KEY)
    assert query.json()["details"][1]["fieldViolations"][0]["field"] == "colour"


async def test_a_rule_of_the_contract_that_is_broken_is_refused_by_the_service(client: httpx.AsyncClient) -> None:
    response = await client.get("/v1/conversations?page_size=-1", headers=KEY)
    details = response.json()["details"]
    assert (response.status_code, details[0]["reason"]) == (400, "VALIDATION_FAILED")
    assert details[1]["fieldViolations"][0]["field"] == "page_size"


async def test_other_media_types_are_refused(client: httpx.AsyncClient) -> None:
    for media_type in ("application/x-www-form-urlencoded", "text/xml"):
        response = await client.post("/v1/conversations", headers={**KEY, "content-type": media_type}, content="{}")
        assert (response.status_code, response.json()["details"][0]["reason"]) == (415, "UNSUPPORTED_MEDIA_TYPE")


async def test_the_error_body_is_json_even_for_the_smallest_answer(client: httpx.AsyncClient) -> None:
    assert json.loads((await client.get("/nope")).content)["code"] == 5


async def test_a_write_without_a_request_id_is_not_sent_twice(client: httpx.AsyncClient, seen: Seen) -> None:
    response = await client.post("/v1/conversations", headers=KEY, json={"title": "down"})
    assert (response.status_code, len(seen.requests)) == (503, 1)
    again = await client.post("/v1/conversations", headers=KEY, json={"title": "down", "requestId": "r"})
    assert (again.status_code, len(seen.requests)) == (503, 1 + 4)
