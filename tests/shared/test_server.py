"""A server's life: bound alone, ready when its dependencies are, drained on SIGTERM."""

import asyncio
import json
import signal
import sys
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from shared import server as server_module
from shared.caller import TokenVerifier
from shared.channels import open_channel
from shared.errors import Unavailable
from shared.server import BindError, running_server
from tests.house.in_process import Metadata
from tests.house.ports import own_port
from tests.house.signing import SigningKeys
from tests.shared.conftest import quick_config
from tests.shared.street_contract import SERVICE, ask, endpoint

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def echo(text: str) -> str:
    return text


@asynccontextmanager
async def served(
    keys: SigningKeys, ready: dict[str, Callable[[], Awaitable[None]]] | None = None, **settings: Any
) -> AsyncIterator[grpc.aio.Channel]:
    verifier = TokenVerifier(keys.public_pem)
    config = quick_config(**settings)
    async with (
        running_server(config, [endpoint(echo)], verifier=verifier, ready=ready or {}) as port,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        yield channel


async def health(channel: grpc.aio.Channel, service: str = "") -> int:
    request = health_pb2.HealthCheckRequest(service=service)
    answer = await health_pb2_grpc.HealthStub(channel).Check(request, timeout=20)
    return int(answer.status)


async def until_health(channel: grpc.aio.Channel, expected: int) -> None:
    async with asyncio.timeout(20):
        while await health(channel) != expected:  # noqa: ASYNC110 it is asked over the wire
            await asyncio.sleep(0.02)


async def test_health_follows_the_dependencies(signing_keys: SigningKeys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "PROBE_INTERVAL_SECONDS", 0.05)
    down = False

    async def probe() -> None:
        if down:
            raise Unavailable(dependency="mongodb")

    async with served(signing_keys, {"mongodb": probe}) as channel:
        assert await health(channel) == SERVING
        assert await health(channel, SERVICE) == SERVING
        down = True
        await until_health(channel, NOT_SERVING)
        assert await health(channel, SERVICE) == NOT_SERVING
        assert await health(channel, "liveness") == SERVING
        down = False
        await until_health(channel, SERVING)


async def test_a_probe_that_hangs_counts_as_down(signing_keys: SigningKeys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "PROBE_TIMEOUT_SECONDS", 0.05)

    async def hangs() -> None:
        await asyncio.sleep(60)

    async with served(signing_keys, {"mongodb": hangs}) as channel:
        assert await health(channel) == NOT_SERVING
        assert await health(channel, "liveness") == SERVING


async def test_health_of_an_unknown_service_is_not_found(signing_keys: SigningKeys) -> None:
    async with served(signing_keys) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await health(channel, "nobody")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_health_can_be_watched(signing_keys: SigningKeys) -> None:
    async with served(signing_keys) as channel:
        watching = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=SERVICE))
        assert (await watching.read()).status == SERVING
        watching.cancel()


async def listed(channel: grpc.aio.Channel) -> list[str]:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
    async for answer in call:
        return [service.name for service in answer.list_services_response.service]
    return []


async def test_reflection_lists_the_services(signing_keys: SigningKeys) -> None:
    async with served(signing_keys) as channel:
        assert set(await listed(channel)) == {
            SERVICE,
            "grpc.health.v1.Health",
            "grpc.reflection.v1alpha.ServerReflection",
        }


async def test_reflection_can_be_turned_off(signing_keys: SigningKeys) -> None:
    async with served(signing_keys, reflection=False) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await listed(channel)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_second_server_on_the_same_port_is_refused(signing_keys: SigningKeys) -> None:
    port = own_port()
    async with served(signing_keys, port=port):
        with pytest.raises(BindError, match=str(port)):
            async with served(signing_keys, port=port):
                pass


async def test_a_message_over_the_limit_is_refused(signing_keys: SigningKeys, walker: Metadata) -> None:
    async with served(signing_keys, max_message_bytes=1024) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(channel, "Unary", "x" * 2000, metadata=walker)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@asynccontextmanager
async def process(
    keys: SigningKeys, *, metrics_port: int = 0, drain_delay: float = 0.0, grace: float = 5.0
) -> AsyncIterator[tuple[asyncio.subprocess.Process, grpc.aio.Channel]]:
    port = own_port()
    arguments = [str(port), str(metrics_port), str(drain_delay), str(grace)]
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.shared.draining_server",
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert child.stdin is not None
    child.stdin.write(keys.public_pem.encode())
    child.stdin.close()
    try:
        await printed(child, '"event": "serving"')
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield child, channel
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()


async def printed(child: asyncio.subprocess.Process, text: str) -> str:
    assert child.stdout is not None
    async with asyncio.timeout(200):
        while line := (await child.stdout.readline()).decode():
            if text in line:
                return line
    raise AssertionError(f"the process ended without saying {text!r}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains_calls_in_flight(
    signing_keys: SigningKeys, walker: Metadata, number: signal.Signals
) -> None:
    async with process(signing_keys) as (child, channel):
        in_flight = asyncio.create_task(ask(channel, "Unary", "0.7", metadata=walker))
        await printed(child, "working")
        child.send_signal(number)
        assert await in_flight == ["done"]
        await printed(child, "closed")
        assert await asyncio.wait_for(child.wait(), 100) == 0


async def test_health_says_so_before_the_door_closes(signing_keys: SigningKeys) -> None:
    async with process(signing_keys, drain_delay=60) as (child, channel):
        assert await health(channel) == SERVING
        child.send_signal(signal.SIGTERM)
        await printed(child, "draining")
        await until_health(channel, NOT_SERVING)
        assert await health(channel, "liveness") == SERVING


async def test_a_call_that_outlasts_the_grace_is_cut(signing_keys: SigningKeys, walker: Metadata) -> None:
    async with process(signing_keys, grace=0.3) as (child, channel):
        in_flight = asyncio.create_task(ask(channel, "Unary", "30", metadata=walker, timeout=60))
        await printed(child, "working")
        child.send_signal(signal.SIGTERM)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await in_flight
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert await asyncio.wait_for(child.wait(), 100) == 0


async def test_metrics_can_be_scraped(signing_keys: SigningKeys, walker: Metadata) -> None:
    metrics_port = own_port()
    async with process(signing_keys, metrics_port=metrics_port) as (_, channel):
        await ask(channel, "Unary", "0", metadata=walker)
        url = f"http://127.0.0.1:{metrics_port}/metrics"
        page = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=30).read().decode())
    counted = [line for line in page.splitlines() if line.startswith("rpc_server_call_duration_seconds_count")]
    assert any(f'rpc_method="{SERVICE}/Unary"' in line and 'status_code="OK"' in line for line in counted)


async def test_the_first_words_are_json(signing_keys: SigningKeys) -> None:
    async with process(signing_keys) as (child, _):
        child.send_signal(signal.SIGTERM)
        line = json.loads(await printed(child, "draining"))
    assert (line["service"], line["level"]) == ("drained", "info")


async def test_a_server_listens_on_ipv6(signing_keys: SigningKeys) -> None:
    config = quick_config(host="::1")
    verifier = TokenVerifier(signing_keys.public_pem)
    async with (
        running_server(config, [], verifier=verifier, ready={}) as port,
        open_channel(f"[::1]:{port}") as channel,
    ):
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
