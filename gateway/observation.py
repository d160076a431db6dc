"""What a request leaves behind: a span, a duration by route and status, and the id by which it can be found."""

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from gateway.http_exchange import HttpExchange
from shared.telemetry import histogram, trace_id, tracer

UNMATCHED = "unmatched"

_propagator = TraceContextTextMapPropagator()
_durations = histogram("http.server.request.duration")


@contextmanager
def observed(exchange: HttpExchange) -> Iterator[None]:
    """Spans the block, gives the request its id, and records how it ended."""
    started = time.perf_counter()
    parent = _propagator.extract(exchange.headers)
    with tracer.start_as_current_span(
        exchange.method, context=parent, kind=SpanKind.SERVER, record_exception=False, set_status_on_exception=False
    ) as span:
        exchange.request_id = trace_id() or secrets.token_hex(16)
        try:
            yield
        finally:
            attributes: dict[str, str | int] = {
                "http.request.method": _known(exchange.method),
                "http.route": exchange.route or UNMATCHED,
                "http.response.status_code": exchange.status,
            }
            _durations.record(time.perf_counter() - started, attributes)
            if span.is_recording():
                span.update_name(f"{exchange.method} {exchange.route}".rstrip())
                span.set_attributes(attributes)
                if exchange.status >= 500:
                    span.set_status(StatusCode.ERROR)


def _known(method: str) -> str:
    return method if method in {"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"} else "_OTHER"
