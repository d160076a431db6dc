"""PostgreSQL: tenants cannot meet, faults have names, migrations run once. On a real server."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
from pydantic import SecretStr

from shared.config import CannotStartError
from shared.errors import Conflict, InvalidArgument, NotFound, Unavailable
from shared.migrations import MigrationError
from shared.postgres import (
    UnsafeRoleError,
    migrate,
    open_pool,
    pool_ready,
    postgres_errors,
    quoted,
    tenant_transaction,
)
from tests.house.ports import own_port
from tests.shared.notes import NOTES, SCHEMA, add, killed_by, notes


@pytest.fixture
def url(fresh_database: Callable[[], str]) -> SecretStr:
    """A new database."""
    return SecretStr(fresh_database())


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Migrations of one file."""
    (tmp_path / "0001_notes.sql").write_text(NOTES)
    return tmp_path


@pytest.fixture
async def pool(url: SecretStr, directory: Path) -> AsyncIterator[asyncpg.Pool]:
    """A pool of one connection, so that every use shares it."""
    await migrate(url, schema=SCHEMA, directory=directory)
    async with open_pool(url, schema=SCHEMA, max_size=1) as opened:
        yield opened


async def test_a_tenant_sees_its_own_rows_only(pool: asyncpg.Pool) -> None:
    await add(pool, "t1", "n1")
    await add(pool, "t2", "n2")
    async with tenant_transaction(pool, "t1") as connection:
        assert await notes(connection) == ["n1"]
        assert await connection.execute("update notes set body = '{}'") == "UPDATE 1"
        assert await connection.execute("delete from notes where id = 'n2'") == "DELETE 0"


async def test_without_a_tenant_there_are_no_rows(pool: asyncpg.Pool) -> None:
    await add(pool, "t1", "n1")
    async with pool.acquire() as connection:
        assert await notes(connection) == []
    async with tenant_transaction(pool, "") as connection:
        assert await notes(connection) == []


async def test_a_row_of_another_tenant_cannot_be_written(pool: asyncpg.Pool) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await add(pool, "t1", "n1", owner="t2")


async def test_a_pooled_connection_forgets_its_tenant(pool: asyncpg.Pool) -> None:
    await add(pool, "t1", "n1")
    with pytest.raises(ZeroDivisionError):
        async with tenant_transaction(pool, "t1"):
            _ = 1 / 0
    async with pool.acquire() as connection:
        assert await notes(connection) == []


@pytest.mark.parametrize("text", ["x' or true --", "back\\slash' quote", "é", "$1", ""])
async def test_a_quoted_text_is_that_text(pool: asyncpg.Pool, text: str) -> None:
    assert await pool.fetchval(f"select {quoted(text)}::text") == text
    with pytest.raises(ValueError, match="no text"):
        quoted("a\0b")


async def test_the_role_cannot_be_climbed_out_of(pool: asyncpg.Pool) -> None:
    await add(pool, "t1", "n1")
    async with pool.acquire() as connection:
        await connection.execute("reset role")
        assert await connection.fetchval("select current_user") == f"prosa_{SCHEMA}"
        await connection.execute("reset all")
        assert await notes(connection) == []


async def test_a_transaction_that_raises_leaves_nothing(pool: asyncpg.Pool) -> None:
    async def change_its_mind() -> None:
        async with tenant_transaction(pool, "t1") as connection:
            await connection.execute("insert into notes (tenant_id, id) values ('t1', 'n1')")
            raise NotFound("note", "n0")

    with pytest.raises(NotFound):
        await change_its_mind()
    async with tenant_transaction(pool, "t1") as connection:
        assert await notes(connection) == []


async def test_json_goes_in_and_out_as_python(pool: asyncpg.Pool) -> None:
    async with tenant_transaction(pool, "t1") as connection:
        await connection.execute("insert into notes values ('t1', 'n1', $1)", {"a": ["ção", 1]})
        assert await connection.fetchval("select body from notes") == {"a": ["ção", 1]}


async def test_a_superuser_role_is_refused(url: SecretStr, directory: Path) -> None:
    await migrate(url, schema=SCHEMA, directory=directory)
    connection = await asyncpg.connect(url.get_secret_value())
    await connection.execute(f"alter role prosa_{SCHEMA} bypassrls")
    try:
        with pytest.raises(UnsafeRoleError):
            async with open_pool(url, schema=SCHEMA):
                pass
    finally:
        await connection.execute(f"alter role prosa_{SCHEMA} nobypassrls")
        await connection.close()


@pytest.mark.parametrize(("note", "body"), [("a\0", {}), ("a", {"b": "c\0"})])
async def test_a_text_that_cannot_be_kept_is_the_requests_fault(
    pool: asyncpg.Pool, note: str, body: dict[str, str]
) -> None:
    with pytest.raises(InvalidArgument):
        async with tenant_transaction(pool, "t1") as connection:
            await connection.execute("insert into notes values ('t1', $1, $2)", note, body)


async def test_a_statement_that_takes_too_long_is_unavailable(url: SecretStr, directory: Path) -> None:
    await migrate(url, schema=SCHEMA, directory=directory)
    async with open_pool(url, schema=SCHEMA, command_timeout_seconds=1.5) as pool:
        with pytest.raises(Unavailable):
            async with tenant_transaction(pool, "t1") as connection:
                await connection.execute("select pg_sleep(60)")
        await pool_ready(pool)


async def test_a_connection_killed_under_us_is_unavailable_and_replaced(url: SecretStr, pool: asyncpg.Pool) -> None:
    async def die() -> None:
        async with tenant_transaction(pool, "t1") as connection:
            await killed_by(url, connection)
            await connection.execute("select 1")

    with pytest.raises(Unavailable) as caught:
        await die()
    assert caught.value.metadata == {"dependency": "postgresql"}
    await pool_ready(pool)


async def test_using_a_connection_after_it_broke_is_unavailable(pool: asyncpg.Pool) -> None:
    async def go_on() -> None:
        async with tenant_transaction(pool, "t1") as connection:
            connection.terminate()
            await connection.execute("select 1")

    with pytest.raises(Unavailable):
        await go_on()
    await pool_ready(pool)


async def test_a_lost_race_is_a_conflict(url: SecretStr, directory: Path) -> None:
    await migrate(url, schema=SCHEMA, directory=directory)
    async with open_pool(url, schema=SCHEMA, max_size=2) as pool:
        async with pool.acquire() as connection:
            await connection.execute("insert into counters values (1, 0), (2, 0)")

        each_holds_one = asyncio.Barrier(2)

        async def both(first: int, second: int) -> None:
            async with tenant_transaction(pool, "t1") as connection:
                await connection.execute("update counters set value = 1 where id = $1", first)
                await each_holds_one.wait()
                await connection.execute("update counters set value = 1 where id = $1", second)

        outcomes = await asyncio.gather(both(1, 2), both(2, 1), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes if outcome] == [Conflict]


async def test_our_own_mistakes_are_not_called_an_outage(pool: asyncpg.Pool) -> None:
    with pytest.raises(asyncpg.DataError):
        async with tenant_transaction(pool, "t1") as connection:
            await connection.execute("insert into notes (tenant_id, id) values ($1, $2)", "t1", 7)


def test_a_full_disk_has_its_own_reason() -> None:
    with pytest.raises(Unavailable) as caught, postgres_errors():
        raise asyncpg.DiskFullError("no space left")
    assert caught.value.reason == "STORAGE_FULL"


async def test_nobody_listening_is_unavailable_after_some_patience() -> None:
    url = SecretStr(f"postgresql://app:hunter2@127.0.0.1:{own_port()}/prosa")
    with pytest.raises(Unavailable) as caught:
        async with open_pool(url, schema=SCHEMA, patience_seconds=0.5):
            pass
    assert "hunter2" not in str(caught.value)


async def test_types_can_be_registered_on_each_connection(url: SecretStr, directory: Path) -> None:
    await migrate(url, schema=SCHEMA, directory=directory)
    seen: list[str] = []

    async def register(connection: asyncpg.Connection) -> None:
        seen.append(await connection.fetchval("select current_user"))

    async with open_pool(url, schema=SCHEMA, on_connect=register):
        assert seen == [f"prosa_{SCHEMA}"]


async def test_migrations_run_once_however_many_start_them(url: SecretStr, directory: Path) -> None:
    index = "-- no-transaction\ncreate index concurrently notes_by_tenant on notes (tenant_id, id);"
    (directory / "0002_index.sql").write_text(index)
    runs = await asyncio.gather(*(migrate(url, schema=SCHEMA, directory=directory) for _ in range(4)))
    assert sorted(map(len, runs)) == [0, 0, 0, 2]
    assert await migrate(url, schema=SCHEMA, directory=directory) == []
    (directory / "0003_more.sql").write_text("create table more (id bigserial primary key);")
    assert await migrate(url, schema=SCHEMA, directory=directory) == ["0003_more.sql"]
    async with open_pool(url, schema=SCHEMA) as pool, pool.acquire() as connection:
        await connection.execute("insert into more default values")


async def test_the_role_cannot_touch_the_list_of_migrations(pool: asyncpg.Pool) -> None:
    async with pool.acquire() as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("delete from schema_migrations")


async def test_a_migration_that_fails_leaves_nothing(url: SecretStr, directory: Path) -> None:
    (directory / "0002_broken.sql").write_text("create table half (id integer); select 1 / 0;")
    with pytest.raises(MigrationError, match=r"0002_broken\.sql: division by zero"):
        await migrate(url, schema=SCHEMA, directory=directory)
    (directory / "0002_broken.sql").write_text("create table half (id integer);")
    assert await migrate(url, schema=SCHEMA, directory=directory) == ["0002_broken.sql"]


async def test_a_database_that_is_not_there_is_told_in_words(directory: Path) -> None:
    nowhere = SecretStr(f"postgresql://nobody:s3cret@127.0.0.1:{own_port()}/nothing")
    with pytest.raises(CannotStartError, match="cannot be reached") as caught:
        await migrate(nowhere, schema=SCHEMA, directory=directory)
    assert "s3cret" not in str(caught.value)


async def test_a_database_that_was_not_migrated_is_told_in_words(url: SecretStr) -> None:
    with pytest.raises(CannotStartError, match="prosa_never_migrated"):
        async with open_pool(url, schema="never_migrated"):
            pass


async def test_a_migration_must_not_change_after_it_ran(url: SecretStr, directory: Path) -> None:
    await migrate(url, schema=SCHEMA, directory=directory)
    (directory / "0001_notes.sql").write_text(NOTES + "-- a word more\n")
    with pytest.raises(MigrationError, match="0001_notes"):
        await migrate(url, schema=SCHEMA, directory=directory)


async def test_a_migration_cannot_slip_in_between(url: SecretStr, directory: Path) -> None:
    (directory / "0003_later.sql").write_text("create table later (id integer);")
    await migrate(url, schema=SCHEMA, directory=directory)
    (directory / "0002_slipped_in.sql").write_text("create table slipped (id integer);")
    with pytest.raises(MigrationError, match="0002_slipped_in"):
        await migrate(url, schema=SCHEMA, directory=directory)


@pytest.mark.parametrize("names", [["notes.sql"], ["0002-notes.sql"], ["0002_a.sql", "0002_b.sql"]])
async def test_misnamed_migrations_are_refused(url: SecretStr, directory: Path, names: list[str]) -> None:
    for name in names:
        (directory / name).write_text("select 1;")
    with pytest.raises(MigrationError):
        await migrate(url, schema=SCHEMA, directory=directory)


async def test_a_schema_name_is_a_plain_word(url: SecretStr, directory: Path) -> None:
    with pytest.raises(MigrationError):
        await migrate(url, schema='a"; drop schema public', directory=directory)
    with pytest.raises(ValueError, match="schema"):
        async with open_pool(url, schema='a"b'):
            pass


async def test_an_owner_who_is_no_superuser_can_migrate_and_serve(url: SecretStr, directory: Path) -> None:
    admin = await asyncpg.connect(url.get_secret_value())
    owner = "street_owner"
    try:
        await admin.execute(f"drop role if exists {owner}")
        await admin.execute(f"create role {owner} login createrole password 'street'")
        database = await admin.fetchval("select current_database()")
        await admin.execute(f'grant create on database "{database}" to {owner}')
        port, host = await admin.fetchval("show port"), "127.0.0.1"
        as_owner = SecretStr(f"postgresql://{owner}:street@{host}:{port}/{database}")
        await migrate(as_owner, schema="street_owned", directory=directory)
        async with open_pool(as_owner, schema="street_owned") as pool:
            await add(pool, "t1", "n1")
            async with tenant_transaction(pool, "t2") as connection:
                assert await notes(connection) == []
    finally:
        await admin.execute("drop schema if exists street_owned cascade")
        await admin.execute(f"drop owned by {owner} cascade")
        await admin.execute("drop role if exists prosa_street_owned")
        await admin.execute(f"drop role if exists {owner}")
        await admin.close()


@pytest.mark.parametrize(
    "unreadable", ["nonsense", "postgresql://app:hun#ter2@db/prosa", "mysql://app:hunter2@db/prosa"]
)
async def test_a_url_that_is_none_is_told_without_its_password(directory: Path, unreadable: str) -> None:
    for opening in (
        migrate(SecretStr(unreadable), schema=SCHEMA, directory=directory),
        open_pool(SecretStr(unreadable), schema=SCHEMA).__aenter__(),
    ):
        with pytest.raises(CannotStartError, match="DATABASE_URL is not readable") as told:
            await opening
        assert "hun" not in str(told.value)


async def test_a_right_that_our_user_lacks_is_told_in_words(url: SecretStr, directory: Path) -> None:
    weak = f"weak_{uuid.uuid4().hex[:8]}"
    administrator = await asyncpg.connect(url.get_secret_value())
    try:
        await administrator.execute(f"create role {weak} login password 'x'")
        parts = urlsplit(url.get_secret_value())
        theirs = SecretStr(parts._replace(netloc=f"{weak}:x@{parts.hostname}:{parts.port}").geturl())
        with pytest.raises(MigrationError, match="the schema: permission denied"):
            await migrate(theirs, schema="weakling", directory=directory)
    finally:
        await administrator.execute(f"drop role {weak}")
        await administrator.close()


async def test_a_type_that_the_database_lacks_is_told_in_words(url: SecretStr, directory: Path) -> None:
    await migrate(url, schema=SCHEMA, directory=directory)

    async def wants_a_type(connection: asyncpg.Connection) -> None:
        await connection.set_type_codec("nothing_like_it", encoder=str, decoder=str)

    with pytest.raises(CannotStartError, match="lacks something: unknown type"):
        async with open_pool(url, schema=SCHEMA, on_connect=wants_a_type):
            pass
