"""A worker process that is killed between commit and acknowledgement, or inside its commit.

`python -m … <mongo> <database> <redis> behind|inside`
"""

import asyncio
import os
import signal
import sys

from pydantic import SecretStr

from services.analytics.intake.streams import GROUP, Kind
from services.analytics.intake.worker import Desk, Worker
from services.analytics.intake.works import Turns
from services.analytics.rollups import series
from shared.mongo import open_mongo
from shared.redis_streams import Stream, open_redis
from tests.analytics.intake_site import Site


class Deadly(Stream):
    """Kills its process where the acknowledgement should go out."""

    async def done(self, entries: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


async def _die(*_: object) -> None:
    """In the place of adding to the series: facts and rollups are written by then, and nothing is committed."""
    os.kill(os.getpid(), signal.SIGKILL)


async def main(mongo_url: str, name: str, redis_url: str, where: str) -> None:
    async with open_mongo(SecretStr(mongo_url), name) as database, open_redis(SecretStr(redis_url)) as redis:
        if where == "inside":
            vars(series)["updated"] = _die
        site = Site(database, redis, name="dying")
        stream = Deadly(redis, "metrics:execution", group=GROUP, consumer=f"dying-{os.getpid()}")
        desk = Desk(Kind.EXECUTION, site.intake.inbox, site.intake.letters)
        await Worker(stream, Turns(site.intake.turns), desk, batch_size=2).run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
