"""A stock Envoy on our example, before the gateway: it asks tenant_quota, and lets nobody through beyond the limits."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.house.ports import own_port
from tests.house.processes import EDGE_SECRET, System
from tests.house.stock_envoy import running_envoy
from tests.journeys.tenant import Client, Tenant, new_tenant

PATH = "/v1/conversations"


@pytest.fixture(scope="module")
def edge(system: System, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_envoy(
        tmp_path_factory.mktemp("edge"),
        gateway_port=_port(system.gateway),
        quota_port=_port("//" + system.demo["services"]["tenant_quota"]),
        secret=EDGE_SECRET,
    ) as address:
        yield address


def test_a_stock_envoy_lets_nobody_through_beyond_the_limit(system: System, edge: str) -> None:
    tenant = _limited(system, 3)
    client = Client(edge, tenant.admin.key)
    answers = [client.http.get(PATH) for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    assert [answer.headers["x-ratelimit-remaining"] for answer in answers] == ["2", "1", "0", "0", "0"]
    assert {answer.headers["x-ratelimit-limit"] for answer in answers} == {"3, 3;w=60"}
    assert 50 <= int(answers[3].headers["retry-after"]) <= 61
    assert "retry-after" not in answers[2].headers
    assert tenant.admin.http.get(PATH).status_code == 200, "the gateway itself refuses nobody"


def test_a_user_is_kept_to_their_own_limit_and_the_others_are_not(system: System, edge: str) -> None:
    tenant = new_tenant(system)
    maria, jose = (Client(edge, tenant.member(name).key) for name in ("maria", "jose"))
    users = tenant.platform.get(f"/v1/tenants/{tenant.tenant_id}/users")["users"]
    limited = next(user["userId"] for user in users if user["displayName"] == "maria")
    tenant.platform.call("PUT", f"/v1/tenants/{tenant.tenant_id}/users/{limited}/quota", {"requestsPerMinute": 1})
    assert [maria.http.get(PATH).status_code for _ in range(2)] == [200, 429]
    assert [jose.http.get(PATH).status_code for _ in range(2)] == [200, 200]


def test_a_grpc_call_beyond_the_limit_is_told_so_in_its_own_words(system: System, edge: str) -> None:
    client = Client(edge, _limited(system, 0).admin.key)
    refused = client.http.post("/prosa.Any/Call", headers={"content-type": "application/grpc"})
    assert (refused.status_code, refused.headers["grpc-status"]) == (200, "8")


def test_an_answer_streams_through_the_edge(system: System, edge: str) -> None:
    tenant = new_tenant(system)
    assert Client(edge, tenant.admin.key).ask(tenant.assistant_id, "Qual é o prazo?").completed


def test_who_shows_no_credential_is_not_asked_about(edge: str) -> None:
    answer = httpx.get(edge + PATH)
    assert (answer.status_code, "x-ratelimit-limit" in answer.headers) == (401, False)


@pytest.mark.parametrize("trouble", ["away", "of another secret"])
def test_without_the_service_everybody_is_let_through(system: System, tmp_path: Path, trouble: str) -> None:
    quota_port = _port("//" + system.demo["services"]["tenant_quota"])
    away, secret = (own_port(), EDGE_SECRET) if trouble == "away" else (quota_port, EDGE_SECRET[::-1])
    client_of = _limited(system, 0).admin.key
    with running_envoy(tmp_path, gateway_port=_port(system.gateway), quota_port=away, secret=secret) as edge:
        assert Client(edge, client_of).http.get(PATH).status_code == 200


def _limited(system: System, requests_per_minute: int) -> Tenant:
    tenant = new_tenant(system)
    tenant.set_quota(requestsPerMinute=requests_per_minute)
    return tenant


def _port(address: str) -> int:
    port = urlsplit(address).port
    assert port
    return port
