"""Usage and statements of a month beside a ledger a thousand times as long: the same time, the same rows examined.

Two tenants have the same days, users, keys and models; one has a ledger of ten thousand entries, the other of ten
million (PROSA_BENCH_LEDGER overrides). Nobody writes so many one by one: one statement each fills the tables with what
the account would have written. Beside it, once, what reading the ledger itself costs.
`python -m tests.bench.statement`.
"""

import json
import os
import re
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import asyncpg
from pydantic import SecretStr

from deploy.local.engine import running_engine
from deploy.local.engines import Postgres
from deploy.local.ports import free_port
from services.tenant_quota.__main__ import SCHEMA, SCHEMA_DIRECTORY
from services.tenant_quota.statements import LINES, STANDING, Statements
from services.tenant_quota.usage_model import Dimension
from services.tenant_quota.usage_reports import UsageQuery, UsageReports, query_sql
from shared.postgres import migrate, open_pool, tenant_transaction
from shared.server import run
from tests.bench.table import Row, at_most, publish

SMALL = 10_000
LARGE = int(os.environ.get("PROSA_BENCH_LEDGER", "10000000"))
MONTH, LAST = date(2026, 11, 1), date(2026, 11, 30)
CALLS = 200
BAR = 1.2
WANTED = UsageQuery(MONTH, LAST, [Dimension.DAY, Dimension.USER])

# 30 days, 20 users, 4 keys and 3 models, all combinations with the same weight; two entries a request.
FILL = """
INSERT INTO ledger (tenant_id, create_time, kind, reservation_id, user_id, key_id, model, conversation_id, assistant_id,
                    available_delta, held_delta, used_delta, input_tokens, cached_input_tokens, output_tokens,
                    reasoning_tokens, usage_source, cost_micros)
SELECT $1, '2026-11-01 03:00Z'::timestamptz + d * interval '1 day' + n * interval '24 hours' / $2::bigint,
       k, 'r' || n / 2, 'user-' || u, 'key-' || u % 4, 'model-' || (n / 1200) % 3, 'c', 'a',
       CASE k WHEN 1 THEN -100 ELSE 60 END, CASE k WHEN 1 THEN 100 ELSE -100 END, CASE k WHEN 1 THEN 0 ELSE 40 END,
       CASE k WHEN 2 THEN 10 END, CASE k WHEN 2 THEN 10 END, CASE k WHEN 2 THEN 10 END, CASE k WHEN 2 THEN 10 END,
       CASE k WHEN 2 THEN 1 END, CASE k WHEN 2 THEN 3 ELSE 0 END
  FROM generate_series(0, $2 - 1) n, LATERAL (SELECT (n / 2) % 30 AS d, (n / 60) % 20 AS u, 1 + n % 2 AS k) x
"""
SUM_UP = """
INSERT INTO usage_days
SELECT tenant_id, (create_time AT TIME ZONE 'America/Sao_Paulo')::date, user_id, key_id, model, count(*),
       sum(input_tokens), sum(cached_input_tokens), sum(output_tokens), sum(reasoning_tokens), sum(cost_micros)
  FROM ledger WHERE kind = 2 GROUP BY 1, 2, 3, 4, 5
"""
COUNTED = "INSERT INTO balances (tenant_id, level, subject, month) SELECT tenant_id, 1, '', $1 FROM tenants"
FROM_LEDGER = """
SELECT user_id, sum(used_delta), sum(cost_micros) FROM ledger
 WHERE tenant_id = $1 AND create_time >= '2026-11-01 03:00Z' AND create_time < '2026-12-01 03:00Z' GROUP BY user_id
"""


def main() -> Sequence[Row]:
    """Measures, prints and keeps the table."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="prosa-bench-") as directory:
        Path(directory).chmod(0o755)
        engine = Postgres(Path(directory) / "postgres", free_port())
        with running_engine(engine):
            run(lambda: _compare(engine.url(), rows))
    publish("statement", rows)
    return rows


async def _compare(url: str, rows: list[Row]) -> None:
    secret = SecretStr(url)
    await migrate(secret, schema=SCHEMA, directory=SCHEMA_DIRECTORY)
    await _fill(url)
    async with open_pool(secret, schema=SCHEMA, max_size=2, min_size=2) as pool:
        reports, statements = UsageReports(pool), Statements(pool)
        asked: dict[str, Callable[[str], Awaitable[object]]] = {
            "QueryUsage": lambda tenant_id: reports.query(tenant_id, WANTED, None, 1_000),
            "GetStatement": lambda tenant_id: statements.get(tenant_id, MONTH),
        }
        for name, act in asked.items():
            small, large = await _in_turns(act)
            rows.append(at_most(f"{name}, {LARGE:,} entries beside {SMALL:,}, p50", large, small, "ms", BAR))
        for name, statement, values in (
            ("QueryUsage", query_sql(WANTED.group_by, is_first=True), (MONTH, LAST, None, None, None, 1_000)),
            ("GetStatement, lines", LINES, (MONTH,)),
            ("GetStatement, standing", STANDING, (MONTH,)),
        ):
            few, many = [await _examined(pool, tenant_id, statement, values) for tenant_id in ("small", "large")]
            rows.append(at_most(f"rows examined by {name}", many, few, "rows", 1.0))
        start = time.perf_counter()
        async with tenant_transaction(pool, "large") as connection:
            await connection.fetch(FROM_LEDGER, "large", timeout=600)
        took = (time.perf_counter() - start) * 1_000
        rows.append(at_most("GetStatement beside reading the ledger itself", large, took, "ms", 1.0))


async def _fill(url: str) -> None:
    superuser = await asyncpg.connect(url, server_settings={"search_path": SCHEMA, "max_parallel_workers": "0"})
    for tenant_id, entries in (("small", SMALL), ("large", LARGE)):
        await superuser.execute("INSERT INTO tenants VALUES ($1, 'T', 'America/Sao_Paulo')", tenant_id)
        await superuser.execute(FILL, tenant_id, entries)
    await superuser.execute(SUM_UP)
    await superuser.execute(
        "INSERT INTO balances (tenant_id, level, subject, month) SELECT tenant_id, 1, '', $1 FROM tenants", MONTH
    )
    lines = await superuser.fetch("SELECT count(*) FROM usage_days GROUP BY tenant_id")
    if len(lines) != 2 or len(set(lines)) != 1:
        raise AssertionError(f"the same days, users, keys and models were wanted: {lines}")
    await superuser.execute("VACUUM ANALYZE")
    await superuser.close()


async def _in_turns(act: Callable[[str], Awaitable[object]]) -> tuple[float, float]:
    took: dict[str, list[float]] = {"small": [], "large": []}
    for number in range(CALLS + 10):
        for tenant_id, times in took.items():
            start = time.perf_counter()
            await act(tenant_id)
            if number >= 10:
                times.append((time.perf_counter() - start) * 1_000)
    return statistics.median(took["small"]), statistics.median(took["large"])


async def _examined(pool: asyncpg.Pool, tenant_id: str, statement: str, values: Sequence[object]) -> int:
    """Rows that all scans of the statement's plan gave or threw away."""
    async with tenant_transaction(pool, tenant_id) as connection:
        explained = await connection.fetchval(
            f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {_inlined(statement, [tenant_id, *values])}"
        )
    return _rows(json.loads(explained)[0]["Plan"])


def _inlined(statement: str, values: Sequence[object]) -> str:
    # EXPLAIN takes no parameters of its own.
    texts = ["NULL" if value is None else str(value) if isinstance(value, int) else f"'{value}'" for value in values]
    return re.sub(r"\$(\d+)", lambda match: texts[int(match[1]) - 1], statement)


def _rows(plan: dict[str, Any]) -> int:
    own = 0
    if "Scan" in plan["Node Type"] and plan["Node Type"] != "Subquery Scan":
        discarded = plan.get("Rows Removed by Filter", 0) + plan.get("Rows Removed by Index Recheck", 0)
        own = round((plan["Actual Rows"] + discarded) * plan["Actual Loops"])
    return own + sum(map(_rows, plan.get("Plans", ())))


if __name__ == "__main__":
    main()
