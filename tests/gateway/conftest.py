"""A gateway before stand-in services: real sockets on both sides."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from gateway.__main__ import running_gateway
from gateway.config import Config
from gateway.routes import UPSTREAMS
from gateway.site import Site
from shared.caller import TokenSigner, TokenVerifier
from shared.config import MIB, ServiceConfig
from shared.server import running_server
from tests.gateway.upstream import Seen, endpoints
from tests.house.signing import SigningKeys

# What chat_store accepts, the most of all services.
LARGEST_MESSAGE_BYTES = 24 * MIB
KEY = {"authorization": "Bearer pk_test_ana"}
# A second where the machine has nothing else to do, and half of what a stand-in goes on that nobody cancels.
SOON_SECONDS = 10.0


class Gateway:
    """A running gateway, a client for it, and what arrived behind it."""

    def __init__(self, port: int, upstream_port: int, seen: Seen, client: httpx.AsyncClient, site: Site) -> None:
        self.port = port
        self.upstream_port = upstream_port
        self.seen = seen
        self.client = client
        self.site = site


class Gateways:
    """Starts gateways with the settings a test asks for."""

    def __init__(self, stack: AsyncExitStack, keys: SigningKeys) -> None:
        self._services = stack
        self._gateways = AsyncExitStack()
        self._keys = keys

    async def start(self, *, upstream_port: int | None = None, **settings: Any) -> Gateway:
        """A gateway with these settings; before stand-ins of its own, unless told where they are."""
        seen = Seen()
        signer = TokenSigner(SecretStr(self._keys.private_pem))
        if upstream_port is None:
            service = ServiceConfig(
                port=0,
                token_public_key=self._keys.public_pem,
                drain_delay_seconds=0,
                max_message_bytes=LARGEST_MESSAGE_BYTES,
            )
            upstream_port = await self._services.enter_async_context(
                running_server(
                    service, endpoints(seen, signer), verifier=TokenVerifier(self._keys.public_pem), ready={}
                )
            )
        targets = {f"{name}_target": f"127.0.0.1:{upstream_port}" for name in UPSTREAMS}
        config = Config(port=0, shutdown_grace_seconds=2, **{**targets, **settings})
        port, site = await self._gateways.enter_async_context(running_gateway(config))
        client = await self._services.enter_async_context(
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60)
        )
        return Gateway(port, upstream_port, seen, client, site)

    async def stop(self) -> None:
        """Ends the gateways as SIGTERM would; their clients and services stay."""
        await self._gateways.aclose()


@pytest.fixture
async def gateways(signing_keys: SigningKeys) -> AsyncIterator[Gateways]:
    """Gateways of the test's own."""
    async with AsyncExitStack() as stack:
        gateways = Gateways(stack, signing_keys)
        stack.push_async_callback(gateways.stop)
        yield gateways


@pytest.fixture
async def gateway(gateways: Gateways) -> Gateway:
    """A gateway whose clients need not hurry."""
    return await gateways.start(heartbeat_seconds=0.5)


@pytest.fixture
async def hasty(gateways: Gateways) -> Gateway:
    """A gateway that waits for nobody's words for long."""
    return await gateways.start(body_idle_seconds=0.5, json_body_seconds=1.0, header_seconds=0.5)


@pytest.fixture
def client(gateway: Gateway) -> httpx.AsyncClient:
    """A client of that gateway."""
    return gateway.client


@pytest.fixture
def seen(gateway: Gateway) -> Seen:
    """What arrives behind that gateway."""
    return gateway.seen
