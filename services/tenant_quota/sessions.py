"""The store of passwords, of the sessions they open, and of how often they were tried."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

import asyncpg

from services.tenant_quota.credentials import KeyedHash
from services.tenant_quota.forgetting import forget_all
from services.tenant_quota.model import Kind, LoginThrottled, Role, Session, new_secret, own_credential
from services.tenant_quota.tenants import ACROSS_TENANTS, Position, bounds, require_user
from shared.errors import NotFound
from shared.postgres import tenant_transaction

# So many passwords at once, then one more each time that this has gone by: some 1 500 a day for an address.
TRIES_AT_ONCE = 10
SECONDS_PER_TRY = 60.0

FIND_PERSON = """
SELECT u.tenant_id, u.user_id, p.hash, u.active AND t.active AS active
  FROM users u
  JOIN tenants t ON t.tenant_id = u.tenant_id
  LEFT JOIN passwords p ON p.tenant_id = u.tenant_id AND p.user_id = u.user_id
 WHERE u.email = $1
"""
# A session stands on the hash that was checked: one that is replaced meanwhile opens nothing.
OPEN = """
WITH proof AS (
    SELECT tenant_id, user_id FROM passwords WHERE tenant_id = $1 AND user_id = $2 AND hash = $3 FOR SHARE
)
INSERT INTO sessions (session_id, tenant_id, user_id, secret_hash, expire_time)
SELECT $4, tenant_id, user_id, $5, clock_timestamp() + make_interval(secs => $6) FROM proof
RETURNING *
"""
LIST_OPEN = """
SELECT s.*, l.use_time AS last_use_time FROM sessions s LEFT JOIN last_uses l ON l.credential_id = s.session_id
 WHERE s.tenant_id = $1 AND s.user_id = $2 AND (s.create_time, s.session_id) < ($3::text::timestamptz, $4)
   AND s.revoke_time IS NULL AND s.expire_time > clock_timestamp()
   AND greatest(s.create_time, l.use_time) > clock_timestamp() - make_interval(secs => $6)
 ORDER BY s.create_time DESC, s.session_id DESC LIMIT $5
"""
REVOKE = """
UPDATE sessions s SET revoke_time = coalesce(revoke_time, clock_timestamp())
 WHERE tenant_id = $1 AND user_id = $2 AND session_id = $3
RETURNING s.*, (SELECT use_time FROM last_uses WHERE credential_id = s.session_id) AS last_use_time
"""
REVOKE_ALL = """
WITH ended AS (
    UPDATE sessions SET revoke_time = clock_timestamp()
     WHERE tenant_id = $1 AND user_id = $2 AND revoke_time IS NULL AND expire_time > clock_timestamp() RETURNING 1
)
SELECT count(*) FROM ended
"""
KEEP_HASH = """
INSERT INTO passwords (tenant_id, user_id, hash) VALUES ($1, $2, $3)
ON CONFLICT (tenant_id, user_id) DO UPDATE SET hash = excluded.hash, update_time = clock_timestamp()
"""
TRY = """
INSERT INTO login_attempts AS a (address_hash, full_time)
VALUES ($1, clock_timestamp() + make_interval(secs => $2))
ON CONFLICT (address_hash) DO UPDATE
   SET full_time = greatest(a.full_time, clock_timestamp()) + make_interval(secs => $2)
 WHERE a.full_time <= clock_timestamp() + make_interval(secs => $3)
RETURNING true
"""
WAIT = """
SELECT extract(epoch FROM full_time - clock_timestamp()) - $2::float8 FROM login_attempts WHERE address_hash = $1
"""
FORGET_TRIES = "DELETE FROM login_attempts WHERE address_hash = $1"
FORGET_OLD_TRIES = """
WITH gone AS (
    DELETE FROM login_attempts WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM login_attempts WHERE full_time < clock_timestamp() ORDER BY full_time LIMIT $1))
    RETURNING 1
)
SELECT count(*) FROM gone
"""
FORGET_OLD_SESSIONS = """
WITH gone AS (
    DELETE FROM sessions WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM sessions WHERE expire_time < now() - interval '30 days' ORDER BY expire_time LIMIT $1))
    RETURNING session_id
), unused AS (
    DELETE FROM last_uses USING gone WHERE credential_id = session_id
)
SELECT count(*) FROM gone
"""


@dataclass(frozen=True, slots=True)
class Person:
    """Whose e-mail address it is, and whether they may come in now; `hash` is None without a password."""

    tenant_id: str
    user_id: str
    hash: str | None = field(repr=False)
    active: bool


class Sessions:
    """Keeps passwords and sessions."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        keyed_hash: KeyedHash,
        environment: str,
        *,
        lifetime_seconds: float,
        idle_seconds: float,
    ) -> None:
        self._pool = pool
        self._keyed_hash = keyed_hash
        self._environment = environment
        self._lifetime_seconds = lifetime_seconds
        self._idle_seconds = idle_seconds

    async def person(self, email: str) -> Person | None:
        """Whose address it is; None when it is nobody's."""
        async with tenant_transaction(self._pool, ACROSS_TENANTS) as connection:
            row = await connection.fetchrow(FIND_PERSON, email)
        return None if row is None else Person(row["tenant_id"], row["user_id"], row["hash"], row["active"])

    async def open(self, person: Person) -> tuple[Session, str] | None:
        """A session and its credential; None when the password was replaced since `person` was read."""
        secret = new_secret(self._environment, kind=Kind.SESSION)
        session_id, kept = own_credential(secret).key_id, self._keyed_hash.of(secret)
        async with tenant_transaction(self._pool, person.tenant_id) as connection:
            proof = (person.tenant_id, person.user_id, person.hash)
            row = await connection.fetchrow(OPEN, *proof, session_id, kept, self._lifetime_seconds)
        return None if row is None else (_session(row), secret)

    async def list(self, tenant_id: str, user_id: str, before: Position | None, most: int) -> Sequence[Session]:
        """The user's sessions that are open, newest first; NotFound when the tenant has no such user."""
        async with tenant_transaction(self._pool, tenant_id) as connection:
            await require_user(connection, tenant_id, user_id)
            rows = await connection.fetch(LIST_OPEN, tenant_id, user_id, *bounds(before), most, self._idle_seconds)
        return [_session(row) for row in rows]

    async def revoke(self, tenant_id: str, user_id: str, session_id: str) -> Session:
        """Repeating it changes nothing; NotFound when the user has no such session."""
        async with tenant_transaction(self._pool, tenant_id) as connection:
            row = await connection.fetchrow(REVOKE, tenant_id, user_id, session_id)
        if row is None:
            raise NotFound("session", session_id)
        return _session(row)

    async def email_and_role(self, tenant_id: str, user_id: str) -> tuple[str, Role]:
        """The user's address and role; NotFound when the tenant has no such user."""
        async with tenant_transaction(self._pool, tenant_id) as connection:
            row = await require_user(connection, tenant_id, user_id)
        return row["email"], Role(row["role"])

    async def set_password(self, tenant_id: str, user_id: str, hashed: str) -> int:
        """Ends all sessions of the user and returns how many; NotFound when the tenant has no such user."""
        async with tenant_transaction(self._pool, tenant_id) as connection:
            await require_user(connection, tenant_id, user_id)
            await connection.execute(KEEP_HASH, tenant_id, user_id, hashed)
            return int(await connection.fetchval(REVOKE_ALL, tenant_id, user_id))

    async def count_try(self, email: str) -> None:
        """Counts a password that is about to be tried; LoginThrottled, uncounted, when it is one too many."""
        room = (TRIES_AT_ONCE - 1) * SECONDS_PER_TRY
        async with tenant_transaction(self._pool, ACROSS_TENANTS) as connection:
            if await connection.fetchval(TRY, self._keyed_hash.of(email), SECONDS_PER_TRY, room):
                return
            wait = await connection.fetchval(WAIT, self._keyed_hash.of(email), room)
        raise LoginThrottled(max(0.0, wait or 0.0))

    async def forget_tries(self, email: str) -> None:
        """Somebody knew the password: all tries are free again."""
        async with tenant_transaction(self._pool, ACROSS_TENANTS) as connection:
            await connection.execute(FORGET_TRIES, self._keyed_hash.of(email))

    async def forget(self) -> None:
        """Deletes tries that count no more and sessions that ended long ago."""
        await forget_all(self._pool, FORGET_OLD_TRIES)
        await forget_all(self._pool, FORGET_OLD_SESSIONS)


def _session(row: asyncpg.Record) -> Session:
    times: tuple[datetime, datetime, datetime | None] = (row["create_time"], row["expire_time"], row["revoke_time"])
    return Session(row["session_id"], row["tenant_id"], row["user_id"], *times, row.get("last_use_time"))
