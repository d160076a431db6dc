"""Envoy's RateLimitService: one RPC, one intent."""

from typing import Any

from envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest, RateLimitResponse
from envoy.service.ratelimit.v3.rls_pb2_grpc import RateLimitServiceServicer

from services.tenant_quota import edge_wire
from services.tenant_quota.edge import Descriptors, clean_domain, hits_of
from services.tenant_quota.rates import Rates


class EdgeHandlers(RateLimitServiceServicer):
    """Answers a proxy that asks whether a request is over a limit."""

    def __init__(self, rates: Rates, descriptors: Descriptors) -> None:
        self._rates = rates
        self._descriptors = descriptors

    async def ShouldRateLimit(self, request: RateLimitRequest, _: Any) -> RateLimitResponse:
        """Counted, or over the limit."""
        asked = await edge_wire.descriptors(request, self._descriptors)
        verdict = await self._rates.admit(clean_domain(request.domain), hits_of(asked))
        return edge_wire.response(asked, verdict)
