"""The gateway's own pages, other origins, and the end."""

import asyncio

import httpx
import pytest

from gateway.config import Config
from tests.gateway.conftest import KEY, Gateway, Gateways
from tests.house.waiting import until


async def test_the_front_door_leads_to_the_docs(client: httpx.AsyncClient) -> None:
    front = await client.get("/")
    assert (front.status_code, front.headers["location"]) == (307, "/docs")
    docs = await client.get("/docs")
    assert docs.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in docs.headers["content-security-policy"]
    assert "<script src=" in docs.text
    for asset in ("/docs/docs.js", "/docs/docs.css"):
        found = await client.get(asset)
        assert found.status_code == 200
        assert "http://" not in found.text.replace("http://www.w3.org", "")
        assert "https://" not in found.text


async def test_the_contract_is_served(client: httpx.AsyncClient) -> None:
    contract = (await client.get("/openapi.json")).json()
    assert contract["openapi"].startswith("3.1")
    assert "/v1/assistants/{assistantId}:ask" in contract["paths"]


async def test_readiness_names_every_service(client: httpx.AsyncClient, gateways: Gateways) -> None:
    ready = await client.get("/readyz")
    assert (ready.status_code, ready.json()["status"]) == (200, "ready")
    assert set(ready.json()["services"]) == {"tenant_quota", "chat_store", "document_rag", "analytics"}
    lonely = await gateways.start(upstream_port=1)
    answer = await lonely.client.get("/readyz", timeout=10)
    assert (answer.status_code, set(answer.json()["services"].values())) == (503, {"UNREACHABLE"})
    assert (await lonely.client.get("/healthz")).status_code == 200


async def test_a_gateway_that_drains_is_not_ready_but_serves(gateway: Gateway) -> None:
    gateway.site.draining = True
    assert (await gateway.client.get("/readyz")).status_code == 503
    assert (await gateway.client.get("/v1/conversations/c", headers=KEY)).status_code == 200


async def test_own_pages_take_only_get_and_head(client: httpx.AsyncClient) -> None:
    assert (await client.post("/healthz")).headers["allow"] == "GET, HEAD"
    head = await client.head("/openapi.json")
    assert (head.status_code, head.content) == (200, b"")


async def test_paths_beside_the_pages_are_not_found(client: httpx.AsyncClient) -> None:
    for path in ("/docs/../app.py", "/docs/%2e%2e/app.py", "/docs/", "/healthz/"):
        assert (await client.get(path)).status_code == 404


async def test_metrics_are_no_page(client: httpx.AsyncClient) -> None:
    assert (await client.get("/metrics")).status_code == 404


async def test_no_other_origin_may_call_by_default(client: httpx.AsyncClient) -> None:
    response = await client.get("/v1/conversations/c", headers={**KEY, "origin": "https://app.example.org"})
    assert "access-control-allow-origin" not in response.headers
    assert response.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("https://app.example.org", True),
        ("https://app.example.org.evil.org", False),
        ("http://app.example.org", False),
        ("https://APP.example.org", False),
        ("null", False),
    ],
)
async def test_only_listed_origins_may_call(gateways: Gateways, origin: str, *, allowed: bool) -> None:
    gateway = await gateways.start(cors_origins="https://app.example.org, https://b.example.org")
    expected = origin if allowed else None
    asking = {"origin": origin, "access-control-request-method": "POST"}
    preflight = await gateway.client.options("/v1/assistants/a:ask", headers=asking)
    assert preflight.status_code == 204
    assert preflight.headers.get("access-control-allow-origin") == expected
    assert ("authorization" in preflight.headers.get("access-control-allow-headers", "")) is allowed
    for path in ("/v1/conversations/c", "/v1/nowhere"):
        answer = await gateway.client.get(path, headers={**KEY, "origin": origin})
        assert answer.headers.get("access-control-allow-origin") == expected
        assert "Origin" in answer.headers["vary"]


def test_origins_are_exact_or_refused() -> None:
    for wrong in ("*", "app.example.org", "https://*.example.org", "https://app.example.org/"):
        with pytest.raises(ValueError, match="is no origin"):
            Config(cors_origins=(wrong,))


async def test_a_request_in_flight_is_finished_before_the_end(gateways: Gateways) -> None:
    gateway = await gateways.start()
    gateway.seen.pause = 0.5
    asking = asyncio.create_task(gateway.client.get("/v1/conversations/c", headers=KEY))
    await until(lambda: gateway.seen.authentications)
    await gateways.stop()
    assert (await asking).status_code == 200
    with pytest.raises(httpx.ConnectError):
        await gateway.client.get("/healthz")
