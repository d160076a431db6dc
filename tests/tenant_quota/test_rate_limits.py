"""Whose limit is whose, and how soon a new one counts."""

import asyncpg
import pytest

from services.tenant_quota.rate_limits import KNOWN_SECONDS, RateLimits
from services.tenant_quota.rates import Level, Subject, concerned
from shared.postgres import tenant_transaction
from tests.tenant_quota.world import fresh


class Hands:
    """A clock that the test turns."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


async def limit(pool: asyncpg.Pool, subject: Subject, requests_per_minute: int | None) -> None:
    """A quota that says this of requests and nothing else."""
    async with tenant_transaction(pool, subject.tenant_id) as connection:
        await connection.execute(
            "INSERT INTO quotas (tenant_id, level, subject, requests_per_minute, enforcement)"
            " VALUES ($1, $2, $3, $4, 1)"
            " ON CONFLICT (tenant_id, level, subject) DO UPDATE SET requests_per_minute = $4",
            subject.tenant_id,
            subject.level,
            subject.subject_id,
            requests_per_minute,
        )


async def give_plan(pool: asyncpg.Pool, tenant_id: str) -> None:
    """A plan of 600 requests a minute for the tenant, 60 for a user and 30 for a key."""
    plan_id = fresh("plan")
    async with tenant_transaction(pool, "*") as connection:
        await connection.execute(
            "INSERT INTO plans (plan_id, display_name, requests_per_minute, user_requests_per_minute,"
            " key_requests_per_minute) VALUES ($1, 'P', 600, 60, 30)",
            plan_id,
        )
        await connection.execute("UPDATE tenants SET plan_id = $2 WHERE tenant_id = $1", tenant_id, plan_id)


async def new_tenant(pool: asyncpg.Pool) -> str:
    """A tenant without a quota."""
    tenant_id = fresh("tenant")
    async with tenant_transaction(pool, "*") as connection:
        await connection.execute(
            "INSERT INTO tenants (tenant_id, display_name, time_zone) VALUES ($1, 'T', 'America/Sao_Paulo')", tenant_id
        )
    return tenant_id


@pytest.fixture
async def tenant_id(pool: asyncpg.Pool) -> str:
    return await new_tenant(pool)


async def test_without_quota_and_plan_nothing_is_limited(pool: asyncpg.Pool, tenant_id: str) -> None:
    assert await RateLimits(pool).limits(concerned(tenant_id, "maria", "key-1")) == {}


async def test_the_plan_says_what_no_quota_says(pool: asyncpg.Pool, tenant_id: str) -> None:
    await give_plan(pool, tenant_id)
    tenant, user, key = concerned(tenant_id, "maria", "key-1")
    assert await RateLimits(pool).limits([tenant, user, key]) == {tenant: 600, user: 60, key: 30}


async def test_a_quota_of_one_s_own_goes_before_the_plan(pool: asyncpg.Pool, tenant_id: str) -> None:
    await give_plan(pool, tenant_id)
    tenant, user, key = concerned(tenant_id, "maria", "key-1")
    await limit(pool, tenant, 5)
    await limit(pool, user, 0)
    await limit(pool, key, None)
    assert await RateLimits(pool).limits([tenant, user, key]) == {tenant: 5, user: 0, key: 30}


async def test_many_tenants_limits_are_read_at_once_and_each_is_its_own(pool: asyncpg.Pool) -> None:
    tenants = [Subject(await new_tenant(pool)) for _ in range(5)]
    for number, tenant in enumerate(tenants):
        await limit(pool, tenant, number)
        await limit(pool, Subject(tenant.tenant_id, Level.USER, "maria"), 100 + number)
        await limit(pool, Subject(tenant.tenant_id, Level.USER, "zoe"), 200)
    users = [Subject(tenant.tenant_id, Level.USER, "maria") for tenant in tenants]
    found = await RateLimits(pool).limits([*tenants, *users])
    assert found == dict(zip([*tenants, *users], [*range(5), *range(100, 105)], strict=True))


async def test_strangers_have_no_limit(pool: asyncpg.Pool) -> None:
    assert await RateLimits(pool).limits([Subject("nobody"), Subject("nobody", Level.USER, "maria")]) == {}


async def test_a_new_limit_counts_after_five_seconds_at_the_latest(pool: asyncpg.Pool, tenant_id: str) -> None:
    clock = Hands()
    limits = RateLimits(pool, now=clock)
    tenant = Subject(tenant_id)
    await limit(pool, tenant, 5)
    assert await limits.limits([tenant]) == {tenant: 5}
    await limit(pool, tenant, 7)
    clock.now += KNOWN_SECONDS
    assert await limits.limits([tenant]) == {tenant: 5}
    clock.now += 0.001
    assert await limits.limits([tenant]) == {tenant: 7}


async def test_what_is_known_is_bounded(pool: asyncpg.Pool, tenant_id: str) -> None:
    limits = RateLimits(pool, most_known=2)
    users = [Subject(tenant_id, Level.USER, str(number)) for number in range(3)]
    for user in users:
        await limit(pool, user, 1)
        await limits.limits([user])
    for user in users:
        await limit(pool, user, 2)
    assert [(await limits.limits([user]))[user] for user in users[1:]] == [1, 1]
    assert await limits.limits(users[:1]) == {users[0]: 2}
