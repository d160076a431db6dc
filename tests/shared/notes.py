"""A table under row-level security, and what tests do with it."""

from typing import Any

import asyncpg
from pydantic import SecretStr

from shared.postgres import tenant_transaction

NOTES = """
create table notes (tenant_id text not null, id text primary key, body jsonb not null default '{}');
alter table notes enable row level security;
alter table notes force row level security;
create policy own_tenant on notes
    using (tenant_id = nullif(current_setting('app.tenant', true), ''))
    with check (tenant_id = nullif(current_setting('app.tenant', true), ''));
create table counters (id integer primary key, value bigint not null);
"""
SCHEMA = "street_notes"


async def killed_by(url: SecretStr, connection: asyncpg.Connection) -> None:
    admin = await asyncpg.connect(url.get_secret_value())
    await admin.execute("select pg_terminate_backend($1, 5000)", connection.get_server_pid())
    await admin.close()


async def add(pool: asyncpg.Pool, tenant: str, note: str, *, owner: str | None = None) -> None:
    async with tenant_transaction(pool, tenant) as connection:
        await connection.execute("insert into notes (tenant_id, id) values ($1, $2)", owner or tenant, note)


async def notes(connection: Any) -> list[str]:
    return [row["id"] for row in await connection.fetch("select id from notes order by id")]
