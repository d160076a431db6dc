"""Requests per minute through the wire: ReserveTokens counts them for tenant, user and key before it holds anything."""

import asyncio

import grpc

from prosa.tenant_quota.v1 import quota_service_pb2 as pb
from services.tenant_quota.rate_limits import KNOWN_SECONDS
from tests.house.in_process import Metadata, as_caller, token
from tests.tenant_quota.world import Platform, counters, fresh, new_tenant, new_user, refusal


def holder(platform: Platform, tenant_id: str, user_id: str, key_id: str) -> Metadata:
    """An internal service that acts for this user with this key."""
    scopes = {"quota.reserve", "quota.read"}
    return as_caller(token(platform.keys, tenant_id=tenant_id, user_id=user_id, key_id=key_id, scopes=scopes))


async def set_limit(platform: Platform, tenant_id: str, requests_per_minute: int, user_id: str = "") -> None:
    quota = pb.Quota(requests_per_minute=requests_per_minute)
    request = pb.SetQuotaRequest(tenant_id=tenant_id, user_id=user_id, quota=quota)
    await platform.quotas.SetQuota(request, metadata=platform.admin())


async def test_a_caller_who_asks_too_often_is_told_whose_limit_it_is_and_when_to_come_again(platform: Platform) -> None:
    tenant_id = await new_tenant(platform.pool)
    user_id = await new_user(platform.pool, tenant_id)
    await set_limit(platform, tenant_id, 5)
    await set_limit(platform, tenant_id, 3, user_id)
    caller = holder(platform, tenant_id, user_id, "key-1")
    for _ in range(3):
        await platform.quotas.ReserveTokens(pb.ReserveTokensRequest(tokens=10), metadata=caller)
    refused = await refusal(platform.quotas.ReserveTokens(pb.ReserveTokensRequest(tokens=10), metadata=caller))
    assert (refused.code, refused.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED")
    assert refused.quota_subjects == [f"user:{user_id}"]
    assert {name: refused.metadata[name] for name in ("window", "limit", "used", "wanted")} == {
        "window": "minute",
        "limit": "3",
        "used": "3",
        "wanted": "1",
    }
    assert 55 < refused.retry_seconds <= 60.05
    assert (await counters(platform.pool, tenant_id)).held == 30, "what is refused for its rate holds nothing"


async def test_64_callers_through_the_wire_make_no_more_requests_than_they_may(platform: Platform) -> None:
    tenant_id = await new_tenant(platform.pool)
    await set_limit(platform, tenant_id, 20)

    async def ask(number: int) -> bool:
        caller = holder(platform, tenant_id, fresh("user"), f"key-{number}")
        call = platform.quotas.ReserveTokens(pb.ReserveTokensRequest(tokens=1), metadata=caller)
        code = await call.code()
        assert code in (grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED)
        return code is grpc.StatusCode.OK

    assert sum(await asyncio.gather(*(ask(number) for number in range(64)))) == 20
    assert (await counters(platform.pool, tenant_id)).held == 20


async def test_a_granted_request_that_is_repeated_is_not_too_much(platform: Platform) -> None:
    tenant_id = await new_tenant(platform.pool)
    await set_limit(platform, tenant_id, 2)
    caller = holder(platform, tenant_id, "maria", "key-1")
    request = pb.ReserveTokensRequest(tokens=10, request_id="turn-1")
    first = await platform.quotas.ReserveTokens(request, metadata=caller)
    again = [await platform.quotas.ReserveTokens(request, metadata=caller) for _ in range(5)]
    assert {each.reservation_id for each in again} == {first.reservation_id}
    request.request_id = "turn-2"
    refused = await refusal(platform.quotas.ReserveTokens(request, metadata=caller))
    assert refused.reason == "RATE_LIMITED"
    request.request_id = "turn-1"
    request.tokens = 11
    refused = await refusal(platform.quotas.ReserveTokens(request, metadata=caller))
    assert refused.reason == "REQUEST_ID_REUSED"


async def test_another_tenant_s_request_id_opens_nothing(platform: Platform) -> None:
    mine, other = await new_tenant(platform.pool), await new_tenant(platform.pool)
    request = pb.ReserveTokensRequest(tokens=10, request_id="turn-1")
    await platform.quotas.ReserveTokens(request, metadata=holder(platform, other, "", "key-1"))
    await set_limit(platform, mine, 0)
    refused = await refusal(platform.quotas.ReserveTokens(request, metadata=holder(platform, mine, "", "key-1")))
    assert (refused.reason, refused.quota_subjects) == ("RATE_LIMITED", [f"tenant:{mine}"])


async def test_a_new_limit_is_kept_within_five_seconds(platform: Platform) -> None:
    tenant_id = await new_tenant(platform.pool)
    caller = holder(platform, tenant_id, "", "key-1")
    await platform.quotas.ReserveTokens(pb.ReserveTokensRequest(tokens=10), metadata=caller)
    await set_limit(platform, tenant_id, 0)
    await asyncio.sleep(KNOWN_SECONDS + 0.05)
    refused = await refusal(platform.quotas.ReserveTokens(pb.ReserveTokensRequest(tokens=10), metadata=caller))
    assert refused.reason == "RATE_LIMITED"
