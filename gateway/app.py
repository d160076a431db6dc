"""The ASGI application: one request from its first byte to its log line. Nothing here knows a particular RPC."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import grpc

from gateway import calls, downloads, sse
from gateway.body import ClientGoneError, Receive
from gateway.config import Config
from gateway.credentials import Credentials
from gateway.error_texts import language_of, localized
from gateway.http_exchange import JSON_TYPE, HttpExchange, Scope, Send, SlowReaderError
from gateway.json_body import JsonBodies
from gateway.observation import observed
from gateway.preferences import preferred_type
from gateway.routes import Route, RouteTable
from gateway.site import Site
from gateway.status import UnsupportedMediaType, headers_of, http_status, json_of, reason_of, upstream_status
from gateway.transcode import request_of
from gateway.uploads import upload_messages
from gateway.upstreams import Upstreams
from shared.errors import Internal, InvalidArgument, ServiceError, status_of
from shared.identifiers import new_id
from shared.telemetry import counter, get_logger

LARGE_BODY_BYTES = 64 * 1024
CORS_HEADERS = (
    "authorization, content-type, if-none-match, if-range, range, x-api-key, x-request-timeout-seconds, traceparent"
)
CORS_METHODS = "GET, POST, PUT, PATCH, DELETE"

_log = get_logger()
_internal_errors = counter("prosa.internal_errors")


class Gateway:
    """HTTP in front of the services."""

    def __init__(
        self,
        config: Config,
        routes: RouteTable,
        upstreams: Upstreams,
        credentials: Credentials,
        site: Site,
    ) -> None:
        self._config = config
        self._routes = routes
        self._upstreams = upstreams
        self._credentials = credentials
        self._site = site
        self._bodies = JsonBodies(config)
        self._origins = frozenset(config.cors_origins)
        self.calls = calls.Calls(config.heartbeat_seconds)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        exchange = HttpExchange(
            scope, receive, send, origins=self._origins, slow_reader_seconds=self._config.slow_reader_seconds
        )
        with observed(exchange):
            await self._answer(exchange)

    async def _answer(self, exchange: HttpExchange) -> None:
        try:
            await self._dispatch(exchange)
        except ClientGoneError:
            exchange.status = 499
        except SlowReaderError:
            exchange.status = 499
            exchange.abort()
        except (ServiceError, grpc.aio.AioRpcError) as error:
            await self._refuse(exchange, error)
        except Exception:
            await self._confess(exchange)

    async def _dispatch(self, exchange: HttpExchange) -> None:
        if exchange.is_preflight():
            await self._preflight(exchange)
        elif (page := await self._site.page(exchange.method, exchange.path)) is not None:
            exchange.route = page.route
            await exchange.reply(page.status, page.content, page.media_type, page.headers)
        else:
            route, variables = self._routes.find(exchange.method, exchange.path)
            exchange.route = route.template.text
            await self._serve(exchange, route, variables)

    async def _serve(self, exchange: HttpExchange, route: Route, variables: Mapping[str, str]) -> None:
        await self._metadata(exchange, route)  # whoever may not call need not send a body first
        timeout = self._timeout(exchange, route)
        if route.uploads:
            body = exchange.body(
                limit=self._config.upload_bytes,
                idle_seconds=self._config.body_idle_seconds,
                total_seconds=self._config.stream_seconds,
            )
            messages = upload_messages(route, variables, exchange, body)
            first = await anext(messages)  # what is wrong with the description is found before anybody is called
            metadata = await self._metadata(exchange, route)
            under_way = self._upstreams.callable_of(route)(timeout=timeout, metadata=metadata)
            await self.calls.upload(exchange, route, under_way, _again(first, messages))
            return
        request, repeatable = await self._request(exchange, route, variables)
        metadata = await self._metadata(exchange, route)
        call = self._upstreams.callable_of(route, retries=repeatable)
        under_way = call(request, timeout=timeout, metadata=metadata)
        if route.streams:
            await self._answer_stream(exchange, route, under_way)
        else:
            await self.calls.unary(exchange, route, under_way)

    async def _answer_stream(self, exchange: HttpExchange, route: Route, call: Any) -> None:
        match _stream_type(exchange, route):
            case downloads.OCTETS:
                await self.calls.file(exchange, route, call)
            case calls.LINES:
                await self.calls.lines(exchange, route, call)
            case _:
                await self.calls.events(exchange, route, call, lambda error: json_of(self._status(exchange, error)))

    async def _metadata(self, exchange: HttpExchange, route: Route) -> Sequence[tuple[str, str]]:
        """All that a service is told about the request beside its message: nothing of the client's own is passed on.

        Asked for anew when the call begins: a body may take longer to come than a token lives.
        """
        if route.public:
            return ()
        token = await self._credentials.token(exchange.headers)
        return (("authorization", f"Bearer {token}"),)

    async def _request(self, exchange: HttpExchange, route: Route, variables: Mapping[str, str]) -> tuple[bytes, bool]:
        """The request's bytes, and whether they may be sent twice."""
        async with self._bodies.held(exchange, route) as body:
            if body and route.body and not _is_json(exchange.media_type):
                raise UnsupportedMediaType("send the body as JSON, with Content-Type: application/json")
            if len(body) > LARGE_BODY_BYTES:
                return await asyncio.to_thread(_request_bytes, route, variables, exchange.query, body)
            return _request_bytes(route, variables, exchange.query, body)

    def _timeout(self, exchange: HttpExchange, route: Route) -> float:
        longest = self._config.stream_seconds if route.streams or route.uploads else self._config.unary_seconds
        asked = exchange.headers.get("x-request-timeout-seconds")
        if asked is None:
            return longest
        try:
            seconds = float(asked)
        except ValueError:
            seconds = 0.0
        if not 0 < seconds < float("inf"):
            raise InvalidArgument("x-request-timeout-seconds must be a positive number of seconds")
        return min(longest, seconds)

    async def _refuse(self, exchange: HttpExchange, error: ServiceError | grpc.aio.AioRpcError) -> None:
        status = self._status(exchange, error)
        spoken = [("content-language", _language(exchange)), ("vary", "Accept-Language")]
        headers = [("cache-control", "no-store"), *spoken, *headers_of(status, error)]
        answered = http_status(status)
        if answered >= 500:
            _log.warning("request_failed", status=answered, reason=reason_of(status), route=exchange.route)
        await self._last_words(exchange, answered, json_of(status), headers)

    async def _confess(self, exchange: HttpExchange) -> None:
        """A bug: the client gets an id, the log everything."""
        error_id = new_id()
        _log.exception("internal_error", error_id=error_id, route=exchange.route)
        _internal_errors.add(1)
        if exchange.status:
            exchange.abort()
            return
        await self._refuse(exchange, Internal(error_id))

    async def _last_words(
        self, exchange: HttpExchange, status: int, content: bytes, headers: list[tuple[str, str]]
    ) -> None:
        try:
            await exchange.reply(status, content, JSON_TYPE, headers)
        except SlowReaderError:
            exchange.abort()

    def _status(self, exchange: HttpExchange, error: ServiceError | grpc.aio.AioRpcError) -> Any:
        if isinstance(error, ServiceError):
            status = status_of(error, request_id=exchange.request_id)
        else:
            status = upstream_status(error, self._upstream_of(exchange), exchange.request_id)
        return localized(status, _language(exchange))

    def _upstream_of(self, exchange: HttpExchange) -> str:
        return next((route.upstream for route in self._routes if route.template.text == exchange.route), "")

    async def _preflight(self, exchange: HttpExchange) -> None:
        allowed = exchange.headers.get("origin", "") in self._origins
        headers = [
            ("access-control-allow-methods", CORS_METHODS),
            ("access-control-allow-headers", CORS_HEADERS),
            ("access-control-max-age", "600"),
        ]
        await exchange.reply(204, b"", headers=headers if allowed else [])


def _request_bytes(route: Route, variables: Mapping[str, str], query: bytes, body: bytes) -> tuple[bytes, bool]:
    request = request_of(route, variables, query, body)
    return request.SerializeToString(), bool(getattr(request, "request_id", True))


async def _again(first: Any, rest: Any) -> Any:
    yield first
    async for each in rest:
        yield each


def _language(exchange: HttpExchange) -> str:
    return language_of(exchange.headers.get("accept-language", ""))


def _stream_type(exchange: HttpExchange, route: Route) -> str:
    usual = downloads.OCTETS if route.file_field else sse.MEDIA_TYPE
    others = {sse.MEDIA_TYPE, calls.LINES} - {usual}
    return preferred_type(exchange.headers.get("accept", ""), usual, *others)


def _is_json(media_type: str) -> bool:
    return media_type in ("", JSON_TYPE) or media_type.endswith("+json")
