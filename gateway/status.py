"""One table from gRPC's codes to HTTP's, and the google.rpc.Status JSON that every error of the gateway is."""

import json
from collections.abc import Sequence
from math import ceil

import grpc
from google.protobuf import json_format
from google.rpc import error_details_pb2, status_pb2

from shared.errors import FieldViolation, InvalidArgument, ServiceError, Unavailable, error_of, rich_status, status_of

HTTP_STATUS: dict[grpc.StatusCode, int] = {
    grpc.StatusCode.OK: 200,
    grpc.StatusCode.CANCELLED: 499,  # the client is gone: seen in logs only
    grpc.StatusCode.UNKNOWN: 500,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.FAILED_PRECONDITION: 400,  # deliberately not 412, which is about conditional requests
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DATA_LOSS: 500,
    grpc.StatusCode.UNAUTHENTICATED: 401,
}

# Where HTTP has a word of its own for the reason.
HTTP_STATUS_OF_REASON: dict[str, int] = {
    "BODY_TIMEOUT": 408,
    "DOCUMENT_TOO_LARGE": 413,
    "HEADERS_TOO_LARGE": 431,
    "MESSAGE_TOO_LARGE": 413,
    "METHOD_NOT_ALLOWED": 405,
    "RANGE_NOT_SATISFIABLE": 416,
    "UNSUPPORTED_MEDIA_TYPE": 415,
}

_CODES = {code.value[0]: code for code in grpc.StatusCode}
CHALLENGE = 'Bearer realm="prosa"'


class RouteNotFound(ServiceError):
    """No RPC is bound to this path."""

    code = grpc.StatusCode.NOT_FOUND
    reason = "ROUTE_NOT_FOUND"

    def __init__(self) -> None:
        super().__init__("there is nothing at this path")


class MethodNotAllowed(ServiceError):
    """The path is known, with other HTTP methods."""

    code = grpc.StatusCode.UNIMPLEMENTED
    reason = "METHOD_NOT_ALLOWED"

    def __init__(self, allowed: Sequence[str]) -> None:
        self.allow = ", ".join(allowed)
        super().__init__(f"this path takes {self.allow}", metadata={"allow": self.allow})


class MethodNotImplemented(ServiceError):
    """The service behind this route does not know the RPC: it is older than the gateway."""

    code = grpc.StatusCode.UNIMPLEMENTED
    reason = "METHOD_NOT_IMPLEMENTED"


class BodyTooLarge(ServiceError):
    """More bytes than are taken, counted as they come."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "MESSAGE_TOO_LARGE"

    def __init__(self, limit: int) -> None:
        super().__init__(f"the body is larger than {limit} bytes", metadata={"max_bytes": str(limit)})


class BodyTimeout(ServiceError):
    """The body did not come in time."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED
    reason = "BODY_TIMEOUT"

    def __init__(self) -> None:
        super().__init__("the body did not come in time")


class UnsupportedMediaType(ServiceError):
    """The Content-Type is none that this path reads."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = "UNSUPPORTED_MEDIA_TYPE"


class RangeNotSatisfiable(ServiceError):
    """The file ends before the range that was asked for begins."""

    code = grpc.StatusCode.OUT_OF_RANGE
    reason = "RANGE_NOT_SATISFIABLE"

    def __init__(self, size: int) -> None:
        self.content_range = f"bytes */{size}"
        super().__init__(f"the file has {size} bytes", metadata={"size_bytes": str(size)})


class HeadersTooLarge(ServiceError):
    """The request line and headers are larger than is taken."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "HEADERS_TOO_LARGE"


def malformed(message: str, *violations: FieldViolation) -> InvalidArgument:
    """The bytes are no request: bad JSON, bad UTF-8, a name that the request does not have."""
    return InvalidArgument(message, reason="MALFORMED_MESSAGE", violations=violations)


def upstream_status(error: grpc.aio.AioRpcError, upstream: str, request_id: str) -> status_pb2.Status:
    """What a service answered, as it answered it; what gRPC itself reports, in the words of the house."""
    status = rich_status(error)
    if status is not None and reason_of(status):
        return _with_request_id(status, request_id)
    if error.code() is grpc.StatusCode.UNIMPLEMENTED:
        return status_of(MethodNotImplemented("the service does not know this method"), request_id=request_id)
    plain = error_of(error)
    if isinstance(plain, Unavailable):
        plain = Unavailable(dependency=upstream)
    return status_of(plain, request_id=request_id)


def http_status(status: status_pb2.Status) -> int:
    """The HTTP status of an error."""
    by_reason = HTTP_STATUS_OF_REASON.get(reason_of(status))
    return by_reason or HTTP_STATUS[_CODES.get(status.code, grpc.StatusCode.UNKNOWN)]


def reason_of(status: status_pb2.Status) -> str:
    """The reason in ErrorInfo, or the empty string."""
    info = error_details_pb2.ErrorInfo()
    return str(info.reason) if _unpack(status, info) else ""


def headers_of(status: status_pb2.Status, error: Exception | None = None) -> list[tuple[str, str]]:
    """The headers that go with an error: WWW-Authenticate, Retry-After, Allow, Content-Range."""
    http = http_status(status)
    if http == 401:
        reason = reason_of(status)
        told = "" if reason == "CREDENTIALS_MISSING" else ', error="invalid_token"'
        return [("www-authenticate", CHALLENGE + told)]
    if isinstance(error, MethodNotAllowed):
        return [("allow", error.allow)]
    if isinstance(error, RangeNotSatisfiable):
        return [("content-range", error.content_range)]
    retry = error_details_pb2.RetryInfo()
    if _unpack(status, retry):
        return [("retry-after", str(max(1, ceil(retry.retry_delay.ToMilliseconds() / 1000))))]
    return [("retry-after", "1")] if http == 503 else []


def json_of(status: status_pb2.Status) -> bytes:
    """The status as its proto3 JSON, on one line."""
    try:
        shown = json_format.MessageToDict(status)
    except (TypeError, ValueError):  # a detail of a type that is not known here
        shown = {"message": status.message, "details": []}
    body = {"code": status.code, "message": shown.get("message", ""), "details": shown.get("details", [])}
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def _with_request_id(status: status_pb2.Status, request_id: str) -> status_pb2.Status:
    """One id for the client: that of its answer, which is the trace's."""
    kept = [detail for detail in status.details if not detail.Is(error_details_pb2.RequestInfo.DESCRIPTOR)]
    own = status_pb2.Status(code=status.code, message=status.message, details=kept)
    if request_id:
        own.details.add().Pack(error_details_pb2.RequestInfo(request_id=request_id))
    return own


def _unpack(
    status: status_pb2.Status,
    into: error_details_pb2.ErrorInfo | error_details_pb2.RetryInfo,
) -> bool:
    return any(detail.Unpack(into) for detail in status.details)
