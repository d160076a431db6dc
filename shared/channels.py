"""How one service calls another: a channel that always sets a deadline, retries what is safe, and says who calls.

With a token of its own a service sends that as the actor and the end caller's token as the subject; without one it
forwards the caller's token. The trace and the remaining time travel along.
"""

import asyncio
import importlib
import json
import pkgutil
import re
from functools import cache
from typing import Any, Protocol

import grpc
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor
from pydantic import SecretStr

import prosa
from shared.client_interceptors import client_interceptors
from shared.clock import Clock, SystemClock
from shared.errors import PermissionDenied, Unauthenticated, Unavailable, error_of
from shared.telemetry import get_logger

# A token is renewed when this share of its life is left, so that no call starts with one about to end.
RENEW_AT_SHARE_LEFT = 1 / 3
# With less than this left a token is not handed out any more.
LAST_MOMENT_SECONDS = 2.0
AUTHENTICATE_TIMEOUT_SECONDS = 5.0
# All pauses together stay below a second: a person waits, and what to do about longer outages the caller knows best.
RETRY_POLICY = {
    "maxAttempts": 4,
    "initialBackoff": "0.1s",
    "maxBackoff": "0.4s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}

_SAFE_NAME = re.compile(r"(Get|List|Search|Check|Count|Describe|Diagnose)[A-Z]\w*|Get|List|Search|Authenticate")
_log = get_logger()


class TokenSource(Protocol):
    """Where a service's own token comes from."""

    async def get(self) -> str:
        """A token that is good for at least one call."""
        ...


def open_channel(
    target: str, *, token: TokenSource | None = None, on_behalf: bool = True, retries: bool = True
) -> grpc.aio.Channel:
    """A channel to `target` ("host:port" or "dns:///name:port"); the caller closes it.

    Calls without a timeout get 10 s (streams 300 s), or what is left of the current RPC's time when that is less; an
    explicit timeout is taken as it is. UNAVAILABLE is retried, only for reads and methods with a `request_id`: whoever
    leaves it empty wants `retries=False`. `on_behalf=False` with a `token` keeps the current caller out of it.
    """
    return grpc.aio.insecure_channel(
        target,
        options=[
            ("grpc.service_config", _service_config()),
            ("grpc.enable_retries", int(retries)),
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.keepalive_timeout_ms", 10_000),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 2_000),
            # Sizes are the server's to limit; a client only must not be stricter.
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
        ],
        interceptors=client_interceptors(token.get if token else None, on_behalf=on_behalf),
    )


class ServiceToken:
    """A service's own token: its key exchanged at tenant_quota, kept, and renewed before it ends.

    Many callers that find it stale cause one exchange, and wait for it only when the old token is of no more use.
    """

    def __init__(
        self, channel: grpc.aio.Channel, credential: SecretStr, clock: Clock | None = None, tenant_id: str = ""
    ) -> None:
        """`tenant_id` is the tenant to act for in the background; "" for none."""
        from prosa.tenant_quota.v1 import tenant_service_pb2, tenant_service_pb2_grpc

        self._stub = tenant_service_pb2_grpc.TenantServiceStub(channel)
        self._request = tenant_service_pb2.AuthenticateRequest(
            credential=credential.get_secret_value(), tenant_id=tenant_id
        )
        self._clock = clock or SystemClock()
        self._renewal: asyncio.Task[None] | None = None
        self._token = ""
        self._renew_at = self._ends_at = 0.0

    async def get(self) -> str:
        """The token. Raises a ServiceError, never one about credentials, when tenant_quota gives none."""
        now = self._now()
        if now >= self._renew_at:
            renewal = self._start_renewal()
            if now >= self._ends_at - LAST_MOMENT_SECONDS:
                await asyncio.shield(renewal)  # one caller that gives up must not take the others with it
        return self._token

    def _start_renewal(self) -> asyncio.Task[None]:
        if self._renewal is None or self._renewal.done():
            self._renewal = asyncio.create_task(self._renew())
            self._renewal.add_done_callback(_warn_of_failure)
        return self._renewal

    async def _renew(self) -> None:
        try:
            answer = await self._stub.Authenticate(self._request, timeout=AUTHENTICATE_TIMEOUT_SECONDS)
        except grpc.aio.AioRpcError as refused:
            error = error_of(refused)
            # It is our key that is refused, and the caller must not read it as being about theirs.
            if isinstance(error, Unauthenticated | PermissionDenied):
                raise Unavailable(dependency="tenant_quota") from error
            raise error from None
        now = self._now()
        self._token = answer.access_token
        self._ends_at = answer.expire_time.ToMilliseconds() / 1000
        self._renew_at = self._ends_at - (self._ends_at - now) * RENEW_AT_SHARE_LEFT

    def _now(self) -> float:
        return self._clock.now().timestamp()


def _warn_of_failure(renewal: asyncio.Task[None]) -> None:
    error = None if renewal.cancelled() else renewal.exception()
    if error is not None:
        first = error.__cause__ or error
        _log.warning("service_token_not_renewed", reason=getattr(first, "reason", type(first).__name__))


async def token_ready(token: ServiceToken) -> None:
    """For the readiness probe: raises when the service cannot prove who it is."""
    await token.get()


def retried(method: MethodDescriptor) -> bool:
    """Whether a call may be sent twice: a unary read, or a write that carries a `request_id`."""
    if method.client_streaming or method.server_streaming:
        return False
    return bool(_SAFE_NAME.fullmatch(method.name)) or "request_id" in method.input_type.fields_by_name


@cache
def _service_config() -> str:
    names = [
        {"service": service.full_name, "method": method.name}
        for file in _contracts()
        for service in file.services_by_name.values()
        for method in service.methods
        if retried(method)
    ]
    config: dict[str, Any] = {
        "loadBalancingConfig": [{"round_robin": {}}],
        # A dependency that is down gets at most this many extra calls before successes have to earn new ones.
        "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1},
    }
    if names:
        config["methodConfig"] = [{"name": names, "retryPolicy": RETRY_POLICY}]
    return json.dumps(config)


def _contracts() -> list[FileDescriptor]:
    """Every contract of the house, imported, because gRPC wants to know the methods when a channel opens."""
    modules = pkgutil.walk_packages(prosa.__path__, "prosa.")
    return [importlib.import_module(each.name).DESCRIPTOR for each in modules if each.name.endswith("_pb2")]
