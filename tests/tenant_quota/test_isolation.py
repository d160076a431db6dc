"""What PostgreSQL itself refuses, whatever the code above it does."""

import asyncio

import asyncpg
import pytest
from pydantic import SecretStr

from services.tenant_quota.reservations import Reservations
from shared.postgres import tenant_transaction
from tests.tenant_quota.world import commit, new_tenant, new_user, sweep_all, wish

SIGNALLING = ("signals", "webhooks", "deliveries")
TABLES = (
    *("tenants", "users", "api_keys", "last_uses", "passwords", "sessions", "erasures", "requests"),
    *("quotas", "balances", "reservations", "ledger", "usage_days", "top_ups"),
    *("top_up_days", "audits", "forgotten", "forgotten_draws"),
    *SIGNALLING,
)
# What a person who logs in leaves.
PERSONAL = (
    "INSERT INTO api_keys (key_id, tenant_id, user_id, role, secret_hash) VALUES ($2, $1, $2, 3, '')",
    "INSERT INTO passwords (tenant_id, user_id, hash) VALUES ($1, $2, 'x')",
    "INSERT INTO sessions (session_id, tenant_id, user_id, secret_hash, expire_time) VALUES ($2, $1, $2, '', now())",
    "INSERT INTO last_uses (credential_id, tenant_id, use_time) VALUES ($2, $1, now())",
    "INSERT INTO erasures (tenant_id, user_id, forget_time) VALUES ($1, 'erased ' || $2, now() + interval '1 h')",
)
# What every tenant of these tests has rows in.
LATER = ("requests", "top_ups", "top_up_days", "audits", "forgotten", "forgotten_draws", *SIGNALLING)
OWN = tuple(table for table in TABLES if table not in LATER)


async def rows_seen(pool: asyncpg.Pool, app_tenant: str, *named: str) -> dict[str, set[str]]:
    """Whose rows a transaction sees in each table."""
    async with tenant_transaction(pool, app_tenant) as connection:
        await connection.execute("SELECT set_config('app.tenants', jsonb_object($1, $1)::text, true)", named)
        return {
            table: {row["tenant_id"] for row in await connection.fetch(f"SELECT DISTINCT tenant_id FROM {table}")}
            for table in TABLES
        }


@pytest.fixture
async def two_tenants(pool: asyncpg.Pool) -> tuple[str, str]:
    """With rows in every table that concerns an account."""
    pair = (await new_tenant(pool, tokens_per_day=100), await new_tenant(pool, tokens_per_day=100))
    store = Reservations(pool)
    for tenant_id in pair:
        user_id = await new_user(pool, tenant_id)
        held = await store.reserve(wish(tenant_id, 10, user_id=user_id))
        await store.settle(commit(tenant_id, held.reservation_id, 5))
        async with tenant_transaction(pool, tenant_id) as connection:
            for statement in PERSONAL:
                await connection.execute(statement, tenant_id, user_id)
    return pair


async def test_every_table_of_tenants_forces_row_level_security(database: SecretStr) -> None:
    superuser = await asyncpg.connect(database.get_secret_value())
    try:
        rows = await superuser.fetch(
            """
            SELECT c.relname, c.relrowsecurity AND c.relforcerowsecurity AS forced,
                   EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid) AS has_policy
              FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id'
             WHERE c.relnamespace = 'tenant_quota'::regnamespace AND c.relkind = 'r'
            """
        )
        role = await superuser.fetchrow("SELECT * FROM pg_roles WHERE rolname = 'prosa_tenant_quota'")
    finally:
        await superuser.close()
    assert {row["relname"] for row in rows} == set(TABLES)
    assert all(row["forced"] and row["has_policy"] for row in rows)
    assert role is not None
    assert not role["rolsuper"]
    assert not role["rolbypassrls"]


async def test_second_tenant_sees_nothing(pool: asyncpg.Pool, two_tenants: tuple[str, str]) -> None:
    own, _ = two_tenants
    seen = await rows_seen(pool, own)
    assert all(tenants <= {own} for tenants in seen.values())
    for table in OWN:
        assert seen[table] == {own}


async def test_without_a_tenant_nothing_is_seen(pool: asyncpg.Pool, two_tenants: tuple[str, str]) -> None:
    del two_tenants
    assert not any((await rows_seen(pool, "")).values())


async def test_the_platform_sees_across_tenants_only_where_it_must(
    pool: asyncpg.Pool, two_tenants: tuple[str, str]
) -> None:
    seen = await rows_seen(pool, "*")
    for table in ("tenants", "users", "reservations"):
        assert set(two_tenants) <= seen[table]
    for table in ("quotas", "balances", "ledger"):
        assert not seen[table]


async def test_a_statement_for_several_tenants_sees_those_it_names(
    pool: asyncpg.Pool, two_tenants: tuple[str, str]
) -> None:
    own, other = two_tenants
    third = await new_tenant(pool, tokens_per_day=1)
    seen = await rows_seen(pool, "", own, other)
    assert seen["balances"] == {own, other}
    assert not seen["users"]
    assert third not in set().union(*seen.values())


@pytest.mark.parametrize("app_tenant", ["own", "*"])
async def test_nobody_writes_for_another_tenant(
    pool: asyncpg.Pool, two_tenants: tuple[str, str], app_tenant: str
) -> None:
    own, other = two_tenants
    statements = [
        "INSERT INTO users (tenant_id, user_id, display_name, email, role) VALUES ($1, 'x', 'x', 'x@x.x', 3)",
        "INSERT INTO api_keys (key_id, tenant_id, role, secret_hash) VALUES ('x', $1, 2, '')",
        "INSERT INTO passwords (tenant_id, user_id, hash) VALUES ($1, 'x', 'x')",
        PERSONAL[2].replace("$2", "'x'"),
        "INSERT INTO quotas (tenant_id, level, subject, enforcement) VALUES ($1, 2, 'x', 1)",
        "INSERT INTO balances (tenant_id, level, subject, month) VALUES ($1, 1, '', '2026-01-01')",
    ]
    for statement in statements:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with tenant_transaction(pool, own if app_tenant == "own" else "*") as connection:
                await connection.execute(statement, other)


async def test_nobody_changes_or_deletes_a_ledger_entry(pool: asyncpg.Pool, two_tenants: tuple[str, str]) -> None:
    own, _ = two_tenants
    for statement in ("UPDATE ledger SET used_delta = 0", "DELETE FROM ledger"):
        async with tenant_transaction(pool, own) as connection:
            await connection.execute("SELECT set_config('app.tenants', jsonb_object($1, $1)::text, true)", [own])
            assert await connection.execute(statement) in ("UPDATE 0", "DELETE 0")


async def test_a_pooled_connection_forgets_whom_it_served(pool: asyncpg.Pool, two_tenants: tuple[str, str]) -> None:
    own, other = two_tenants
    store = Reservations(pool)
    await asyncio.gather(*(store.reserve(wish(tenant, 1)) for tenant in (own, other) for _ in range(5)))
    await sweep_all(pool, store)
    for _ in range(12):
        assert not any((await rows_seen(pool, "")).values())
