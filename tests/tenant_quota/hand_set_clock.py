"""A clock of the database that is set by hand."""

from datetime import datetime

import asyncpg

# Found before PostgreSQL's own function, because the pool's search path says so.
HAND_SET_CLOCK = """
CREATE SCHEMA hand_set;
CREATE TABLE hand_set.clock (now timestamptz);
INSERT INTO hand_set.clock VALUES (now());
CREATE FUNCTION hand_set.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE
    AS 'SELECT now FROM hand_set.clock';
GRANT USAGE ON SCHEMA hand_set TO prosa_tenant_quota;
GRANT SELECT, UPDATE ON hand_set.clock TO prosa_tenant_quota;
"""


class Clock:
    """The clock of the database under test."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def set(self, moment: str) -> None:
        """To an instant given with its offset, as 2026-11-20T23:59-03:00."""
        await self._pool.execute("UPDATE hand_set.clock SET now = $1", datetime.fromisoformat(moment))
