"""PostgreSQL as every service uses it: a pool under a role that row-level security binds, and tenant transactions.

A service's tables live in a schema of its name and are read as the role `prosa_<schema>`, which is no superuser and
cannot bypass row-level security. Driver errors become errors of the house here, by class.
"""

import asyncio
import json
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from functools import cache
from itertools import chain
from typing import Literal, cast

import asyncpg
from pydantic import SecretStr

from shared.config import CannotStartError
from shared.errors import Conflict, InvalidArgument, ServiceError, Unavailable
from shared.migrations import NOT_A_DATABASE_URL, migrate
from shared.telemetry import get_logger

__all__ = [
    "migrate",
    "open_pool",
    "open_readers",
    "pool_ready",
    "postgres_errors",
    "quoted",
    "tenant_reading",
    "tenant_transaction",
]

ACQUIRE_TIMEOUT_SECONDS = 5.0
READY_TIMEOUT_SECONDS = 2.0
CONNECT_PATIENCE_SECONDS = 30.0

# The statement may have been carried out or not: the same request_id must be used again.
_OUTCOME_UNKNOWN = (
    asyncpg.PostgresConnectionError,
    asyncpg.InternalClientError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.QueryCanceledError,
    asyncpg.InsufficientResourcesError,
    asyncpg.ReadOnlySQLTransactionError,
    OSError,
    TimeoutError,
)
# U+0000 in a text, or as \\u0000 in JSON: the one thing that every string may hold and PostgreSQL keeps nowhere.
_UNSTORABLE_TEXT = (asyncpg.CharacterNotInRepertoireError, asyncpg.UntranslatableCharacterError)
_LOST_A_RACE = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError, asyncpg.LockNotAvailableError)

_log = get_logger()


class _Reader(asyncpg.Connection):
    """Knows under which settings it was put last."""

    __slots__ = ("_reads_under",)

    async def read_under(self, settings: Mapping[str, str]) -> None:
        """Puts the settings, and none that were put before, over those it began with; costs nothing when they are."""
        if getattr(self, "_reads_under", None) == settings:
            return
        self._reads_under = None
        assignments = [f"set_config({quoted(name)}, {quoted(value)}, false)" for name, value in settings.items()]
        await self.execute(f"reset all; select {', '.join(assignments)}")
        self._reads_under = settings


class UnsafeRoleError(CannotStartError):
    """The pool would run under a role that row-level security does not bind; the service must not start."""


@asynccontextmanager
async def open_pool(
    url: SecretStr,
    *,
    schema: str,
    max_size: int = 10,
    min_size: int = 1,
    command_timeout_seconds: float = 30.0,
    on_connect: Callable[[asyncpg.Connection], Awaitable[None]] | None = None,
    patience_seconds: float = CONNECT_PATIENCE_SECONDS,
    connection_class: type[asyncpg.Connection] = asyncpg.Connection,
    session: Mapping[str, str] | None = None,
) -> AsyncIterator[asyncpg.Pool]:
    """A pool on the service's schema, under the role `prosa_<schema>`; closed at the end of the block.

    Waits up to `patience_seconds` for a server that is still starting, then raises Unavailable. Raises
    CannotStartError when the server refuses us (a wrong password, a database without our schema's role), and
    UnsafeRoleError when the role is a superuser or may bypass row-level security. `on_connect` registers types;
    `session` are the settings, by name, that a connection begins with.
    """
    role = f"prosa_{schema}"
    start_up = {**_session(schema, role, command_timeout_seconds), **(session or {})}

    async def prepare(connection: asyncpg.Connection) -> None:
        await _refuse_unsafe_role(connection, role)
        await connection.set_type_codec("jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog")
        if on_connect is not None:
            await _introduced(on_connect, connection)

    async def connect() -> asyncpg.Pool:
        return await asyncpg.create_pool(
            url.get_secret_value(),
            min_size=min_size,
            max_size=max_size,
            command_timeout=command_timeout_seconds,
            timeout=ACQUIRE_TIMEOUT_SECONDS,
            init=prepare,
            reset=_leave_as_it_is,
            connection_class=connection_class,
            server_settings=start_up,
        )

    pool = await _patiently(connect, patience_seconds)
    try:
        yield pool
    finally:
        await _close(pool)


async def _introduced(
    on_connect: Callable[[asyncpg.Connection], Awaitable[None]], connection: asyncpg.Connection
) -> None:
    try:
        await on_connect(connection)
    except ValueError as error:
        raise CannotStartError(f"the database lacks something: {error} (has `migrate` been run?)") from error


async def _refuse_pooler(connection: asyncpg.Connection) -> None:
    """A pooler gives a process number of its own when it is connected to."""
    if await connection.fetchval("select pg_backend_pid()") != connection.get_server_pid():
        raise CannotStartError("DATABASE_URL leads to a pooler of connections: name the PostgreSQL server itself")


async def _leave_as_it_is(_: asyncpg.Connection) -> None:
    """Instead of the pool's RESET ALL, a round trip for every call: what our transactions set ends with them.

    A transaction that is still open has been rolled back before.
    """


def _session(schema: str, role: str, command_timeout_seconds: float) -> dict[str, str]:
    # As start-up parameters these are what RESET returns to: neither RESET ROLE nor RESET ALL climbs out.
    return {
        "role": role,
        "search_path": f'"{_identifier(schema)}", public',
        "application_name": role,
        "timezone": "UTC",
        "statement_timeout": str(int(command_timeout_seconds * 1000)),
        "idle_in_transaction_session_timeout": "60000",
    }


@asynccontextmanager
async def tenant_transaction(
    pool: asyncpg.Pool, tenant_id: str, *, snapshot: bool = False, settings: Mapping[str, str] | None = None
) -> AsyncIterator[asyncpg.Connection]:
    """A transaction that sees and writes the rows of one tenant only ("*": of all, on tables that allow it).

    Committed at the end of the block, rolled back when it raises. With `snapshot` it only reads, all as of one moment.
    `settings` are the server's own, by name, for this transaction.
    Raises Unavailable and Conflict as postgres_errors does; a connection whose state is unknown is thrown away.
    """
    isolation: Literal["repeatable_read"] | None = "repeatable_read" if snapshot else None
    local = {"app.tenant": tenant_id, **(settings or {})}
    with postgres_errors():
        async with pool.acquire(timeout=ACQUIRE_TIMEOUT_SECONDS) as proxy:
            connection = cast("asyncpg.Connection", proxy)
            try:
                async with connection.transaction(isolation=isolation, readonly=snapshot):
                    await connection.execute(_set_local(len(local)), *chain.from_iterable(local.items()))
                    yield connection
            except (*_OUTCOME_UNKNOWN, asyncpg.InterfaceError):
                connection.terminate()
                raise


def open_readers(
    url: SecretStr,
    *,
    schema: str,
    max_size: int = 10,
    on_connect: Callable[[asyncpg.Connection], Awaitable[None]] | None = None,
) -> AbstractAsyncContextManager[asyncpg.Pool]:
    """A pool for `tenant_reading`: nothing can be written through it. Opened and closed as `open_pool` does.

    Raises CannotStartError behind a pooler: what one connection was put under could be another's there.
    """

    async def prepare(connection: asyncpg.Connection) -> None:
        await _refuse_pooler(connection)
        if on_connect is not None:
            await on_connect(connection)

    return open_pool(
        url,
        schema=schema,
        max_size=max_size,
        on_connect=prepare,
        connection_class=_Reader,
        session={"default_transaction_read_only": "on"},
    )


@asynccontextmanager
async def tenant_reading(
    readers: asyncpg.Pool, tenant_id: str, settings: Mapping[str, str] | None = None
) -> AsyncIterator[asyncpg.Connection]:
    """For single reads that are in a hurry, on a pool of `open_readers`: each statement is one round trip and sees the
    rows of one tenant, as of its own moment.

    The connection keeps tenant and settings until it is to read under others, which is one round trip more; so the pool
    is for nothing else but transactions.
    """
    with postgres_errors():
        async with readers.acquire(timeout=ACQUIRE_TIMEOUT_SECONDS) as connection:
            await cast("_Reader", connection).read_under({"app.tenant": tenant_id, **(settings or {})})
            yield cast("asyncpg.Connection", connection)


def quoted(text: str) -> str:
    """A text as a literal of SQL, for what cannot be a parameter. ValueError for U+0000."""
    if "\0" in text:
        raise ValueError("no text of PostgreSQL")
    escaped = text.replace("'", "''")
    if "\\" in text:
        return " E'" + escaped.replace("\\", "\\\\") + "'"
    return f"'{escaped}'"


@cache
def _set_local(count: int) -> str:
    return "select " + ", ".join(f"set_config(${2 * n + 1}, ${2 * n + 2}, true)" for n in range(count))


@contextmanager
def postgres_errors() -> Iterator[None]:
    """Turns the driver's errors into Unavailable (dependency "postgresql") or Conflict, and into InvalidArgument for a
    text that cannot be kept; all others pass through.
    """
    try:
        yield
    except ServiceError:
        raise
    except _LOST_A_RACE as error:
        raise Conflict("another transaction was first") from error
    except _UNSTORABLE_TEXT as error:
        raise InvalidArgument("a text of the request holds U+0000") from error
    except asyncpg.DiskFullError as error:
        raise _unavailable("STORAGE_FULL") from error
    except _OUTCOME_UNKNOWN as error:
        raise _unavailable() from error
    except asyncpg.InterfaceError as error:
        # Its subclasses are mistakes of ours (a value of the wrong type); the class itself is a closed connection.
        if type(error) is not asyncpg.InterfaceError:
            raise
        raise _unavailable() from error


async def pool_ready(pool: asyncpg.Pool) -> None:
    """Answers within 2 s or raises Unavailable: for the readiness probe."""
    with postgres_errors():
        async with asyncio.timeout(READY_TIMEOUT_SECONDS), pool.acquire() as connection:
            await connection.fetchval("select 1")


def _unavailable(reason: str | None = None) -> Unavailable:
    return Unavailable("the database is unavailable", dependency="postgresql", reason=reason)


async def _patiently(connect: Callable[[], Awaitable[asyncpg.Pool]], patience_seconds: float) -> asyncpg.Pool:
    loop = asyncio.get_running_loop()
    give_up = loop.time() + patience_seconds
    pause = 0.1
    while True:
        try:
            with postgres_errors():
                return await connect()
        except Unavailable as error:
            if loop.time() + pause > give_up:
                raise
            _log.warning("database_not_reachable_yet", cause=type(error.__cause__).__name__)
        except asyncpg.PostgresError as error:
            raise CannotStartError(f"the database refuses us: {error} (has `migrate` been run?)") from error
        except ValueError:
            raise CannotStartError(NOT_A_DATABASE_URL) from None
        await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 jitter needs no secrecy
        pause = min(pause * 2, 2.0)


async def _refuse_unsafe_role(connection: asyncpg.Connection, role: str) -> None:
    row = await connection.fetchrow(
        "select rolname, rolsuper or rolbypassrls as unbound from pg_roles where rolname = current_user"
    )
    if row is None or row["rolname"] != role or row["unbound"]:
        raise UnsafeRoleError(f"expected the role {role}, without SUPERUSER and BYPASSRLS")


async def _close(pool: asyncpg.Pool) -> None:
    try:
        async with asyncio.timeout(ACQUIRE_TIMEOUT_SECONDS):
            await pool.close()
    except TimeoutError:
        _log.warning("database_connections_terminated")
        pool.terminate()


def _identifier(name: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,40}", name):
        raise ValueError(f"not a schema name: {name!r}")
    return name
