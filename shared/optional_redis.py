"""A Redis that makes things faster or fairer and need not be there: bounded patience, and none while it is away."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

from pydantic import SecretStr
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from shared.errors import Unavailable
from shared.redis_streams import redis_client, redis_errors
from shared.telemetry import get_logger

# A Redis that is away is asked again, by nobody's request, at pauses that grow up to the longest.
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.05, 2.0

Answer = TypeVar("Answer")
_log = get_logger()


@asynccontextmanager
async def open_optional_redis(
    url: SecretStr, *, used_for: str, patience_seconds: float
) -> "AsyncIterator[OptionalRedis]":
    """A client of its own that never tries again; `used_for` names it in logs. CannotStartError for a bad URL."""
    client = redis_client(
        url,
        socket_timeout=patience_seconds,
        socket_connect_timeout=patience_seconds,
        retry=Retry(NoBackoff(), 0),
    )
    optional = OptionalRedis(client, used_for=used_for, patience_seconds=patience_seconds)
    try:
        yield optional
    finally:
        await optional.close()
        await client.aclose()


class OptionalRedis:
    """Asks while Redis answers; once it did not, refuses at once until it does again."""

    def __init__(self, client: Redis, *, used_for: str, patience_seconds: float) -> None:
        self.client = client
        self._used_for = used_for
        self._patience_seconds = patience_seconds
        self._return: asyncio.Task[None] | None = None

    @property
    def available(self) -> bool:
        """Whether Redis answered when it was last asked."""
        return self._return is None

    async def ask(self, ask: Callable[[], Awaitable[Answer]]) -> Answer:
        """The answer; Unavailable when it takes too long or is refused, and at once while Redis is away."""
        if not self.available:
            raise _away()
        try:
            with redis_errors():
                async with asyncio.timeout(self._patience_seconds):
                    return await ask()
        except (Unavailable, RedisError) as error:
            self._wait_for_return(error)
            raise _away() from error

    async def close(self) -> None:
        """Stops waiting for a Redis that is away."""
        if self._return is not None:
            self._return.cancel()
            with suppress(asyncio.CancelledError):
                await self._return

    def _wait_for_return(self, error: Exception) -> None:
        if self.available:
            _log.warning("redis_away", used_for=self._used_for, error=type(error.__cause__ or error).__name__)
            self._return = asyncio.create_task(self._until_back())

    async def _until_back(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while not await self._answers():
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
        self._return = None
        _log.info("redis_back", used_for=self._used_for)

    async def _answers(self) -> bool:
        try:
            with redis_errors():
                async with asyncio.timeout(self._patience_seconds):
                    # Those that lie idle are as dead as the one that failed, and each would cost another failure.
                    await self.client.connection_pool.disconnect(inuse_connections=False)
                    await self.client.ping()
        except (Unavailable, RedisError):
            return False
        return True


def _away() -> Unavailable:
    return Unavailable("Redis is away", dependency="redis")
