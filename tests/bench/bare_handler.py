"""The least that any service over an engine costs: a bare grpc.aio server whose handler only asks the engine."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict

import grpc
import uvloop

from deploy.local.ports import free_port
from tests.bench.chat_service import Engines, opened_engine
from tests.bench.pace import Act

HANDLERS = "/prosa.bench.Bare/"


@asynccontextmanager
async def bare_handlers(engines: Engines, engine: str) -> AsyncIterator[dict[str, Act]]:
    """What the engine's side has, behind calls that carry a conversation's id or a query only."""
    with _process(engines, engine) as port:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            await asyncio.wait_for(channel.channel_ready(), 30)
            yield {name: _asking(channel.unary_unary(HANDLERS + name)) for name in ("append", "read", "search")}


def _asking(call: "grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]") -> Act:
    return lambda about: call(about.encode())


@contextmanager
def _process(engines: Engines, engine: str) -> Iterator[int]:
    port = free_port()
    command = [sys.executable, "-m", "tests.bench.bare_handler", str(port), engine, json.dumps(asdict(engines))]
    server = subprocess.Popen(command)
    try:
        yield port
    finally:
        server.terminate()
        server.wait(10)


async def _serve(port: int, engine: str, engines: Engines) -> None:
    async with opened_engine(engines, engine) as side:
        acts: dict[str, Act] = {"append": side.append, "read": side.read, "search": side.search}

        class Handlers(grpc.GenericRpcHandler):
            def service(self, handler_call_details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes]":
                act = acts[handler_call_details.method.removeprefix(HANDLERS)]

                async def answer(about: bytes, _: object) -> bytes:
                    await act(about.decode())
                    return b""

                return grpc.unary_unary_rpc_method_handler(answer)

        server = grpc.aio.server()
        server.add_generic_rpc_handlers((Handlers(),))
        server.add_insecure_port(f"127.0.0.1:{port}")
        await server.start()
        await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1]), sys.argv[2], Engines(**json.loads(sys.argv[3]))))
