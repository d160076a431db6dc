"""The gateway as a process: `python -m gateway` serves until SIGTERM, then drains."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gateway.app import Gateway
from gateway.config import Config
from gateway.credentials import Credentials
from gateway.listener import listening
from gateway.routes import UPSTREAMS, RouteTable, registered_routes
from gateway.site import Site
from gateway.upstreams import Upstreams
from shared.clock import SystemClock
from shared.command_line import command
from shared.telemetry import get_logger, setup_telemetry

_log = get_logger()


@asynccontextmanager
async def running_gateway(config: Config) -> AsyncIterator[tuple[int, Site]]:
    """A gateway inside the block; yields its port and its own pages. RouteError when the contracts conflict."""
    upstreams = Upstreams({name: config.target_of(name) for name in UPSTREAMS})
    credentials = Credentials(
        upstreams.authenticate,
        SystemClock(),
        cache_seconds=config.credential_cache_seconds,
        refusal_seconds=config.refusal_cache_seconds,
        cache_size=config.credential_cache_size,
    )
    site = Site(upstreams.health)
    gateway = Gateway(config, RouteTable(registered_routes()), upstreams, credentials, site)
    try:
        async with listening(gateway, config, cut=gateway.calls.cut) as port:
            yield port, site
    finally:
        await upstreams.close()


async def serve() -> None:
    """Serves until SIGTERM or SIGINT: /readyz says 503, calls in flight end, the listener closes."""
    config = Config()
    end_telemetry = setup_telemetry("gateway", config, follows_callers=config.follow_callers_sampling)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        async with running_gateway(config) as (port, site):
            _log.info("serving", host=config.host, port=port)
            await stop.wait()
            _log.info("draining")
            site.draining = True
            await asyncio.sleep(config.drain_delay_seconds)
        _log.info("stopped")
    finally:
        await asyncio.to_thread(end_telemetry)


if __name__ == "__main__":
    command("gateway", Config, serve=serve)
