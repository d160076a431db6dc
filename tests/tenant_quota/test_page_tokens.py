"""Page tokens that somebody edited: their position may be anything, the answer is always in words."""

import base64
import json
from typing import Any

import pytest

from prosa.tenant_quota.v1 import quota_service_pb2, tenant_service_pb2
from services.tenant_quota.model import Role
from tests.tenant_quota.world import Platform, new_tenant, new_user, refusal

GOOD_TIME, GOOD_ID = "2026-01-01T00:00:00+00:00", "0192e4a0-0000-7000-8000-000000000000"


def edited(token: str, position: dict[str, Any]) -> str:
    content = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    return base64.urlsafe_b64encode(json.dumps({**content, "p": position}).encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "position",
    [
        {},
        {"time": 5, "id": GOOD_ID},
        {"time": "0001-01-01T00:00:00+23:59", "id": GOOD_ID},
        {"time": GOOD_TIME, "id": "nul\0"},
        {"time": GOOD_TIME, "id": None},
    ],
)
async def test_an_edited_token_of_users_is_refused(platform: Platform, position: dict[str, Any]) -> None:
    tenant_id = await new_tenant(platform.pool)
    for _ in range(2):
        await new_user(platform.pool, tenant_id)
    boss = platform.caller(tenant_id, Role.TENANT_ADMIN)
    request = tenant_service_pb2.ListUsersRequest(tenant_id=tenant_id, page_size=1)
    request.page_token = (await platform.tenants.ListUsers(request, metadata=boss)).next_page_token
    request.page_token = edited(request.page_token, position)
    refused = await refusal(platform.tenants.ListUsers(request, metadata=boss))
    assert refused.reason == "PAGE_TOKEN_INVALID"


@pytest.mark.parametrize(
    "position",
    [
        {"time": GOOD_TIME, "id": 2**63},
        {"time": GOOD_TIME, "id": "x"},
        {"time": GOOD_TIME, "id": 1.5},
        {"time": "0001-01-01T00:00:00+23:59", "id": 1},
    ],
)
async def test_an_edited_token_of_the_ledger_is_refused(platform: Platform, position: dict[str, Any]) -> None:
    tenant_id = await new_tenant(platform.pool)
    holder, boss = platform.holder(tenant_id, "u"), platform.caller(tenant_id, Role.TENANT_ADMIN)
    for _ in range(2):
        await platform.quotas.ReserveTokens(quota_service_pb2.ReserveTokensRequest(tokens=1), metadata=holder)
    request = quota_service_pb2.ListLedgerRequest(page_size=1)
    request.page_token = (await platform.quotas.ListLedger(request, metadata=boss)).next_page_token
    request.page_token = edited(request.page_token, position)
    refused = await refusal(platform.quotas.ListLedger(request, metadata=boss))
    assert refused.reason == "PAGE_TOKEN_INVALID"


async def test_an_edited_time_without_a_zone_is_a_time(platform: Platform) -> None:
    tenant_id = await new_tenant(platform.pool)
    holder, boss = platform.holder(tenant_id, "u"), platform.caller(tenant_id, Role.TENANT_ADMIN)
    for _ in range(2):
        await platform.quotas.ReserveTokens(quota_service_pb2.ReserveTokensRequest(tokens=1), metadata=holder)
    request = quota_service_pb2.ListLedgerRequest(page_size=1)
    first = await platform.quotas.ListLedger(request, metadata=boss)
    request.page_token = edited(first.next_page_token, {"time": "2026-01-01T00:00:00", "id": 1})
    assert not (await platform.quotas.ListLedger(request, metadata=boss)).entries
