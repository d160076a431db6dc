"""A worker process of the bench: ready at once, at work from its first line of input on, until it is killed.

`python -m tests.bench.intake_worker <mongo> <database> <redis>`
"""

import asyncio
import sys

from pydantic import SecretStr

from services.analytics.config import Config
from services.analytics.intake.pipeline import intake_of, running
from services.analytics.intake.worker import OBJECTS_AT_ONCE
from services.analytics.rollups.projection import Projection
from shared.mongo import open_mongo
from shared.redis_streams import consumer_name, open_redis
from shared.server import keep_for_good, run


async def main(mongo_url: str, name: str, redis_url: str) -> None:
    """Works for ever."""
    async with (
        open_mongo(SecretStr(mongo_url), name, timeout_ms=60_000) as database,
        open_redis(SecretStr(redis_url)) as redis,
    ):
        intake = intake_of(database, redis, Projection(database), consumer=consumer_name())
        await intake.prepare()
        keep_for_good(OBJECTS_AT_ONCE)
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        async with running(intake, Config(worker_claim_idle_seconds=1.0)):
            await asyncio.Event().wait()


if __name__ == "__main__":

    async def _main() -> None:
        await main(*sys.argv[1:])

    run(_main)
