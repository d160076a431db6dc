"""`python -m gateway` on its own: what works without any service and any network, and how a bad start ends."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from deploy.local.ports import LOOPBACK
from gateway.routes import UPSTREAMS
from tests.house.ports import own_port
from tests.house.signing import SigningKeys
from tests.house.waiting import wait_until


def settings(keys: SigningKeys, port: int) -> dict[str, str]:
    nobody = {f"GATEWAY_{name.upper()}_TARGET": f"{LOOPBACK}:{own_port()}" for name in UPSTREAMS}
    own = {"PROSA_TOKEN_PUBLIC_KEY": keys.public_pem, "GATEWAY_PORT": str(port), "GATEWAY_DRAIN_DELAY_SECONDS": "0"}
    return {**os.environ, **nobody, **own}


@contextmanager
def running(environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-m", "gateway"], env=environment, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        assert process.wait(200) == 0


@pytest.fixture(scope="module")
def metrics_port() -> int:
    """Where that gateway shows its metrics."""
    return own_port()


@pytest.fixture(scope="module")
def alone(signing_keys: SigningKeys, metrics_port: int) -> Iterator[httpx.Client]:
    """A client of a gateway behind which nobody listens."""
    port = own_port()
    environment = settings(signing_keys, port) | {"GATEWAY_METRICS_PORT": str(metrics_port)}
    with running(environment), httpx.Client(base_url=f"http://{LOOPBACK}:{port}") as client:

        def serves() -> bool:
            try:
                return client.get("/healthz").status_code == 200
            except httpx.ConnectError:
                return False

        wait_until(serves)
        yield client


@pytest.mark.parametrize("path", ["/docs", "/docs/docs.js", "/docs/docs.css", "/openapi.json", "/healthz"])
def test_its_own_pages_need_no_service(alone: httpx.Client, path: str) -> None:
    assert alone.get(path).status_code == 200


def test_metrics_are_for_operators_on_a_port_of_their_own(alone: httpx.Client, metrics_port: int) -> None:
    alone.get("/v1/nothing/here")
    assert alone.get("/metrics").json()["details"][0]["reason"] == "ROUTE_NOT_FOUND"
    shown = httpx.get(f"http://{LOOPBACK}:{metrics_port}/metrics").text
    assert "http_server_request_duration_seconds_bucket" in shown
    assert 'http_response_status_code="404"' in shown
    assert "/v1/nothing/here" not in shown


def test_nobody_is_ready_when_no_service_is(alone: httpx.Client) -> None:
    answer = alone.get("/readyz")
    assert answer.status_code == 503
    assert set(answer.json()["services"].values()) == {"UNREACHABLE"}


@pytest.mark.parametrize("headers", [{"x-api-key": "pk_test_ana"}, {"authorization": "Bearer eyJ.a.token"}])
def test_a_service_that_is_down_is_503_within_about_a_second(alone: httpx.Client, headers: dict[str, str]) -> None:
    started = time.monotonic()
    answer = alone.get("/v1/conversations/c", headers=headers)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    # Of which 0.7 s are pauses between the attempts; a call may take ten seconds.
    assert time.monotonic() - started < 10


def test_a_port_that_is_taken_ends_the_start_with_one_line(signing_keys: SigningKeys) -> None:
    with socket.socket() as other:
        other.bind((LOOPBACK, 0))
        other.listen()
        port = other.getsockname()[1]
        command = [sys.executable, "-m", "gateway"]
        ended = subprocess.run(command, env=settings(signing_keys, port), capture_output=True, timeout=200, text=True)
    assert ended.returncode == 1
    assert ended.stderr == f"gateway: cannot listen on {LOOPBACK}:{port}: Address already in use\n"
