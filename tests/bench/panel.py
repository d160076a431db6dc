"""A panel of p95 latency over a year, by day in the tenant's zone: the same cost with a hundred times the turns.

Two tenants answered in every hour of a year, one of them a hundred thousand times in all, the other ten million times
(PROSA_BENCH_TURNS overrides). Their series are written as the service writes them, from latencies that are counted and
not stored; the hundred thousand are stored as facts too, to show beside them what a report costs that reads facts.
`python -m tests.bench.panel`.
"""

import os
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from bson import Binary
from pydantic import SecretStr
from pymongo import InsertOne

from deploy.local.engine import running_engine
from deploy.local.engines import Mongo
from deploy.local.ports import free_port
from services.analytics.intake.feed_positions import FeedPositions
from services.analytics.model import Axis, SeriesKey, Step
from services.analytics.reports.calendar import Grain
from services.analytics.reports.model import Question, Report
from services.analytics.reports.reports import Reports
from services.analytics.reports.rollup_reader import RollupReader
from services.analytics.rollups.projection import Projection
from services.analytics.rollups.series import LATENCY, document_id
from services.analytics.rollups.sketches import bucket_of, merged
from shared.mongo import MongoDatabase, aggregate, open_mongo
from shared.server import run
from tests.bench.table import Row, at_most, publish

FEW = 100_000
MANY = int(os.environ.get("PROSA_BENCH_TURNS", "10000000"))
HOURS = 8_760
BEGIN = datetime(2025, 1, 1, 3, tzinfo=UTC)
HOUR = timedelta(hours=1)
ROUNDS = 15
LATENCIES = 20_000


def main() -> list[Row]:
    """Measures, prints and keeps the table."""
    rows: list[Row] = []

    async def measure() -> None:
        rows.extend(await _measure())

    run(measure)
    publish("panel", rows)
    return rows


async def _measure() -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="prosa-bench-") as name:
        mongo = Mongo(Path(name) / "mongo", free_port())
        with running_engine(mongo):
            async with open_mongo(SecretStr(mongo.url()), "bench", timeout_ms=120_000) as database:
                return await _panels(database)


async def _panels(database: MongoDatabase) -> list[Row]:
    projection = Projection(database)
    await (await projection.current()).prepare()
    chance = random.Random(7)
    exact_few = await _year(database, "few", FEW, chance, with_facts=True)
    exact_many = await _year(database, "many", MANY, chance, with_facts=False)
    reports = Reports(RollupReader(projection), FeedPositions(database, projection))
    few, many, took_few, took_many = await _alternating(reports)
    from_facts, facts_took = await _from_facts(database)
    ratio = statistics.median(large / small for small, large in zip(took_few, took_many, strict=True))
    milliseconds = [1000 * statistics.median(took) for took in (took_many, took_few)]
    return [
        at_most("documents examined beside one per hour of the year", many.documents_examined, HOURS, "documents", 1.0),
        at_most(f"time with {MANY:,} turns beside {FEW:,}", milliseconds[0], milliseconds[1], "ms", 1.2, ratio=ratio),
        _error(f"p95 of the year beside the exact one, {FEW:,} turns", few, exact_few),
        _error(f"p95 of the year beside the exact one, {MANY:,} turns", many, exact_many),
        at_most(f"time beside reading {from_facts:,} facts", milliseconds[1], 1000 * facts_took, "ms", 1.0),
    ]


def _error(case: str, report: Report, exact: Counter[int]) -> Row:
    """How far off, beside one percent of the exact value."""
    expected = _exact(exact, 0.95)
    return at_most(case, abs(_p95(report) - expected), 0.01 * expected, "ms off", 1.0)


def _p95(report: Report) -> float:
    """What the answer is made of: each day's percentiles, and the year's."""
    for row in report.rows:
        row.sums.spread(LATENCY, count="timed_turns", total="latency_ms")
    return report.total.spread(LATENCY, count="timed_turns", total="latency_ms").p95


def _exact(counted: Counter[int], share: float) -> int:
    passed = 0
    for value in sorted(counted):
        passed += counted[value]
        if passed >= share * counted.total():
            return value
    raise AssertionError("nothing was counted")


async def _year(
    database: MongoDatabase, tenant_id: str, turns: int, chance: random.Random, *, with_facts: bool
) -> Counter[int]:
    """Writes the year's series; returns every latency and how often it occurred."""
    values = [max(1, int(chance.lognormvariate(7.0, 0.8))) for _ in range(LATENCIES)]
    whole: Counter[int] = Counter()
    documents: list[InsertOne[Any]] = []
    for number in range(HOURS):
        count = turns * (number + 1) // HOURS - turns * number // HOURS
        latencies = chance.choices(values, k=count)
        counted = Counter(latencies)
        whole.update(counted)
        documents.append(InsertOne(_hour(tenant_id, BEGIN + number * HOUR, counted)))
        if with_facts:
            await _facts(database, tenant_id, BEGIN + number * HOUR, latencies)
        if len(documents) == 2_000 or number == HOURS - 1:
            await database["series"].bulk_write(documents, ordered=False)
            documents = []
    return whole


def _hour(tenant_id: str, hour: datetime, counted: Counter[int]) -> dict[str, Any]:
    buckets: Counter[int] = Counter()
    for value, count in counted.items():
        buckets[bucket_of(value)] += count
    return {
        "_id": document_id(SeriesKey(tenant_id, Axis.TOTAL, Step.HOUR, "", hour)),
        "turns": counted.total(),
        "timed_turns": counted.total(),
        "latency_ms": sum(value * count for value, count in counted.items()),
        LATENCY: Binary(merged(b"", buckets)),
    }


async def _facts(database: MongoDatabase, tenant_id: str, hour: datetime, latencies: Sequence[int]) -> None:
    facts = [
        {"tenant_id": tenant_id, "time": hour, "messages": [{"create_time": hour, "latency_ms": latency}]}
        for latency in latencies
    ]
    if facts:
        await database["facts"].insert_many(facts, ordered=False)


async def _alternating(reports: Reports) -> tuple[Report, Report, list[float], list[float]]:
    """The panel of both, in turns; the last answers and all times."""
    took: dict[str, list[float]] = {"few": [], "many": []}
    answers: dict[str, Report] = {}
    for number in range(ROUNDS + 1):
        for tenant_id in ("few", "many") if number % 2 else ("many", "few"):
            began = time.perf_counter()
            answers[tenant_id] = await reports.performance(_question(tenant_id))
            _p95(answers[tenant_id])
            # The first round warms up.
            took[tenant_id] += [time.perf_counter() - began] if number else []
    return answers["few"], answers["many"], took["few"], took["many"]


def _question(tenant_id: str) -> Question:
    end = BEGIN + HOURS * HOUR
    return Question.of(tenant_id, now=end, start=BEGIN, end=end, grain=Grain.DAY)


async def _from_facts(database: MongoDatabase) -> tuple[int, float]:
    """The same panel as one would ask facts for it: how many there are, and how long it takes."""
    day = {"$dateTrunc": {"date": "$time", "unit": "day", "timezone": "America/Sao_Paulo"}}
    pipeline: list[dict[str, Any]] = [
        {"$match": {"tenant_id": "few", "time": {"$gte": BEGIN, "$lt": BEGIN + HOURS * HOUR}}},
        {"$unwind": "$messages"},
        {"$group": {"_id": day, "latencies": {"$push": "$messages.latency_ms"}}},
    ]
    began, examined = time.perf_counter(), 0
    async for document in aggregate(database["facts"], pipeline):
        latencies = sorted(document["latencies"])
        assert latencies[int(0.95 * (len(latencies) - 1))] > 0
        examined += len(latencies)
    return examined, time.perf_counter() - began


if __name__ == "__main__":
    main()
