"""JSON bodies: each as large as its contract lets it be, and all large ones together no more than can be held."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gateway.body import Body
from gateway.config import Config
from gateway.http_exchange import HttpExchange
from gateway.routes import Route
from shared.errors import Unavailable

# What a byte of UTF-8 takes in JSON at the most, also if no letter beyond ASCII is sent as it is: "ã" is "\u00e3".
# Only control characters take more.
JSON_BYTES_PER_TEXT_BYTE = 3


def json_limit(route: Route, usual: int) -> int:
    """Most bytes of a body of this route: `usual`, and beside it the longest text of its contract if that is more."""
    text = route.longest_text * JSON_BYTES_PER_TEXT_BYTE
    return usual + text if text > usual else usual


class JsonBodies:
    """Reads them. What a body has above `json_body_bytes` counts against `large_bodies_bytes`, as it comes."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._held = 0

    @asynccontextmanager
    async def held(self, exchange: HttpExchange, route: Route) -> AsyncIterator[bytes]:
        """The body, counted until the block ends; BodyTooLarge, BodyTimeout, ClientGoneError, Unavailable."""
        pieces: list[bytes] = []
        taken = counted = 0
        try:
            async for piece in self._body(exchange, route).chunks():
                pieces.append(piece)
                taken += len(piece)
                above = max(0, taken - self._config.json_body_bytes)
                self._held += above - counted
                counted = above
                if self._held > self._config.large_bodies_bytes:
                    raise Unavailable("the gateway holds too many large bodies", dependency="gateway")
            whole = b"".join(pieces)
            pieces.clear()
            yield whole
        finally:
            self._held -= counted

    def _body(self, exchange: HttpExchange, route: Route) -> Body:
        config, usual = self._config, self._config.json_body_bytes
        # Who announces a usual body gets no more than that, and no more time.
        limit = usual if exchange.announces_at_most(usual) else json_limit(route, usual)
        total_seconds = config.json_body_seconds if limit == usual else config.stream_seconds
        return exchange.body(limit=limit, idle_seconds=config.body_idle_seconds, total_seconds=total_seconds)
