"""What the street costs: a server with everything on beside a bare grpc.aio server with the same handler.

Each server is a process of its own on uvloop, the client a third. Rounds alternate between the two, so that a busy
machine hurts both alike; the ratio is the median of the rounds' ratios.
"""

import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import Any

import grpc
from pydantic import SecretStr

from deploy.local.ports import free_port
from shared.caller import TokenSigner, TokenVerifier
from shared.config import ServiceConfig
from shared.server import Endpoint, run, running_server
from shared.telemetry import setup_telemetry
from tests.bench.table import Row, at_least, at_most, publish
from tests.house.signing import new_signing_keys
from tests.shared.street_contract import PERMISSION, Ping, Pong, dialled, endpoint

ROUNDS = 21
AT_ONCE = 64
CALLS_A_ROUND = 1000
SERIAL_CALLS_A_ROUND = 100
STREAM_MESSAGES = 1000
FLOOR = 0.45
SERIAL_ALLOWANCE_MS = 0.5
REQUEST = Ping(text="bom dia, prefeitura", children=[Ping(text="a"), Ping(text="b")]).SerializeToString()

Metadata = tuple[tuple[str, str], ...]
Measure = Callable[[grpc.aio.Channel, Metadata], Awaitable[float]]


def main() -> list[Row]:
    """Measures, prints, writes .prosa/bench/street.json."""
    keys = new_signing_keys()
    signer = TokenSigner(SecretStr(keys.private_pem), 3600)
    token, _ = signer.sign(key_id="k1", tenant_id="t1", user_id="u1", scopes=[PERMISSION])
    metadata = (("authorization", f"Bearer {token}"),)
    with ExitStack() as stack:
        ours = stack.enter_context(_server("ours", keys.public_pem))
        bare = stack.enter_context(_server("bare", keys.public_pem))
        rows = _with_loop(lambda: _measure(ours, bare, metadata))
    publish("street", rows)
    return rows


async def _measure(ours: int, bare: int, metadata: Metadata) -> list[Row]:
    async with (
        grpc.aio.insecure_channel(f"127.0.0.1:{ours}") as our_channel,
        grpc.aio.insecure_channel(f"127.0.0.1:{bare}") as bare_channel,
    ):

        async def pairs(measure: Measure) -> tuple[float, float, float]:
            for channel in (our_channel, bare_channel):
                await measure(channel, metadata)
            rounds = [
                (await measure(our_channel, metadata), await measure(bare_channel, metadata)) for _ in range(ROUNDS)
            ]
            ratio = statistics.median(our / peer for our, peer in rounds)
            our, peer = (statistics.median(side) for side in zip(*rounds, strict=True))
            return our, peer, ratio

        at_once = await pairs(_requests_per_second)
        serial = await pairs(_serial_milliseconds)
        streamed = await pairs(_messages_per_second)
    allowed = (serial[1] + SERIAL_ALLOWANCE_MS) / serial[1]
    return [
        at_least(f"unary, {AT_ONCE} at once", at_once[0], at_once[1], "requests/s", FLOOR, ratio=at_once[2]),
        at_most("unary, one by one, p50", serial[0], serial[1], "ms", allowed, ratio=serial[2]),
        at_least("one server stream", streamed[0], streamed[1], "messages/s", FLOOR, ratio=streamed[2]),
    ]


async def _requests_per_second(channel: grpc.aio.Channel, metadata: Metadata) -> float:
    call = dialled(channel, "Unary")
    left = CALLS_A_ROUND

    async def caller() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await call(REQUEST, metadata=metadata, timeout=30)

    started = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(AT_ONCE)))
    return CALLS_A_ROUND / (time.perf_counter() - started)


async def _serial_milliseconds(channel: grpc.aio.Channel, metadata: Metadata) -> float:
    call = dialled(channel, "Unary")
    took = []
    for _ in range(SERIAL_CALLS_A_ROUND):
        started = time.perf_counter()
        await call(REQUEST, metadata=metadata, timeout=30)
        took.append(time.perf_counter() - started)
    return statistics.median(took) * 1000


async def _messages_per_second(channel: grpc.aio.Channel, metadata: Metadata) -> float:
    started = time.perf_counter()
    received = 0
    async for _ in dialled(channel, "ServerStream")(REQUEST, metadata=metadata, timeout=60):
        received += 1
    assert received == STREAM_MESSAGES
    return received / (time.perf_counter() - started)


@contextmanager
def _server(kind: str, public_pem: str) -> Any:
    port, metrics_port = free_port(), free_port()
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.street", kind, str(port), str(metrics_port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(public_pem)
    child.stdin.close()
    try:
        while "ready" not in (line := child.stdout.readline()):
            if not line:
                raise RuntimeError(f"the {kind} server did not start")
        yield port
    finally:
        child.terminate()
        child.wait()


def _with_loop(measure: Callable[[], Awaitable[list[Row]]]) -> list[Row]:
    rows: list[Row] = []

    async def measured() -> None:
        rows.extend(await measure())

    run(measured)
    return rows


async def _answer(text: str) -> str:
    return text


def _answering() -> Endpoint:
    served = endpoint(_answer)
    servicer: Any = served.servicer

    async def server_stream(request: Any, _: Any) -> AsyncIterator[Any]:
        for _number in range(STREAM_MESSAGES):
            yield Pong(text=request.text)

    servicer.server_stream = server_stream
    return served


@asynccontextmanager
async def _bare(port: int) -> AsyncIterator[None]:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    served = _answering()
    served.add(served.servicer, server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield
    finally:
        await server.stop(0)


@asynccontextmanager
async def _everything_on(port: int, metrics_port: int) -> AsyncIterator[None]:
    config = ServiceConfig(port=port, metrics_port=metrics_port)
    end = setup_telemetry("street", config)
    verifier = TokenVerifier(sys.stdin.read())
    async with running_server(config, [_answering()], verifier=verifier, ready={}):
        yield
    end()


async def _serve() -> None:
    kind, port, metrics_port = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    async with _bare(port) if kind == "bare" else _everything_on(port, metrics_port):
        print("ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    run(_serve)
