"""Envoy's messages ↔ the edge's nouns."""

import math
from collections.abc import Sequence

from envoy.config.core.v3.base_pb2 import HeaderValue
from envoy.extensions.common.ratelimit.v3.ratelimit_pb2 import RateLimitDescriptor
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest, RateLimitResponse
from google.protobuf.duration_pb2 import Duration

from services.tenant_quota.edge import MOST_DESCRIPTORS, Descriptor, Descriptors, tightest
from services.tenant_quota.rates import Standing, Verdict
from shared.errors import FieldViolation, InvalidArgument

_OK, _OVER_LIMIT = RateLimitResponse.OK, RateLimitResponse.OVER_LIMIT
_MINUTE = RateLimitResponse.RateLimit.MINUTE
_MINUTE_SECONDS = 60.0


async def descriptors(request: RateLimitRequest, reader: Descriptors) -> list[Descriptor]:
    """What the request is to be limited by; InvalidArgument when there are none or too many."""
    if not 1 <= len(request.descriptors) <= MOST_DESCRIPTORS:
        text = f"must be 1 to {MOST_DESCRIPTORS}"
        raise InvalidArgument(violations=[FieldViolation("descriptors", text, "descriptors.count")])
    usual = request.hits_addend or 1
    return [
        await reader.read({entry.key: entry.value for entry in each.entries}, _hits(each, usual))
        for each in request.descriptors
    ]


def response(asked: Sequence[Descriptor], verdict: Verdict) -> RateLimitResponse:
    """The answer: one status for each descriptor, and headers for the client."""
    return RateLimitResponse(
        overall_code=_OVER_LIMIT if verdict.full else _OK,
        statuses=[_status(descriptor.tightest(verdict)) for descriptor in asked],
        response_headers_to_add=_headers(verdict),
    )


def _hits(descriptor: RateLimitDescriptor, usual: int) -> int:
    return int(descriptor.hits_addend.value) if descriptor.HasField("hits_addend") else usual


def _status(standing: Standing | None) -> RateLimitResponse.DescriptorStatus:
    if standing is None:
        return RateLimitResponse.DescriptorStatus(code=_OK)
    reset = Duration()
    reset.FromMilliseconds(round(_reset_seconds(standing) * 1000))
    return RateLimitResponse.DescriptorStatus(
        code=_OVER_LIMIT if standing.full else _OK,
        current_limit=RateLimitResponse.RateLimit(
            name=standing.share.subject.level.name.lower(), requests_per_unit=standing.share.limit, unit=_MINUTE
        ),
        limit_remaining=standing.remaining,
        duration_until_reset=reset,
    )


def _headers(verdict: Verdict) -> list[HeaderValue]:
    standing = tightest(verdict.standings)
    if standing is None:
        return []
    headers = {
        "x-ratelimit-limit": f"{standing.share.limit}, {standing.share.limit};w=60",
        "x-ratelimit-remaining": f"{standing.remaining}",
        "x-ratelimit-reset": f"{math.ceil(_reset_seconds(standing))}",
    }
    if verdict.full and verdict.wait_seconds is not None:
        headers["retry-after"] = f"{math.ceil(verdict.wait_seconds)}"
    return [HeaderValue(key=key, value=value) for key, value in headers.items()]


def _reset_seconds(standing: Standing) -> float:
    """Until there is room for a refused request; else until all of the limit is free again."""
    if not standing.full:
        return standing.reset_seconds
    return _MINUTE_SECONDS if standing.wait_seconds is None else standing.wait_seconds
