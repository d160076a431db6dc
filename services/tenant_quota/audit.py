"""The account checked against itself: the ledger must explain every counter to the token."""

from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from shared.postgres import tenant_transaction

AUDIT = """
WITH told AS (
    SELECT l.user_id, l.w AS "window", l.period_start,
           sum(e.held_delta)::bigint AS held, sum(e.used_delta)::bigint AS used
      FROM ledger e
      JOIN reservations r ON r.tenant_id = e.tenant_id AND r.reservation_id = e.reservation_id
     CROSS JOIN LATERAL (VALUES ('', 1::smallint, r.day), ('', 2::smallint, r.month),
                                (nullif(r.user_id, ''), 1::smallint, r.day),
                                (nullif(r.user_id, ''), 2::smallint, r.month)) l(user_id, w, period_start)
     WHERE e.tenant_id = $1 AND l.user_id IS NOT NULL
     GROUP BY l.user_id, l.w, l.period_start
)
SELECT user_id, "window", period_start::text AS period_start,
       coalesce(b.used, 0) - coalesce(t.used, 0) AS used, coalesce(b.held, 0) - coalesce(t.held, 0) AS held
  FROM (SELECT * FROM balances WHERE tenant_id = $1) b FULL JOIN told t USING (user_id, "window", period_start)
 WHERE (coalesce(b.used, 0), coalesce(b.held, 0)) <> (coalesce(t.used, 0), coalesce(t.held, 0))
"""


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """A counter that says more (or, negative, less) than the ledger."""

    user_id: str
    window: int
    period_start: str
    used: int
    held: int


async def discrepancies(pool: asyncpg.Pool, tenant_id: str) -> Sequence[Discrepancy]:
    """Every counter of the tenant that its ledger does not explain; none is the only good answer."""
    async with tenant_transaction(pool, tenant_id) as connection:
        return [Discrepancy(**row) for row in await connection.fetch(AUDIT, tenant_id)]
