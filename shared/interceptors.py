"""The street every call walks before a handler sees it, outermost first:

    telemetry ▸ error mapping ▸ caller and access ▸ deadline ▸ decode ▸ validation ▸ handler

It is one interceptor, because each layer would otherwise be built again for every call: here each method is wrapped
once. Handlers of all four shapes are served; stream requests arrive through the iterator (not context.read()).
"""

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from types import TracebackType
from typing import Any, TypeVar

import grpc
from grpc_status import rpc_status
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from shared.access import Metadata, access_rule, admitted_caller, is_exempt
from shared.caller import TokenVerifier, become
from shared.deadline import set_deadline
from shared.errors import DeadlineExceeded, Internal, ServiceError, error_of, status_of
from shared.identifiers import new_id
from shared.telemetry import counter, get_logger, histogram, trace_id, tracer
from shared.validation import Deserializer, decoded, validate

UNARY_DEADLINE_SECONDS = 30.0
STREAM_DEADLINE_SECONDS = 300.0
# A call that became UNAVAILABLE later than this has waited for its dependency already: that it fails again would only
# come so much later. Callers are told so in gRPC's own way (proposal A6).
WORTH_A_RETRY_SECONDS = 0.5
NO_RETRY = ("grpc-retry-pushback-ms", "-1")
# How long after the end of a stream of requests its cancellation may arrive: one more turn of gRPC's poller thread,
# which a busy interpreter lets wait for some milliseconds.
BROKEN_OFF_SECONDS = 0.02
STAND_ALONE = "messages_stand_alone"

Context = Any
Handler = Any
Behaviour = TypeVar("Behaviour", bound=Callable[..., Any])

_propagator = TraceContextTextMapPropagator()
_durations = histogram("rpc.server.call.duration")
_internal_errors = counter("prosa.internal_errors")
_log = get_logger()

# Of these the server is to blame (semantic conventions for gRPC spans).
_SERVER_FAULTS = {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}


class Street(grpc.aio.ServerInterceptor):
    """The one server interceptor; `unary_deadline` and `stream_deadline` (seconds) serve callers who gave none."""

    def __init__(
        self,
        verifier: TokenVerifier,
        *,
        unary_deadline: float = UNARY_DEADLINE_SECONDS,
        stream_deadline: float = STREAM_DEADLINE_SECONDS,
    ) -> None:
        self._verifier = verifier
        self._unary_deadline = unary_deadline
        self._stream_deadline = stream_deadline
        self._wrapped: dict[str, Handler] = {}

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Handler | None]], handler_call_details: Any
    ) -> Handler | None:
        """The wrapped handler, built on the first call of its method; None (UNIMPLEMENTED) for unknown methods."""
        name = handler_call_details.method
        wrapped = self._wrapped.get(name)
        if wrapped is None:
            handler = await continuation(handler_call_details)
            if handler is None:
                return None
            wrapped = self._wrapped[name] = self._wrap(name, handler)
        return wrapped

    def _wrap(self, name: str, handler: Handler) -> Handler:
        wrap: Callable[..., Handler]
        behaviour: Callable[[Any, Context], Awaitable[Any]]
        streams = handler.request_streaming or handler.response_streaming
        deadline = self._stream_deadline if streams else self._unary_deadline
        method = _Method(name, handler, self._verifier, None if is_exempt(name) else deadline)
        match (handler.request_streaming, handler.response_streaming):
            case (False, False):
                wrap, behaviour = grpc.unary_unary_rpc_method_handler, method.unary_unary
            case (False, True):
                wrap, behaviour = grpc.unary_stream_rpc_method_handler, method.unary_stream
            case (True, False):
                wrap, behaviour = grpc.stream_unary_rpc_method_handler, method.stream_unary
            case _:
                wrap, behaviour = grpc.stream_stream_rpc_method_handler, method.stream_stream
        return wrap(behaviour, None, handler.response_serializer)


def messages_stand_alone(behaviour: Behaviour) -> Behaviour:
    """For a method whose stream of requests may end anywhere: it is answered without waiting for a cancellation."""
    setattr(behaviour, STAND_ALONE, True)
    return behaviour


class _Method:
    """What is known of a method before it is called, and its handler wrapped in the four shapes."""

    def __init__(self, name: str, handler: Handler, verifier: TokenVerifier, default_deadline: float | None) -> None:
        self.name = name.lstrip("/")
        self.rule = access_rule(name)
        self.verifier = verifier
        self.default_deadline = default_deadline
        self._deserialize: Deserializer | None = handler.request_deserializer
        self._behaviour = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
        self._yields = inspect.isasyncgenfunction(self._behaviour)
        self._stand_alone = getattr(self._behaviour, STAND_ALONE, False)
        self._attributes: dict[str, dict[str, str]] = {}

    async def unary_unary(self, data: bytes, context: Context) -> Any:
        async with _Call(self, context):
            return await self._behaviour(self._request(data), context)

    async def stream_unary(self, data: AsyncIterator[bytes], context: Context) -> Any:
        async with _Call(self, context):
            return await self._behaviour(self._requests(data), context)

    # Responses are written rather than yielded: a cancelled call then always lands inside the handler, at once.
    async def unary_stream(self, data: bytes, context: Context) -> None:
        async with _Call(self, context):
            await self._answer(self._request(data), context)

    async def stream_stream(self, data: AsyncIterator[bytes], context: Context) -> None:
        async with _Call(self, context):
            await self._answer(self._requests(data), context)

    async def _answer(self, request: Any, context: Context) -> None:
        if not self._yields:
            await self._behaviour(request, context)
            return
        async with aclosing(self._behaviour(request, context)) as responses:
            async for response in responses:
                await context.write(response)

    def _request(self, data: bytes) -> Any:
        request = decoded(self._deserialize, data)
        validate(request)
        return request

    async def _requests(self, data: AsyncIterator[bytes]) -> AsyncIterator[Any]:
        async for each in data:
            yield self._request(each)
        # gRPC ends the iterator in the same way when the client breaks off as when it has said everything; the
        # cancellation comes right behind. Half a file must not be taken for a whole one in between.
        if not self._stand_alone:
            await asyncio.sleep(BROKEN_OFF_SECONDS)

    def attributes(self, code: str) -> dict[str, str]:
        """The metric attributes of a call that ended so; kept, because recording is on the hot path."""
        known = self._attributes.get(code)
        if known is None:
            known = {
                "rpc.system.name": "grpc",
                "rpc.method": self.name,
                "rpc.response.status_code": code,
            }
            if code in _SERVER_FAULTS:
                known["error.type"] = code
            self._attributes[code] = known
        return known


class _Call:
    """One call on its way down the street and back: admitted on entry, measured and its error mapped on exit."""

    __slots__ = ("_context", "_method", "_span", "_started", "_timeout")

    def __init__(self, method: _Method, context: Context) -> None:
        self._method = method
        self._context = context
        self._timeout: asyncio.Timeout | None = None

    async def __aenter__(self) -> None:
        self._started = time.perf_counter()
        metadata = self._context.invocation_metadata() or ()
        self._start_span(metadata)
        try:
            caller = admitted_caller(self._method.rule, metadata, self._method.verifier)
        except ServiceError as error:
            await self._fail(error)
        else:
            if caller is not None:
                become(caller)
            await self._limit_time()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._timeout is not None:
            try:
                await self._timeout.__aexit__(kind, error, traceback)
            except TimeoutError:
                error = DeadlineExceeded()
        if error is None:
            self._record("OK")
        elif isinstance(error, ServiceError):
            await self._fail(error)
        elif isinstance(error, grpc.aio.AbortError):
            self._record(_code_name(self._context.code()))
        elif isinstance(error, grpc.RpcError):
            await self._fail(error_of(error))
        elif isinstance(error, Exception):
            await self._fail(self._masked(error))
        else:
            self._record(self._cancellation())

    def _start_span(self, metadata: Metadata) -> None:
        carrier = {key: value for key, value in metadata if key in ("traceparent", "tracestate")}
        parent = _propagator.extract(carrier) if carrier else None
        self._span = trace.get_current_span(parent) if parent is not None else trace.INVALID_SPAN
        inherited = self._span.get_span_context()
        # A trace that the caller does not record is handed on as it is; a span of ours would be thrown away.
        if not inherited.is_valid or inherited.trace_flags.sampled:
            self._span = tracer.start_span(self._method.name, parent, SpanKind.SERVER)
        # The task belongs to this call alone and ends with it, so nothing needs to be detached.
        otel_context.attach(trace.set_span_in_context(self._span, parent))

    async def _limit_time(self) -> None:
        remaining = self._context.time_remaining()
        if remaining is None:
            remaining = self._method.default_deadline
            if remaining is None:
                return
            self._timeout = asyncio.timeout(remaining)
            await self._timeout.__aenter__()
        set_deadline(remaining)

    async def _fail(self, error: ServiceError) -> None:
        """Ends the call with the error's status; always raises."""
        self._record(error.code.name)
        status = rpc_status.to_status(status_of(error, request_id=trace_id() or new_id()))
        trailer = tuple(status.trailing_metadata)
        if error.code is grpc.StatusCode.UNAVAILABLE:
            _log.warning("unavailable", rpc_method=self._method.name, reason=error.reason, about=error.metadata)
            if time.perf_counter() - self._started >= WORTH_A_RETRY_SECONDS:
                trailer += (NO_RETRY,)
        await self._context.abort(status.code, status.details, trailer)

    def _masked(self, error: Exception) -> Internal:
        error_id = new_id()
        _internal_errors.add(1, {"rpc.method": self._method.name})
        _log.error("internal_error", error_id=error_id, rpc_method=self._method.name, exc_info=error)
        return Internal(error_id)

    def _cancellation(self) -> str:
        remaining = self._context.time_remaining()
        return "DEADLINE_EXCEEDED" if remaining is not None and remaining <= 0 else "CANCELLED"

    def _record(self, code: str) -> None:
        attributes = self._method.attributes(code)
        _durations.record(time.perf_counter() - self._started, attributes)
        if self._span.is_recording():
            self._span.set_attributes(attributes)
            if code in _SERVER_FAULTS:
                self._span.set_status(StatusCode.ERROR, code)
        self._span.end()


def _code_name(code: object) -> str:
    """The name of what context.code() holds: an enum, its integer, or nothing."""
    for known in grpc.StatusCode:
        if code in (known, known.value[0]):
            return known.name
    return "UNKNOWN"
