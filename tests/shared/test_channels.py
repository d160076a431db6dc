"""Calls to other services: who calls, for how long, what is sent twice, and how a cancellation travels."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import SecretStr

from prosa.tenant_quota.v1 import tenant_service_pb2, tenant_service_pb2_grpc
from shared import client_interceptors
from shared.caller import Caller, TokenVerifier, acting_as, current_caller
from shared.channels import ServiceToken, open_channel, retried
from shared.clock import ManualClock
from shared.deadline import seconds_left, set_deadline
from shared.errors import Unauthenticated, Unavailable, error_of
from shared.interceptors import WORTH_A_RETRY_SECONDS
from shared.server import Endpoint, running_server
from tests.house.in_process import token
from tests.house.signing import SigningKeys
from tests.house.waiting import until
from tests.shared.conftest import quick_config
from tests.shared.street_contract import PERMISSION, SERVICE, SHAPES, Behaviour, ask, dialled, endpoint


@asynccontextmanager
async def target(keys: SigningKeys, *endpoints: Endpoint) -> AsyncIterator[str]:
    verifier = TokenVerifier(keys.public_pem)
    async with running_server(quick_config(), endpoints, verifier=verifier, ready={}) as port:
        yield f"127.0.0.1:{port}"


class FixedToken:
    """A token source for tests."""

    def __init__(self, token: str) -> None:
        self._token = token

    async def get(self) -> str:
        return self._token


def caller_with(token: str) -> Caller:
    return Caller("t1", "u1", "k1", frozenset(), token, 0.0)


async def who(text: str) -> str:
    caller = current_caller()
    return f"{caller.tenant_id}:{'+'.join(sorted(caller.scopes))}"


@pytest.mark.parametrize("shape", SHAPES)
async def test_without_its_own_token_a_service_forwards_the_callers(signing_keys: SigningKeys, shape: str) -> None:
    mine = token(signing_keys, tenant_id="t1", scopes=[PERMISSION])
    async with target(signing_keys, endpoint(who)) as address, open_channel(address) as channel:
        with acting_as(caller_with(mine)):
            assert (await ask(channel, shape, "x"))[-1] == f"t1:{PERMISSION}"


@pytest.mark.parametrize("shape", SHAPES)
async def test_with_its_own_token_a_service_acts_for_the_caller(signing_keys: SigningKeys, shape: str) -> None:
    own = FixedToken(token(signing_keys, scopes=["act_as", PERMISSION]))
    end_user = token(signing_keys, tenant_id="t1", user_id="u1", scopes=["less"])
    async with target(signing_keys, endpoint(who)) as address, open_channel(address, token=own) as channel:
        with acting_as(caller_with(end_user)):
            assert (await ask(channel, shape, "x"))[-1] == f"t1:act_as+{PERMISSION}"


async def test_background_work_speaks_for_nobody(signing_keys: SigningKeys) -> None:
    own = FixedToken(token(signing_keys, scopes=["act_as", PERMISSION]))
    async with target(signing_keys, endpoint(who)) as address, open_channel(address, token=own) as channel:
        assert await ask(channel, "Unary", "x") == [f":act_as+{PERMISSION}"]


async def test_a_channel_may_keep_the_caller_out_of_it(signing_keys: SigningKeys) -> None:
    own = FixedToken(token(signing_keys, scopes=["act_as", PERMISSION]))
    end_user = token(signing_keys, tenant_id="t1", scopes=[])
    async with (
        target(signing_keys, endpoint(who)) as address,
        open_channel(address, token=own, on_behalf=False) as channel,
    ):
        with acting_as(caller_with(end_user)):
            assert await ask(channel, "Unary", "x") == [f":act_as+{PERMISSION}"]


async def test_an_authorization_given_by_hand_is_kept(signing_keys: SigningKeys) -> None:
    by_hand = token(signing_keys, tenant_id="t9", scopes=[PERMISSION])
    other = token(signing_keys, tenant_id="t1", scopes=[PERMISSION])
    async with target(signing_keys, endpoint(who)) as address, open_channel(address) as channel:
        with acting_as(caller_with(other)):
            answers = await ask(channel, "Unary", "x", metadata=[("authorization", f"Bearer {by_hand}")])
    assert answers == [f"t9:{PERMISSION}"]


async def left(text: str) -> str:
    return str(seconds_left())


@asynccontextmanager
async def timed(keys: SigningKeys, behaviour: Behaviour = left) -> AsyncIterator[grpc.aio.Channel]:
    mine = token(keys, tenant_id="t1", scopes=[PERMISSION])
    async with target(keys, endpoint(behaviour)) as address, open_channel(address) as channel:
        with acting_as(caller_with(mine)):
            yield channel


@pytest.mark.parametrize(("shape", "seconds"), [("Unary", 10), ("ServerStream", 300), ("ClientStream", 300)])
async def test_a_call_without_a_timeout_gets_one(signing_keys: SigningKeys, shape: str, seconds: int) -> None:
    async with timed(signing_keys) as channel:
        answers = await ask(channel, shape, "x", timeout=None)
    assert seconds - 5 < float(answers[-1]) < seconds + 1


async def test_a_call_does_not_outlive_the_rpc_it_is_made_for(signing_keys: SigningKeys) -> None:
    async def inside() -> list[str]:
        set_deadline(5.0)
        return await ask(channel, "Unary", "x", timeout=None)

    async with timed(signing_keys) as channel:
        (answer,) = await asyncio.create_task(inside())
    assert float(answer) < 5.5


async def test_an_explicit_timeout_is_taken_as_it_is(signing_keys: SigningKeys) -> None:
    async def inside() -> list[str]:
        set_deadline(5.0)
        return await ask(channel, "Unary", "x", timeout=60.0)

    async with timed(signing_keys) as channel:
        (answer,) = await asyncio.create_task(inside())
    assert float(answer) > 30.0


@pytest.mark.parametrize("shape", SHAPES)
async def test_cancelling_the_task_reaches_the_server(signing_keys: SigningKeys, shape: str) -> None:
    entered, ended = asyncio.Event(), asyncio.Event()

    async def endless(text: str) -> str:
        entered.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()
        return text

    async with timed(signing_keys, endless) as channel:
        asking = asyncio.create_task(ask(channel, shape, "x"))
        await asyncio.wait_for(entered.wait(), 20)
        asking.cancel()
        await asyncio.wait_for(ended.wait(), 20)
        with pytest.raises(asyncio.CancelledError):
            await asking


@pytest.mark.parametrize("shape", SHAPES)
async def test_the_trace_travels(signing_keys: SigningKeys, shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    async def traced(text: str) -> str:
        seen.append(f"{trace.get_current_span().get_span_context().trace_id:032x}")
        return text

    monkeypatch.setattr(client_interceptors, "tracer", TracerProvider().get_tracer("test"))
    span = TracerProvider().get_tracer("test").start_span("the browser's click")
    async with timed(signing_keys, traced) as channel:
        with trace.use_span(span):
            await ask(channel, shape, "x")
    assert seen == [f"{span.get_span_context().trace_id:032x}"]


@pytest.mark.parametrize("shape", SHAPES)
async def test_an_error_of_the_callee_comes_back_typed(signing_keys: SigningKeys, shape: str) -> None:
    async def failing(text: str) -> str:
        raise Unauthenticated(reason="CREDENTIALS_EXPIRED")

    async with timed(signing_keys, failing) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(channel, shape, "x")
    assert error_of(caught.value).reason == "CREDENTIALS_EXPIRED"


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The codes of the calls that were measured."""
    codes: list[str] = []

    class Durations:
        def record(self, seconds: float, attributes: dict[str, str]) -> None:
            codes.append(attributes["rpc.response.status_code"])

    monkeypatch.setattr(client_interceptors, "_durations", Durations())
    return codes


@pytest.mark.parametrize("shape", ["ServerStream", "Bidi"])
async def test_a_stream_is_measured_when_it_ends(signing_keys: SigningKeys, shape: str, ends: list[str]) -> None:
    async def echo(text: str) -> str:
        return text

    async with timed(signing_keys, echo) as channel:
        await ask(channel, shape, "x")
        await until(lambda: ends)
    assert ends == ["OK"]


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_call_that_never_left_is_measured_and_traced(
    signing_keys: SigningKeys, shape: str, ends: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    monkeypatch.setattr(client_interceptors, "tracer", provider.get_tracer("test"))

    class NoToken:
        async def get(self) -> str:
            raise Unavailable(dependency="tenant_quota")

    async with target(signing_keys, endpoint(who)) as address, open_channel(address, token=NoToken()) as channel:
        with pytest.raises(Unavailable):
            await ask(channel, shape, "x")
    assert ends == ["UNAVAILABLE"]
    assert len(spans.get_finished_spans()) == 1


def method(name: str) -> Any:
    return descriptor_pool.Default().FindMethodByName(name)


def test_only_reads_and_calls_with_a_request_id_are_sent_twice() -> None:
    service = "prosa.tenant_quota.v1.TenantService"
    assert retried(method(f"{service}.Authenticate"))
    assert retried(method(f"{service}.GetTenant"))
    assert retried(method(f"{service}.ListTenants"))
    assert retried(method(f"{service}.CreateTenant"))  # it carries a request_id
    assert not retried(method(f"{SERVICE}.Unary"))
    assert not retried(method(f"{SERVICE}.ServerStream"))
    assert not retried(method(f"{SERVICE}.ClientStream"))


class Tenants(tenant_service_pb2_grpc.TenantServiceServicer):
    """Authenticates everybody, or fails as told; counts."""

    def __init__(self, clock: ManualClock, failures: int = 0, pause: float = 0.02) -> None:
        self.calls = 0
        self.failures = failures
        self.pause = pause
        self._clock = clock

    async def Authenticate(self, request: Any, context: Any) -> Any:
        self.calls += 1
        await asyncio.sleep(self.pause)
        if self.calls <= self.failures:
            raise Unavailable(dependency="postgresql")
        if request.credential != "pk_test":
            raise Unauthenticated
        response = tenant_service_pb2.AuthenticateResponse(access_token=f"token{self.calls}")
        response.expire_time.FromMilliseconds(int(self._clock.now().timestamp() * 1000) + 60_000)
        return response

    def endpoint(self) -> Endpoint:
        name = tenant_service_pb2.DESCRIPTOR.services_by_name["TenantService"].full_name
        return Endpoint(tenant_service_pb2_grpc.add_TenantServiceServicer_to_server, self, name)


@asynccontextmanager
async def service_token(
    keys: SigningKeys, tenants: Callable[[ManualClock], Tenants] = Tenants, credential: str = "pk_test"
) -> AsyncIterator[tuple[ServiceToken, Tenants, ManualClock]]:
    clock = ManualClock()
    answering = tenants(clock)
    async with target(keys, answering.endpoint()) as address, open_channel(address) as channel:
        yield ServiceToken(channel, SecretStr(credential), clock), answering, clock


async def test_a_service_token_is_fetched_once_for_many(signing_keys: SigningKeys) -> None:
    async with service_token(signing_keys) as (own, tenants, _):
        assert set(await asyncio.gather(*(own.get() for _ in range(50)))) == {"token1"}
    assert tenants.calls == 1


async def test_a_service_token_is_renewed_before_it_ends(signing_keys: SigningKeys) -> None:
    async with service_token(signing_keys) as (own, _, clock):
        await own.get()
        clock.advance(39)
        assert await own.get() == "token1"
        clock.advance(2)
        assert await own.get() == "token1"  # still good: nobody waits for the renewal
        await until(lambda: own._token == "token2")
        assert await own.get() == "token2"


def failing_twice(clock: ManualClock) -> Tenants:
    return Tenants(clock, failures=2)  # type: ignore[abstract]  # the other methods are not called


async def test_a_read_is_retried_while_the_callee_is_unavailable(signing_keys: SigningKeys) -> None:
    async with service_token(signing_keys, failing_twice) as (own, tenants, _):
        assert await own.get() == "token3"
    assert tenants.calls == 3


async def test_a_token_that_still_lives_outlasts_an_outage(signing_keys: SigningKeys) -> None:
    async with service_token(signing_keys) as (own, tenants, clock):
        await own.get()
        tenants.failures = 1000
        clock.advance(45)
        assert await own.get() == "token1"
        assert tenants.calls == 1, "nobody waited for the renewal"
        clock.advance(20)
        with pytest.raises(Unavailable):
            await own.get()


async def test_a_refused_service_key_is_not_blamed_on_the_caller(signing_keys: SigningKeys) -> None:
    async with service_token(signing_keys, credential="pk_wrong") as (own, _, _clock):
        with pytest.raises(Unavailable) as caught:
            await own.get()
    assert caught.value.metadata == {"dependency": "tenant_quota"}


async def test_a_service_that_is_down_answers_unavailable_within_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.channels.AUTHENTICATE_TIMEOUT_SECONDS", 120.0)
    async with open_channel("127.0.0.1:1") as channel:
        started = time.monotonic()
        with pytest.raises(Unavailable):
            await ServiceToken(channel, SecretStr("pk_test")).get()
    # Of which 0.7 s are pauses between the attempts; far from the time that the call has.
    assert 0.5 < time.monotonic() - started < 60


async def test_a_callee_that_has_waited_long_enough_is_not_asked_again(signing_keys: SigningKeys) -> None:
    def waiting_in_vain(clock: ManualClock) -> Tenants:
        return Tenants(clock, failures=1000, pause=WORTH_A_RETRY_SECONDS)  # type: ignore[abstract]

    async with service_token(signing_keys, waiting_in_vain) as (own, tenants, _):
        with pytest.raises(Unavailable):
            await own.get()
    assert tenants.calls == 1


async def test_nobody_listening_is_unavailable_within_the_deadline(signing_keys: SigningKeys) -> None:
    started = time.monotonic()
    async with open_channel("127.0.0.1:1") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await dialled(channel, "Unary")(b"", timeout=1.0)
    assert caught.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
    assert time.monotonic() - started < 10
