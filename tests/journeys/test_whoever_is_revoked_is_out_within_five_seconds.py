"""Keys, sessions, people and tenants that were sent away: refused by the gateway and by every service, in real time."""

import time
from collections.abc import Callable, Mapping
from typing import Any
from uuid import uuid4

import grpc
import pytest

from prosa.tenant_quota.v1 import tenant_service_pb2
from prosa.tenant_quota.v1.tenant_service_pb2_grpc import TenantServiceStub
from tests.house.processes import System
from tests.journeys.tenant import Client, Tenant, eventually, new_tenant
from tests.journeys.wire import all_methods, call, request_of

PASSWORD = "quatro palavras ao acaso"
SECONDS = 5.0
PATH = "/v1/conversations"
# One read of each service.
READS = {
    "tenant_quota": "QuotaService.GetUsage",
    "chat_store": "ConversationService.ListConversations",
    "document_rag": "AssistantService.ListAssistants",
    "analytics": "ReportService.GetUsageReport",
}


def by_key(tenant: Tenant) -> tuple[str, Callable[[], object]]:
    """A key, and how it is revoked."""
    made = tenant.platform.post(f"{_path(tenant)}/apiKeys", {"role": "ROLE_TENANT_ADMIN"})
    return made["secret"], lambda: tenant.platform.post(f"{_path(tenant)}/apiKeys/{made['apiKey']['keyId']}:revoke")


def by_rotation(tenant: Tenant) -> tuple[str, Callable[[], object]]:
    """A key, and how its successor voids it at once."""
    made = tenant.platform.post(f"{_path(tenant)}/apiKeys", {"role": "ROLE_TENANT_ADMIN"})
    path = f"{_path(tenant)}/apiKeys/{made['apiKey']['keyId']}:rotate"
    return made["secret"], lambda: tenant.platform.post(path, {"overlapSeconds": 0})


def by_session(tenant: Tenant) -> tuple[str, Callable[[], object]]:
    """A session, and how the administrator ends it."""
    person, opened = _logged_in(tenant)
    return opened["credential"], lambda: tenant.platform.post(
        f"{person}/sessions/{opened['session']['sessionId']}:revoke"
    )


def by_user(tenant: Tenant) -> tuple[str, Callable[[], object]]:
    """A user's session, and how the user is deactivated."""
    person, opened = _logged_in(tenant)
    return opened["credential"], lambda: tenant.platform.call(
        "PATCH", person, {"user": {"active": False}, "updateMask": "active"}
    )


def by_tenant(tenant: Tenant) -> tuple[str, Callable[[], object]]:
    """A key, and how its tenant is deactivated."""
    return tenant.admin.key, lambda: tenant.platform.post(f"{_path(tenant)}:deactivate")


WAYS = (by_key, by_rotation, by_session, by_user, by_tenant)


def test_whoever_is_revoked_is_out_everywhere_within_five_seconds(system: System) -> None:
    # Each in a tenant of its own, and all at once, because each takes its five seconds.
    secrets = [(way.__name__, *way(new_tenant(system))) for way in WAYS]
    clients = [Client(system.gateway, secret) for _, secret, _ in secrets]
    tokens: dict[str, str] = {}

    def all_are_in() -> bool:
        """With tokens that live four seconds, which a busy machine may need for so many calls."""
        tokens.update({name: _token(system, secret) for name, secret, _ in secrets})
        return _everywhere(system, tokens) == {grpc.StatusCode.OK}

    # The worst case: the gateway and the caller have asked for their tokens just before.
    eventually(all_are_in)
    assert {client.http.get(PATH).status_code for client in clients} == {200}
    for _, _, revoke in secrets:
        revoke()
    out_at = time.monotonic() + SECONDS

    for name, secret, _ in secrets:
        with pytest.raises(grpc.RpcError) as refused:
            _token(system, secret)
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED, f"{name}: a new token after the revocation"
    while time.monotonic() < out_at:
        for client in clients:  # in full use, so that the gateway renews what it can
            client.http.get(PATH)
        time.sleep(0.05)
    assert {client.http.get(PATH).status_code for client in clients} == {401}
    assert _everywhere(system, tokens) == {grpc.StatusCode.UNAUTHENTICATED}


def test_a_tenant_that_is_activated_again_is_back(system: System) -> None:
    tenant = new_tenant(system)
    tenant.platform.post(f"{_path(tenant)}:deactivate")
    tenant.platform.post(f"{_path(tenant)}:activate")
    eventually(lambda: tenant.admin.http.get(PATH).status_code == 200)


def _path(tenant: Tenant) -> str:
    return f"/v1/tenants/{tenant.tenant_id}"


def _logged_in(tenant: Tenant) -> tuple[str, dict[str, Any]]:
    email = f"ana-{uuid4()}@example.com"
    wanted = {"displayName": "Ana", "email": email, "role": "ROLE_TENANT_ADMIN"}
    person = f"{_path(tenant)}/users/{tenant.platform.post(f'{_path(tenant)}/users', wanted)['userId']}"
    tenant.platform.post(f"{person}:setPassword", {"newPassword": PASSWORD})
    return person, tenant.platform.post("/v1/sessions:login", {"email": email, "password": PASSWORD})


def _token(system: System, secret: str) -> str:
    with grpc.insecure_channel(system.demo["services"]["tenant_quota"]) as channel:
        request = tenant_service_pb2.AuthenticateRequest(credential=secret)
        return TenantServiceStub(channel).Authenticate(request, timeout=30).access_token


def _everywhere(system: System, tokens: Mapping[str, str]) -> set[grpc.StatusCode]:
    """What each service says to each token."""
    methods = {f"{each.containing_service.name}.{each.name}": each for each in all_methods()}
    reads = [(system.demo["services"][service], methods[name]) for service, name in READS.items()]
    return {
        call(target, method, [request_of(method, {}).SerializeToString()], token).code
        for target, method in reads
        for token in tokens.values()
    }
