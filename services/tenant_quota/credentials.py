"""Who presents a credential: the secret of an API key or of a session, recognised by its keyed hash."""

import hashlib
import hmac
import secrets

import asyncpg
from pydantic import SecretStr

from services.tenant_quota.last_uses import LastUses
from services.tenant_quota.model import PERMISSIONS, Credential, Kind, Principal, Role, parse_secret, permissions_of
from services.tenant_quota.tenants import ACROSS_TENANTS
from shared.postgres import tenant_transaction

FIND_KEY = """
SELECT k.tenant_id, k.user_id, k.role, k.scopes, k.secret_hash, u.role AS user_role,
       k.revoke_time IS NULL AND (k.expire_time IS NULL OR k.expire_time > clock_timestamp())
       AND (k.tenant_id = '' OR coalesce(t.active, false))
       AND (k.user_id = '' OR coalesce(u.active, false)) AS live
  FROM api_keys k
  LEFT JOIN tenants t ON t.tenant_id = k.tenant_id
  LEFT JOIN users u ON u.tenant_id = k.tenant_id AND u.user_id = k.user_id
 WHERE k.key_id = $1
"""
FIND_SESSION = """
SELECT s.tenant_id, s.user_id, u.role, '{}'::text[] AS scopes, s.secret_hash, u.role AS user_role,
       s.revoke_time IS NULL AND s.expire_time > clock_timestamp()
       AND greatest(s.create_time, l.use_time) > clock_timestamp() - make_interval(secs => $2)
       AND t.active AND u.active AS live
  FROM sessions s
  JOIN tenants t ON t.tenant_id = s.tenant_id
  JOIN users u ON u.tenant_id = s.tenant_id AND u.user_id = s.user_id
  LEFT JOIN last_uses l ON l.credential_id = s.session_id
 WHERE s.session_id = $1
"""


class KeyedHash:
    """HMAC-SHA256 under a pepper that is not in the database: what is kept of a secret."""

    def __init__(self, pepper: SecretStr) -> None:
        self._pepper = pepper

    def of(self, text: str) -> bytes:
        """32 bytes from which nobody comes back to the text."""
        return hmac.new(self._pepper.get_secret_value().encode(), text.encode(), hashlib.sha256).digest()


class Credentials:
    """Recognises the secrets of keys and sessions, and notes that they were used."""

    def __init__(
        self, pool: asyncpg.Pool, keyed_hash: KeyedHash, last_uses: LastUses, *, session_idle_seconds: float
    ) -> None:
        self._pool = pool
        self._keyed_hash = keyed_hash
        self._last_uses = last_uses
        self._session_idle_seconds = session_idle_seconds

    async def recognise(self, secret: str) -> Principal | None:
        """Who presents this secret; None when nobody may. A wrong one takes as long as a right one."""
        credential = parse_secret(secret)
        return await self._principal(credential) if credential else None

    async def _principal(self, credential: Credential) -> Principal | None:
        row = await self._found(credential)
        kept = row["secret_hash"] if row else secrets.token_bytes(hashlib.sha256().digest_size)
        is_right = hmac.compare_digest(kept, self._keyed_hash.of(credential.text))
        if not is_right or row is None or not row["live"]:
            return None
        self._last_uses.note(row["tenant_id"], credential.key_id)
        permissions = permissions_of(Role(row["role"]), row["scopes"])
        if row["user_role"] is not None:
            permissions &= PERMISSIONS[Role(row["user_role"])]
        return Principal(credential.key_id, row["tenant_id"], row["user_id"], permissions, Role(row["role"]))

    async def _found(self, credential: Credential) -> asyncpg.Record | None:
        async with tenant_transaction(self._pool, ACROSS_TENANTS) as connection:
            if credential.kind is Kind.SESSION:
                return await connection.fetchrow(FIND_SESSION, credential.key_id, self._session_idle_seconds)
            return await connection.fetchrow(FIND_KEY, credential.key_id)
