"""What a test must be able to do to the Postgres engine."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

import asyncpg
from pydantic import SecretStr

from services.chat_store.batch import Batch
from services.chat_store.engines import SCHEMA, SCHEMA_DIRECTORY
from services.chat_store.engines.postgres.store import PostgresChatStore
from services.chat_store.selection import Reach
from services.chat_store.store import ChatStore
from shared.clock import Clock
from shared.postgres import migrate, open_pool
from tests.chat_store.workshop import Work, pair

IDLE_SECONDS = 1.0
# Rows that statements looked at, found through an index or not, since the server started; own transaction included.
_LOOKED_AT = """
    select relname, coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0) as rows from pg_stat_user_tables
     where schemaname = 'chat_store'
"""


class PostgresWorkshop:
    def __init__(self, pool: asyncpg.Pool, superuser: asyncpg.Connection) -> None:
        self._pool = pool
        self._superuser = superuser
        self._before: Mapping[str, int] = {}
        self._stores: list[PostgresChatStore] = []
        self.store: ChatStore = self._opened()

    async def another_replica(self) -> ChatStore:
        return self._opened()

    def store_at(self, clock: Clock) -> ChatStore:
        return self._opened(clock)

    async def crash_after_storing(self, reach: Reach, conversation_id: str, batch: Batch) -> None:
        """Storing brings all up to date in one transaction: what a crash can take is the acknowledgement alone."""
        await self.store.append(reach, conversation_id, batch)

    async def start_measuring(self) -> None:
        self._before = await self._looked_at()

    async def work(self) -> Work:
        after = await self._looked_at()
        done = {name: count - self._before.get(name, 0) for name, count in after.items()}
        return Work(done["conversations"], sum(done[name] for name in ("messages", "message_terms")))

    async def load(self, reach: Reach, conversation_id: str, pairs: int) -> None:
        for number in range(pairs):
            await self.store.append(reach, conversation_id, pair(f"{number}"))

    async def forget_the_log(self) -> None:
        """The log is the history: it forgets nothing."""

    async def open_feeds(self) -> int:
        return sum(store.open_feeds for store in self._stores)

    def _opened(self, clock: Clock | None = None) -> PostgresChatStore:
        self._stores.append(PostgresChatStore(self._pool, feed_idle_seconds=IDLE_SECONDS, clock=clock))
        return self._stores[-1]

    async def _looked_at(self) -> Mapping[str, int]:
        """Counted once every connection has told what it did."""
        async with AsyncExitStack() as held:
            for _ in range(self._pool.get_size()):
                connection = await held.enter_async_context(self._pool.acquire())
                await connection.execute("select pg_stat_force_next_flush()")
        return {row["relname"]: row["rows"] for row in await self._superuser.fetch(_LOOKED_AT)}


@asynccontextmanager
async def postgres_workshop(url: str) -> AsyncIterator[PostgresWorkshop]:
    """A workshop over a migrated database of its own."""
    secret = SecretStr(url)
    await migrate(secret, schema=SCHEMA, directory=SCHEMA_DIRECTORY)
    superuser = await asyncpg.connect(url)
    try:
        async with open_pool(secret, schema=SCHEMA, max_size=16) as pool:
            yield PostgresWorkshop(pool, superuser)
    finally:
        await superuser.close()
