"""The store of API keys. A key's secret is kept as HMAC-SHA256 under a pepper that is not in the database."""

import hashlib
import hmac
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime

import asyncpg
from pydantic import SecretStr

from services.tenant_quota.model import (
    PERMISSIONS,
    ApiKey,
    Credential,
    Principal,
    Replay,
    Role,
    forbid_escalation,
    new_secret,
    parse_secret,
)
from services.tenant_quota.replays import once
from services.tenant_quota.tenants import ACROSS_TENANTS, Position, bounds, require_tenant, require_user
from shared.errors import FieldViolation, InvalidArgument, NotFound
from shared.postgres import tenant_transaction

INSERT_KEY = """
INSERT INTO api_keys (key_id, tenant_id, user_id, display_name, role, secret_hash, expire_time)
VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING *
"""
IS_PAST = "SELECT $1::timestamptz <= clock_timestamp()"
LIST_KEYS = """
SELECT * FROM api_keys WHERE tenant_id = $1 AND (create_time, key_id) < ($2::text::timestamptz, $3)
 ORDER BY create_time DESC, key_id DESC LIMIT $4
"""
REVOKE_KEY = """
UPDATE api_keys SET revoke_time = coalesce(revoke_time, clock_timestamp())
 WHERE tenant_id = $1 AND key_id = $2 RETURNING *
"""
FIND_LIVE = """
SELECT k.tenant_id, k.user_id, k.role, k.secret_hash, u.role AS user_role,
       k.revoke_time IS NULL AND (k.expire_time IS NULL OR k.expire_time > clock_timestamp())
       AND (k.tenant_id = '' OR coalesce(t.active, false))
       AND (k.user_id = '' OR coalesce(u.active, false)) AS live
  FROM api_keys k
  LEFT JOIN tenants t ON t.tenant_id = k.tenant_id
  LEFT JOIN users u ON u.tenant_id = k.tenant_id AND u.user_id = k.user_id
 WHERE k.key_id = $1
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


class ApiKeys:
    """Keeps keys and recognises credentials."""

    def __init__(self, pool: asyncpg.Pool, pepper: SecretStr, environment: str) -> None:
        self._pool = pool
        self._pepper = pepper
        self._environment = environment

    async def create(
        self,
        tenant_id: str,
        user_id: str,
        display_name: str,
        role: Role,
        expire_time: datetime | None,
        replay: Replay | None,
        *,
        allowed: frozenset[str],
    ) -> tuple[ApiKey, str]:
        """The key and its secret; the secret is "" when the request was a repetition.

        UNSPECIFIED is the user's own role, END_USER without a user. NotFound when the tenant or the user does not
        exist, PermissionDenied when the role exceeds the user's or `allowed`, InvalidArgument when the key would be
        born expired.
        """
        secret = new_secret(self._environment)
        async with tenant_transaction(self._pool, tenant_id) as connection:
            await require_tenant(connection, tenant_id)
            granted = await _role_within_user(connection, tenant_id, user_id, role)
            forbid_escalation(granted, allowed)

            async def make() -> asyncpg.Record | None:
                await _require_future(connection, expire_time)
                credential = _own(secret)
                return await connection.fetchrow(
                    INSERT_KEY,
                    credential.key_id,
                    tenant_id,
                    user_id,
                    display_name,
                    granted,
                    self._hash(credential),
                    expire_time,
                )

            row, is_new = await once(connection, tenant_id, "CreateApiKey", replay, "api_keys", make)
        return _api_key(row), secret if is_new else ""

    async def list(self, tenant_id: str, before: Position | None, most: int) -> Sequence[ApiKey]:
        """Newest first; NotFound when there is no such tenant."""
        async with tenant_transaction(self._pool, tenant_id) as connection:
            await require_tenant(connection, tenant_id)
            rows = await connection.fetch(LIST_KEYS, tenant_id, *bounds(before), most)
        return [_api_key(row) for row in rows]

    async def revoke(self, tenant_id: str, key_id: str) -> ApiKey:
        """Repeating it changes nothing; NotFound when the tenant has no such key."""
        async with tenant_transaction(self._pool, tenant_id) as connection:
            row = await connection.fetchrow(REVOKE_KEY, tenant_id, key_id)
        if row is None:
            raise NotFound("api_key", key_id)
        return _api_key(row)

    async def principal(self, credential: Credential) -> Principal | None:
        """Who presents this credential; None when nobody may. A wrong secret takes as long as a right one."""
        async with tenant_transaction(self._pool, ACROSS_TENANTS) as connection:
            row = await connection.fetchrow(FIND_LIVE, credential.key_id)
        kept = row["secret_hash"] if row else secrets.token_bytes(hashlib.sha256().digest_size)
        is_right = hmac.compare_digest(kept, self._hash(credential))
        if not is_right or row is None or not row["live"]:
            return None
        permissions = PERMISSIONS[Role(row["role"])]
        if row["user_role"] is not None:
            permissions &= PERMISSIONS[Role(row["user_role"])]
        return Principal(credential.key_id, row["tenant_id"], row["user_id"], permissions)

    async def ensure_bootstrap(self, keys: Mapping[Role, SecretStr]) -> None:
        """Makes exactly these keys of the platform valid, whatever was before; several replicas may do it at once.

        Raises ValueError when one is not of the form that `new-key` prints.
        """
        credentials = {role: _own(secret.get_secret_value()) for role, secret in keys.items()}
        async with tenant_transaction(self._pool, ACROSS_TENANTS) as connection:
            await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('tenant_quota.bootstrap', 0))")
            for role, credential in credentials.items():
                name = f"bootstrap {role.name.lower()}"
                await connection.execute(ENSURE_KEY, credential.key_id, name, role, self._hash(credential))
            await connection.execute(RETIRE_KEYS, [each.key_id for each in credentials.values()])

    def _hash(self, credential: Credential) -> bytes:
        pepper = self._pepper.get_secret_value().encode()
        return hmac.new(pepper, credential.text.encode(), hashlib.sha256).digest()


async def _role_within_user(connection: asyncpg.Connection, tenant_id: str, user_id: str, role: Role) -> Role:
    if not user_id:
        return role or Role.END_USER
    own = Role((await require_user(connection, tenant_id, user_id))["role"])
    forbid_escalation(role, PERMISSIONS[own])
    return role or own


async def _require_future(connection: asyncpg.Connection, moment: datetime | None) -> None:
    if moment is not None and await connection.fetchval(IS_PAST, moment):
        raise InvalidArgument(violations=[FieldViolation("expire_time", "must be in the future", "timestamp.gt_now")])


def _own(secret: str) -> Credential:
    credential = parse_secret(secret)
    if credential is None:
        raise ValueError("not an API key; `python -m services.tenant_quota new-key` makes one")
    return credential


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
    )
