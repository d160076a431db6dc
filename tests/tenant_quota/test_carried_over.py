"""What an account of an earlier version holds is carried over to the token."""

import shutil
from collections.abc import Callable
from pathlib import Path

import asyncpg
from pydantic import SecretStr

from services.tenant_quota.__main__ import SCHEMA, SCHEMA_DIRECTORY
from services.tenant_quota.audit import discrepancies
from services.tenant_quota.quotas import Quotas
from services.tenant_quota.top_ups import TopUps
from shared.postgres import migrate, open_pool
from tests.tenant_quota.account_world import entries, more, new_price, opened
from tests.tenant_quota.world import commit, counters, new_tenant, new_user, release, wish

BEFORE = """
SET search_path = tenant_quota;
INSERT INTO tenants (tenant_id, display_name, time_zone) VALUES ('t', 'T', 'America/Sao_Paulo');
INSERT INTO users (tenant_id, user_id, display_name, email, role) VALUES ('t', 'u', 'U', 'u@example.org', 3);
INSERT INTO quotas (tenant_id, user_id, tokens_per_month, enforcement) VALUES ('t', '', 1000, 1), ('t', 'u', 500, 1);
"""
# By the functions of that time: two reservations, one of them settled.
RESERVE = """
SELECT * FROM tenant_quota.reserve(ARRAY['t','t'], ARRAY['u',''], ARRAY['k','k'], ARRAY['r1','r2'],
    ARRAY[100,40], ARRAY[100,40], ARRAY[600,600], ARRAY['m','m'], ARRAY['',''], ARRAY['',''],
    ARRAY['q1',NULL], ARRAY[''::bytea,NULL],
    ARRAY['t','t'], ARRAY['','u'], ARRAY[1,1], ARRAY[2,NULL])
"""
SETTLE = """
SELECT * FROM tenant_quota.settle(ARRAY['t'], ARRAY['r1'], ARRAY[2::smallint],
    ARRAY[30], ARRAY[0], ARRAY[40], ARRAY[0],
    ARRAY[1::smallint], ARRAY[9], ARRAY[''])
"""


async def test_the_account_of_an_earlier_version_is_carried_over(
    fresh_database: Callable[[], str], tmp_path: Path
) -> None:
    url = SecretStr(fresh_database())
    for name in ("0001_tenants.sql", "0002_quotas.sql", "0003_account.sql"):
        shutil.copy(SCHEMA_DIRECTORY / name, tmp_path)
    await migrate(url, schema=SCHEMA, directory=tmp_path)
    superuser = await asyncpg.connect(url.get_secret_value())
    for statement in (BEFORE, RESERVE, SETTLE):
        await superuser.execute(statement)
    await superuser.close()

    await migrate(url, schema=SCHEMA, directory=SCHEMA_DIRECTORY)

    async with open_pool(url, schema=SCHEMA, max_size=2) as pool, opened(pool) as (store,):
        day, month, user_day, user_month = await Quotas(pool).usage("t", "u")
        assert [(each.used_tokens, each.held_tokens) for each in (day, month)] == [(70, 40)] * 2
        assert [(each.used_tokens, each.held_tokens) for each in (user_day, user_month)] == [(70, 0)] * 2
        assert (month.limit_tokens, user_month.limit_tokens, month.used_cost_micros) == (1_000, 500, 9)
        assert await discrepancies(pool, "t") == []
        await store.settle(commit("t", "r2", 25))
        assert await entries(pool, "t") == [
            (1, 0, -100, 100, 0),
            (1, 0, -40, 40, 0),
            (2, 0, 30, -100, 70),
            (2, 0, 15, -40, 25),
        ]
        assert await discrepancies(pool, "t") == []


async def test_a_replica_that_is_at_work_goes_on_when_its_functions_are_replaced(
    fresh_database: Callable[[], str], tmp_path: Path
) -> None:
    url = SecretStr(fresh_database())
    for file in SCHEMA_DIRECTORY.glob("*.sql"):
        if file.name < "0014":
            shutil.copy(file, tmp_path)
    await migrate(url, schema=SCHEMA, directory=tmp_path)
    async with open_pool(url, schema=SCHEMA, max_size=2) as pool, opened(pool) as (store,):
        await new_price(pool, "model", 10**6, 10**6, 10**6, 10**6)
        tenant_id = await new_tenant(pool, tokens_per_month=100)
        limited = await new_user(pool, tenant_id, tokens_per_day=100)
        await TopUps(pool).create(tenant_id, 50, 1, None, "for the move", None)
        spent, kept, topped = [
            (await store.reserve(wish(tenant_id, tokens, user_id=user_id))).reservation_id
            for tokens, user_id in ((60, limited), (40, "nobody limits"), (20, "nobody limits"))
        ]

        await migrate(url, schema=SCHEMA, directory=SCHEMA_DIRECTORY)

        assert (await store.settle(commit(tenant_id, spent, 30))).cost_micros == 30
        assert (await store.extend(more(tenant_id, kept, 5))).granted == 45
        await store.settle(commit(tenant_id, kept, 45))
        await store.settle(release(tenant_id, topped))
        again = await store.reserve(wish(tenant_id, 50, user_id="nobody limits"))
        await store.settle(commit(tenant_id, again.reservation_id, 50))
        now = await counters(pool, tenant_id)
        assert (now.used, now.held) == (125, 0)
        assert await discrepancies(pool, tenant_id) == []
