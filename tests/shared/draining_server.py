"""A whole server process for tests: one slow method; says its port, and "closed" when its stack has been left."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from shared.caller import TokenVerifier
from shared.config import ServiceConfig
from shared.logs import setup_logs
from shared.server import run, serve
from tests.shared.street_contract import endpoint


@asynccontextmanager
async def pool() -> AsyncIterator[None]:
    """Stands for the pools a service closes after its server."""
    yield
    print("closed", flush=True)


async def slowly(text: str) -> str:
    """Answers after as many seconds as the text says."""
    print("working", flush=True)
    await asyncio.sleep(float(text))
    return "done"


async def ready() -> None:
    """Always."""


async def main() -> None:
    """Serves on the port and with the key given as arguments."""
    config = ServiceConfig(
        port=int(sys.argv[1]),
        metrics_port=int(sys.argv[2]),
        drain_delay_seconds=float(sys.argv[3]),
        shutdown_grace_seconds=float(sys.argv[4]),
    )
    setup_logs("drained", config.log_level, config.log_format)
    async with pool():
        verifier = TokenVerifier(sys.stdin.read())
        await serve(config, "drained", [endpoint(slowly)], verifier=verifier, ready={"nothing": ready})


if __name__ == "__main__":
    print(os.getpid(), flush=True)
    run(main)
