"""Everything that may go wrong, as one tree; one interceptor turns it into a google.rpc.Status with details.

    ServiceError                          never raised itself
    ├── InvalidArgument                   INVALID_ARGUMENT     the request is wrong whatever the state
    ├── NotFound · AlreadyExists          NOT_FOUND · ALREADY_EXISTS
    ├── FailedPrecondition                FAILED_PRECONDITION  the state is wrong; retrying will not help
    │   └── RequestIdReused
    ├── Conflict                          ABORTED              someone else was first; read again and retry
    │   └── RequestInProgress
    ├── QuotaExceeded                     RESOURCE_EXHAUSTED   the caller's own limit
    ├── PermissionDenied · Unauthenticated
    ├── DeadlineExceeded                  DEADLINE_EXCEEDED    a callee did not answer in time
    ├── Unavailable                       UNAVAILABLE          a dependency is down; retry with backoff
    └── Internal                          INTERNAL             a bug, here or in a callee; never shown

Domain errors are three-line subclasses in a service's model.py: a `reason` and its metadata.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import floor
from typing import ClassVar, TypeVar

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

DOMAIN = "prosa"

_Violation = TypeVar("_Violation", bound=Message)

# Status details travel in a trailer, which clients cap at 8 KiB by default.
MAX_VIOLATIONS = 20
MAX_VIOLATIONS_BYTES = 4096
MAX_TEXT = 300


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field that breaks one rule: its path in the request, what is wrong, and the rule's id."""

    field: str
    description: str
    reason: str


@dataclass(frozen=True, slots=True)
class QuotaViolation:
    """One limit that was passed: whose (`tenant:…`, `user:…`) and in which words."""

    subject: str
    description: str


class ServiceError(Exception):
    """What every error of the tree carries.

    `reason` is UPPER_SNAKE and listed in common/v1/error_reason.proto; clients branch on it, never on the
    message. `retry_after_seconds` becomes RetryInfo.
    """

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL
    reason: str = "INTERNAL"
    usual_message: ClassVar[str] = "the call failed"
    usual_wait_seconds: ClassVar[float | None] = None

    def __init__(
        self,
        message: str | None = None,
        *,
        reason: str | None = None,
        metadata: Mapping[str, str] | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        self.message = self.usual_message if message is None else message
        super().__init__(self.message)
        self.reason = reason or type(self).reason
        self.metadata: Mapping[str, str] = dict(metadata or {})
        self.retry_after_seconds = self.usual_wait_seconds if retry_after_seconds is None else retry_after_seconds

    def details(self) -> list[Message]:
        """The google.rpc details of this kind of error, beside ErrorInfo, RetryInfo and RequestInfo."""
        return []


class InvalidArgument(ServiceError):
    """The request is wrong whatever the state; `violations` name the fields."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = "VALIDATION_FAILED"

    def __init__(
        self,
        message: str = "the request is not valid",
        *,
        violations: Sequence[FieldViolation] = (),
        reason: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, reason=reason, metadata=metadata)
        self.violations = tuple(violations)

    def details(self) -> list[Message]:
        if not self.violations:
            return []
        shown = [
            error_details_pb2.BadRequest.FieldViolation(
                field=broken.field[:MAX_TEXT], description=broken.description[:MAX_TEXT], reason=broken.reason
            )
            for broken in self.violations[:MAX_VIOLATIONS]
        ]
        return [error_details_pb2.BadRequest(field_violations=_fitting(shown))]


class _ResourceError(ServiceError):
    phrase: ClassVar[str]

    def __init__(
        self,
        resource_type: str,
        resource_name: str,
        *,
        reason: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(f"{resource_type} {self.phrase}", reason=reason, metadata=metadata)
        self.resource_type = resource_type
        self.resource_name = resource_name

    def details(self) -> list[Message]:
        return [
            error_details_pb2.ResourceInfo(
                resource_type=self.resource_type, resource_name=self.resource_name[:MAX_TEXT]
            )
        ]


class NotFound(_ResourceError):
    """No such resource for this caller: a foreign one and a missing one give the same bytes."""

    code = grpc.StatusCode.NOT_FOUND
    reason = "RESOURCE_NOT_FOUND"
    phrase = "not found"


class AlreadyExists(_ResourceError):
    """A resource of this name is there already, and not because of a retry."""

    code = grpc.StatusCode.ALREADY_EXISTS
    reason = "RESOURCE_ALREADY_EXISTS"
    phrase = "already exists"


class FailedPrecondition(ServiceError):
    """The state is wrong; the same call will fail again until somebody changes the state."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = "PRECONDITION_FAILED"

    def details(self) -> list[Message]:
        violation = error_details_pb2.PreconditionFailure.Violation(
            type=self.reason, description=self.message[:MAX_TEXT]
        )
        return [error_details_pb2.PreconditionFailure(violations=[violation])]


class RequestIdReused(FailedPrecondition):
    """The request_id was used before with another payload."""

    reason = "REQUEST_ID_REUSED"
    usual_message = "this request_id was used with another payload"


class Conflict(ServiceError):
    """Someone else was first: read again, decide again, retry."""

    code = grpc.StatusCode.ABORTED
    reason = "CONFLICT"


class RequestInProgress(Conflict):
    """The first call with this request_id is still running."""

    reason = "REQUEST_IN_PROGRESS"
    usual_message = "the first call with this request_id is still running"
    usual_wait_seconds = 1.0


class QuotaExceeded(ServiceError):
    """The caller's own limit is used up; `retry_after_seconds` is the end of the window, if there is one."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "QUOTA_EXCEEDED"

    def __init__(
        self,
        message: str = "the quota is used up",
        *,
        violations: Sequence[QuotaViolation] = (),
        reason: str | None = None,
        metadata: Mapping[str, str] | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message, reason=reason, metadata=metadata, retry_after_seconds=retry_after_seconds)
        self.violations = tuple(violations)

    def details(self) -> list[Message]:
        if not self.violations:
            return []
        shown = [
            error_details_pb2.QuotaFailure.Violation(
                subject=passed.subject[:MAX_TEXT], description=passed.description[:MAX_TEXT]
            )
            for passed in self.violations[:MAX_VIOLATIONS]
        ]
        return [error_details_pb2.QuotaFailure(violations=_fitting(shown))]


class PermissionDenied(ServiceError):
    """The caller is known and may not do this."""

    code = grpc.StatusCode.PERMISSION_DENIED
    reason = "PERMISSION_MISSING"


class Unauthenticated(ServiceError):
    """Nobody stands behind the credentials; every invalid case has the same message."""

    code = grpc.StatusCode.UNAUTHENTICATED
    reason = "CREDENTIALS_INVALID"
    usual_message = "the credentials are not valid"


class DeadlineExceeded(ServiceError):
    """The work, or a callee, did not end within the caller's deadline; the outcome of a write is unknown."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED
    reason = "DEADLINE_EXCEEDED"
    usual_message = "the deadline passed"


class Unavailable(ServiceError):
    """A dependency is down or overloaded; retry the same call, with backoff. `dependency` names it."""

    code = grpc.StatusCode.UNAVAILABLE
    reason = "DEPENDENCY_UNAVAILABLE"

    def __init__(
        self,
        message: str = "a dependency is unavailable",
        *,
        dependency: str = "",
        reason: str | None = None,
        metadata: Mapping[str, str] | None = None,
        retry_after_seconds: float | None = 1.0,
    ) -> None:
        named = {"dependency": dependency} if dependency else {}
        super().__init__(
            message,
            reason=reason,
            metadata={**named, **(metadata or {})},
            retry_after_seconds=retry_after_seconds,
        )


class Internal(ServiceError):
    """A bug, here or in a callee: the client always sees the same two words and the id that finds the log."""

    code = grpc.StatusCode.INTERNAL
    reason = "INTERNAL"

    def __init__(self, error_id: str = "", *, metadata: Mapping[str, str] | None = None) -> None:
        named = {"error_id": error_id} if error_id else {}
        super().__init__("internal error", metadata={**named, **(metadata or {})})


_PLAIN_KINDS: dict[grpc.StatusCode, type[ServiceError]] = {
    kind.code: kind
    for kind in (
        FailedPrecondition,
        Conflict,
        PermissionDenied,
        Unauthenticated,
        DeadlineExceeded,
        Unavailable,
    )
}


def status_of(error: ServiceError, *, request_id: str = "") -> status_pb2.Status:
    """The error as it goes over the wire; `request_id` is the trace id, or empty when there is none."""
    status = status_pb2.Status(code=error.code.value[0], message=error.message[:MAX_TEXT])
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=dict(error.metadata))
    details: list[Message] = [info, *error.details()]
    if error.retry_after_seconds is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(max(0, floor(error.retry_after_seconds * 1000)))
        details.append(retry)
    if request_id:
        details.append(error_details_pb2.RequestInfo(request_id=request_id))
    for detail in details:
        status.details.add().Pack(detail, deterministic=True)
    return status


def error_of(rpc_error: grpc.RpcError) -> ServiceError:
    """The way back: the callee's error with its code, reason, metadata and details, fit to be passed on.

    What gRPC itself reports (no details) becomes the nearest kind; a callee's bug becomes Internal.
    """
    if not isinstance(rpc_error, grpc.aio.AioRpcError):
        return Internal()
    status = rich_status(rpc_error)
    if status is None:
        return _core_error(rpc_error.code())
    return _rebuilt(rpc_error.code(), status)


def rich_status(rpc_error: grpc.aio.AioRpcError) -> status_pb2.Status | None:
    """The google.rpc.Status that a service sent; None when it is gRPC itself that reports."""
    try:
        status = rpc_status.from_call(rpc_error)
    except ValueError:  # the details contradict the code: trust the code alone
        return None
    return status if isinstance(status, status_pb2.Status) else None


def _core_error(code: grpc.StatusCode) -> ServiceError:
    match code:
        case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.CANCELLED:
            return Unavailable()
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return DeadlineExceeded()
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return QuotaExceeded("the message is too large", reason="MESSAGE_TOO_LARGE")
        case grpc.StatusCode.UNAUTHENTICATED:
            return Unauthenticated()
        case grpc.StatusCode.PERMISSION_DENIED:
            return PermissionDenied("permission denied")
        case _:
            return Internal()


def _rebuilt(code: grpc.StatusCode, status: status_pb2.Status) -> ServiceError:
    info = error_details_pb2.ErrorInfo()
    _unpack(status, info)
    metadata = dict(info.metadata)
    retry = error_details_pb2.RetryInfo()
    retry_after = retry.retry_delay.ToMilliseconds() / 1000 if _unpack(status, retry) else None
    error: ServiceError
    match code:
        case grpc.StatusCode.INVALID_ARGUMENT:
            error = InvalidArgument(status.message, violations=_field_violations(status))
        case grpc.StatusCode.NOT_FOUND:
            error = NotFound(*_resource(status))
        case grpc.StatusCode.ALREADY_EXISTS:
            error = AlreadyExists(*_resource(status))
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            error = QuotaExceeded(status.message, violations=_quota_violations(status))
        case _ if code in _PLAIN_KINDS:
            error = _PLAIN_KINDS[code](status.message)
        case _:
            return Internal(metadata={key: metadata[key] for key in metadata if key == "error_id"})
    error.message = status.message
    error.args = (status.message,)
    error.reason = info.reason or error.reason
    error.metadata = metadata
    error.retry_after_seconds = retry_after
    return error


def _fitting(violations: Sequence[_Violation]) -> Sequence[_Violation]:
    """The first of them, as many as a trailer takes."""
    sizes = accumulate(violation.ByteSize() for violation in violations)
    return violations[: sum(size <= MAX_VIOLATIONS_BYTES for size in sizes)]


def _unpack(status: status_pb2.Status, into: Message) -> bool:
    return any(detail.Unpack(into) for detail in status.details)


def _field_violations(status: status_pb2.Status) -> list[FieldViolation]:
    bad = error_details_pb2.BadRequest()
    _unpack(status, bad)
    return [FieldViolation(each.field, each.description, each.reason) for each in bad.field_violations]


def _quota_violations(status: status_pb2.Status) -> list[QuotaViolation]:
    failure = error_details_pb2.QuotaFailure()
    _unpack(status, failure)
    return [QuotaViolation(each.subject, each.description) for each in failure.violations]


def _resource(status: status_pb2.Status) -> tuple[str, str]:
    info = error_details_pb2.ResourceInfo()
    _unpack(status, info)
    return info.resource_type, info.resource_name
