"""The statement of a month, from the sums by day: it costs the same however long the ledger is."""

from datetime import date

import asyncpg

from services.tenant_quota.usage_model import Statement, TopUpFlow, UsageLine, UsageSum
from services.tenant_quota.usage_reports import SUMS
from shared.errors import NotFound
from shared.postgres import tenant_transaction

# A bit is set for each column by which a line is not summed up.
LINES = f"""
SELECT grouping(model, user_id, key_id) AS by, coalesce(model, user_id, key_id, '') AS name, {SUMS}
  FROM usage_days
 WHERE tenant_id = $1 AND day >= $2::date AND day < $2::date + interval '1 month'
 GROUP BY GROUPING SETS ((model), (user_id), (key_id), ())
"""  # noqa: S608 only constants
TOTAL, MODEL, USER, KEY = 7, 3, 5, 6
# A month is over when it is so in the last zone on earth, because a tenant may move there.
STANDING = """
SELECT coalesce(d.before, 0) - coalesce(b.used_before, 0) AS opening, coalesce(d.given, 0) AS given,
       coalesce(b.used, 0) AS used, coalesce(d.ended, 0) AS ended,
       coalesce(b.held, 0) = 0
           AND clock_timestamp() >= ($2::date + interval '1 month') AT TIME ZONE 'Etc/GMT+12' AS is_final
  FROM tenants t
 CROSS JOIN LATERAL (
    SELECT sum(given - ended) FILTER (WHERE day < $2::date)::bigint AS before,
           sum(given) FILTER (WHERE day >= $2)::bigint AS given, sum(ended) FILTER (WHERE day >= $2)::bigint AS ended
      FROM top_up_days WHERE tenant_id = t.tenant_id AND day < $2::date + interval '1 month') d
 CROSS JOIN LATERAL (
    SELECT sum(topped_used) FILTER (WHERE month < $2)::bigint AS used_before,
           sum(topped_used) FILTER (WHERE month = $2)::bigint AS used, sum(held)::bigint AS held
      FROM balances WHERE tenant_id = t.tenant_id AND level = 1 AND subject = '' AND month <= $2) b
 WHERE t.tenant_id = $1
"""


class Statements:
    """Draws up statements."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def get(self, tenant_id: str, month: date) -> Statement:
        """The statement of the month that begins on that day, all as of one moment. NotFound without the tenant."""
        async with tenant_transaction(self._pool, tenant_id, snapshot=True) as connection:
            standing = await connection.fetchrow(STANDING, tenant_id, month)
            if standing is None:
                raise NotFound("tenant", tenant_id)
            rows = await connection.fetch(LINES, tenant_id, month)
        lines: dict[int, list[UsageLine]] = {by: [] for by in (TOTAL, MODEL, USER, KEY)}
        for by, name, *sums in rows:
            lines[by].append(UsageLine((name,), UsageSum(*(each or 0 for each in sums))))
        opening, given, used, ended, is_final = standing
        return Statement(
            tenant_id=tenant_id,
            month=month,
            total=lines[TOTAL][0].sum,
            models=lines[MODEL],
            users=lines[USER],
            keys=lines[KEY],
            top_ups=TopUpFlow(opening, given, used, ended),
            is_final=is_final,
        )
