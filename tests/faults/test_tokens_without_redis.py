"""What happens to Redis changes no decision about tokens: grants stop at the limit and the counters add up."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from uuid import uuid4

import grpc
import pytest
from pydantic import SecretStr

from prosa.tenant_quota.v1 import quota_service_pb2 as pb
from services.tenant_quota.__main__ import SCHEMA, SCHEMA_DIRECTORY, open_endpoints
from services.tenant_quota.config import Config
from services.tenant_quota.model import new_secret
from shared.postgres import migrate
from tests.house.in_process import serving
from tests.house.ports import own_port
from tests.house.signing import SigningKeys
from tests.tenant_quota.rate_world import FragileRedis
from tests.tenant_quota.world import Platform, counters, new_tenant

CALLS = 40


@pytest.fixture
def redis(engine_directory: Path) -> Iterator[FragileRedis]:
    fragile = FragileRedis(engine_directory / f"fragile-{uuid4().hex[:8]}", own_port())
    yield fragile
    fragile.end()


@pytest.fixture
async def platform(
    fresh_database: Callable[[], str], redis: FragileRedis, signing_keys: SigningKeys
) -> AsyncIterator[Platform]:
    url = SecretStr(fresh_database())
    await migrate(url, schema=SCHEMA, directory=SCHEMA_DIRECTORY)
    config = Config(
        port=0,
        database_url=url,
        redis_url=redis.url,
        token_signing_key=SecretStr(signing_keys.private_pem),
        token_public_key=signing_keys.public_pem,
        api_key_pepper=SecretStr("a pepper of these tests"),
        drain_delay_seconds=0,
    )
    async with open_endpoints(config) as service, serving(service.endpoints, signing_keys) as channel:
        yield Platform(channel, signing_keys, service.pool, new_secret("test"), new_secret("test"))


@pytest.mark.parametrize("harm", [FragileRedis.kill, FragileRedis.halt, FragileRedis.restart])
async def test_tokens_stop_at_their_limit_whatever_happens_to_redis(
    platform: Platform, redis: FragileRedis, harm: Callable[[FragileRedis], None]
) -> None:
    tenant_id = await new_tenant(platform.pool, tokens_per_day=10 * CALLS)
    quota = pb.Quota(tokens_per_day=10 * CALLS, requests_per_minute=1_000)
    await platform.quotas.SetQuota(pb.SetQuotaRequest(tenant_id=tenant_id, quota=quota), metadata=platform.admin())

    async def ask() -> grpc.StatusCode:
        request = pb.ReserveTokensRequest(tokens=10)
        call = platform.quotas.ReserveTokens(request, metadata=platform.holder(tenant_id))
        return await call.code()

    first = await asyncio.gather(*(ask() for _ in range(CALLS // 2)))
    harm(redis)
    codes = [*first, *await asyncio.gather(*(ask() for _ in range(CALLS)))]
    if harm is FragileRedis.halt:
        redis.resume()
    assert set(codes) == {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert codes.count(grpc.StatusCode.OK) == CALLS
    assert (await counters(platform.pool, tenant_id)).held == 10 * CALLS
