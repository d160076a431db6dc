"""The store of tenants and users."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TypeAlias

import asyncpg

from services.tenant_quota.model import PLATFORM, Replay, Role, Tenant, User
from services.tenant_quota.replays import once
from shared.errors import AlreadyExists, FieldViolation, InvalidArgument, NotFound
from shared.postgres import tenant_transaction

# The last item of the page before: when it was created, and its id.
Position: TypeAlias = tuple[datetime, str]

ACROSS_TENANTS = "*"
KNOWN_ZONE = "SELECT EXISTS (SELECT FROM pg_timezone_names WHERE name = $1)"
# Locked, so that a plan is not deleted while a tenant is being put on it.
KEEP_PLAN = "SELECT true FROM plans WHERE plan_id = $1 FOR KEY SHARE"
INSERT_TENANT = """
INSERT INTO tenants (tenant_id, display_name, time_zone, plan_id, plan_time)
VALUES ($1, $2, $3, $4, CASE WHEN $4 <> '' THEN clock_timestamp() END) RETURNING *
"""
GET_TENANT = "SELECT * FROM tenants WHERE tenant_id = $1"
LIST_TENANTS = """
SELECT * FROM tenants WHERE (create_time, tenant_id) < ($1::text::timestamptz, $2)
 ORDER BY create_time DESC, tenant_id DESC LIMIT $3
"""
UPDATE_TENANT = """
UPDATE tenants SET display_name = coalesce($2, display_name), time_zone = coalesce($3, time_zone),
                   active = coalesce($4, active), update_time = clock_timestamp()
 WHERE tenant_id = $1 RETURNING *
"""
SWITCH_TENANT = """
UPDATE tenants SET active = $2, update_time = clock_timestamp() WHERE tenant_id = $1 AND active <> $2
"""
INSERT_USER = """
INSERT INTO users (tenant_id, user_id, display_name, email, role) VALUES ($1, $2, $3, $4, $5) RETURNING *
"""
# The id of an erased user is not given again while something of theirs may be on its way.
IS_ERASED = "SELECT EXISTS (SELECT FROM erasures WHERE tenant_id = $1 AND user_id = $2)"
GET_USER = "SELECT * FROM users WHERE tenant_id = $1 AND user_id = $2"
LIST_USERS = """
SELECT * FROM users WHERE tenant_id = $1 AND (create_time, user_id) < ($2::text::timestamptz, $3)
 ORDER BY create_time DESC, user_id DESC LIMIT $4
"""
UPDATE_USER = """
UPDATE users SET display_name = coalesce($3, display_name), email = coalesce($4, email), role = coalesce($5, role),
                 active = coalesce($6, active), update_time = clock_timestamp()
 WHERE tenant_id = $1 AND user_id = $2 RETURNING *
"""


class Tenants:
    """Keeps tenants and the people who belong to them."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def create(
        self, tenant_id: str, display_name: str, time_zone: str, replay: Replay | None, plan_id: str = ""
    ) -> Tenant:
        """AlreadyExists when the id is taken, InvalidArgument for a time zone the database does not know, NotFound when
        there is no such plan.
        """
        async with tenant_transaction(self._pool, ACROSS_TENANTS) as connection:

            async def insert() -> asyncpg.Record | None:
                await keep_plan(connection, plan_id)
                return await connection.fetchrow(INSERT_TENANT, tenant_id, display_name, time_zone, plan_id)

            await _require_zone(connection, time_zone)
            with _taken({"tenants_pkey": AlreadyExists("tenant", tenant_id)}):
                row, _ = await once(connection, PLATFORM, "CreateTenant", replay, "tenants", insert)
        return _tenant(row)

    async def get(self, tenant_id: str) -> Tenant:
        """NotFound when there is none."""
        async with tenant_transaction(self._pool, tenant_id) as connection:
            return _tenant(await require_tenant(connection, tenant_id))

    async def list(self, before: Position | None, most: int) -> Sequence[Tenant]:
        """Of the whole platform, newest first."""
        async with tenant_transaction(self._pool, ACROSS_TENANTS) as connection:
            return [_tenant(row) for row in await connection.fetch(LIST_TENANTS, *bounds(before), most)]

    async def update(self, tenant_id: str, changes: Mapping[str, object]) -> Tenant:
        """Changes display_name, time_zone, active, as far as they are in `changes`; NotFound when there is none."""
        zone = changes.get("time_zone")
        async with tenant_transaction(self._pool, tenant_id) as connection:
            if isinstance(zone, str):
                await _require_zone(connection, zone)
            row = await connection.fetchrow(
                UPDATE_TENANT, tenant_id, changes.get("display_name"), zone, changes.get("active")
            )
        if row is None:
            raise NotFound("tenant", tenant_id)
        return _tenant(row)

    async def activate(self, tenant_id: str) -> Tenant:
        """Repeating it changes nothing; NotFound when there is none."""
        return await self._switch(tenant_id, active=True)

    async def deactivate(self, tenant_id: str) -> Tenant:
        """Repeating it changes nothing; NotFound when there is none."""
        return await self._switch(tenant_id, active=False)

    async def _switch(self, tenant_id: str, *, active: bool) -> Tenant:
        async with tenant_transaction(self._pool, tenant_id) as connection:
            await connection.execute(SWITCH_TENANT, tenant_id, active)
            return _tenant(await require_tenant(connection, tenant_id))

    async def create_user(
        self, tenant_id: str, user_id: str, display_name: str, email: str, role: Role, replay: Replay | None
    ) -> User:
        """AlreadyExists when the id is taken in the tenant or the address anywhere, NotFound without the tenant."""
        taken = {
            "users_pkey": AlreadyExists("user", user_id),
            "users_email_key": AlreadyExists("user", email),
        }
        async with tenant_transaction(self._pool, tenant_id) as connection:
            await require_tenant(connection, tenant_id)
            if await connection.fetchval(IS_ERASED, tenant_id, user_id):
                raise taken["users_pkey"]
            with _taken(taken):
                row, _ = await once(
                    connection,
                    tenant_id,
                    "CreateUser",
                    replay,
                    "users",
                    lambda: connection.fetchrow(INSERT_USER, tenant_id, user_id, display_name, email, role),
                )
        return _user(row)

    async def get_user(self, tenant_id: str, user_id: str) -> User:
        """NotFound when the tenant has no such user."""
        async with tenant_transaction(self._pool, tenant_id) as connection:
            return _user(await require_user(connection, tenant_id, user_id))

    async def list_users(self, tenant_id: str, before: Position | None, most: int) -> Sequence[User]:
        """Newest first; NotFound when there is no such tenant."""
        async with tenant_transaction(self._pool, tenant_id) as connection:
            await require_tenant(connection, tenant_id)
            rows = await connection.fetch(LIST_USERS, tenant_id, *bounds(before), most)
        return [_user(row) for row in rows]

    async def update_user(self, tenant_id: str, user_id: str, changes: Mapping[str, object]) -> User:
        """Changes display_name, email, role, active, as far as they are in `changes`.

        NotFound when the tenant has no such user, AlreadyExists when the address is somebody else's.
        """
        values = [changes.get(name) for name in ("display_name", "email", "role", "active")]
        async with tenant_transaction(self._pool, tenant_id) as connection:
            with _taken({"users_email_key": AlreadyExists("user", str(changes.get("email")))}):
                row = await connection.fetchrow(UPDATE_USER, tenant_id, user_id, *values)
        if row is None:
            raise NotFound("user", user_id)
        return _user(row)


async def require_tenant(connection: asyncpg.Connection, tenant_id: str) -> asyncpg.Record:
    """The tenant's row; NotFound when there is none."""
    row = await connection.fetchrow(GET_TENANT, tenant_id)
    if row is None:
        raise NotFound("tenant", tenant_id)
    return row


async def keep_plan(connection: asyncpg.Connection, plan_id: str) -> None:
    """The plan stays until the transaction ends; NotFound when there is none. "" is no plan."""
    if plan_id and not await connection.fetchval(KEEP_PLAN, plan_id):
        raise NotFound("plan", plan_id)


async def require_user(connection: asyncpg.Connection, tenant_id: str, user_id: str) -> asyncpg.Record:
    """The user's row; NotFound when the tenant has no such user."""
    row = await connection.fetchrow(GET_USER, tenant_id, user_id)
    if row is None:
        raise NotFound("user", user_id)
    return row


def bounds(before: Position | None) -> tuple[str, str]:
    """Where a page, newest first, begins: for a row comparison."""
    return (before[0].isoformat(), before[1]) if before else ("infinity", "")


async def _require_zone(connection: asyncpg.Connection, time_zone: str) -> None:
    # The database counts the periods, so it decides which zones there are.
    if not await connection.fetchval(KNOWN_ZONE, time_zone):
        text = "must be a name of the IANA time zone database"
        raise InvalidArgument(violations=[FieldViolation("time_zone", text, "string.time_zone")])


@contextmanager
def _taken(meanings: Mapping[str, AlreadyExists]) -> Iterator[None]:
    """What the violation of each unique constraint means."""
    try:
        yield
    except asyncpg.UniqueViolationError as error:
        raise meanings[error.constraint_name or ""] from error


def _tenant(row: asyncpg.Record) -> Tenant:
    return Tenant(
        row["tenant_id"],
        row["display_name"],
        row["time_zone"],
        row["active"],
        row["create_time"],
        row["update_time"],
    )


def _user(row: asyncpg.Record) -> User:
    return User(
        row["tenant_id"],
        row["user_id"],
        row["display_name"],
        row["email"],
        Role(row["role"]),
        row["active"],
        row["create_time"],
        row["update_time"],
    )
