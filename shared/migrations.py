"""Brings a service's schema up to date: numbered SQL files, each applied once, in order, forward only.

A file runs in one transaction, unless its first line is `-- no-transaction` (then it holds one statement, for example
CREATE INDEX CONCURRENTLY). A file that was applied must never change: its checksum is kept.
"""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
from pydantic import SecretStr

from shared.config import CannotStartError

_FILE_NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")
_NO_TRANSACTION = "-- no-transaction"
_TRY_LOCK = "select pg_try_advisory_lock(hashtext($1))"
_CATALOG_ATTEMPTS = 5
CONNECT_SECONDS = 30.0
# The driver's own words for it may quote a piece of the password.
NOT_A_DATABASE_URL = (
    "DATABASE_URL is not readable: postgresql://user:password@host:5432/name; in a password, write @ : / # ? % as %40 …"
)


class MigrationError(CannotStartError):
    """A file cannot be applied, or the files and the database contradict each other; what was applied before stays."""


@dataclass(frozen=True, slots=True)
class _Migration:
    version: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


async def migrate(url: SecretStr, *, schema: str, directory: Path) -> list[str]:
    """Applies what is missing and returns the names applied; running it again, or twice at once, changes nothing.

    Creates the schema and the role `prosa_<schema>` (no login, no superuser, bound by row-level security) and grants
    it the use of the schema's tables. Raises MigrationError when an applied file changed, is missing a number below
    an applied one, or a name is not `0001_words.sql`, or when the database refuses a file or us; CannotStartError when
    the database cannot be reached.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,40}", schema):
        raise MigrationError(f"not a schema name: {schema!r}")
    migrations = _read(directory)
    async with _locked(url, schema) as connection:
        with _refusals("the schema"):
            await _create_schema(connection, schema)
            missing = _missing(migrations, await _applied(connection))
        for migration in missing:
            with _refusals(migration.name):
                await _apply(connection, migration)
        with _refusals("the grants"):
            await _grant(connection, schema)
    return [migration.name for migration in missing]


def _read(directory: Path) -> list[_Migration]:
    migrations = []
    for path in sorted(directory.glob("*.sql")):
        match = _FILE_NAME.fullmatch(path.name)
        if match is None:
            raise MigrationError(f"{path.name}: a migration is named 0001_words.sql")
        migrations.append(_Migration(int(match[1]), path.name, path.read_text(encoding="utf-8")))
    versions = [migration.version for migration in migrations]
    if len(set(versions)) != len(versions):
        raise MigrationError("two migrations have the same number")
    return migrations


@asynccontextmanager
async def _locked(url: SecretStr, schema: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await _connected(url)
    try:
        # Asked again and again rather than waited for: a waiting statement holds a snapshot, which an index that is
        # being built concurrently by the holder of the lock would wait for in turn.
        while not await connection.fetchval(_TRY_LOCK, f"prosa migrations of {schema}"):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        # A migration that waits for a busy table would make everybody behind it wait too.
        await connection.execute("set lock_timeout = '10s'")
        yield connection
    finally:
        await connection.close()


async def _connected(url: SecretStr) -> asyncpg.Connection:
    try:
        return await asyncpg.connect(url.get_secret_value(), timeout=CONNECT_SECONDS)
    except ValueError:
        raise CannotStartError(NOT_A_DATABASE_URL) from None
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise CannotStartError(f"the database cannot be reached: {str(error) or type(error).__name__}") from error


@contextmanager
def _refusals(of: str) -> Iterator[None]:
    """What the database says against it, in words for an operator: mostly a right that our user does not have."""
    try:
        yield
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        raise MigrationError(f"{of}: {str(error) or type(error).__name__}") from error


async def _create_schema(connection: asyncpg.Connection, schema: str) -> None:
    role = f"prosa_{schema}"
    # Roles belong to the whole cluster: another database's migration may create the same one at this moment.
    for attempt in range(1, _CATALOG_ATTEMPTS + 1):
        try:
            await _create_role(connection, role)
            break
        except (asyncpg.DuplicateObjectError, asyncpg.UniqueViolationError, asyncpg.InternalServerError):
            if attempt == _CATALOG_ATTEMPTS:
                raise
            await asyncio.sleep(0.05 * attempt)
    await connection.execute(f'create schema if not exists "{schema}"')
    await connection.execute(f'set search_path = "{schema}", public')
    await connection.execute(
        """
        create table if not exists schema_migrations (
            version integer primary key,
            name text not null,
            checksum text not null,
            applied_at timestamptz not null default now()
        )
        """
    )


async def _create_role(connection: asyncpg.Connection, role: str) -> None:
    if not await connection.fetchval("select exists (select from pg_roles where rolname = $1)", role):
        await connection.execute(f'create role "{role}" nologin nosuperuser nobypassrls')
    # The owner of a managed database is no superuser; without membership it could not SET ROLE.
    if not await connection.fetchval("select pg_has_role(current_user, $1, 'SET')", role):
        await connection.execute(f'grant "{role}" to current_user')


async def _applied(connection: asyncpg.Connection) -> dict[int, tuple[str, str]]:
    rows = await connection.fetch("select version, name, checksum from schema_migrations")
    return {row["version"]: (row["name"], row["checksum"]) for row in rows}


def _missing(migrations: list[_Migration], applied: Mapping[int, tuple[str, str]]) -> list[_Migration]:
    latest = max(applied, default=0)
    missing = []
    for migration in migrations:
        if migration.version not in applied:
            if migration.version < latest:
                raise MigrationError(f"{migration.name} comes before migrations that are applied")
            missing.append(migration)
        elif applied[migration.version][1] != migration.checksum:
            raise MigrationError(f"{migration.name} changed after it was applied; add a new migration instead")
    return missing


async def _apply(connection: asyncpg.Connection, migration: _Migration) -> None:
    if migration.sql.startswith(_NO_TRANSACTION):
        await _execute(connection, migration)
    else:
        async with connection.transaction():
            await _execute(connection, migration)


async def _execute(connection: asyncpg.Connection, migration: _Migration) -> None:
    await connection.execute(migration.sql)
    record = "insert into schema_migrations (version, name, checksum) values ($1, $2, $3)"
    await connection.execute(record, migration.version, migration.name, migration.checksum)


async def _grant(connection: asyncpg.Connection, schema: str) -> None:
    role = f"prosa_{schema}"
    uses = [("select, insert, update, delete", "tables"), ("usage, select", "sequences"), ("execute", "functions")]
    async with connection.transaction():
        await connection.execute(f'grant usage on schema "{schema}" to "{role}"')
        for privileges, kind in uses:
            await connection.execute(f'grant {privileges} on all {kind} in schema "{schema}" to "{role}"')
            await connection.execute(
                f'alter default privileges in schema "{schema}" grant {privileges} on {kind} to "{role}"'
            )
        await connection.execute(f'revoke all on "{schema}".schema_migrations from "{role}"')
