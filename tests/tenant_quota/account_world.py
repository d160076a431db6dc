"""Short ways to say what the tests of the account say often: plans, prices, keys, stores that close themselves."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import asyncpg

from services.tenant_quota.quota_model import Extension, Usage, Wish
from services.tenant_quota.quotas import Quotas
from services.tenant_quota.reservations import Reservations
from shared.postgres import tenant_transaction
from tests.tenant_quota.world import fresh, wish

PRICE = "INSERT INTO prices VALUES ($1, clock_timestamp() - make_interval(hours => $2), $3, $4, $5, $6)"


@asynccontextmanager
async def opened(*pools: asyncpg.Pool) -> AsyncIterator[list[Reservations]]:
    """A replica's store on each pool."""
    stores = [Reservations(pool) for pool in pools]
    try:
        yield stores
    finally:
        for store in stores:
            await store.close()


async def new_key(pool: asyncpg.Pool, tenant_id: str, display_name: str = "the web site") -> str:
    """An API key of the tenant."""
    key_id = fresh("key")
    async with tenant_transaction(pool, tenant_id) as connection:
        await connection.execute(
            "INSERT INTO api_keys (key_id, tenant_id, display_name, role, secret_hash) VALUES ($1, $2, $3, 4, '')",
            key_id,
            tenant_id,
            display_name,
        )
    return key_id


async def new_plan(pool: asyncpg.Pool, tenant_id: str, **limits: object) -> str:
    """A plan with these columns, given to the tenant now."""
    plan_id = fresh("plan")
    columns = ", ".join(["plan_id", "display_name", *limits])
    places = ", ".join(f"${number}" for number in range(1, len(limits) + 3))
    async with tenant_transaction(pool, "*") as connection:
        await connection.execute(f"INSERT INTO plans ({columns}) VALUES ({places})", plan_id, "Plan", *limits.values())
    await give_plan(pool, tenant_id, plan_id)
    return plan_id


async def give_plan(pool: asyncpg.Pool, tenant_id: str, plan_id: str) -> None:
    """From now on."""
    async with tenant_transaction(pool, "*") as connection:
        await connection.execute(
            "UPDATE tenants SET plan_id = $2, plan_time = clock_timestamp() WHERE tenant_id = $1", tenant_id, plan_id
        )


async def new_price(pool: asyncpg.Pool, model: str, *micros: int, hours_ago: int = 1) -> None:
    """Of input, cached input, output and reasoning, per million tokens."""
    async with tenant_transaction(pool, "*") as connection:
        await connection.execute(PRICE, model, hours_ago, *micros)


def ask(
    tenant_id: str, tokens: int, *, key_id: str = "", model: str = "model", parent: str = "", **other: object
) -> Wish:
    """As `wish`, with what the account knows besides."""
    asked = wish(tenant_id, tokens, **other)  # type: ignore[arg-type]
    return replace(asked, key_id=key_id, model=model, parent_reservation_id=parent)


def more(tenant_id: str, reservation_id: str, tokens: int, minimum: int = 0, lease_seconds: int = 60) -> Extension:
    """An extension without a request_id."""
    return Extension(tenant_id, reservation_id, tokens, minimum or tokens, lease_seconds)


async def month(pool: asyncpg.Pool, tenant_id: str, user_id: str = "", key_id: str = "") -> Usage:
    """The month's counter of the last level named."""
    return (await Quotas(pool).usage(tenant_id, user_id, key_id))[-1]


async def entries(pool: asyncpg.Pool, tenant_id: str) -> list[tuple[int, int, int, int, int]]:
    """Kind and the four deltas (issued, available, held, used) of each entry, oldest first."""
    async with tenant_transaction(pool, tenant_id) as connection:
        rows = await connection.fetch(
            "SELECT kind, issued_delta, available_delta, held_delta, used_delta FROM ledger ORDER BY entry_id"
        )
    return [tuple(row) for row in rows]
