"""What every call meets before and after its handler, in all four shapes."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from shared import errors
from shared.caller import current_caller
from shared.deadline import seconds_left
from tests.house.in_process import Metadata, as_caller, as_service, serving, token
from tests.house.signing import SigningKeys
from tests.house.waiting import until
from tests.shared.conftest import Serving, quick_config
from tests.shared.street_contract import PERMISSION, SHAPES, Ping, Pong, ask, dialled, endpoint

SECRET = "postgresql://app:hunter2@db/prosa"


async def echo(text: str) -> str:
    return text


def raising(error: Exception) -> Any:
    async def behaviour(text: str) -> str:
        raise error

    return behaviour


async def refusal(awaitable: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await awaitable
    return caught.value


def detail(error: grpc.aio.AioRpcError, kind: Any) -> Any:
    status = rpc_status.from_call(error)
    assert status is not None, f"{error.code()} {error.details()} carries no details"
    message = kind()
    found = [each for each in status.details if each.Is(kind.DESCRIPTOR)]
    assert len(found) == 1, f"{kind.__name__} is there {len(found)} times"
    found[0].Unpack(message)
    return message


def reason(error: grpc.aio.AioRpcError) -> str:
    info = detail(error, error_details_pb2.ErrorInfo)
    assert info.domain == "prosa"
    return str(info.reason)


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_good_call_passes_in_every_shape(street: Serving, walker: Metadata, shape: str) -> None:
    async with street(echo) as channel:
        answers = await ask(channel, shape, "bom dia", metadata=walker)
    assert answers[-1] == "bom dia"


@pytest.mark.parametrize("shape", SHAPES)
async def test_service_errors_arrive_with_reason_and_details(street: Serving, walker: Metadata, shape: str) -> None:
    async with street(raising(errors.NotFound("conversation", "c42"))) as channel:
        error = await refusal(ask(channel, shape, "x", metadata=walker))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert reason(error) == "RESOURCE_NOT_FOUND"
    assert detail(error, error_details_pb2.ResourceInfo).resource_name == "c42"
    assert detail(error, error_details_pb2.RequestInfo).request_id


@pytest.mark.parametrize("shape", SHAPES)
async def test_unknown_exceptions_are_masked_and_logged_once(
    street: Serving, walker: Metadata, shape: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with street(raising(RuntimeError(SECRET))) as channel:
        error = await refusal(ask(channel, shape, "x", metadata=walker))
    assert error.code() is grpc.StatusCode.INTERNAL
    assert error.details() == "internal error"
    assert "hunter2" not in str(error)
    assert b"hunter2" not in b"".join(value for _, value in error.trailing_metadata() if isinstance(value, bytes))
    info = detail(error, error_details_pb2.ErrorInfo)
    assert info.reason == "INTERNAL"
    logged = capsys.readouterr().out
    assert logged.count("internal_error") == 1
    assert info.metadata["error_id"] in logged
    assert "Traceback" in logged


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "data",
    [b"\x0a\xff\xff\xff\xff\x0f", b"\x0f\x01", b"\x0a\x02\xc3\x28", b"\x0a"],
    ids=["bad length", "bad wire type", "invalid UTF-8", "cut short"],
)
async def test_malformed_bytes_are_the_callers_fault(
    street: Serving, walker: Metadata, shape: str, data: bytes
) -> None:
    async with street(echo) as channel:
        error = await refusal(ask(channel, shape, data, metadata=walker))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason(error) == "MALFORMED_MESSAGE"


async def test_a_bad_message_later_in_a_stream_is_refused_after_the_good_replies(
    street: Serving, walker: Metadata
) -> None:
    async with street(echo) as channel:
        call = dialled(channel, "Bidi")(iter([Ping(text="a").SerializeToString(), b"\x0a"]), metadata=walker)
        assert (await call.read()).text == "a"
        error = await refusal(call.read())
    assert reason(error) == "MALFORMED_MESSAGE"


@pytest.mark.parametrize("shape", SHAPES)
async def test_broken_rules_name_field_and_rule(street: Serving, walker: Metadata, shape: str) -> None:
    wrong = Ping(text="fine", children=[Ping(text="fine"), Ping(text="x" * 41)])
    async with street(echo) as channel:
        error = await refusal(ask(channel, shape, wrong, metadata=walker))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason(error) == "VALIDATION_FAILED"
    (violation,) = detail(error, error_details_pb2.BadRequest).field_violations
    assert (violation.field, violation.reason) == ("children[1].text", "string.max_len")
    assert "40" in violation.description


@pytest.mark.parametrize("shape", [*SHAPES, "Ruleless"])
async def test_without_credentials_nothing_is_answered(street: Serving, shape: str) -> None:
    async with street(echo) as channel:
        error = await refusal(ask(channel, shape, "x"))
    expected = ("PERMISSION_MISSING", "CREDENTIALS_MISSING")[shape != "Ruleless"]
    assert reason(error) == expected


async def test_a_method_without_a_rule_is_closed_to_everybody(street: Serving, walker: Metadata) -> None:
    async with street(echo) as channel:
        error = await refusal(ask(channel, "Ruleless", "x", metadata=walker))
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_a_public_method_needs_no_caller(street: Serving) -> None:
    async with street(echo) as channel:
        assert await ask(channel, "Public", "x") == ["x"]


async def test_an_unknown_method_is_unimplemented(street: Serving, walker: Metadata) -> None:
    async with street(echo) as channel:
        error = await refusal(ask(channel, "Nowhere", "x", metadata=walker))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_missing_permission_is_named(street: Serving, signing_keys: SigningKeys) -> None:
    metadata = as_caller(token(signing_keys, tenant_id="t1", scopes=["other"]))
    async with street(echo) as channel:
        error = await refusal(ask(channel, "Unary", "x", metadata=metadata))
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    assert detail(error, error_details_pb2.ErrorInfo).metadata["permission"] == PERMISSION


@pytest.mark.parametrize(
    "authorization", ["Bearer ", "Bearer nonsense", "Basic dXNlcjpwYXNz", "nonsense", "Bearer a.b.c"]
)
async def test_bad_authorization_headers_all_look_the_same(street: Serving, authorization: str) -> None:
    async with street(echo) as channel:
        error = await refusal(ask(channel, "Unary", "x", metadata=[("authorization", authorization)]))
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    assert reason(error) == "CREDENTIALS_INVALID"
    assert error.details() == "the credentials are not valid"


async def who(text: str) -> str:
    caller = current_caller()
    return f"{caller.tenant_id}/{caller.user_id}/{'+'.join(sorted(caller.scopes))}"


@pytest.mark.parametrize("shape", SHAPES)
async def test_the_handler_knows_the_caller(street: Serving, walker: Metadata, shape: str) -> None:
    async with street(who) as channel:
        assert (await ask(channel, shape, "x", metadata=walker))[-1] == f"t1/u1/{PERMISSION}"


async def test_an_actor_brings_its_scopes_and_the_subjects_tenant(street: Serving, signing_keys: SigningKeys) -> None:
    actor = token(signing_keys, scopes=["act_as", PERMISSION])
    subject = token(signing_keys, tenant_id="t2", user_id="u2", scopes=["nothing"])
    async with street(who) as channel:
        answers = await ask(channel, "Unary", "x", metadata=as_service(actor, subject))
    assert answers == [f"t2/u2/act_as+{PERMISSION}"]


async def test_a_subject_needs_an_actor_with_act_as(street: Serving, signing_keys: SigningKeys) -> None:
    actor = token(signing_keys, tenant_id="t1", scopes=[PERMISSION])
    subject = token(signing_keys, tenant_id="t2", scopes=[PERMISSION])
    async with street(who) as channel:
        error = await refusal(ask(channel, "Unary", "x", metadata=as_service(actor, subject)))
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    assert detail(error, error_details_pb2.ErrorInfo).metadata["permission"] == "act_as"


async def test_an_invalid_subject_is_refused_though_the_actor_is_good(
    street: Serving, signing_keys: SigningKeys
) -> None:
    actor = token(signing_keys, scopes=["act_as", PERMISSION])
    async with street(who) as channel:
        error = await refusal(ask(channel, "Unary", "x", metadata=as_service(actor, "forged")))
    assert reason(error) == "CREDENTIALS_INVALID"


async def test_a_call_without_a_deadline_gets_the_servers(signing_keys: SigningKeys, walker: Metadata) -> None:
    cancelled = asyncio.Event()

    async def too_long(text: str) -> str:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return text

    from shared.caller import TokenVerifier
    from shared.server import running_server

    verifier = TokenVerifier(signing_keys.public_pem)
    server = running_server(
        quick_config(), [endpoint(too_long)], verifier=verifier, ready={}, unary_deadline=0.5, stream_deadline=0.5
    )
    async with server as port, grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        for shape in SHAPES:
            cancelled.clear()
            error = await refusal(ask(channel, shape, "x", metadata=walker, timeout=None))
            assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert reason(error) == "DEADLINE_EXCEEDED"
            assert cancelled.is_set()


async def test_the_handler_knows_how_much_time_is_left(street: Serving, walker: Metadata) -> None:
    async def left(text: str) -> str:
        return str(seconds_left())

    async with street(left) as channel:
        (answer,) = await ask(channel, "Unary", "x", metadata=walker, timeout=60.0)
    assert 30.0 < float(answer) < 60.5


async def test_an_error_of_a_callee_is_passed_on(street: Serving, walker: Metadata) -> None:
    async with street(raising(errors.QuotaExceeded(retry_after_seconds=7.0))) as callee:

        async def calling(text: str) -> str:
            return (await ask(callee, "Unary", text, metadata=walker))[0]

        async with street(calling) as channel:
            error = await refusal(ask(channel, "Unary", "x", metadata=walker))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert reason(error) == "QUOTA_EXCEEDED"
    assert detail(error, error_details_pb2.RetryInfo).retry_delay.seconds == 7


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_cancelled_call_stops_its_handler_at_once(street: Serving, walker: Metadata, shape: str) -> None:
    entered, left = asyncio.Event(), asyncio.Event()

    async def endless(text: str) -> str:
        entered.set()
        try:
            await asyncio.sleep(60)
        finally:
            left.set()
        return text

    async with street(endless) as channel:
        asking = asyncio.create_task(ask(channel, shape, "x", metadata=walker))
        await asyncio.wait_for(entered.wait(), 20)
        asking.cancel()
        await asyncio.wait_for(left.wait(), 20)


async def test_requests_that_are_broken_off_are_never_taken_for_all_of_them(
    signing_keys: SigningKeys, walker: Metadata
) -> None:
    begun, broken_off, completed = asyncio.Event(), 0, 0

    async def client_stream(requests: AsyncIterator[Any], _context: Any) -> Any:
        nonlocal broken_off, completed
        try:
            async for _ in requests:
                begun.set()
        except asyncio.CancelledError:
            broken_off += 1
            raise
        completed += 1
        return Pong()

    served, calls = endpoint(echo), 30
    walker_servicer: Any = served.servicer
    walker_servicer.client_stream = client_stream
    async with serving([served], signing_keys, config=quick_config()) as channel:
        for _ in range(calls):
            begun.clear()
            call = dialled(channel, "ClientStream")(metadata=walker)
            await call.write(b"")
            await asyncio.wait_for(begun.wait(), 20)
            call.cancel()
        await until(lambda: broken_off + completed == calls)
    assert completed == 0


async def test_a_reader_that_leaves_a_stream_stops_it(
    signing_keys: SigningKeys, walker: Metadata, capsys: pytest.CaptureFixture[str]
) -> None:
    closed = asyncio.Event()

    async def flood(text: str) -> str:
        return "x" * 30

    served = endpoint(flood)
    walker_servicer: Any = served.servicer

    async def server_stream(request: Any, context: Any) -> Any:
        try:
            while True:
                yield Pong(text="x" * 1000)
        finally:
            closed.set()

    walker_servicer.server_stream = server_stream
    async with serving([served], signing_keys, config=quick_config()) as channel:
        call = dialled(channel, "ServerStream")(b"", metadata=walker)
        await call.read()
        call.cancel()
        await until(closed.is_set)
    assert "internal_error" not in capsys.readouterr().out


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_handler_may_abort_by_itself(signing_keys: SigningKeys, walker: Metadata, shape: str) -> None:
    served = endpoint(echo)
    walking: Any = served.servicer

    async def aborting(text: str) -> str:
        await walking.context.abort(grpc.StatusCode.OUT_OF_RANGE, "past the end")
        return text

    walking._behaviour = aborting
    async with serving([served], signing_keys, config=quick_config()) as channel:
        error = await refusal(ask(channel, shape, "x", metadata=walker))
    assert error.code() is grpc.StatusCode.OUT_OF_RANGE


@pytest.mark.parametrize("shape", SHAPES)
async def test_many_long_violations_still_arrive_as_what_they_are(
    street: Serving, walker: Metadata, shape: str
) -> None:
    long = errors.FieldViolation('labels["' + "😀" * 400, "é preciso que seja mais curto " * 20, "string.max_len")
    limit = errors.QuotaViolation("user:" + "ã" * 200, "limite " * 100)
    for refused, kind, violations in (
        (errors.InvalidArgument(violations=[long] * 100), error_details_pb2.BadRequest, "field_violations"),
        (errors.QuotaExceeded(violations=[limit] * 100), error_details_pb2.QuotaFailure, "violations"),
    ):
        async with street(raising(refused)) as channel:
            error = await refusal(ask(channel, shape, "x", metadata=walker))
        assert (error.code(), reason(error)) == (refused.code, refused.reason)
        assert getattr(detail(error, kind), violations)
