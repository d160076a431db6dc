"""One HTTP request and its answer, over bare ASGI: headers in and out, nothing about RPCs."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, TypeAlias

from gateway.body import Body, Receive

Scope: TypeAlias = MutableMapping[str, Any]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers: TypeAlias = Iterable[tuple[str, str]]

JSON_TYPE = "application/json"
LINGER_SECONDS = 2.0
# The name under which the listener lends the request a way to cut its connection.
ABORT_EXTENSION = "prosa.abort"

_SECURITY = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]
_EXPOSED = b"x-request-id, retry-after, content-disposition, content-range, etag"


class SlowReaderError(Exception):
    """The client leaves what is sent to it unread."""


class HttpExchange:
    """What the client asked, and the ways to answer it once."""

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, *, origins: frozenset[str], slow_reader_seconds: float
    ) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._origins = origins
        self._slow_reader_seconds = slow_reader_seconds
        self._body: Body | None = None
        self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        self.method: str = scope["method"]
        raw_path: bytes = scope["raw_path"]
        self.path = raw_path.decode("latin-1")
        self.query: bytes = scope["query_string"]
        self.request_id = ""
        self.route = ""
        """The template of the route, for metrics; empty until there is one."""

        self.status = 0
        """The HTTP status answered, 0 until then."""

    @property
    def has_body(self) -> bool:
        """Whether the client announced a body."""
        return "transfer-encoding" in self.headers or self._declared_length() > 0

    @property
    def media_type(self) -> str:
        """The Content-Type without parameters, in lower case; empty when there is none."""
        content_type: str = self.headers.get("content-type", "")
        return content_type.partition(";")[0].strip().lower()

    def body(self, *, limit: int, idle_seconds: float, total_seconds: float) -> Body:
        """The body, to be read once, within these bounds."""
        self._body = Body(
            self._receive,
            expected=self.has_body,
            declared=self._declared_length(),
            limit=limit,
            idle_seconds=idle_seconds,
            total_seconds=total_seconds,
        )
        return self._body

    def announces_at_most(self, size: int) -> bool:
        """Whether the client said how long the body is, and that is no more than `size` bytes."""
        return "transfer-encoding" not in self.headers and self._declared_length() <= size

    async def disconnected(self) -> None:
        """Returns when the client is gone; only for a request whose body has been read."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def reply(self, status: int, content: bytes, media_type: str = JSON_TYPE, headers: Headers = ()) -> None:
        """The whole answer."""
        lingering = self.has_body and (self._body is None or not self._body.finished)
        extra = [("connection", "close")] if lingering else []
        length = ("content-length", str(len(content)))
        await self.start(status, [("content-type", media_type), length, *headers, *extra])
        await self._deliver({"type": "http.response.body", "body": content, "more_body": lingering})
        if lingering:
            await self._linger()

    async def start(self, status: int, headers: Headers) -> None:
        """Status and headers of an answer whose parts follow."""
        self.status = status
        encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        tracked = [(b"x-request-id", self.request_id.encode("latin-1"))] if self.request_id else []
        await self._deliver(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [*encoded, *tracked, *_SECURITY, *self._cors()],
            }
        )

    async def part(self, content: bytes) -> None:
        """The next part of an answer; SlowReaderError when nobody takes it."""
        await self._deliver({"type": "http.response.body", "body": content, "more_body": True})

    async def finish(self) -> None:
        """The end of an answer in parts."""
        await self._deliver({"type": "http.response.body", "body": b"", "more_body": False})

    def abort(self) -> None:
        """Cuts the connection: what is still unsent is thrown away."""
        extension = self._scope.get("extensions", {}).get(ABORT_EXTENSION)
        if extension is not None:
            extension["abort"]()

    def is_preflight(self) -> bool:
        """Whether a browser asks if a page of another origin may call."""
        return self.method == "OPTIONS" and "access-control-request-method" in self.headers

    def _cors(self) -> list[tuple[bytes, bytes]]:
        if not self._origins:
            return []
        vary = (b"vary", b"Origin")
        origin = self.headers.get("origin", "")
        if origin not in self._origins:
            return [vary]
        allowed = (b"access-control-allow-origin", origin.encode("latin-1"))
        return [vary, allowed, (b"access-control-expose-headers", _EXPOSED)]

    async def _deliver(self, message: MutableMapping[str, Any]) -> None:
        try:
            async with asyncio.timeout(self._slow_reader_seconds):
                await self._send(message)
        except TimeoutError:
            raise SlowReaderError from None

    async def _linger(self) -> None:
        """Takes what the client still sends before the connection closes, else it may never see the answer."""
        body = self._body or self.body(limit=0, idle_seconds=LINGER_SECONDS, total_seconds=LINGER_SECONDS)
        await body.drain(LINGER_SECONDS)
        await self.finish()

    def _declared_length(self) -> int:
        declared = self.headers.get("content-length", "0")
        return int(declared) if declared.isdecimal() else 0
