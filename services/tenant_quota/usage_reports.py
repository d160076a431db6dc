"""Usage summed up as wished, from the sums by day: it never reads the ledger."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import asyncpg

from services.tenant_quota.tenants import require_tenant
from services.tenant_quota.usage_model import Dimension, UsageLine, UsageSum
from shared.postgres import tenant_transaction

SUMS = """sum(requests)::bigint, sum(input_tokens)::bigint, sum(cached_input_tokens)::bigint,
       sum(output_tokens)::bigint, sum(reasoning_tokens)::bigint, sum(cost_micros)::bigint"""
# What stands in a line, as text. A date sorts as its text does.
NAMES: Mapping[Dimension, str] = {
    Dimension.DAY: "to_char(day, 'YYYY-MM-DD') COLLATE \"C\"",
    Dimension.MONTH: "to_char(day, 'YYYY-MM') COLLATE \"C\"",
    Dimension.USER: "user_id",
    Dimension.KEY: "key_id",
    Dimension.MODEL: "model",
}
QUERY = """
SELECT {names}{sums}
  FROM usage_days
 WHERE tenant_id = $1 AND day BETWEEN $2 AND $3 AND user_id = coalesce($4, user_id) AND key_id = coalesce($5, key_id)
   AND model = coalesce($6, model){after}
{groups}
 LIMIT ${limit}
"""


@dataclass(frozen=True, slots=True)
class UsageQuery:
    """Which usage is wanted, both days included; None does not narrow."""

    first_day: date
    last_day: date
    group_by: Sequence[Dimension]
    user_id: str | None = None
    key_id: str | None = None
    model: str | None = None


class UsageReports:
    """Sums up."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def query(
        self, tenant_id: str, wanted: UsageQuery, after: Sequence[str] | None, most: int
    ) -> Sequence[UsageLine]:
        """The lines, in the order of their names, after the one with the names `after`. NotFound without the tenant."""
        sql = query_sql(wanted.group_by, is_first=after is None)
        values = (wanted.first_day, wanted.last_day, wanted.user_id, wanted.key_id, wanted.model)
        async with tenant_transaction(self._pool, tenant_id) as connection:
            await require_tenant(connection, tenant_id)
            rows = await connection.fetch(sql, tenant_id, *values, *(after or ()), most)
        return [_line(row, len(wanted.group_by)) for row in rows]


def query_sql(group_by: Sequence[Dimension], *, is_first: bool) -> str:
    """The statement that sums up by these; unless `is_first`, it begins after the names in $7 and so on."""
    names = [NAMES[dimension] for dimension in group_by]
    places = [] if is_first else [f"${number}" for number in range(7, 7 + len(names))]
    groups = ", ".join(str(number) for number in range(1, len(names) + 1))
    return QUERY.format(
        names="".join(f"{name}, " for name in names),
        sums=SUMS,
        after=f"\n   AND ({', '.join(names)}) > ({', '.join(places)})" if places else "",
        groups=f" GROUP BY {groups} ORDER BY {groups}" if names else "",
        limit=7 + len(places),
    )


def _line(row: asyncpg.Record, names: int) -> UsageLine:
    values = tuple(row)
    return UsageLine(values[:names], UsageSum(*(each or 0 for each in values[names:])))
