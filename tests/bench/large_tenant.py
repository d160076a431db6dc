"""A tenant a hundred times larger than the rest: how long the others' figures and reports take alone and beside it.

Twenty tenants record a call of five executions every second, and each looks at its usage. The large one records a
hundred times as many as one of them, in calls of 500; and, in another round, has sent 100 000 at once before. Real
MongoDB and Redis, a worker of each lane with the settings of production, everything in one process, in turns.
`python -m tests.bench.large_tenant`.
"""

import asyncio
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

from pydantic import SecretStr

from deploy.local.engine import running_engine
from deploy.local.engines import Mongo, Redis
from deploy.local.ports import free_port
from prosa.analytics.v1 import metrics_service_pb2 as pb
from services.analytics.config import Config
from services.analytics.intake.feed_positions import FeedPositions
from services.analytics.intake.inbox import Inbox
from services.analytics.intake.pipeline import intake_of, running
from services.analytics.intake.streams import Kind
from services.analytics.reports.model import Question
from services.analytics.reports.reports import Reports
from services.analytics.reports.rollup_reader import RollupReader
from services.analytics.rollups.projection import Projection
from shared.mongo import MongoDatabase, open_mongo
from shared.redis_streams import open_redis
from shared.server import run
from tests.bench.table import Row, at_most, publish

SMALL_TENANTS, EVENTS_A_CALL, TIMES_LARGER = 20, 5, 100
BACKLOG = 100_000
ROUNDS, ROUND_SECONDS = 3, 12.0
LOOK_SECONDS = 0.01
# What a machine with two cores shared with the load itself can be held to; "unchanged" is 1.
BAR = 1.5

_numbers = count()


@dataclass
class Waits:
    """Seconds from the answer to a small tenant's call until it was counted, and those of its reports."""

    counted: list[float] = field(default_factory=list)
    reported: list[float] = field(default_factory=list)


def main() -> list[Row]:
    """Measures, prints and keeps the table."""
    rows: list[Row] = []

    async def measure() -> None:
        rows.extend(await _measure())

    run(measure)
    publish("large_tenant", rows)
    return rows


async def _measure() -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="prosa-bench-") as name:
        mongo, redis = Mongo(Path(name) / "mongo", free_port()), Redis(Path(name) / "redis", free_port())
        with running_engine(mongo), running_engine(redis):
            async with _site(mongo, redis) as (database, inbox):
                await _round(database, inbox)
                rounds = [await _three(database, inbox) for _ in range(ROUNDS)]
    return [
        row
        for place, beside in enumerate((f"{TIMES_LARGER} times larger", f"its {BACKLOG:,} sent before"), 1)
        for row in (
            _row(
                f"until counted, p95, beside a tenant {beside}",
                [(_p95(each[place].counted), _p95(each[0].counted)) for each in rounds],
            ),
            _row(
                f"a usage report, p95, beside a tenant {beside}",
                [(_p95(each[place].reported), _p95(each[0].reported)) for each in rounds],
            ),
        )
    ]


async def _three(database: MongoDatabase, inbox: Inbox) -> tuple[Waits, Waits, Waits]:
    """The small tenants alone, beside the large one, beside what it had sent before."""
    return (
        await _round(database, inbox),
        await _round(database, inbox, with_large=True),
        await _round(database, inbox, backlog=BACKLOG),
    )


@asynccontextmanager
async def _site(mongo: Mongo, redis: Redis) -> AsyncIterator[tuple[MongoDatabase, Inbox]]:
    config = Config(mongodb_url=SecretStr(mongo.url()), mongodb_database="bench", redis_url=SecretStr(redis.url()))
    async with (
        open_mongo(config.mongodb_url, config.mongodb_database) as database,
        open_redis(config.redis_url) as connection,
    ):
        intake = intake_of(database, connection, Projection(database), consumer="bench")
        await intake.prepare()
        async with running(intake, config):
            yield database, intake.inbox


async def _round(database: MongoDatabase, inbox: Inbox, *, with_large: bool = False, backlog: int = 0) -> Waits:
    """What the small tenants wait for, alone or while the large one sends, or has so many sent already."""
    waits, sent = Waits(), dict[str, float]()
    for _ in range(backlog // 500):
        await inbox.accept(Kind.EXECUTION, "large", [_execution() for _ in range(500)])
    end = time.perf_counter() + ROUND_SECONDS
    async with asyncio.TaskGroup() as group:
        if with_large:
            group.create_task(_large(inbox, end))
        group.create_task(_watched(database, sent, waits, end))
        for number in range(SMALL_TENANTS):
            group.create_task(_small(database, inbox, number, sent, waits, end))
    await _nothing_left(database)
    return waits


async def _small(
    database: MongoDatabase, inbox: Inbox, number: int, sent: dict[str, float], waits: Waits, end: float
) -> None:
    tenant_id = f"small-{number}"
    projection = Projection(database)
    reports = Reports(RollupReader(projection), FeedPositions(database, projection))
    await asyncio.sleep(number / SMALL_TENANTS)
    while time.perf_counter() < end:
        marker = f"m{next(_numbers)}"
        await inbox.accept(
            Kind.EXECUTION, tenant_id, [_execution(marker), *(_execution() for _ in range(EVENTS_A_CALL - 1))]
        )
        sent[f"outside:{tenant_id}:{marker}"] = time.perf_counter()
        await asyncio.sleep(0.5)
        began, now = time.perf_counter(), datetime.now(UTC)
        await reports.usage(Question.of(tenant_id, now=now + timedelta(hours=1)))
        waits.reported.append(time.perf_counter() - began)
        await asyncio.sleep(0.5)


async def _large(inbox: Inbox, end: float) -> None:
    while time.perf_counter() < end:
        await inbox.accept(Kind.EXECUTION, "large", [_execution() for _ in range(EVENTS_A_CALL * TIMES_LARGER)])
        await asyncio.sleep(1.0)


async def _watched(database: MongoDatabase, sent: dict[str, float], waits: Waits, end: float) -> None:
    """Notes when what was sent has been counted."""
    while sent or time.perf_counter() < end:
        found = [each["_id"] async for each in database["facts"].find({"_id": {"$in": list(sent)}}, {"_id": 1})]
        now = time.perf_counter()
        waits.counted += [now - sent.pop(each) for each in found]
        await asyncio.sleep(LOOK_SECONDS)


async def _nothing_left(database: MongoDatabase) -> None:
    while await database["inbox"].find_one({}, {"_id": 1}) is not None:  # noqa: ASYNC110 the engine tells nobody
        await asyncio.sleep(0.1)


def _execution(event_id: str = "") -> bytes:
    made = pb.Execution(
        event_id=event_id or f"e{next(_numbers)}", model="m", latency_ms=900, user_id="u", assistant_id="a"
    )
    made.create_time.GetCurrentTime()
    return made.SerializeToString()


def _p95(waits: list[float]) -> float:
    return 1000 * sorted(waits)[int(0.95 * (len(waits) - 1))]


def _row(case: str, rounds: list[tuple[float, float]]) -> Row:
    """The median round's figures, and the median of the rounds' ratios."""
    beside, alone = (statistics.median(each) for each in zip(*rounds, strict=True))
    return at_most(case, beside, alone, "ms", BAR, ratio=statistics.median(large / none for large, none in rounds))


if __name__ == "__main__":
    main()
