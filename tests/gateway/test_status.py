"""gRPC's codes and HTTP's, and the JSON of an error."""

import json

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from gateway.status import (
    HTTP_STATUS,
    HTTP_STATUS_OF_REASON,
    BodyTimeout,
    BodyTooLarge,
    HeadersTooLarge,
    MethodNotAllowed,
    RouteNotFound,
    UnsupportedMediaType,
    headers_of,
    http_status,
    json_of,
    malformed,
    upstream_status,
)
from prosa.common.v1 import error_reason_pb2
from shared.errors import (
    AlreadyExists,
    Conflict,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    QuotaExceeded,
    ServiceError,
    Unauthenticated,
    Unavailable,
    status_of,
)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (InvalidArgument(), 400),
        (malformed("x"), 400),
        (FailedPrecondition("x"), 400),
        (Unauthenticated(), 401),
        (PermissionDenied("x"), 403),
        (NotFound("a", "b"), 404),
        (RouteNotFound(), 404),
        (MethodNotAllowed(["GET"]), 405),
        (BodyTimeout(), 408),
        (AlreadyExists("a", "b"), 409),
        (Conflict("x"), 409),
        (BodyTooLarge(1), 413),
        (QuotaExceeded("x", reason="MESSAGE_TOO_LARGE"), 413),
        (UnsupportedMediaType("x"), 415),
        (QuotaExceeded(), 429),
        (HeadersTooLarge("x"), 431),
        (Internal(), 500),
        (Unavailable(), 503),
        (DeadlineExceeded(), 504),
    ],
)
def test_every_error_has_its_http_status(error: ServiceError, expected: int) -> None:
    assert http_status(status_of(error)) == expected


def test_every_grpc_code_has_a_place_in_the_table() -> None:
    assert set(HTTP_STATUS) == set(grpc.StatusCode)
    assert http_status(status_pb2.Status(code=99)) == 500


def test_reasons_with_a_status_of_their_own_are_in_the_contract() -> None:
    listed = {name.removeprefix("ERROR_REASON_") for name in error_reason_pb2.ErrorReason.keys()}  # noqa: SIM118
    assert set(HTTP_STATUS_OF_REASON) - {"DOCUMENT_TOO_LARGE"} <= listed


def test_an_error_is_its_status_as_json() -> None:
    body = json.loads(json_of(status_of(QuotaExceeded(retry_after_seconds=2.5), request_id="t")))
    assert body["code"] == 8
    assert [detail["@type"].rpartition(".")[2] for detail in body["details"]] == [
        "ErrorInfo",
        "RetryInfo",
        "RequestInfo",
    ]
    assert body["details"][1]["retryDelay"] == "2.500s"


def test_a_detail_nobody_knows_does_not_hide_the_error() -> None:
    status = status_pb2.Status(code=5, message="x", details=[any_pb2.Any(type_url="a/b.C", value=b"1")])
    assert json.loads(json_of(status)) == {"code": 5, "message": "x", "details": []}


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (QuotaExceeded(retry_after_seconds=0.2), [("retry-after", "1")]),
        (QuotaExceeded(retry_after_seconds=41.2), [("retry-after", "42")]),
        (QuotaExceeded(), []),
        (Unavailable(retry_after_seconds=None), [("retry-after", "1")]),
        (MethodNotAllowed(["GET", "PUT"]), [("allow", "GET, PUT")]),
        (Unauthenticated(reason="CREDENTIALS_MISSING"), [("www-authenticate", 'Bearer realm="prosa"')]),
        (Unauthenticated(), [("www-authenticate", 'Bearer realm="prosa", error="invalid_token"')]),
        (NotFound("a", "b"), []),
    ],
)
def test_headers_go_with_errors(error: ServiceError, expected: list[tuple[str, str]]) -> None:
    assert headers_of(status_of(error), error) == expected


def _core(code: grpc.StatusCode, details: str = "socket /secret/path closed") -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details)


@pytest.mark.parametrize(
    ("code", "http", "reason"),
    [
        (grpc.StatusCode.UNAVAILABLE, 503, "DEPENDENCY_UNAVAILABLE"),
        (grpc.StatusCode.CANCELLED, 503, "DEPENDENCY_UNAVAILABLE"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, 504, "DEADLINE_EXCEEDED"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, 413, "MESSAGE_TOO_LARGE"),
        (grpc.StatusCode.UNIMPLEMENTED, 501, "METHOD_NOT_IMPLEMENTED"),
        (grpc.StatusCode.UNKNOWN, 500, "INTERNAL"),
        (grpc.StatusCode.INTERNAL, 500, "INTERNAL"),
        (grpc.StatusCode.UNAUTHENTICATED, 401, "CREDENTIALS_INVALID"),
    ],
)
def test_what_grpc_itself_reports_gets_a_reason_and_loses_its_text(
    code: grpc.StatusCode, http: int, reason: str
) -> None:
    status = upstream_status(_core(code), "chat_store", "t")
    assert http_status(status) == http
    body = json_of(status).decode()
    assert reason in body
    assert "secret" not in body


def test_what_a_service_says_is_passed_on_with_our_request_id() -> None:
    said = status_of(NotFound("conversation", "c"), request_id="theirs")
    said.details.add().Pack(error_details_pb2.Help(links=[{"url": "https://example.org"}]))
    trailers = grpc.aio.Metadata(*rpc_status.to_status(said).trailing_metadata)
    error = grpc.aio.AioRpcError(grpc.StatusCode.NOT_FOUND, grpc.aio.Metadata(), trailers, said.message)
    status = upstream_status(error, "chat_store", "ours")
    kinds = [detail.type_url.rpartition(".")[2] for detail in status.details]
    assert kinds == ["ErrorInfo", "ResourceInfo", "Help", "RequestInfo"]
    assert b"ours" in json_of(status)
