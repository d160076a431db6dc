"""What a call leaves behind: a span under its caller's, with the status the client saw, and one measurement."""

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)

from shared import interceptors, telemetry
from shared.channels import open_channel
from shared.config import CannotStartError, ServiceConfig
from shared.errors import NotFound, Unavailable
from shared.telemetry import counter, histogram, sampler, trace_id, tracer
from tests.house.in_process import Metadata
from tests.house.ports import own_port
from tests.shared.conftest import Serving
from tests.shared.street_contract import SERVICE, SHAPES, ask

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """What the server records; everything is sampled unless the caller said otherwise."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(interceptors, "tracer", provider.get_tracer("test"))
    yield exporter
    provider.shutdown()


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, dict[str, Any]]]:
    """What the server measures."""
    records: list[tuple[float, dict[str, Any]]] = []

    class Durations:
        def record(self, seconds: float, attributes: dict[str, Any]) -> None:
            records.append((seconds, attributes))

    monkeypatch.setattr(interceptors, "_durations", Durations())
    return records


def only(spans: InMemorySpanExporter) -> ReadableSpan:
    (span,) = spans.get_finished_spans()
    return span


def traced(walker: Metadata, flags: str) -> Metadata:
    return (*walker, ("traceparent", f"00-{TRACE}-{PARENT}-{flags}"))


async def echo(text: str) -> str:
    return text


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_call_is_a_span_under_its_callers(
    street: Serving, walker: Metadata, shape: str, spans: InMemorySpanExporter
) -> None:
    seen: list[str] = []

    async def look(text: str) -> str:
        seen.append(trace_id())
        return text

    async with street(look) as channel:
        await ask(channel, shape, "x", metadata=traced(walker, "01"))
    span = only(spans)
    assert (span.name, span.kind) == (f"{SERVICE}/{shape}", SpanKind.SERVER)
    assert span.parent is not None
    assert (f"{span.parent.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE, PARENT)
    assert seen == [TRACE]
    assert span.attributes is not None
    assert span.attributes["rpc.system.name"] == "grpc"
    assert span.attributes["rpc.response.status_code"] == "OK"


async def test_a_trace_its_caller_does_not_record_is_not_recorded_but_goes_on(
    street: Serving, walker: Metadata, spans: InMemorySpanExporter
) -> None:
    async def look(text: str) -> str:
        return trace_id()

    async with street(look) as channel:
        assert await ask(channel, "Unary", "x", metadata=traced(walker, "00")) == [TRACE]
    assert spans.get_finished_spans() == ()


async def test_a_broken_traceparent_starts_a_new_trace(
    street: Serving, walker: Metadata, spans: InMemorySpanExporter
) -> None:
    async def look(text: str) -> str:
        return trace_id()

    async with street(look) as channel:
        (answer,) = await ask(channel, "Unary", "x", metadata=(*walker, ("traceparent", "00-nonsense")))
    context = only(spans).get_span_context()
    assert context is not None
    assert answer == f"{context.trace_id:032x}"


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("error", "code", "is_fault"),
    [
        (NotFound("a", "b"), "NOT_FOUND", False),
        (Unavailable(), "UNAVAILABLE", True),
        (RuntimeError("boom"), "INTERNAL", True),
    ],
    ids=["the caller's", "a dependency's", "ours"],
)
async def test_a_span_tells_what_the_client_saw(
    street: Serving,
    walker: Metadata,
    shape: str,
    error: Exception,
    code: str,
    is_fault: bool,
    spans: InMemorySpanExporter,
    measured: list[tuple[float, dict[str, Any]]],
) -> None:
    async def failing(text: str) -> str:
        raise error

    async with street(failing) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(channel, shape, "x", metadata=walker)
    assert caught.value.code().name == code
    span = only(spans)
    assert span.attributes is not None
    assert span.attributes["rpc.response.status_code"] == code
    assert (span.status.status_code is StatusCode.ERROR) == is_fault
    assert ("error.type" in span.attributes) == is_fault
    ((seconds, attributes),) = measured
    assert 0 < seconds < 5
    assert attributes["rpc.response.status_code"] == code


async def test_a_refused_caller_is_measured_too(street: Serving, measured: list[tuple[float, dict[str, Any]]]) -> None:
    async with street(echo) as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await ask(channel, "Unary", "x")
    ((_, attributes),) = measured
    assert attributes["rpc.response.status_code"] == "UNAUTHENTICATED"


def test_instruments_are_found_by_name() -> None:
    histogram("gen_ai.client.token.usage").record(3, {"gen_ai.token.type": "input"})
    counter("prosa.internal_errors").add(0)
    assert trace_id() == ""
    with tracer.start_as_current_span("x"):
        pass


def test_about_as_many_traces_are_recorded_as_is_said_whatever_ids_a_caller_makes_up() -> None:
    own = sampler(0.25, follows_callers=False)
    always_taken_by_its_id = SpanContext(1 << 64, 1, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    caller = set_span_in_context(NonRecordingSpan(always_taken_by_its_id))
    decisions = [own.should_sample(caller, 1 << 64, "x").decision for _ in range(4000)]
    taken = decisions.count(Decision.RECORD_AND_SAMPLE)
    assert 800 < taken < 1200  # seven standard deviations either way


def test_what_a_caller_says_of_its_trace_goes_on() -> None:
    state = TraceState([("vendor", "x")])
    caller = set_span_in_context(NonRecordingSpan(SpanContext(1, 1, is_remote=True, trace_state=state)))
    assert sampler(1.0, follows_callers=False).should_sample(caller, 1, "x").trace_state == state


def test_a_metrics_port_that_is_taken_stops_the_start() -> None:
    port = own_port()
    from prometheus_client import start_http_server

    server, thread = start_http_server(port, addr="127.0.0.1")
    try:
        with pytest.raises(CannotStartError, match=str(port)):
            telemetry._listener(ServiceConfig(port=0, metrics_port=port))
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_traces_are_exported_in_batches() -> None:
    processor = telemetry._exporting_to("http://127.0.0.1:1")
    processor.shutdown()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_token_that_cannot_be_had_fails_the_call(shape: str) -> None:
    class NoToken:
        async def get(self) -> str:
            raise Unavailable(dependency="tenant_quota")

    async with open_channel("127.0.0.1:1", token=NoToken()) as channel:
        with pytest.raises(Unavailable):
            await ask(channel, shape, "x")
