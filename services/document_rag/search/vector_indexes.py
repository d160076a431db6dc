"""Approximate indexes are built, merged and dropped in the background, by one process at a time.

A segment begins with what no index covers yet, once that is more than comparing it is worth, and swallows the segments
before it that are not much larger than itself. So a bulk becomes one index, a trickle a handful, and a vector is
indexed again only as often as its space doubles. Built after the load, and concurrently: nobody waits for it. A load
has ended when its stream has, where one brought much; else when nothing was written for a while.

A build that was broken off anywhere, by a kill of this process or of the database, leaves a segment that is not ready
and perhaps an invalid index: the next round, of whichever process, drops both before it builds anything.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import asyncpg
from pydantic import SecretStr

from services.document_rag.search.vectors import Kind, Segment, Space, exact_rows, ready_segments
from shared.postgres import postgres_errors
from shared.telemetry import gauge, get_logger

EVERYONE = "*"

_LOCK = "select pg_try_advisory_lock(hashtextextended('document_rag vector indexes', 0))"
_SWALLOWS_UP_TO = 2  # times its own rows
# A space that is never quiet is indexed when so many times the worthwhile wait; in the midst of a bulk, whose rest is
# about to come and would be indexed together with it once more, when comparing what waits takes a second.
_BUSY_FACTOR, _BULK_FACTOR = 4, 20
_KIB, _MIB = 1024, 1024 * 1024
_M = 16
# With 64 instead of 100 a build of 20 000 rows is a tenth faster, but a search must keep 1.7 times as many candidates.
_EF_CONSTRUCTION_AT_20_000, _MOST_EF_CONSTRUCTION = 100, 200

# Spaces that may want a segment, or have one.
_SPACES = """
    select tenant_id, kind, key, rows, written_at, clock_timestamp() as now from vector_spaces
    where rows > $1 or (tenant_id, kind, key) in (select tenant_id, kind, key from vector_segments)
    order by rows
"""

_ABANDONED = """
    select relname from pg_class join pg_index on indexrelid = pg_class.oid
    where relnamespace = current_schema::regnamespace and relname ~ '^vector_segment_[0-9]+(_ccnew.*)?$'
      and (not indisvalid or not exists (
          select from vector_segments where ready and relname = 'vector_segment_' || segment_id
      ))
"""

_INDEXLESS = """
    select segment_id from vector_segments where not exists (
        select from pg_class where relnamespace = current_schema::regnamespace
          and relname = 'vector_segment_' || segment_id
    )
"""

_log = get_logger()


@dataclass(frozen=True, slots=True)
class IndexSettings:
    """When an index is built and what it may cost. `quiet_seconds` after the last write; `memory_bytes` a build."""

    quiet_seconds: float = 2.0
    memory_bytes: int = 1024 * _MIB
    compared_exactly: int | None = None
    """Up to how many vectors are compared one by one; by their dimensions when None."""

    @property
    def quiet(self) -> timedelta:
        """How long nothing may have been written into a space that is not busy."""
        return timedelta(seconds=self.quiet_seconds)

    def worth(self, dimensions: int) -> int:
        """More vectors than this are worth an index."""
        return self.compared_exactly or exact_rows(dimensions)

    def may_wait(self, dimensions: int, came: int) -> int:
        """How many vectors may wait in a space that is written to, where so many came since it was last looked at."""
        worth = self.worth(dimensions)
        return worth * (_BULK_FACTOR if came > worth else _BUSY_FACTOR)


def next_segment(segments: Sequence[Segment], waiting: int, worth: int) -> tuple[Segment | None, int]:
    """What is to be built over `waiting` rows behind the segments: the last of those that it leaves alone (None: it
    swallows all), and how many rows it will have; 0 when nothing is worth building.
    """
    covered = sum(segment.rows for segment in segments)
    if waiting + covered <= worth or waiting <= worth // 2:
        return (segments[-1] if segments else None), 0
    rows, left = waiting, list(segments)
    while left and left[-1].rows <= _SWALLOWS_UP_TO * rows:
        rows += left.pop().rows
    return (left[-1] if left else None), rows


def ef_construction(rows: int) -> int:
    """Of how many candidates a build over so many rows chooses a vector's neighbours; more, the more rows there are.

    So a search need not widen as fast as its segment grows: among 100 000 rows 75 candidates find what took 105.
    """
    return int(min(_MOST_EF_CONSTRUCTION, _EF_CONSTRUCTION_AT_20_000 * max(1.0, rows / 20_000) ** 0.25))


class VectorIndexes:
    """Keeps the segments of all spaces. Needs the owner's connection: nobody else may build an index."""

    def __init__(self, url: SecretStr, schema: str, settings: IndexSettings) -> None:
        self._url = url
        self._schema = schema
        self._settings = settings
        self._looked_at: dict[Space, datetime] = {}
        self._rows: dict[Space, int] = {}
        self._loaded: set[Space] = set()
        self.bell = asyncio.Event()
        """Rings when there is something to `keep` at once."""

    def load_ended(self, space: Space, dimensions: int, rows: int) -> None:
        """Whoever filled the space says that so many are all. Few, one push of many perhaps, are not heeded."""
        if rows > self._settings.worth(dimensions) // 2:
            self._loaded.add(space)
            self.bell.set()

    async def keep(self) -> int:
        """Brings every space's segments up to date; how many were built. 0 at once when another process is at it."""
        with postgres_errors():
            async with self._owner() as connection:
                if not await connection.fetchval(_LOCK):
                    return 0
                loaded, self._loaded = self._loaded, set()
                await _act_for(connection, EVERYONE)
                await _drop_abandoned(connection)
                smallest = self._settings.worth(100_000)
                built = 0
                unindexed = 0
                for row in await connection.fetch(_SPACES, smallest):
                    space = Space(row["tenant_id"], Kind(row["kind"]), row["key"])
                    if self._looked_at.get(space) == row["written_at"]:
                        continue
                    busy = space not in loaded and row["now"] - row["written_at"] < self._settings.quiet
                    came = row["rows"] - self._rows.get(space, 0)
                    self._rows[space] = row["rows"]
                    await _act_for(connection, space.tenant_id)
                    waiting, worked = await self._keep(connection, space, came, busy=busy)
                    unindexed += waiting
                    built += worked
                    if not busy:
                        self._looked_at[space] = row["written_at"]
                gauge("prosa.vectors.unindexed").set(unindexed)
        return built

    async def _keep(self, connection: asyncpg.Connection, space: Space, came: int, *, busy: bool) -> tuple[int, bool]:
        """How many of the space's vectors wait for an index now, and whether one was built."""
        dimensions, rows, last = await _measured(connection, space)
        segments = await _living(connection, space)
        worth = self._settings.worth(dimensions)
        if rows <= worth // 2:
            await _drop(connection, space, segments)
            return 0, False
        waiting = await _waiting(connection, space, segments[-1].high if segments else 0)
        before, size = next_segment(segments, waiting, worth)
        if not size or (busy and waiting < self._settings.may_wait(dimensions, came)):
            return (waiting if size else 0), False
        segment = Segment(0, dimensions, before.high if before else 0, last, size, ready=False)
        await self._build(connection, space, segment)
        return 0, True

    async def _build(self, connection: asyncpg.Connection, space: Space, segment: Segment) -> None:
        segment_id = await connection.fetchval(
            "insert into vector_segments (tenant_id, kind, key, dimensions, low, high, rows)"
            " values ($1, $2, $3, $4, $5, $6, $7) returning segment_id",
            *(space.tenant_id, space.kind.value, space.key),
            *(segment.dimensions, segment.low, segment.high, segment.rows),
        )
        segment = replace(segment, segment_id=segment_id)
        _log.info("vector_index_begun", segment=segment_id, rows=segment.rows, dimensions=segment.dimensions)
        watching = asyncio.create_task(self._watch())
        try:
            await self._create_index(connection, space, segment)
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching
            gauge("prosa.vectors.index_build_progress").set(1.0)
        await connection.execute("update vector_segments set ready = true where segment_id = $1", segment_id)
        _log.info("vector_index_built", segment=segment_id, rows=segment.rows)
        await _drop(connection, space, await _swallowed(connection, space, segment))

    async def _create_index(self, connection: asyncpg.Connection, space: Space, segment: Segment) -> None:
        memory = min(self._settings.memory_bytes, _memory(segment))
        await connection.execute(f"set maintenance_work_mem = '{memory // _KIB}kB'")
        statement = (
            f"create index concurrently {segment.index_name} on {space.table}"
            f" using hnsw ((embedding::{segment.distance_type}) halfvec_ip_ops)"
            f" with (m = {_M}, ef_construction = {ef_construction(segment.rows)})"
            f" where {space.members} and {segment.range}"
        )
        try:
            await connection.execute("reset max_parallel_maintenance_workers")
            await connection.execute(statement)
        except (asyncpg.DiskFullError, asyncpg.OutOfMemoryError):
            # Workers share the graph in /dev/shm, which containers keep small.
            _log.warning("vector_index_built_alone", segment=segment.segment_id)
            await connection.execute(f"drop index concurrently if exists {segment.index_name}")
            await connection.execute("set max_parallel_maintenance_workers = 0")
            await connection.execute(statement)

    async def _watch(self) -> None:
        async with self._owner() as connection:
            while True:
                done = await connection.fetchval(
                    "select max(tuples_done::float8 / greatest(tuples_total, tuples_done, 1))"
                    " from pg_stat_progress_create_index where relid::regclass::text ~ 'chunks$'"
                )
                gauge("prosa.vectors.index_build_progress").set(done or 0.0)
                await asyncio.sleep(1.0)

    @asynccontextmanager
    async def _owner(self) -> AsyncIterator[asyncpg.Connection]:
        connection = await asyncpg.connect(
            self._url.get_secret_value(),
            timeout=5.0,
            server_settings={
                "search_path": f'"{self._schema}", public',
                "application_name": "prosa_vector_indexes",
                # A build whose process is gone ends, instead of going on for an hour for nobody.
                "client_connection_check_interval": "2s",
            },
        )
        try:
            yield connection
        finally:
            connection.terminate()


async def _act_for(connection: asyncpg.Connection, tenant_id: str) -> None:
    """The owner is bound by row-level security, too, where it is no superuser."""
    await connection.execute("select set_config('app.tenant', $1, false)", tenant_id)


async def _measured(connection: asyncpg.Connection, space: Space) -> tuple[int, int, int]:
    """Dimensions of the space's vectors, how many there are, and the number last given to one."""
    row = await connection.fetchrow(
        f"select count(*) as rows, coalesce(max(number), 0) as last from {space.table} where {space.members}"  # noqa: S608
    )
    dimensions = await connection.fetchval(
        f"select vector_dims(embedding) from {space.table} where {space.members} limit 1"  # noqa: S608
    )
    return dimensions or 1, *(row or (0, 0))


async def _living(connection: asyncpg.Connection, space: Space) -> Sequence[Segment]:
    """The segments in use, each with the rows that are left of it."""
    segments = await ready_segments(connection, space)
    return [replace(each, rows=await _rows(connection, space, each.range)) for each in segments]


async def _waiting(connection: asyncpg.Connection, space: Space, after: int) -> int:
    return await _rows(connection, space, f"number > {after}")


async def _rows(connection: asyncpg.Connection, space: Space, where: str) -> int:
    statement = f"select count(*) from {space.table} where {space.members} and {where}"  # noqa: S608
    return int(await connection.fetchval(statement))


async def _swallowed(connection: asyncpg.Connection, space: Space, by: Segment) -> list[Segment]:
    rows = await connection.fetch(
        "select segment_id, dimensions, low, high, rows, ready from vector_segments"
        " where tenant_id = $1 and kind = $2 and key = $3 and segment_id <> $4 and low >= $5 and high <= $6",
        *(space.tenant_id, space.kind.value, space.key),
        *(by.segment_id, by.low, by.high),
    )
    return [Segment(**dict(row)) for row in rows]


def _memory(segment: Segment) -> int:
    """What the graph takes while it is built, with room to spare; with less memory a build is far slower."""
    return int(64 * _MIB + segment.rows * (2 * segment.dimensions + 800) * 1.3)


async def _drop_abandoned(connection: asyncpg.Connection) -> None:
    for row in await connection.fetch(_ABANDONED):
        await connection.execute(f'drop index concurrently if exists "{row["relname"]}"')
    await connection.execute(f"delete from vector_segments where segment_id in ({_INDEXLESS})")  # noqa: S608


async def _drop(connection: asyncpg.Connection, space: Space, segments: Sequence[Segment]) -> None:
    """First no search names them any more, then they go."""
    ids = [segment.segment_id for segment in segments]
    await connection.execute("update vector_segments set ready = false where segment_id = any($1)", ids)
    for segment in segments:
        await connection.execute(f"drop index concurrently if exists {segment.index_name}")
    await connection.execute("delete from vector_segments where segment_id = any($1)", ids)
    if not await connection.fetchval(f"select exists (select from {space.table} where {space.members})"):  # noqa: S608
        await connection.execute(
            "delete from vector_spaces where tenant_id = $1 and kind = $2 and key = $3 and rows <= 0",
            *(space.tenant_id, space.kind.value, space.key),
        )
