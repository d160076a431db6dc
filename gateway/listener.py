"""uvicorn with limits: bounded headers, no dawdling before them, errors in JSON; and a drain before the end."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from gateway.config import Config
from gateway.error_texts import DEFAULT_LANGUAGE, localized
from gateway.http_exchange import ABORT_EXTENSION
from gateway.status import HeadersTooLarge, http_status, json_of, malformed
from shared.errors import ServiceError, status_of
from shared.server import BindError

# Before the grace ends, streams are told so: a last event instead of a broken connection.
CUT_BEFORE_END_SECONDS = 1.0


@asynccontextmanager
async def listening(app: Any, config: Config, *, cut: Callable[[], None]) -> AsyncIterator[int]:
    """Serves `app` inside the block; yields the port. BindError when the address cannot be had.

    At the end no connection is accepted any more, requests in flight have `shutdown_grace_seconds`, and shortly before
    those are over `cut` is called.
    """
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            http=protocol(config),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=config.keep_alive_seconds,
            timeout_graceful_shutdown=max(1, round(config.shutdown_grace_seconds)),
        )
    )
    sockets = [_bound(config.host, config.port)]
    port: int = sockets[0].getsockname()[1]
    # Signals are the business of __main__, so not server.serve(), which takes them.
    serving = asyncio.create_task(server._serve(sockets))
    try:
        yield port
    finally:
        grace = max(0.0, config.shutdown_grace_seconds - CUT_BEFORE_END_SECONDS)
        cutting = asyncio.get_running_loop().call_later(grace, cut)
        server.should_exit = True
        await serving
        cutting.cancel()


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise BindError(f"{host}:{port}", error.strerror or "is another server there?") from error
    listener.listen(2048)
    listener.setblocking(False)  # noqa: FBT003 its only argument
    return listener


def protocol(config: Config) -> type[HttpToolsProtocol]:
    """uvicorn's HTTP/1.1 with the limits of this gateway."""

    class LimitedProtocol(HttpToolsProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)  # type: ignore[arg-type]
            self._header_bytes = 0
            self._header_timer: asyncio.TimerHandle | None = None
            self._await_headers()

        def connection_lost(self, exc: Exception | None) -> None:
            self._headers_came()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            idle = self.cycle is None or self.cycle.response_complete
            if idle and self._header_timer is None:
                self._await_headers()
            self._header_bytes += len(data)
            super().data_received(data)
            if self._header_bytes > config.header_bytes:
                self._refuse(HeadersTooLarge(f"the headers are larger than {config.header_bytes} bytes"))

        def on_message_begin(self) -> None:
            super().on_message_begin()
            if self._header_timer is None:  # behind a request in flight, whose end came with this beginning
                self._header_bytes = 0
            scope: dict[str, Any] = self.scope  # type: ignore[assignment]
            scope["extensions"] = {ABORT_EXTENSION: {"abort": self.transport.abort}}

        def on_headers_complete(self) -> None:
            self._headers_came()
            if self.transport.is_closing():
                return
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > config.header_bytes:
                self._refuse(HeadersTooLarge(f"the headers are larger than {config.header_bytes} bytes"))
                return
            super().on_headers_complete()

        def on_body(self, body: bytes) -> None:
            self._header_bytes = 0  # what comes behind the body, its trailers, is counted anew
            if self.cycle is not None:
                super().on_body(body)

        def on_message_complete(self) -> None:
            if self.cycle is not None:
                super().on_message_complete()

        def send_400_response(self, msg: str) -> None:  # noqa: ARG002 what uvicorn would say, in plain text
            self._refuse(malformed("the request is not HTTP"))

        def _await_headers(self) -> None:
            self._header_bytes = 0
            self._header_timer = self.loop.call_later(config.header_seconds, self._too_slow)

        def _headers_came(self) -> None:
            if self._header_timer is not None:
                self._header_timer.cancel()
                self._header_timer = None
            self._header_bytes = 0

        def _too_slow(self) -> None:
            self._header_timer = None
            self.transport.close()

        def _refuse(self, error: ServiceError) -> None:
            self._headers_came()
            if self.transport.is_closing():
                return
            if self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete:
                self.transport.close()  # words would stand in the middle of another request's answer
                return
            status = localized(status_of(error), DEFAULT_LANGUAGE)
            content = json_of(status)
            head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(content)
            self.transport.write(STATUS_LINE[http_status(status)] + head + content)
            self.transport.close()

    return LimitedProtocol
