"""What callers get wrong, at the gateway and straight over gRPC: the status and details that the contract promises."""

import base64
import json
import socket
import time
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import grpc
import jwt
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.rpc import error_details_pb2

from prosa.tenant_quota.v1 import tenant_service_pb2
from prosa.tenant_quota.v1.tenant_service_pb2_grpc import TenantServiceStub
from tests.house.processes import System
from tests.journeys.tenant import Client, Json, Tenant, eventually, new_tenant
from tests.journeys.wire import all_methods, call, is_public, service_of

METHODS = [pytest.param(method, id=f"{method.containing_service.name}.{method.name}") for method in all_methods()]
NOT_PROTOBUF = (b"\x0a\xff", b"\x0a\x05abc", b"\xff\xff\xff\xff")
REPORT = "/v1/reports/usage"
# Five on a machine that has time, as test_whoever_is_revoked_… shows to the second.
REVOKED_WITHIN_SECONDS = 15.0


@pytest.fixture(scope="module")
def tenant(system: System) -> Tenant:
    """Somebody who makes mistakes."""
    return new_tenant(system)


@pytest.fixture
def token(system: System, tenant: Tenant) -> str:
    """A valid token of the tenant's administrator."""
    return _token(system, tenant.admin.key)


@pytest.mark.parametrize("method", METHODS)
def test_malformed_protobuf_is_the_callers_mistake(system: System, token: str, method: MethodDescriptor) -> None:
    """Whoever may call gets INVALID_ARGUMENT, whoever may not learns nothing more; nobody gets UNKNOWN or INTERNAL."""
    for raw in NOT_PROTOBUF:
        outcome = call(system.demo["services"][service_of(method)], method, [raw], token)
        assert outcome.code in (
            grpc.StatusCode.INVALID_ARGUMENT,
            grpc.StatusCode.PERMISSION_DENIED,
        ), (raw, outcome)
        if outcome.code is grpc.StatusCode.INVALID_ARGUMENT:
            assert outcome.reason in ("MALFORMED_MESSAGE", "VALIDATION_FAILED")


def test_a_broken_rule_names_its_field_over_grpc(system: System, token: str) -> None:
    method = next(each for each in all_methods() if each.name == "ListConversations")
    outcome = call(
        system.demo["services"]["chat_store"], method, [b"\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"], token
    )
    assert (outcome.code, outcome.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "VALIDATION_FAILED")
    assert outcome.status is not None
    broken = error_details_pb2.BadRequest()
    assert any(detail.Unpack(broken) for detail in outcome.status.details)
    assert [(each.field, each.reason) for each in broken.field_violations] == [("page_size", "int32.gte")]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "reason"),
    [
        ("POST", "/v1/conversations", b"{", 400, "MALFORMED_MESSAGE"),
        ("POST", "/v1/conversations", b'{"titel": "x"}', 400, "MALFORMED_MESSAGE"),
        ("POST", "/v1/conversations", b'{"title": 7}', 400, "VALIDATION_FAILED"),
        ("POST", "/v1/conversations", b'{"conversationId": "a b"}', 400, "VALIDATION_FAILED"),
        ("POST", "/v1/conversations", b'{"title": "\xff"}', 400, "MALFORMED_MESSAGE"),
        ("POST", "/v1/conversations/x/messages", b'{"messages": []}', 400, "VALIDATION_FAILED"),
        ("GET", "/v1/conversations?pageSize=-1", b"", 400, "VALIDATION_FAILED"),
        ("GET", "/v1/conversations?pageToken=nonsense", b"", 400, "PAGE_TOKEN_INVALID"),
        ("GET", "/v1/conversations?colour=blue", b"", 400, "MALFORMED_MESSAGE"),
        ("GET", "/v1/conversations/missing", b"", 404, "RESOURCE_NOT_FOUND"),
        ("PATCH", "/v1/conversations/x", b'{"conversation": {}, "updateMask": "status"}', 400, "VALIDATION_FAILED"),
        ("PATCH", "/v1/conversations/x", b'{"conversation": {"title": "x"}}', 400, "VALIDATION_FAILED"),
        ("POST", "/v1/conversations/x:finalize", b"{}", 400, "VALIDATION_FAILED"),
        ("POST", "/v1/conversations/x:explode", b"{}", 405, "METHOD_NOT_ALLOWED"),
        ("DELETE", "/v1/conversations/missing", b"", 404, "RESOURCE_NOT_FOUND"),
        ("GET", "/v1/conversations/missing:watch", b"", 404, "RESOURCE_NOT_FOUND"),
        ("GET", "/v1/conversations/missing/messages/m1/text", b"", 404, "RESOURCE_NOT_FOUND"),
        ("PUT", "/v1/conversations/x/messages/m1/feedback", b'{"feedback": {"rating": 6}}', 400, "VALIDATION_FAILED"),
        ("GET", "/v1/messages:search", b"", 400, "VALIDATION_FAILED"),
        ("GET", "/v1/messages:search?query=%3F%21", b"", 400, "VALIDATION_FAILED"),
        ("GET", "/v1/messages:search?query=x&types=POET", b"", 400, "VALIDATION_FAILED"),
        ("GET", "/v1/messages:search?query=x&createTimeFrom=ontem", b"", 400, "VALIDATION_FAILED"),
        ("POST", "/v1/conversations/x/tasks", b'{"description": ""}', 400, "VALIDATION_FAILED"),
        ("POST", "/v1/conversations/x/events", b'{"type": "a b"}', 400, "VALIDATION_FAILED"),
        ("GET", "/v1/nowhere", b"", 404, "ROUTE_NOT_FOUND"),
        ("DELETE", "/v1/conversations", b"", 405, "METHOD_NOT_ALLOWED"),
        ("POST", "/v1/documents:upload?filename=x.txt", b"", 400, "VALIDATION_FAILED"),
        ("POST", "/v1/documents:upload?filename=x.pdf", b"%PDF-1.7 not really", 400, "DOCUMENT_UNREADABLE"),
        ("POST", "/v1/documents:upload?filename=x.txt", b"   \n  ", 400, "DOCUMENT_EMPTY"),
        (
            "GET",
            "/v1/reports/usage?startTime=2026-11-02T00:00:00Z&endTime=2026-11-01T00:00:00Z",
            b"",
            400,
            "VALIDATION_FAILED",
        ),
        ("GET", f"{REPORT}?startTime=2020-01-01T00:00:00Z", b"", 400, "RANGE_TOO_LARGE"),
        ("GET", f"{REPORT}?timeZone=Mars/Olympus", b"", 400, "VALIDATION_FAILED"),
        ("GET", "/v1/statements/2026-13", b"", 400, "VALIDATION_FAILED"),
        ("GET", "/v1/usage:query?firstDay=2026-02-02&lastDay=2026-02-01", b"", 400, "VALIDATION_FAILED"),
        ("GET", "/v1/usage:query?firstDay=2020-01-01&lastDay=2026-02-01", b"", 400, "VALIDATION_FAILED"),
        ("POST", "/v1/tenants", b'{"displayName": "x"}', 403, "PERMISSION_MISSING"),
        ("GET", "/v1/tenants/somebody-else", b"", 403, "TENANT_MISMATCH"),
    ],
)
def test_a_mistake_gets_its_own_status_and_reason(
    tenant: Tenant, method: str, path: str, body: bytes, status: int, reason: str
) -> None:
    response = tenant.admin.http.request(method, path, content=body)
    assert (response.status_code, _reason(response.json())) == (status, reason), response.text


def test_a_page_token_of_another_query_is_refused(tenant: Tenant) -> None:
    for _ in range(3):
        tenant.admin.post("/v1/conversations", {"assistantId": tenant.assistant_id})
    token = tenant.admin.get("/v1/conversations", pageSize=1)["nextPageToken"]
    query = {"pageToken": token, "assistantId": tenant.assistant_id}
    response = tenant.admin.http.get("/v1/conversations", params=query)
    assert (response.status_code, _reason(response.json())) == (400, "PAGE_TOKEN_MISMATCH")


def test_an_oversized_body_is_refused_before_it_is_read_whole(tenant: Tenant) -> None:
    text = "x" * (28 * 1024 * 1024)
    body = {"messages": [{"type": "MESSAGE_TYPE_USER", "text": text}]}
    conversation = tenant.admin.post("/v1/conversations")["conversationId"]
    response = tenant.admin.http.post(f"/v1/conversations/{conversation}/messages", json=body)
    assert (response.status_code, response.json()["code"]) == (413, 8), response.text
    assert tenant.admin.messages(conversation) == []


def test_an_oversized_message_is_refused_over_grpc(system: System, token: str) -> None:
    method = next(each for each in all_methods() if each.name == "CreateConversation")
    outcome = call(
        system.demo["services"]["chat_store"], method, [b"\x22\x80\x80\xc0\x0c" + b"x" * 25 * 1024 * 1024], token
    )
    assert outcome.code is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_document_above_the_limit_is_refused_and_leaves_nothing(tenant: Tenant) -> None:
    before = tenant.admin.get("/v1/documents")["documents"]
    response = tenant.admin.http.post(
        "/v1/documents:upload", params={"filename": "x.txt"}, content=b"palavra " * 17_000_000
    )
    assert response.status_code == 413, response.text
    assert tenant.admin.get("/v1/documents")["documents"] == before


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer"},
        {"authorization": "Basic abc"},
        {"authorization": "Bearer pk_live_0000000000000000_nothing_000000"},
        {"authorization": "Bearer not.a.token"},
        {"x-api-key": "nonsense"},
    ],
)
def test_whoever_shows_no_valid_credential_is_told_the_same(system: System, headers: dict[str, str]) -> None:
    client = Client(system.gateway, "")
    client.http.headers.pop("authorization", None)
    response = client.http.get("/v1/conversations", headers=headers)
    assert response.status_code == 401, response.text
    assert "www-authenticate" in response.headers
    assert _reason(response.json()) in ("CREDENTIALS_MISSING", "CREDENTIALS_INVALID")


def test_a_revoked_key_opens_nothing_any_more(system: System, tenant: Tenant) -> None:
    made = tenant.platform.post(f"/v1/tenants/{tenant.tenant_id}/apiKeys", {"role": "ROLE_TENANT_ADMIN"})
    client = Client(system.gateway, made["secret"])
    client.get("/v1/conversations")
    tenant.platform.post(f"/v1/tenants/{tenant.tenant_id}/apiKeys/{made['apiKey']['keyId']}:revoke")

    def refused() -> bool:
        return client.http.get("/v1/conversations").status_code == 401

    eventually(refused, within_seconds=REVOKED_WITHIN_SECONDS)
    with pytest.raises(grpc.RpcError) as refusal:
        _token(system, made["secret"])
    assert refusal.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_a_deactivated_tenants_keys_open_nothing_any_more(system: System) -> None:
    tenant = new_tenant(system)
    tenant.platform.post(f"/v1/tenants/{tenant.tenant_id}:deactivate")
    eventually(
        lambda: tenant.admin.http.get("/v1/conversations").status_code == 401, within_seconds=REVOKED_WITHIN_SECONDS
    )


def test_a_token_that_was_tampered_with_or_has_ended_is_refused_everywhere(system: System, token: str) -> None:
    claims = jwt.decode(token, options={"verify_signature": False})
    head, _, signature = token.split(".")
    longer = {**claims, "exp": int(time.time()) + 10_000}
    forged = f"{head}.{_encoded(longer)}.{signature}"
    unsigned = f"{_encoded({'alg': 'none', 'typ': 'JWT'})}.{_encoded(longer)}."
    by_public_key = jwt.encode(longer, "0" * 64, algorithm="HS256")
    for method in (each for each in all_methods() if not is_public(each)):
        target = system.demo["services"][service_of(method)]
        for bad in (forged, unsigned, by_public_key):
            outcome = call(target, method, [b""], bad)
            assert (outcome.code, outcome.reason) == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_INVALID"), (
                method.name
            )


def test_a_quota_that_is_used_up_says_until_when(system: System) -> None:
    tenant = new_tenant(system)
    tenant.set_quota(tokensPerDay=8_000)
    turns = (tenant.admin.ask(tenant.assistant_id, "Qual é o prazo?") for _ in range(20))
    told = next(turn for turn in turns if turn.status == 429)
    assert told.error is not None
    details = {detail["@type"].rpartition(".")[2]: detail for detail in told.error["details"]}
    assert details["ErrorInfo"]["reason"] == "QUOTA_EXCEEDED"
    assert details["ErrorInfo"]["metadata"]["window"] == "day"
    assert details["QuotaFailure"]["violations"]
    assert 0 < float(details["RetryInfo"]["retryDelay"].rstrip("s")) <= 86_400


def test_errors_never_show_what_is_inside(system: System, tenant: Tenant) -> None:
    """A key, a stack, a statement or a path of ours in an answer would be found here."""
    hostile = ("'; drop table documents; --", "$where", "\x00", "../../etc/passwd", "{{7*7}}", "ˀ" * 200)
    for text in hostile:
        answers = [
            tenant.admin.http.get("/v1/documents/" + text.replace("/", "%2F").replace("\x00", "%00")),
            tenant.admin.http.post("/v1/documents:search", json={"query": text}),
            tenant.admin.http.post("/v1/conversations", json={"title": text, "metadata": {text: text}}),
            tenant.admin.http.post("/v1/assistants", json={"assistant": {"displayName": text or "x"}}),
            tenant.platform.http.post("/v1/tenants", json={"displayName": text, "requestId": str(uuid4())}),
        ]
        for answer in answers:
            assert answer.status_code in (200, 400, 404), (text, answer.status_code, answer.text)
            for secret in ("Traceback", "asyncpg", "pymongo", "postgresql://", "mongodb://", "site-packages"):
                assert secret not in answer.text


def test_a_client_that_sends_nothing_does_not_keep_its_place(system: System) -> None:
    address = urlsplit(system.gateway)
    with socket.create_connection((address.hostname, address.port or 80), timeout=60) as slow:
        slow.sendall(b"POST /v1/conversations HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{")
        answer = slow.recv(65536)
    assert b" 401 " in answer.split(b"\r\n")[0] or b" 408 " in answer.split(b"\r\n")[0]


def _token(system: System, key: str) -> str:
    with grpc.insecure_channel(system.demo["services"]["tenant_quota"]) as channel:
        request = tenant_service_pb2.AuthenticateRequest(credential=key)
        return TenantServiceStub(channel).Authenticate(request, timeout=30).access_token


def _method(name: str) -> MethodDescriptor:
    return next(each for each in all_methods() if each.name == name)


def _encoded(part: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")


def _reason(status: Json) -> str:
    return str(status["details"][0]["reason"])
