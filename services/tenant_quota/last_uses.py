"""When keys and sessions were last presented: noted in memory, written for all of them together now and then."""

from datetime import datetime, timedelta

import asyncpg

from services.tenant_quota.tenants import ACROSS_TENANTS
from shared.clock import Clock, SystemClock
from shared.postgres import tenant_transaction

# In the order of the ids, so that replicas that write at once do not lock each other out. Forgotten credentials (erased
# while their use was waiting) are left out.
WRITE = """
INSERT INTO last_uses AS l (credential_id, tenant_id, use_time)
SELECT n.credential_id, n.tenant_id, n.use_time
  FROM unnest($1::text[], $2::text[], $3::timestamptz[]) n(credential_id, tenant_id, use_time)
 WHERE EXISTS (SELECT FROM api_keys k WHERE k.key_id = n.credential_id)
    OR EXISTS (SELECT FROM sessions s WHERE s.session_id = n.credential_id)
 ORDER BY n.credential_id
ON CONFLICT (credential_id) DO UPDATE SET use_time = excluded.use_time WHERE l.use_time < excluded.use_time
"""


class LastUses:
    """Costs a look-up per use, and one statement for all credentials used since the last `write`."""

    def __init__(self, pool: asyncpg.Pool, clock: Clock | None = None) -> None:
        self._pool = pool
        self._clock = clock or SystemClock()
        self._noted: dict[str, tuple[str, datetime]] = {}
        self._written: dict[str, datetime] = {}

    def note(self, tenant_id: str, credential_id: str) -> None:
        """The credential was presented now, to the minute."""
        minute = self._clock.now().replace(second=0, microsecond=0)
        if self._written.get(credential_id) != minute:
            self._noted[credential_id] = (tenant_id, minute)

    async def write(self) -> None:
        """Writes what was noted; what a failure kept from being written is tried again the next time."""
        noted, self._noted = self._noted, {}
        if not noted:
            return
        tenants, minutes = zip(*noted.values(), strict=True)
        try:
            async with tenant_transaction(self._pool, ACROSS_TENANTS) as connection:
                await connection.execute(WRITE, list(noted), tenants, minutes)
        except BaseException:
            self._noted = noted | self._noted
            raise
        self._remember({credential_id: minute for credential_id, (_, minute) in noted.items()})

    def _remember(self, written: dict[str, datetime]) -> None:
        """Forgets minutes gone by, so that only what is in use takes room."""
        recent = self._clock.now() - timedelta(minutes=1)
        kept = {name: minute for name, minute in self._written.items() if minute > recent}
        self._written = kept | written
