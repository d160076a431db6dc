"""The services behind the gateway: one channel each, the calls over it, and whether they serve."""

import asyncio
from collections.abc import Mapping
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway.credentials import Token
from gateway.routes import Route
from prosa.tenant_quota.v1 import tenant_service_pb2, tenant_service_pb2_grpc
from shared.channels import AUTHENTICATE_TIMEOUT_SECONDS, open_channel
from shared.errors import DeadlineExceeded, ServiceError, Unavailable, error_of

HEALTH_TIMEOUT_SECONDS = 2.0
SERVING = "SERVING"


class Upstreams:
    """Open channels to every service, by name; the messages that go over them are bytes already."""

    def __init__(self, targets: Mapping[str, str]) -> None:
        self._channels = {name: open_channel(target) for name, target in targets.items()}
        self._without_retries = {name: open_channel(target, retries=False) for name, target in targets.items()}
        self._callables: dict[tuple[str, bool], Any] = {}

    def callable_of(self, route: Route, *, retries: bool = True) -> Any:
        """gRPC's callable for a route, from request bytes to response bytes."""
        found = self._callables.get((route.rpc_path, retries))
        if found is None:
            channel = (self._channels if retries else self._without_retries)[route.upstream]
            arity = ("stream" if route.uploads else "unary") + ("_stream" if route.streams else "_unary")
            found = getattr(channel, arity)(route.rpc_path)
            self._callables[route.rpc_path, retries] = found
        return found

    async def authenticate(self, credential: str) -> Token:
        """Exchanges an API key at tenant_quota; Unauthenticated or Unavailable."""
        stub = tenant_service_pb2_grpc.TenantServiceStub(self._channels["tenant_quota"])
        request = tenant_service_pb2.AuthenticateRequest(credential=credential)
        try:
            answer = await stub.Authenticate(request, timeout=AUTHENTICATE_TIMEOUT_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise _without_details(error_of(error)) from None
        return Token(answer.access_token, answer.expire_time.ToMilliseconds() / 1000)

    async def health(self) -> dict[str, str]:
        """What each service says of itself: SERVING, NOT_SERVING, or UNREACHABLE."""
        answers = await asyncio.gather(*(self._health(channel) for channel in self._channels.values()))
        return dict(zip(self._channels, answers, strict=True))

    async def close(self) -> None:
        """Closes the channels; calls in flight are cancelled."""
        channels = (*self._channels.values(), *self._without_retries.values())
        await asyncio.gather(*(channel.close() for channel in channels))

    @staticmethod
    async def _health(channel: grpc.aio.Channel) -> str:
        request = health_pb2.HealthCheckRequest()
        try:
            answer = await health_pb2_grpc.HealthStub(channel).Check(request, timeout=HEALTH_TIMEOUT_SECONDS)
        except grpc.aio.AioRpcError:
            return "UNREACHABLE"
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def _without_details(error: ServiceError) -> ServiceError:
    """Whatever keeps tenant_quota from answering keeps the caller out, and is no fault of the request."""
    no_answer = isinstance(error, Unavailable | DeadlineExceeded)
    return Unavailable(dependency="tenant_quota") if no_answer else error
