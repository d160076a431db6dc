"""Hears from the database when there is work, and when a document is done, so that nobody has to ask all the time.

Only a help: who waits asks again after a while, too, so that a message that was missed delays and never loses anything.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import NoReturn

import asyncpg

from services.document_rag.documents.job_queue import CHANNEL
from shared.postgres import postgres_errors
from shared.steadily import steadily

_ALIVE_EVERY_SECONDS = 5.0


class Listener:
    """`work` rings when there is a job. One connection of the pool listens."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self.work = asyncio.Event()
        self._waiting: dict[str, set[asyncio.Event]] = defaultdict(set)

    async def run(self) -> NoReturn:
        """Until cancelled; a connection that is lost is opened anew."""
        await steadily("ingestion_listener", self._listen, 1.0)

    @asynccontextmanager
    async def news_of(self, document_id: str) -> AsyncIterator[asyncio.Event]:
        """A bell that rings when something is known of the document."""
        bell = asyncio.Event()
        self._waiting[document_id].add(bell)
        try:
            yield bell
        finally:
            self._waiting[document_id].discard(bell)
            if not self._waiting[document_id]:
                del self._waiting[document_id]

    async def _listen(self) -> None:
        lost = asyncio.Event()
        with postgres_errors():
            async with self._pool.acquire() as connection:
                connection.add_termination_listener(lambda _: lost.set())
                await connection.add_listener(CHANNEL, self._hear)
                try:
                    self._hear(None, 0, CHANNEL, "")
                    while not lost.is_set():
                        with suppress(TimeoutError):
                            await asyncio.wait_for(lost.wait(), _ALIVE_EVERY_SECONDS)
                        # A peer that vanished without a word is noticed only by asking.
                        await connection.fetchval("select 1", timeout=_ALIVE_EVERY_SECONDS)
                finally:
                    connection.terminate()

    def _hear(self, _connection: object, _pid: int, _channel: str, what: object) -> None:
        if what == "":
            self.work.set()
        for bell in self._waiting.get(str(what), ()):
            bell.set()
