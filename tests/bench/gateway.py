"""What the gateway costs: a call over HTTP/JSON beside the same call straight to the service over gRPC.

Service, gateway and client are a process each, on uvloop. Rounds alternate, so that a busy machine hurts both alike;
the ratio is the median of the rounds' ratios. No bar: nobody promised one against plain gRPC.
"""

import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import grpc
import uvloop
from pydantic import SecretStr

from deploy.local.ports import free_port
from gateway.__main__ import running_gateway
from gateway.config import Config
from gateway.routes import UPSTREAMS
from prosa.chat_store.v1 import conversation_service_pb2 as chat
from prosa.chat_store.v1 import conversation_service_pb2_grpc as chat_grpc
from shared.caller import TokenSigner, TokenVerifier
from shared.config import ServiceConfig
from shared.server import running_server
from shared.telemetry import setup_telemetry
from tests.bench.table import Row, publish
from tests.gateway.upstream import SCOPES, Seen, endpoints
from tests.house.signing import new_signing_keys

ROUNDS = 7
AT_ONCE = 32
CALLS_A_ROUND = 2000
SERIAL_CALLS_A_ROUND = 300
CREATE: dict[str, Any] = {"title": "Coleta de lixo", "channel": "web", "metadata": {"bairro": "Centro", "versao": 2}}

Call = Callable[[], Awaitable[object]]


def main() -> list[Row]:
    """Measures, prints, writes .prosa/bench/gateway.json."""
    keys = new_signing_keys()
    service, gateway = free_port(), free_port()
    token, _ = TokenSigner(SecretStr(keys.private_pem), 3600).sign(
        key_id="k", tenant_id="t", user_id="u", scopes=SCOPES
    )
    with _process("service", service, keys.private_pem, keys.public_pem), _process("gateway", gateway, service):
        rows = uvloop.run(_measure(service, gateway, token))
    publish("gateway", rows)
    return rows


async def _measure(service: int, gateway: int, token: str) -> list[Row]:
    metadata = (("authorization", f"Bearer {token}"),)
    request = chat.CreateConversationRequest(title=CREATE["title"], channel="web")
    request.metadata.update(CREATE["metadata"])
    body = json.dumps(CREATE).encode()
    head = f"host: x\r\nauthorization: Bearer {token}\r\n"
    get = f"GET /v1/conversations/c42 HTTP/1.1\r\n{head}\r\n".encode()
    lengths = f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    post = f"POST /v1/conversations HTTP/1.1\r\n{head}{lengths}".encode() + body
    async with grpc.aio.insecure_channel(f"127.0.0.1:{service}") as channel:
        stub = chat_grpc.ConversationServiceStub(channel)
        direct: dict[str, Call] = {
            "get": lambda: stub.GetConversation(
                chat.GetConversationRequest(conversation_id="c42"), metadata=metadata, timeout=30
            ),
            "post": lambda: stub.CreateConversation(request, metadata=metadata, timeout=30),
        }
        rows: list[Row] = []
        for name, raw in (("get", get), ("post", post)):
            clients = [_Client(*await asyncio.open_connection("127.0.0.1", gateway), raw) for _ in range(AT_ONCE)]
            http: list[Call] = [client.call for client in clients]
            at_once = await _rounds(partial(_rate, http), partial(_rate, [direct[name]] * AT_ONCE))
            rows.append(_row(f"{name}, {AT_ONCE} at once", at_once, "requests/s"))
            serial = await _rounds(partial(_serial, http[0]), partial(_serial, direct[name]))
            rows.append(_row(f"{name}, one by one, p50", serial, "ms"))
        return rows


def _row(case: str, rounds: list[tuple[float, float]], unit: str) -> Row:
    ours, peer = (statistics.median(side) for side in zip(*rounds, strict=True))
    return Row(case, ours, peer, unit, statistics.median(our / their for our, their in rounds), None, True)


async def _rounds(
    ours: Callable[[], Awaitable[float]], peer: Callable[[], Awaitable[float]]
) -> list[tuple[float, float]]:
    await ours()
    await peer()
    return [(await ours(), await peer()) for _ in range(ROUNDS)]


async def _rate(calls: list[Call]) -> float:
    left = CALLS_A_ROUND

    async def caller(call: Call) -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await call()

    started = time.perf_counter()
    await asyncio.gather(*(caller(call) for call in calls))
    return CALLS_A_ROUND / (time.perf_counter() - started)


async def _serial(call: Call) -> float:
    took = []
    for _ in range(SERIAL_CALLS_A_ROUND):
        started = time.perf_counter()
        await call()
        took.append(time.perf_counter() - started)
    return statistics.median(took) * 1000


class _Client:
    """One kept HTTP connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> None:
        self._reader, self._writer, self._request = reader, writer, request

    async def call(self) -> None:
        self._writer.write(self._request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(head.decode())
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        await self._reader.readexactly(length)


@contextmanager
def _process(kind: str, port: int, *arguments: object) -> Iterator[None]:
    words = [sys.executable, "-m", "tests.bench.gateway", kind, str(port), *map(str, arguments)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            while "ready" not in (line := child.stdout.readline()):
                if not line:
                    raise RuntimeError(f"the {kind} did not start")
            yield
        finally:
            child.terminate()


async def _serve(kind: str, port: int, arguments: list[str]) -> None:
    if kind == "service":
        private_pem, public_pem = arguments
        config = ServiceConfig(port=port, token_public_key=public_pem)
        served: Any = running_server(
            config, endpoints(Seen(), TokenSigner(SecretStr(private_pem))), verifier=TokenVerifier(public_pem), ready={}
        )
    else:
        targets = {f"{name}_target": f"127.0.0.1:{arguments[0]}" for name in UPSTREAMS}
        config = Config(port=port, **targets)  # type: ignore[arg-type]
        setup_telemetry("gateway", config)
        served = running_gateway(config)
    async with served:
        print("ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_serve(sys.argv[1], int(sys.argv[2]), sys.argv[3:]))
