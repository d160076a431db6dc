"""Whether a program serves: gRPC health for services, /readyz for the gateway."""

import asyncio
from collections.abc import Awaitable, Callable

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from deploy.local.ports import LOOPBACK

PROBE_SECONDS = 2.0
OK = b"200"


def grpc_serving(port: int) -> Callable[[], Awaitable[None]]:
    """A probe that raises ConnectionError until the server's overall health is SERVING."""

    async def probe() -> None:
        async with grpc.aio.insecure_channel(f"{LOOPBACK}:{port}") as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            try:
                answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=PROBE_SECONDS)
            except grpc.aio.AioRpcError as error:
                raise ConnectionError(error.details()) from None
        if answer.status != health_pb2.HealthCheckResponse.SERVING:
            raise ConnectionError("not serving")

    return probe


def http_ready(port: int, path: str = "/readyz") -> Callable[[], Awaitable[None]]:
    """A probe that raises ConnectionError until the path answers 200."""

    async def probe() -> None:
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                answer = await _get(port, path)
        except (OSError, TimeoutError) as error:
            raise ConnectionError(str(error)) from error
        status, _, rest = answer.partition(b"\r\n")
        if status.split()[1:2] != [OK]:
            raise ConnectionError(rest.rpartition(b"\r\n")[2].decode(errors="replace"))

    return probe


async def _get(port: int, path: str) -> bytes:
    reader, writer = await asyncio.open_connection(LOOPBACK, port)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        return await reader.read()
    finally:
        writer.close()
