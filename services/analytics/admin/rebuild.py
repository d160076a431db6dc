"""The projection built anew from the feed, beside the one in force, which counts on until the new one is complete.

What the feed does not tell, or does not tell any more, is taken over from the facts. The new projection has a position
of its own in the feed: what the other processes still count in the old one, in the second until they notice, they are
told again.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from prosa.chat_store.v1 import feed_service_pb2 as feed_pb
from services.analytics.admin.model import RebuildProgress, RebuildRunning, RebuildState, RebuildWouldLose
from services.analytics.chat_feed import watched
from services.analytics.intake.feed_positions import FeedPositions
from services.analytics.intake.streams import Kind
from services.analytics.intake.wire import News, fact_of, kind_of, news_of
from services.analytics.model import Fact, Finalized, Position, Statement, UncountableEventError
from services.analytics.rollups.commits import known
from services.analytics.rollups.documents import fact_in
from services.analytics.rollups.projection import SEEN_SECONDS, Generation, Projection, generation
from services.analytics.rollups.rollup_store import RollupStore
from services.analytics.rollups.sessions import SessionStore
from services.analytics.rollups.statements import StatementStore, statement_in
from shared.errors import ServiceError
from shared.identifiers import new_id
from shared.mongo import MongoDatabase, mongo_errors
from shared.steadily import in_background, steadily
from shared.telemetry import get_logger

BATCH = 1000
WATCH_SECONDS = 6 * 3600.0
LEASE_SECONDS = 60.0
# After so long nobody has a commit under way in the old projection.
SETTLED_SECONDS = SEEN_SECONDS + 4.0

log = get_logger()


class Rebuilding:
    """Builds the projection anew; one at a time, whichever process is asked."""

    def __init__(
        self,
        database: MongoDatabase,
        projection: Projection,
        source: Any | None,
        *,
        session_idle_seconds: float = 1800.0,
        settled_seconds: float = SETTLED_SECONDS,
    ) -> None:
        """`source` is a FeedServiceStub; None where the feed is not followed: then all is taken over from the facts."""
        self._database = database
        self._projection = projection
        self._source = source
        self._session_idle_seconds = session_idle_seconds
        self._settled_seconds = settled_seconds

    async def run(self, *, accept_loss: bool) -> AsyncIterator[RebuildProgress]:
        """How far it is, again and again; RebuildRunning, RebuildWouldLose.

        Whatever ends it, nothing has changed, or the new projection is in force and `finish_broken_off` does the rest.
        """
        async with self._alone() as still_alone:
            async for progress in self._run(still_alone, accept_loss=accept_loss):
                yield progress

    async def finish_broken_off(self) -> None:
        """Takes over and drops the projection before the one in force, if a rebuild that was ended has left it."""
        number = (await Projection(self._database).current()).number
        before = generation(self._database, number - 1)
        if number and await _is_left(before):
            with suppress(RebuildRunning):
                async with self._alone():
                    await _settle(before, Building(self._database, number))

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[Callable[[], Awaitable[bool]]]:
        """Nobody else rebuilds inside the block, which can ask whether that is still so; else RebuildRunning."""
        holder = new_id()
        locks = FeedPositions(self._database, Projection(self._database, pinned=0), feed="rebuild")
        if not await locks.acquire(holder, LEASE_SECONDS):
            raise RebuildRunning("the projection is being built anew already")

        def prolong() -> Awaitable[bool]:
            return locks.acquire(holder, LEASE_SECONDS)

        try:
            async with in_background(steadily("rebuild_lease", prolong, LEASE_SECONDS / 6)):
                yield prolong
        finally:
            with suppress(ServiceError):
                await locks.release(holder)

    async def _run(
        self, still_alone: Callable[[], Awaitable[bool]], *, accept_loss: bool
    ) -> AsyncIterator[RebuildProgress]:
        before = await Projection(self._database).current()
        new = Building(self._database, before.number + 1)
        progress = RebuildProgress(new.generation.number)
        await new.begin()
        async for batch, position in self._told():
            progress.events_read += await new.count(batch)
            if position is not None:
                await new.keep(position)
            yield progress
        progress.state = RebuildState.TAKING_OVER
        async for taken, lost in new.take_over(before):
            progress.facts_taken_over += taken
            progress.facts_lost += lost
            yield progress
        if progress.facts_lost and not accept_loss:
            await new.generation.drop()
            raise RebuildWouldLose(
                f"the figures of {progress.facts_lost} facts would be lost",
                metadata={"facts": str(progress.facts_lost)},
            )
        await new.close_sessions(datetime.now(UTC) - timedelta(seconds=self._session_idle_seconds))
        if not await still_alone():
            raise RebuildRunning("another one builds the projection anew")
        await self._projection.switch(before.number, new.generation.number)
        await asyncio.sleep(self._settled_seconds)
        progress.facts_taken_over += await _settle(before, new)
        progress.state = RebuildState.DONE
        yield progress

    async def _told(self) -> AsyncIterator[tuple[list[feed_pb.Event], Position | None]]:
        """Stored history in batches; with the last one, the position behind it."""
        if self._source is None:
            return
        batch: list[feed_pb.Event] = []
        async with watched(self._source, timeout=WATCH_SECONDS) as told:
            async for events in told:
                for event in events:
                    if not event.event_id:
                        yield batch, Position(event.resume_token, event.event_time.ToDatetime(UTC))
                        return
                    batch.append(event)
                if len(batch) >= BATCH:
                    yield batch, None
                    batch = []


async def _is_left(before: Generation) -> bool:
    collections = (before.facts, before.rollups, before.series, before.sessions, before.statements)
    with mongo_errors():
        return any([await each.find_one({}, {"_id": 1}) is not None for each in collections])


async def _settle(before: Generation, new: "Building") -> int:
    """Takes over what was counted last in the old projection, and drops it; returns how many facts those were."""
    taken = sum([some async for some, _ in new.take_over(before)])
    await before.drop()
    return taken


class Building:
    """The new projection, while it is not in force."""

    def __init__(self, database: MongoDatabase, number: int) -> None:
        self.generation = generation(database, number)
        pinned = Projection(database, pinned=number)
        self._turns = RollupStore(database, pinned)
        self._statements = StatementStore(database, pinned)
        self._sessions = SessionStore(database, pinned)
        self._positions = FeedPositions(database, pinned)

    async def begin(self) -> None:
        """Forgets what one that broke off has left."""
        await self.generation.drop()
        await self.generation.prepare()

    async def count(self, events: Sequence[feed_pb.Event]) -> int:
        """Counts a batch of the feed; returns how many events it had."""
        facts, news = [], []
        for event in events:
            try:
                match kind_of(event):
                    case Kind.EXECUTION:
                        facts.append(fact_of(event.SerializeToString()))
                    case Kind.SESSION:
                        news.append(news_of(event.SerializeToString()))
            except UncountableEventError as error:
                log.warning("left_out", event_id=error.event_id, reason=str(error))
        await self._add(facts, news)
        return len(events)

    async def keep(self, position: Position) -> None:
        """Where the follower of the feed goes on when this projection is in force."""
        await self._positions.acquire("rebuild", LEASE_SECONDS)
        await self._positions.keep("rebuild", position, LEASE_SECONDS)
        await self._positions.release("rebuild")

    async def take_over(self, old: Generation) -> AsyncIterator[tuple[int, int]]:
        """Facts of the old one that this one does not know: how many were taken over, and how many are empty by now."""
        with mongo_errors():
            batch: list[Mapping[str, Any]] = []
            async for fact in old.facts.find():
                batch.append(fact)
                if len(batch) >= BATCH:
                    yield await self._take(batch)
                    batch = []
            yield await self._take(batch)
            async for statement in old.statements.find({"event_id": {"$exists": False}}):
                if statement["subject"] != "session":
                    await self._statements.commit([statement_in(statement)])

    async def _take(self, facts: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
        before = await known(self.generation.facts, [fact["_id"] for fact in facts], None)
        unknown = [fact for fact in facts if fact["_id"] not in before]
        turns = [fact_in(fact) for fact in unknown if "messages" in fact]
        news: list[News] = [statement_in(fact["statement"]) for fact in unknown if "statement" in fact]
        news += [
            Finalized(fact["_id"], fact["tenant_id"], fact["finalized"], fact["time"])
            for fact in unknown
            if "finalized" in fact
        ]
        await self._add(turns, news)
        lost = [fact for fact in unknown if fact.get("emptied")]
        if marks := [fact for fact in unknown if not {"messages", "statement", "finalized"} & fact.keys()]:
            await self.generation.facts.insert_many(marks, ordered=False)
        return len(turns) + len(news), len(lost)

    async def close_sessions(self, before: datetime) -> None:
        """Counts the sessions that have rested; nobody is asked to analyse them again."""
        while await self._sessions.close_idle(before):
            pass

    async def _add(self, facts: Sequence[Fact], news: Sequence[News]) -> None:
        """What was purged changes no figure; its mark is taken over."""
        if facts:
            await self._turns.commit(facts)
        if statements := [each for each in news if isinstance(each, Statement)]:
            await self._statements.commit(statements)
        if finalized := [each for each in news if isinstance(each, Finalized)]:
            await self._sessions.finalize(finalized)
