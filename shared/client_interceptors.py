"""The client's side of the street: identity, deadline, trace and duration on every call to another service.

A cancelled task must cancel its call, so that "the browser went away" reaches whoever spends money on it: whoever
awaits a call here passes the cancellation on.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import cache
from typing import Any

import grpc
from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from shared.access import AUTHORIZATION, SUBJECT_TOKEN
from shared.caller import caller_or_none
from shared.deadline import seconds_left
from shared.errors import ServiceError
from shared.telemetry import histogram, tracer

UNARY_TIMEOUT_SECONDS = 10.0
STREAM_TIMEOUT_SECONDS = 300.0

GetToken = Callable[[], Awaitable[str]]
Details = grpc.aio.ClientCallDetails
Continuation = Callable[[Details, Any], Awaitable[Any]]

_propagator = TraceContextTextMapPropagator()
_durations = histogram("rpc.client.call.duration")
# Observers of streams, held until they are done: the event loop keeps only weak references to tasks.
_observers: set[asyncio.Task[None]] = set()


def client_interceptors(get_token: GetToken | None, *, on_behalf: bool) -> list[grpc.aio.ClientInterceptor]:
    """One interceptor per call shape, because gRPC asks each object for one shape only."""
    street = _Departure(get_token, on_behalf)
    return [_UnaryUnary(street), _UnaryStream(street), _StreamUnary(street), _StreamStream(street)]


class _Departure:
    """What all shapes share: a trip begun, and the call's details completed for it."""

    def __init__(self, get_token: GetToken | None, on_behalf: bool) -> None:  # noqa: FBT001 handed down by name
        self._get_token = get_token
        self._on_behalf = on_behalf

    async def begin(self, details: Details, default_timeout: float) -> "tuple[_Trip, Details]":
        trip = _Trip(details.method)
        try:
            return trip, await self._completed(details, trip.span, default_timeout)
        except BaseException as error:  # mostly no token: the call never leaves
            trip.end(_code_of(error))
            raise

    async def _completed(self, details: Details, span: Span, default_timeout: float) -> Details:
        metadata = grpc.aio.Metadata(*(details.metadata or ()))
        await self._identify(metadata)
        carrier: dict[str, str] = {}
        _propagator.inject(carrier, trace.set_span_in_context(span))
        for key, value in carrier.items():
            metadata.add(key, value)
        timeout = details.timeout
        if timeout is None:
            left = seconds_left()
            timeout = default_timeout if left is None else min(default_timeout, left)
        return Details(details.method, timeout, metadata, details.credentials, details.wait_for_ready)

    async def _identify(self, metadata: grpc.aio.Metadata) -> None:
        if metadata.get(AUTHORIZATION) is not None:  # the gateway speaks for its caller and brings the token itself
            return
        caller = caller_or_none()
        if self._get_token is not None:
            metadata.add(AUTHORIZATION, f"Bearer {await self._get_token()}")
            if self._on_behalf and caller is not None and caller.token:
                metadata.add(SUBJECT_TOKEN, caller.token)
        elif caller is not None and caller.token:
            metadata.add(AUTHORIZATION, f"Bearer {caller.token}")


class _Trip:
    """One call under way: its span and its clock."""

    __slots__ = ("_method", "_started", "span")

    def __init__(self, method: str | bytes) -> None:
        self._method = method.decode() if isinstance(method, bytes) else method
        self._started = time.perf_counter()
        self.span = tracer.start_span(self._method.lstrip("/"), kind=SpanKind.CLIENT)

    def end(self, code: grpc.StatusCode) -> None:
        attributes = _attributes(self._method.lstrip("/"), code.name)
        _durations.record(time.perf_counter() - self._started, attributes)
        if self.span.is_recording():
            self.span.set_attributes(attributes)
            if code is not grpc.StatusCode.OK:
                self.span.set_status(StatusCode.ERROR, code.name)
        self.span.end()

    async def end_with(self, call: Any) -> None:
        """Ends with the call's own code; a cancellation while waiting for it cancels the call."""
        try:
            self.end(await call.code())
        except asyncio.CancelledError:
            call.cancel()
            self.end(grpc.StatusCode.CANCELLED)
            raise

    def end_when_done(self, call: Any) -> Any:
        """For streams, which must be handed on before they end: never awaits the call in the caller's task."""

        def observe(_: object) -> None:
            task = asyncio.get_running_loop().create_task(self.end_with(call))
            _observers.add(task)
            task.add_done_callback(_observers.discard)

        call.add_done_callback(observe)
        return call


class _UnaryUnary(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self, departure: _Departure) -> None:
        self._departure = departure

    async def intercept_unary_unary(
        self, continuation: Continuation, client_call_details: Details, request: Any
    ) -> Any:
        trip, details = await self._departure.begin(client_call_details, UNARY_TIMEOUT_SECONDS)
        call = await continuation(details, request)
        await trip.end_with(call)
        return call


class _UnaryStream(grpc.aio.UnaryStreamClientInterceptor):
    def __init__(self, departure: _Departure) -> None:
        self._departure = departure

    async def intercept_unary_stream(
        self, continuation: Continuation, client_call_details: Details, request: Any
    ) -> Any:
        trip, details = await self._departure.begin(client_call_details, STREAM_TIMEOUT_SECONDS)
        return trip.end_when_done(await continuation(details, request))


class _StreamUnary(grpc.aio.StreamUnaryClientInterceptor):
    def __init__(self, departure: _Departure) -> None:
        self._departure = departure

    async def intercept_stream_unary(
        self, continuation: Continuation, client_call_details: Details, request_iterator: Any
    ) -> Any:
        trip, details = await self._departure.begin(client_call_details, STREAM_TIMEOUT_SECONDS)
        return trip.end_when_done(await continuation(details, request_iterator))


class _StreamStream(grpc.aio.StreamStreamClientInterceptor):
    def __init__(self, departure: _Departure) -> None:
        self._departure = departure

    async def intercept_stream_stream(
        self, continuation: Continuation, client_call_details: Details, request_iterator: Any
    ) -> Any:
        trip, details = await self._departure.begin(client_call_details, STREAM_TIMEOUT_SECONDS)
        return trip.end_when_done(await continuation(details, request_iterator))


def _code_of(error: BaseException) -> grpc.StatusCode:
    if isinstance(error, asyncio.CancelledError):
        return grpc.StatusCode.CANCELLED
    return error.code if isinstance(error, ServiceError) else grpc.StatusCode.UNKNOWN


@cache
def _attributes(method: str, code: str) -> dict[str, str]:
    known = {"rpc.system.name": "grpc", "rpc.method": method, "rpc.response.status_code": code}
    return known if code == "OK" else {**known, "error.type": code}
