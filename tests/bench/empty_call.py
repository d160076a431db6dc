"""What a gRPC call costs by itself: a bare grpc.aio server on uvloop, in a process of its own, answers with nothing."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import grpc
import uvloop

from deploy.local.ports import free_port

METHOD = "/prosa.bench.Empty/Call"


@asynccontextmanager
async def empty_call() -> AsyncIterator[Callable[[str], Awaitable[bytes]]]:
    """A call that does nothing, over a connection that stands."""
    with _process() as port:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)
            await call(b"", wait_for_ready=True, timeout=30)
            yield lambda _: call(b"")


@contextmanager
def _process() -> Iterator[int]:
    port = free_port()
    server = subprocess.Popen([sys.executable, "-m", "tests.bench.empty_call", str(port)])
    try:
        yield port
    finally:
        server.terminate()
        server.wait(10)


class _Empty(grpc.GenericRpcHandler):
    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes]":
        async def answer(_: bytes, __: object) -> bytes:
            return b""

        return grpc.unary_unary_rpc_method_handler(answer)


async def _serve(port: int) -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_Empty(),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
