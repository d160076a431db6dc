"""What a service tells about itself: traces and metrics by OpenTelemetry, logs as JSON that carry the trace.

Every instrument is named here, once, so that dashboards and code cannot drift apart.
"""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal, TypeAlias

import prometheus_client
from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import Counter, Histogram
from opentelemetry.metrics import _Gauge as Gauge
from opentelemetry.sdk.metrics import AlwaysOffExemplarFilter, MeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, Sampler, SamplingResult, TraceIdRatioBased

from shared.config import CannotStartError, ServiceConfig
from shared.identifiers import new_id
from shared.logs import get_logger

__all__ = ["counter", "gauge", "get_logger", "histogram", "sampler", "setup_telemetry", "trace_id", "tracer"]

HistogramName: TypeAlias = Literal[
    "http.server.request.duration",
    "rpc.server.call.duration",
    "rpc.client.call.duration",
    "gen_ai.client.operation.duration",
    "gen_ai.client.operation.time_to_first_chunk",
    "gen_ai.client.token.usage",
]
CounterName: TypeAlias = Literal[
    "prosa.internal_errors", "prosa.cache.reads", "prosa.audit.entries_lost", "prosa.rates.unchecked"
]
GaugeName: TypeAlias = Literal[
    "prosa.quota.discrepancies",
    "prosa.quota.phantom_held_tokens",
    "prosa.quota.overshoot_tokens",
    "prosa.quota.oldest_audit_time",
    "prosa.vectors.recall_at_10",
    "prosa.vectors.unindexed",
    "prosa.vectors.index_build_progress",
    "prosa.analytics.drifts",
    "prosa.analytics.oldest_agreement_time",
]


@dataclass(frozen=True, slots=True)
class _Instrument:
    unit: str
    description: str
    boundaries: Sequence[float] = ()


_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0, 60.0)
_TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576)
_HISTOGRAMS: dict[HistogramName, _Instrument] = {
    "http.server.request.duration": _Instrument("s", "How long HTTP requests took to answer.", _SECONDS),
    "rpc.server.call.duration": _Instrument("s", "How long calls took to answer.", _SECONDS),
    "rpc.client.call.duration": _Instrument("s", "How long calls to other services took.", _SECONDS),
    "gen_ai.client.operation.duration": _Instrument("s", "How long model calls took.", _SECONDS),
    "gen_ai.client.operation.time_to_first_chunk": _Instrument("s", "Wait for a model's first words.", _SECONDS),
    "gen_ai.client.token.usage": _Instrument("{token}", "Tokens of model calls.", _TOKENS),
}
_COUNTERS: dict[CounterName, _Instrument] = {
    "prosa.internal_errors": _Instrument("{error}", "Exceptions nobody had foreseen; each has a log line."),
    "prosa.cache.reads": _Instrument("{read}", "Reads that a cache was asked for: hit, miss or unavailable."),
    "prosa.audit.entries_lost": _Instrument("{entry}", "Audit entries that no store could be given in time."),
    "prosa.rates.unchecked": _Instrument("{request}", "Requests let through uncounted, because Redis was away."),
}
_GAUGES: dict[GaugeName, _Instrument] = {
    "prosa.quota.discrepancies": _Instrument(
        "{discrepancy}", "Counters that the last audits of all tenants contradict."
    ),
    "prosa.quota.phantom_held_tokens": _Instrument(
        "{token}", "Tokens held without a live reservation, as last audited."
    ),
    "prosa.quota.overshoot_tokens": _Instrument("{token}", "Tokens granted beyond a hard limit, as last audited."),
    "prosa.quota.oldest_audit_time": _Instrument(
        "s", "When the tenant audited longest ago was, in seconds since 1970."
    ),
    "prosa.vectors.recall_at_10": _Instrument(
        "1", "Share of the ten nearest vectors that approximate search found, as last sampled of the tenant."
    ),
    "prosa.vectors.unindexed": _Instrument("{vector}", "Vectors of large spaces that wait for an approximate index."),
    "prosa.vectors.index_build_progress": _Instrument("1", "How much of the index being built is done; 1: none is."),
    "prosa.analytics.drifts": _Instrument("{drift}", "Differences between ledger, facts, rollups and messages."),
    "prosa.analytics.oldest_agreement_time": _Instrument(
        "s", "When the tenant whose records were compared longest ago was, in seconds since 1970."
    ),
}

tracer = trace.get_tracer("prosa")
_meter = metrics.get_meter("prosa")
_histograms = {
    name: _meter.create_histogram(
        name, unit=shape.unit, description=shape.description, explicit_bucket_boundaries_advisory=shape.boundaries
    )
    for name, shape in _HISTOGRAMS.items()
}
_counters = {
    name: _meter.create_counter(name, unit=shape.unit, description=shape.description)
    for name, shape in _COUNTERS.items()
}
_gauges = {
    name: _meter.create_gauge(name, unit=shape.unit, description=shape.description) for name, shape in _GAUGES.items()
}


def histogram(name: HistogramName) -> Histogram:
    """The histogram of that name, in the unit of the table above."""
    return _histograms[name]


def counter(name: CounterName) -> Counter:
    """The counter of that name."""
    return _counters[name]


def gauge(name: GaugeName) -> Gauge:
    """The gauge of that name: what is set last is shown."""
    return _gauges[name]


def trace_id() -> str:
    """The id of the trace in progress as 32 hex digits; "" when there is none."""
    context = trace.get_current_span().get_span_context()
    return f"{context.trace_id:032x}" if context.is_valid else ""


def setup_telemetry(service_name: str, config: ServiceConfig, *, follows_callers: bool = True) -> Callable[[], None]:
    """Starts traces and metrics of this process; the returned function flushes and ends them.

    Metrics are collected when they have a port; `follows_callers` is as in `sampler`. To be called once per process.
    Raises CannotStartError when the metrics port is taken.
    """
    resource = Resource.create(
        {"service.name": service_name, "service.version": _version(), "service.instance.id": new_id()}
    )
    traces = TracerProvider(
        resource=resource, sampler=sampler(config.trace_sample_ratio, follows_callers=follows_callers)
    )
    if config.otlp_endpoint:
        traces.add_span_processor(_exporting_to(config.otlp_endpoint))
    trace.set_tracer_provider(traces)
    end_listener = _listener(config) if config.metrics_port else None
    meters = _collected(resource) if config.metrics_port else None

    def end() -> None:
        traces.shutdown()
        if end_listener is not None:
            end_listener()
        if meters is not None:
            meters.shutdown()

    return end


def sampler(ratio: float, *, follows_callers: bool) -> Sampler:
    """Records this share of the traces, or of those that begin elsewhere what callers do, if it `follows_callers`."""
    if follows_callers:
        return ParentBased(TraceIdRatioBased(ratio))
    own = _ByAnIdOfItsOwn(ratio)
    return ParentBased(own, remote_parent_sampled=own, remote_parent_not_sampled=own)


class _ByAnIdOfItsOwn(TraceIdRatioBased):
    """The same share, whichever ids callers make up."""

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,  # noqa: ARG002 the caller's
        name: str,
        *more: Any,
        **others: Any,
    ) -> SamplingResult:
        return super().should_sample(parent_context, secrets.randbits(64), name, *more, **others)


def _exporting_to(endpoint: str) -> BatchSpanProcessor:
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    return BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint, insecure=not endpoint.startswith("https://")))


def _listener(config: ServiceConfig) -> Callable[[], None]:
    try:
        server, thread = prometheus_client.start_http_server(config.metrics_port, addr=config.host)
    except OSError as error:
        raise CannotStartError(f"cannot serve metrics on {config.host}:{config.metrics_port}: {error}") from error

    def end() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return end


def _collected(resource: Resource) -> MeterProvider:
    provider = MeterProvider([PrometheusMetricReader()], resource=resource, exemplar_filter=AlwaysOffExemplarFilter())
    metrics.set_meter_provider(provider)
    return provider


def _version() -> str:
    try:
        return version("prosa")
    except PackageNotFoundError:
        return "unknown"
