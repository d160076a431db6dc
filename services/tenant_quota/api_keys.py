"""The store of API keys: made, narrowed, rotated, revoked. A key's secret is kept as a keyed hash."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import asyncpg
from pydantic import SecretStr

from services.tenant_quota.credentials import KeyedHash
from services.tenant_quota.model import (
    PERMISSIONS,
    ApiKey,
    ApiKeyEnded,
    Replay,
    Role,
    clean_scopes,
    forbid_escalation,
    new_secret,
    own_credential,
    permissions_of,
)
from services.tenant_quota.replays import once
from services.tenant_quota.tenants import ACROSS_TENANTS, Position, bounds, require_tenant, require_user
from shared.errors import FieldViolation, InvalidArgument, NotFound
from shared.postgres import tenant_transaction

INSERT_KEY = """
INSERT INTO api_keys (key_id, tenant_id, user_id, display_name, role, scopes, secret_hash, expire_time)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING *
"""
IS_PAST = "SELECT $1::timestamptz <= clock_timestamp()"
LIST_KEYS = """
SELECT k.*, l.use_time AS last_use_time FROM api_keys k LEFT JOIN last_uses l ON l.credential_id = k.key_id
 WHERE k.tenant_id = $1 AND (k.create_time, k.key_id) < ($2::text::timestamptz, $3)
 ORDER BY k.create_time DESC, k.key_id DESC LIMIT $4
"""
UPDATE_KEY = """
UPDATE api_keys k SET display_name = coalesce($3, display_name)
 WHERE tenant_id = $1 AND key_id = $2
RETURNING k.*, (SELECT use_time FROM last_uses WHERE credential_id = k.key_id) AS last_use_time
"""
REVOKE_KEY = """
UPDATE api_keys k SET revoke_time = coalesce(revoke_time, clock_timestamp())
 WHERE tenant_id = $1 AND key_id = $2
RETURNING k.*, (SELECT use_time FROM last_uses WHERE credential_id = k.key_id) AS last_use_time
"""
LOCK_KEY = "SELECT role, scopes FROM api_keys WHERE tenant_id = $1 AND key_id = $2 FOR UPDATE"
INSERT_SUCCESSOR = """
INSERT INTO api_keys (key_id, tenant_id, user_id, display_name, role, scopes, secret_hash, expire_time, rotated_from)
SELECT $3, k.tenant_id, k.user_id, k.display_name, k.role, k.scopes, $4,
       coalesce($5, clock_timestamp() + (k.expire_time - k.create_time)), k.key_id
  FROM api_keys k
 WHERE k.tenant_id = $1 AND k.key_id = $2 AND k.revoke_time IS NULL
   AND (k.expire_time IS NULL OR k.expire_time > clock_timestamp())
   AND NOT EXISTS (SELECT FROM api_keys s WHERE s.tenant_id = $1 AND s.rotated_from = $2)
RETURNING *
"""
# A key that would have ended earlier does.
LIMIT_KEY = """
UPDATE api_keys SET expire_time = least(expire_time, clock_timestamp() + make_interval(secs => $3))
 WHERE tenant_id = $1 AND key_id = $2
"""
# In whole, whatever a quota has. The successor's counters begin anew.
COPY_QUOTA = """
INSERT INTO quotas SELECT (jsonb_populate_record(q, jsonb_build_object('subject', $3::text))).*
  FROM quotas q WHERE q.tenant_id = $1 AND q.level = 3 AND q.subject = $2
"""
ENSURE_KEY = """
INSERT INTO api_keys (key_id, tenant_id, display_name, role, secret_hash) VALUES ($1, '', $2, $3, $4)
ON CONFLICT (key_id) DO UPDATE SET secret_hash = excluded.secret_hash, role = excluded.role, revoke_time = NULL
"""
# A bootstrap key that is no longer configured is void: that is how it is rotated.
RETIRE_KEYS = """
UPDATE api_keys SET revoke_time = clock_timestamp()
 WHERE tenant_id = '' AND key_id <> ALL ($1::text[]) AND revoke_time IS NULL
"""


@dataclass(frozen=True, slots=True)
class KeyWish:
    """A key somebody wants: UNSPECIFIED is the user's own role, or END_USER without a user."""

    tenant_id: str
    user_id: str
    display_name: str
    role: Role
    scopes: Sequence[str]
    expire_time: datetime | None


@dataclass(frozen=True, slots=True)
class Rotation:
    """A key that is to have a successor; without an expire_time it lives as long as the old one was meant to."""

    tenant_id: str
    key_id: str
    overlap_seconds: int
    expire_time: datetime | None


class ApiKeys:
    """Keeps keys."""

    def __init__(self, pool: asyncpg.Pool, keyed_hash: KeyedHash, environment: str) -> None:
        self._pool = pool
        self._keyed_hash = keyed_hash
        self._environment = environment

    async def create(self, wish: KeyWish, replay: Replay | None, *, allowed: frozenset[str]) -> tuple[ApiKey, str]:
        """The key and its secret; the secret is "" when the request was a repetition.

        NotFound when the tenant or the user does not exist, PermissionDenied when the key could do more than its user
        or than `allowed`, InvalidArgument for a scope outside of the role and for a key that would be born expired.
        """
        secret = new_secret(self._environment)
        async with tenant_transaction(self._pool, wish.tenant_id) as connection:
            await require_tenant(connection, wish.tenant_id)
            role = await _role_within_user(connection, wish)
            scopes = clean_scopes("scopes", wish.scopes, role)
            forbid_escalation(permissions_of(role, scopes), allowed)

            async def make() -> asyncpg.Record | None:
                await _require_future(connection, wish.expire_time)
                owner = (wish.tenant_id, wish.user_id, wish.display_name)
                return await connection.fetchrow(
                    INSERT_KEY, _id(secret), *owner, role, scopes, self._keyed_hash.of(secret), wish.expire_time
                )

            row, is_new = await once(connection, wish.tenant_id, "CreateApiKey", replay, "api_keys", make)
        return _api_key(row), secret if is_new else ""

    async def rotate(self, rotation: Rotation, replay: Replay | None, *, allowed: frozenset[str]) -> tuple[ApiKey, str]:
        """The successor and its secret; the secret is "" when the request was a repetition.

        NotFound when the tenant has no such key, ApiKeyEnded when it is accepted no more or has a successor,
        PermissionDenied when it may do something outside of `allowed`: its secret would be a way up.
        """
        secret = new_secret(self._environment)
        address = (rotation.tenant_id, rotation.key_id)
        async with tenant_transaction(self._pool, rotation.tenant_id) as connection:

            async def make() -> asyncpg.Record | None:
                old = await connection.fetchrow(LOCK_KEY, *address)
                if old is None:
                    raise NotFound("api_key", rotation.key_id)
                forbid_escalation(permissions_of(Role(old["role"]), old["scopes"]), allowed)
                await _require_future(connection, rotation.expire_time)
                made = await connection.fetchrow(
                    INSERT_SUCCESSOR, *address, _id(secret), self._keyed_hash.of(secret), rotation.expire_time
                )
                if made is None:
                    raise ApiKeyEnded
                await connection.execute(LIMIT_KEY, *address, rotation.overlap_seconds)
                await connection.execute(COPY_QUOTA, *address, made["key_id"])
                return made

            row, is_new = await once(connection, rotation.tenant_id, "RotateApiKey", replay, "api_keys", make)
        return _api_key(row), secret if is_new else ""

    async def list(self, tenant_id: str, before: Position | None, most: int) -> Sequence[ApiKey]:
        """Newest first; NotFound when there is no such tenant."""
        async with tenant_transaction(self._pool, tenant_id) as connection:
            await require_tenant(connection, tenant_id)
            rows = await connection.fetch(LIST_KEYS, tenant_id, *bounds(before), most)
        return [_api_key(row) for row in rows]

    async def update(self, tenant_id: str, key_id: str, changes: Mapping[str, object]) -> ApiKey:
        """Changes display_name, if it is in `changes`; NotFound when the tenant has no such key."""
        return await self._changed(UPDATE_KEY, tenant_id, key_id, changes.get("display_name"))

    async def revoke(self, tenant_id: str, key_id: str) -> ApiKey:
        """Repeating it changes nothing; NotFound when the tenant has no such key."""
        return await self._changed(REVOKE_KEY, tenant_id, key_id)

    async def _changed(self, statement: str, tenant_id: str, key_id: str, *values: object) -> ApiKey:
        async with tenant_transaction(self._pool, tenant_id) as connection:
            row = await connection.fetchrow(statement, tenant_id, key_id, *values)
        if row is None:
            raise NotFound("api_key", key_id)
        return _api_key(row)

    async def ensure_bootstrap(self, keys: Mapping[Role, SecretStr]) -> None:
        """Makes exactly these keys of the platform valid, whatever was before; several replicas may do it at once.

        Raises ValueError when one is not of the form that `new-key` prints.
        """
        credentials = {role: own_credential(secret.get_secret_value()) for role, secret in keys.items()}
        async with tenant_transaction(self._pool, ACROSS_TENANTS) as connection:
            await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('tenant_quota.bootstrap', 0))")
            for role, credential in credentials.items():
                name = f"bootstrap {role.name.lower()}"
                kept = self._keyed_hash.of(credential.text)
                await connection.execute(ENSURE_KEY, credential.key_id, name, role, kept)
            await connection.execute(RETIRE_KEYS, [each.key_id for each in credentials.values()])


async def _role_within_user(connection: asyncpg.Connection, wish: KeyWish) -> Role:
    if not wish.user_id:
        return wish.role or Role.END_USER
    own = Role((await require_user(connection, wish.tenant_id, wish.user_id))["role"])
    forbid_escalation(PERMISSIONS[wish.role], PERMISSIONS[own])
    return wish.role or own


async def _require_future(connection: asyncpg.Connection, moment: datetime | None) -> None:
    if moment is not None and await connection.fetchval(IS_PAST, moment):
        raise InvalidArgument(violations=[FieldViolation("expire_time", "must be in the future", "timestamp.gt_now")])


def _id(secret: str) -> str:
    return own_credential(secret).key_id


def _api_key(row: asyncpg.Record) -> ApiKey:
    return ApiKey(
        row["key_id"],
        row["tenant_id"],
        row["user_id"],
        row["display_name"],
        Role(row["role"]),
        row["create_time"],
        row["expire_time"],
        row["revoke_time"],
        tuple(row["scopes"] or ()),
        row["rotated_from"] or "",
        row.get("last_use_time"),
    )
