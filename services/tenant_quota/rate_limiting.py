"""Requests per minute put together: limits from PostgreSQL, windows in Redis, and the edge that asks about both."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import asyncpg
from envoy.service.ratelimit.v3 import rls_pb2, rls_pb2_grpc

from services.tenant_quota.config import Config
from services.tenant_quota.edge import Descriptors
from services.tenant_quota.edge_callers import EdgeCallers
from services.tenant_quota.edge_handlers import EdgeHandlers
from services.tenant_quota.model import Principal
from services.tenant_quota.rate_limits import RateLimits
from services.tenant_quota.rate_windows import RedisWindows
from services.tenant_quota.rates import Ask, Rates, Verdict, Windows
from shared.caller import TokenVerifier
from shared.errors import Unavailable
from shared.optional_redis import open_optional_redis
from shared.server import Endpoint
from shared.telemetry import get_logger

_log = get_logger()


@asynccontextmanager
async def open_rates(pool: asyncpg.Pool, config: Config) -> AsyncIterator[Rates]:
    """Rates for the length of the block. Redis need not be there; without a URL of one nothing is ever counted."""
    async with AsyncExitStack() as stack:
        limits = RateLimits(pool)
        stack.push_async_callback(limits.close)
        yield Rates(limits, await _windows(config, stack))


def edge_endpoint(
    rates: Rates, verifier: TokenVerifier, recognise: Callable[[str], Awaitable[Principal | None]]
) -> Endpoint:
    """Envoy's RateLimitService; `recognise` tells who stands behind the secret of a key or session."""
    handlers = EdgeHandlers(rates, Descriptors(EdgeCallers(verifier, recognise)))
    service = rls_pb2.DESCRIPTOR.services_by_name["RateLimitService"]
    return Endpoint(rls_pb2_grpc.add_RateLimitServiceServicer_to_server, handlers, service.full_name)


async def _windows(config: Config, stack: AsyncExitStack) -> Windows:
    if config.redis_url is None:
        _log.warning("requests_not_counted", missing="REDIS_URL")
        return NoWindows()
    redis = await stack.enter_async_context(
        open_optional_redis(config.redis_url, used_for="rates", patience_seconds=config.redis_timeout_ms / 1000)
    )
    windows = RedisWindows(redis)
    stack.push_async_callback(windows.close)
    return windows


class NoWindows:
    """Where there is no Redis."""

    async def take(self, ask: Ask) -> Verdict:
        """Always Unavailable."""
        del ask
        raise Unavailable("nobody counts requests", dependency="redis")
