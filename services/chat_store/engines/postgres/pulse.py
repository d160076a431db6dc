"""One look per process at whether something happened, for all who wait for it; none while nobody waits."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from services.chat_store.engines.postgres.database import ALL_TENANTS, Database
from shared.errors import ServiceError

# Half of it is what an event waits on average; each look is one index page.
POLL_SECONDS = 0.05
_NEWEST = """
    select xid::text || ':' || position from happenings
     where xid < pg_snapshot_xmin(pg_current_snapshot()) order by xid desc, position desc limit 1
"""


class Pulse:
    """Beats whenever there is something new to read."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._beaten = asyncio.Event()
        self._failure: ServiceError | None = None
        self._looking: asyncio.Task[None] | None = None
        self.beat = 0
        self.feeling = 0
        """How many feel it."""

    @asynccontextmanager
    async def felt(self) -> AsyncIterator[None]:
        """Inside the block it beats."""
        self.feeling += 1
        try:
            yield
        finally:
            self.feeling -= 1
            if not self.feeling and self._looking is not None:
                self._looking.cancel()
                with suppress(asyncio.CancelledError):
                    await self._looking
                self._looking = None

    async def next(self, beat: int, seconds: float) -> None:
        """Returns when it has beaten since `beat`, at the latest after so many seconds; Unavailable when it stopped."""
        if self._looking is None or self._looking.done():
            self._failure = None
            self._looking = asyncio.create_task(self._look())
        with suppress(TimeoutError):
            async with asyncio.timeout(max(seconds, 0)):
                while self.beat == beat and self._failure is None:
                    await self._beaten.wait()
        if self._failure is not None:
            raise self._failure

    async def _look(self) -> None:
        newest: str | None = None
        first = True
        while True:
            try:
                async with self._database.transaction(ALL_TENANTS) as connection:
                    seen = await connection.fetchval(_NEWEST)
            except ServiceError as error:
                self._failure = error
                self._tell()
                return
            if first or seen != newest:
                self.beat += 1
                self._tell()
            newest, first = seen, False
            await asyncio.sleep(POLL_SECONDS)

    def _tell(self) -> None:
        self._beaten.set()
        self._beaten = asyncio.Event()
