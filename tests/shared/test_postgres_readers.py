"""Reads in a hurry: one round trip each, and never the rows of the tenant before."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import asyncpg
import pytest
from pydantic import SecretStr

from shared.config import CannotStartError
from shared.errors import Unavailable
from shared.postgres import migrate, open_pool, open_readers, tenant_reading, tenant_transaction
from tests.shared.notes import NOTES, SCHEMA, add, killed_by, notes

HOSTILE = "x', true), set_config('app.tenant', 'b', true); --"


@pytest.fixture
def url(fresh_database: Callable[[], str]) -> SecretStr:
    """A new database."""
    return SecretStr(fresh_database())


@pytest.fixture
async def pool(url: SecretStr, tmp_path: Path) -> AsyncIterator[asyncpg.Pool]:
    """For those who write."""
    (tmp_path / "0001_notes.sql").write_text(NOTES)
    await migrate(url, schema=SCHEMA, directory=tmp_path)
    async with open_pool(url, schema=SCHEMA, max_size=1) as opened:
        yield opened


@pytest.fixture
async def readers(url: SecretStr, pool: asyncpg.Pool) -> AsyncIterator[asyncpg.Pool]:
    """One connection for hurried readers of the same tables."""
    async with open_readers(url, schema=SCHEMA, max_size=1) as opened:
        yield opened


@pytest.mark.parametrize("tenant", ["a", "back\\slash' quote", HOSTILE, "$1", "é"])
async def test_a_hurried_reader_sees_its_own_rows_only(pool: asyncpg.Pool, readers: asyncpg.Pool, tenant: str) -> None:
    for owner in (tenant, "b"):
        await add(pool, owner, owner)
    for reader in ("b", tenant, tenant, "b", "c", ""):
        async with tenant_reading(readers, reader) as connection:
            assert await notes(connection) == [each for each in (tenant, "b") if each == reader]
    async with tenant_transaction(readers, tenant) as connection:
        assert await notes(connection) == [tenant]


async def test_a_hurried_reader_has_its_own_settings_and_not_those_of_the_last(readers: asyncpg.Pool) -> None:
    for settings, sorts in (({"enable_sort": "off"}, "off"), ({"work_mem": "1MB"}, "on"), ({}, "on")):
        async with tenant_reading(readers, "a", settings) as connection:
            assert await connection.fetchval("show enable_sort") == sorts
            assert await connection.fetchval("show timezone") == "UTC"
            assert await connection.fetchval("select current_user") == f"prosa_{SCHEMA}"


async def test_behind_a_pooler_nobody_reads_in_a_hurry(
    url: SecretStr, pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asyncpg.Connection, "get_server_pid", lambda _: 7)
    with pytest.raises(CannotStartError, match="pooler"):
        async with open_readers(url, schema=SCHEMA, max_size=1):
            pytest.fail("opened")


async def test_a_hurried_reader_who_was_cancelled_while_it_was_put_under_settings_is_put_anew(
    pool: asyncpg.Pool, readers: asyncpg.Pool
) -> None:
    for owner in ("a", "b"):
        await add(pool, owner, owner)

    async def read(tenant: str) -> list[str]:
        async with tenant_reading(readers, tenant) as connection:
            return await notes(connection)

    await read("a")
    for turns in range(30):
        reading = asyncio.create_task(read("b"))
        for _ in range(turns):
            await asyncio.sleep(0)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        assert await read("a") == ["a"]


async def test_a_hurried_reader_whose_connection_was_killed_reads_as_its_tenant_again(
    url: SecretStr, pool: asyncpg.Pool, readers: asyncpg.Pool
) -> None:
    await add(pool, "a", "n1")
    for _ in range(2):
        async with tenant_reading(readers, "a") as connection:
            assert await notes(connection) == ["n1"]
            await killed_by(url, connection)
    async with tenant_reading(readers, "a") as connection:
        assert await notes(connection) == ["n1"]


async def test_an_ordinary_pool_is_not_for_hurried_readers(pool: asyncpg.Pool) -> None:
    """It would stay under their tenant."""
    with pytest.raises(AttributeError):
        async with tenant_reading(pool, "a"):
            pass


async def test_a_hurried_reader_cannot_write_and_its_fault_costs_no_connection(
    pool: asyncpg.Pool, readers: asyncpg.Pool
) -> None:
    for _ in range(3):
        with pytest.raises(Unavailable):
            async with tenant_reading(readers, "a") as connection:
                await connection.execute("insert into notes values ('a', 'a')")
    async with tenant_transaction(pool, "a") as connection:
        assert await connection.fetchval("select count(*) from notes") == 0


async def test_a_hurried_reader_who_is_cancelled_gives_its_connection_back(readers: asyncpg.Pool) -> None:
    async def read() -> None:
        async with tenant_reading(readers, "a") as connection:
            await connection.execute("select pg_sleep(30)")

    reading = asyncio.create_task(read())
    await asyncio.sleep(0.2)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    async with asyncio.timeout(20), tenant_reading(readers, "a") as connection:
        assert await connection.fetchval("select 1") == 1
