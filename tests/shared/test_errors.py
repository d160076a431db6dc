"""The error tree: every kind over the wire and back."""

from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from prosa.common.v1 import error_reason_pb2
from shared import errors
from shared.errors import FieldViolation, QuotaViolation, ServiceError, error_of, status_of

KINDS: list[tuple[ServiceError, grpc.StatusCode, str, set[str]]] = [
    (
        errors.InvalidArgument(violations=[FieldViolation("page_size", "too small", "int32.gte")]),
        grpc.StatusCode.INVALID_ARGUMENT,
        "VALIDATION_FAILED",
        {"BadRequest"},
    ),
    (
        errors.InvalidArgument("bad bytes", reason="MALFORMED_MESSAGE"),
        grpc.StatusCode.INVALID_ARGUMENT,
        "MALFORMED_MESSAGE",
        set(),
    ),
    (errors.NotFound("conversation", "c1"), grpc.StatusCode.NOT_FOUND, "RESOURCE_NOT_FOUND", {"ResourceInfo"}),
    (
        errors.AlreadyExists("tenant", "t1"),
        grpc.StatusCode.ALREADY_EXISTS,
        "RESOURCE_ALREADY_EXISTS",
        {"ResourceInfo"},
    ),
    (
        errors.FailedPrecondition("expired", reason="RESERVATION_EXPIRED"),
        grpc.StatusCode.FAILED_PRECONDITION,
        "RESERVATION_EXPIRED",
        {"PreconditionFailure"},
    ),
    (
        errors.RequestIdReused(),
        grpc.StatusCode.FAILED_PRECONDITION,
        "REQUEST_ID_REUSED",
        {"PreconditionFailure"},
    ),
    (errors.Conflict("too late"), grpc.StatusCode.ABORTED, "CONFLICT", set()),
    (errors.RequestInProgress(), grpc.StatusCode.ABORTED, "REQUEST_IN_PROGRESS", {"RetryInfo"}),
    (
        errors.QuotaExceeded(
            violations=[QuotaViolation("tenant:t1", "1000 tokens per day")],
            metadata={"limit": "1000", "used": "1000", "window": "day"},
            retry_after_seconds=12.5,
        ),
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "QUOTA_EXCEEDED",
        {"QuotaFailure", "RetryInfo"},
    ),
    (
        errors.PermissionDenied("no", metadata={"permission": "a.b"}),
        grpc.StatusCode.PERMISSION_DENIED,
        "PERMISSION_MISSING",
        set(),
    ),
    (
        errors.Unauthenticated(reason="CREDENTIALS_EXPIRED"),
        grpc.StatusCode.UNAUTHENTICATED,
        "CREDENTIALS_EXPIRED",
        set(),
    ),
    (errors.DeadlineExceeded(), grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED", set()),
    (
        errors.Unavailable(dependency="mongodb"),
        grpc.StatusCode.UNAVAILABLE,
        "DEPENDENCY_UNAVAILABLE",
        {"RetryInfo"},
    ),
    (errors.Internal("e1"), grpc.StatusCode.INTERNAL, "INTERNAL", set()),
]


def received(status: Any, code: grpc.StatusCode | None = None) -> grpc.aio.AioRpcError:
    sent = rpc_status.to_status(status)
    return grpc.aio.AioRpcError(
        code or sent.code, grpc.aio.Metadata(), grpc.aio.Metadata(*sent.trailing_metadata), sent.details
    )


@pytest.mark.parametrize(("error", "code", "reason", "details"), KINDS, ids=lambda each: type(each).__name__)
def test_every_kind_has_its_status_and_details(
    error: ServiceError, code: grpc.StatusCode, reason: str, details: set[str]
) -> None:
    status = status_of(error, request_id="trace")
    kinds = [each.TypeName().rpartition(".")[2] for each in status.details]
    assert status.code == code.value[0]
    assert set(kinds) == {"ErrorInfo", "RequestInfo"} | details
    info = error_details_pb2.ErrorInfo()
    status.details[kinds.index("ErrorInfo")].Unpack(info)
    assert (info.reason, info.domain) == (reason, "prosa")
    assert dict(info.metadata) == dict(error.metadata)


@pytest.mark.parametrize("error", [kind[0] for kind in KINDS], ids=lambda error: error.reason)
def test_an_error_comes_back_as_it_was_sent(error: ServiceError) -> None:
    back = error_of(received(status_of(error)))
    assert isinstance(error, type(back))
    assert status_of(back) == status_of(error)
    assert str(back) == str(error)


@pytest.mark.parametrize("error", [kind[0] for kind in KINDS], ids=lambda error: error.reason)
def test_every_reason_is_in_the_contract(error: ServiceError) -> None:
    assert f"ERROR_REASON_{error.reason}" in error_reason_pb2.ErrorReason.keys()  # noqa: SIM118 no dict


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, errors.Unavailable),
        (grpc.StatusCode.CANCELLED, errors.Unavailable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, errors.DeadlineExceeded),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, errors.QuotaExceeded),
        (grpc.StatusCode.UNAUTHENTICATED, errors.Unauthenticated),
        (grpc.StatusCode.PERMISSION_DENIED, errors.PermissionDenied),
        (grpc.StatusCode.UNIMPLEMENTED, errors.Internal),
        (grpc.StatusCode.UNKNOWN, errors.Internal),
    ],
)
def test_what_grpc_itself_reports_becomes_the_nearest_kind(code: grpc.StatusCode, kind: type[ServiceError]) -> None:
    bare = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), "connect to 10.0.0.7 failed")
    error = error_of(bare)
    assert type(error) is kind
    assert "10.0.0.7" not in error.message


def test_details_that_contradict_the_code_are_not_believed() -> None:
    error = error_of(received(status_of(errors.NotFound("a", "b")), grpc.StatusCode.UNAVAILABLE))
    assert type(error) is errors.Unavailable


def test_a_foreign_rpc_error_shows_nothing() -> None:
    assert type(error_of(grpc.RpcError("secret"))) is errors.Internal


def test_details_stay_within_what_a_trailer_holds() -> None:
    many = [FieldViolation(f"field{i}", "x" * 5000, "rule") for i in range(500)]
    status = status_of(errors.InvalidArgument("m" * 5000, violations=many))
    assert len(status.SerializeToString()) < 8 * 1024


def test_foreign_and_missing_give_the_same_bytes() -> None:
    assert status_of(errors.NotFound("document", "d1")) == status_of(errors.NotFound("document", "d1"))
    assert "d1" not in errors.NotFound("document", "d1").message


def test_a_status_is_a_google_rpc_status() -> None:
    assert isinstance(status_of(errors.Internal()), status_pb2.Status)
