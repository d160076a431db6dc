"""Everything between the producers and MongoDB in one process: workers for each stream and lane, and what is steady."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from services.analytics.config import Config
from services.analytics.intake.dead_letters import DeadLetters
from services.analytics.intake.inbox import Inbox
from services.analytics.intake.metrics_wire import wish_item
from services.analytics.intake.patience import Patience
from services.analytics.intake.streams import Kind, Lanes, open_lanes
from services.analytics.intake.worker import Desk, Worker
from services.analytics.intake.works import WISHES_AT_ONCE, Contents, Endings, Forget, Fulfil, Turns, Wishes, Work
from services.analytics.model import Statement
from services.analytics.rollups.projection import Projection
from services.analytics.rollups.rollup_store import RollupStore
from services.analytics.rollups.sessions import SessionStore
from services.analytics.rollups.statements import StatementStore
from shared.errors import ServiceError
from shared.mongo import MongoDatabase, MongoSession
from shared.steadily import in_background, steadily
from shared.telemetry import get_logger

STOP_SECONDS = 2.0
# Longer than all its commands may take together. The driver bounds each of them, and yet its first ones were seen to
# hang, once in a long while, on a MongoDB that had just been made: nobody waits for that.
PREPARE_SECONDS = 120.0
# An analysis may wait twenty seconds for a language model: the other replicas shall have their part of many.
WISHES_IN_A_BATCH = 2 * WISHES_AT_ONCE

log = get_logger()
LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Intake:
    """What takes events in and gives them their effect. Nobody analyses conversations where `fulfil` is None."""

    streams: Mapping[Kind, Lanes]
    turns: RollupStore
    statements: StatementStore
    sessions: SessionStore
    inbox: Inbox
    letters: DeadLetters
    fulfil: Fulfil | None
    forget: Forget | None

    async def prepare(self) -> None:
        """Creates every index; again and again is fine."""
        await self.turns.prepare()
        await self.inbox.prepare()
        await self.letters.prepare()

    def works(self) -> dict[Kind, Work[Any]]:
        """What is done with the items of each stream."""
        works: dict[Kind, Work[Any]] = {
            Kind.EXECUTION: Turns(self.turns),
            Kind.SESSION: Endings(self.turns, self.statements, self.sessions, self.forget),
            Kind.CONTENT: Contents(self.turns, self.statements),
        }
        return works | ({Kind.CLASSIFICATION: Wishes(self.turns, self.fulfil)} if self.fulfil else {})

    def workers(self, config: Config) -> list[Worker[Any]]:
        """One for each stream and lane."""
        return [
            Worker(
                stream,
                work,
                Desk(kind, self.inbox, self.letters),
                batch_size=WISHES_IN_A_BATCH if kind is Kind.CLASSIFICATION else config.worker_batch_size,
                block_ms=config.worker_block_ms,
                claim_idle_seconds=config.worker_claim_idle_seconds,
                max_deliveries=config.worker_max_deliveries,
            )
            for kind, work in self.works().items()
            for stream in (self.streams[kind].quick, self.streams[kind].slow)
        ]

    async def close_idle_sessions(self, idle_seconds: float) -> None:
        """Counts the sessions that have rested for so long; their conversations are analysed."""
        while await self.sessions.close_idle(datetime.now(UTC) - timedelta(seconds=idle_seconds)):
            pass


def intake_of(
    database: MongoDatabase,
    redis: Any,
    projection: Projection,
    *,
    consumer: str,
    prefix: str = "metrics",
    fulfil: Fulfil | None = None,
    forget: Forget | None = None,
) -> Intake:
    """The intake on these engines. Whoever analyses conversations is asked for each that comes to rest."""
    streams = {kind: open_lanes(redis, prefix, kind, consumer) for kind in Kind}
    inbox = Inbox(database, streams)

    async def wish(closed: Sequence[Statement], session: MongoSession) -> None:
        for each in closed:
            item = wish_item(f"rest-{each.subject_id}-{each.revision}", each.subject_id)
            await inbox.keep(Kind.CLASSIFICATION, each.tenant_id, [item], session=session, sent=LONG_AGO)

    sessions = SessionStore(database, projection, closed=wish) if fulfil else SessionStore(database, projection)
    return Intake(
        streams=streams,
        turns=RollupStore(database, projection),
        statements=StatementStore(database, projection),
        sessions=sessions,
        inbox=inbox,
        letters=DeadLetters(database, projection, inbox),
        fulfil=fulfil,
        forget=forget,
    )


@asynccontextmanager
async def running(intake: Intake, config: Config) -> AsyncIterator[None]:
    """The workers in the background; at the end each finishes the batch in hand, if that takes not too long."""
    workers = intake.workers(config)
    task = asyncio.create_task(_work(intake, config, workers))
    try:
        yield
    finally:
        for worker in workers:
            worker.stop()
        await asyncio.wait([task], timeout=STOP_SECONDS)
        await _cancelled([task])


async def _work(intake: Intake, config: Config, workers: Sequence[Worker[Any]]) -> None:
    """One asks for MongoDB until it is there, and only then all begin: many who wait at once do each other no good."""
    patience = Patience()
    while True:
        try:
            async with asyncio.timeout(PREPARE_SECONDS):
                await intake.prepare()
            break
        except (ServiceError, TimeoutError) as error:
            log.warning("intake_waits", error=repr(error))
            await patience.wait()
    async with in_background(
        steadily("inbox", intake.inbox.send_lost, config.inbox_sweep_seconds),
        steadily(
            "sessions",
            lambda: intake.close_idle_sessions(config.session_idle_seconds),
            config.session_sweep_seconds,
        ),
    ):
        await asyncio.gather(*(worker.run() for worker in workers))


async def _cancelled(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    for task in tasks:
        with suppress(asyncio.CancelledError):
            await task
