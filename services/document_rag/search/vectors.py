"""Nearest vectors, and the guard over how many of them may be missed.

Vectors that are compared with one another form a space. A small space is compared whole. Over a large one lie segments,
approximate indexes (HNSW) each over a range of the numbers that ascend with every write; what no segment covers, the
newest always, is compared one by one beside them. So a write never waits for an index, and is found at once.

Which of the two is used is decided here and never by the planner: an exact comparison sorts by `distance + 0`, which no
index answers; an approximate one forbids the planner to sort. Spaces, tenants and ranges stand in the statements as
literals, because only then does the planner know that a partial index covers them, without planning each call anew.
"""

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum

import asyncpg
import numpy as np

from services.document_rag.model import RetrievalMode
from services.document_rag.search.embedders import Vectors
from services.document_rag.search.filters import Parameters
from shared.postgres import quoted, tenant_reading, tenant_transaction

MAX_CANDIDATES = 1000
_CANDIDATES_AT_20_000 = 120
_STATE_SECONDS = 1.0
_MOST_SPACES_KEPT = 10_000
_PROMISED_RECALL, _AMPLE_RECALL = 0.95, 0.995
_STEP, _WIDEST = 1.4, 4.0


class Kind(Enum):
    """Whose chunks a space holds: those of documents, by model, or those that programs pushed, by collection."""

    DOCUMENTS = "documents"
    PUSHED = "pushed"


_TABLES = {Kind.DOCUMENTS: ("chunks", "embedding_model"), Kind.PUSHED: ("pushed_chunks", "collection_id")}


@dataclass(frozen=True, slots=True)
class Space:
    """Vectors of one tenant that are compared with one another; all have the same dimensions."""

    tenant_id: str
    kind: Kind
    key: str

    @property
    def table(self) -> str:
        """Where its rows are."""
        return _TABLES[self.kind][0]

    @property
    def members(self) -> str:
        """Which rows of the table are its, as SQL without parameters."""
        return f"tenant_id = {quoted(self.tenant_id)} and {_TABLES[self.kind][1]} = {quoted(self.key)}"


@dataclass(frozen=True, slots=True)
class Segment:
    """An approximate index over the rows with low < number <= high; `rows` as many as there were when it was built."""

    segment_id: int
    dimensions: int
    low: int
    high: int
    rows: int
    ready: bool = True

    @property
    def index_name(self) -> str:
        """Name of the index in the schema."""
        return f"vector_segment_{self.segment_id}"

    @property
    def range(self) -> str:
        """Its rows within the space, as SQL."""
        return f"number > {self.low} and number <= {self.high}"

    @property
    def distance_type(self) -> str:
        """What both sides are cast to, so that the index, which needs fixed dimensions, fits."""
        return f"halfvec({self.dimensions})"


@dataclass(frozen=True, slots=True)
class Restriction:
    """What else must hold of a row, as SQL with parameters from $2 on; and, where known, how many rows can meet it."""

    sql: str = ""
    parameters: tuple[object, ...] = ()
    at_most: int | None = None

    @property
    def clause(self) -> str:
        """To be put behind a where clause."""
        return f" and {self.sql}" if self.sql else ""


@dataclass(frozen=True, slots=True)
class Near:
    """The nearest rows, nearest first: the columns asked for, and `distance`, the negative inner product."""

    rows: Sequence[asyncpg.Record]
    mode: RetrievalMode


ALL = Restriction()


def condition_parameters() -> Parameters:
    """Where a Restriction's parameters are collected; the first place is the vector's."""
    return Parameters([None])


def candidates_for(rows: int) -> int:
    """How many candidates a search through a segment of so many rows keeps, so that it misses few."""
    return int(min(400, _CANDIDATES_AT_20_000 * max(1.0, rows / 20_000) ** 0.35))


def exact_rows(dimensions: int) -> int:
    """Up to how many vectors comparing them all is no slower than an index is worth: 15 to 30 ms."""
    return int(min(10_000, max(3_000, 7_680_000 / dimensions)))


def halfvec_rows(vectors: Vectors) -> list[bytes]:
    """Vectors as PostgreSQL receives them: dimensions, zero, big-endian halves."""
    count, dimensions = vectors.shape
    rows = np.empty((count, 4 + 2 * dimensions), np.uint8)
    rows[:, :4] = np.frombuffer(dimensions.to_bytes(2, "big") + b"\0\0", np.uint8)
    rows[:, 4:] = vectors.astype(">f2").view(np.uint8)
    return [row.tobytes() for row in rows]


def from_halfvec(raw: bytes) -> Vectors:
    """The way back."""
    return np.frombuffer(raw, dtype=">f2", offset=4).astype(np.float32)


@dataclass(slots=True)
class VectorSearch:
    """Finds nearest vectors. Which segments a space has is asked at most once a second: one that was just dropped costs
    time, never a result, because the statement holds without the index, too."""

    readers: asyncpg.Pool
    compared_exactly: int | None = None
    _known: dict[Space, tuple[float, Sequence[Segment]]] = field(default_factory=dict)
    _widened: dict[Space, float] = field(default_factory=dict)

    async def nearest(
        self,
        space: Space,
        vector: Vectors,
        limit: int,
        *,
        columns: str,
        as_tenant: str | None = None,
        restriction: Restriction = ALL,
        candidates: int = 0,
    ) -> Near:
        """The `limit` nearest rows that meet the restriction, read as the tenant (the space's own unless stated).

        `columns` are those of the space's table. `candidates` 0: as many as keep recall high. Complete whenever so many
        rows exist.
        """
        reader = as_tenant or space.tenant_id
        segments = await self.segments(space, reader)
        query = _Query(space, halfvec_rows(vector.reshape(1, -1))[0], limit, columns, restriction)
        if not segments or self._few(restriction, len(vector)):
            async with tenant_reading(self.readers, reader) as connection:
                return Near(await query.exact(connection), RetrievalMode.EXACT)
        settings = approximate_settings(max(limit, candidates or self.candidates(space, segments)))
        async with tenant_reading(self.readers, reader, settings) as connection:
            return await query.approximate(connection, segments)

    async def nearest_within(
        self,
        connection: asyncpg.Connection,
        space: Space,
        vector: Vectors,
        limit: int,
        *,
        columns: str,
        restriction: Restriction = ALL,
    ) -> Near:
        """The same in a transaction of the caller's, which goes on under the settings it had."""
        segments = await ready_segments(connection, space)
        query = _Query(space, halfvec_rows(vector.reshape(1, -1))[0], limit, columns, restriction)
        if not segments or self._few(restriction, len(vector)):
            return Near(await query.exact(connection), RetrievalMode.EXACT)
        async with _under(connection, approximate_settings(max(limit, self.candidates(space, segments)))):
            return await query.approximate(connection, segments)

    def candidates(self, space: Space, segments: Sequence[Segment]) -> int:
        """As many as its largest segment asks for, more where that was seen to be too few."""
        usual = candidates_for(max(segment.rows for segment in segments))
        return min(MAX_CANDIDATES, int(usual * self._widened.get(space, 1.0)))

    def heed(self, space: Space, recall: float) -> None:
        """A recall@10 that is too low widens the search of the space, an ample one narrows it back to the usual."""
        wider = self._widened.pop(space, 1.0)
        if recall < _PROMISED_RECALL:
            wider = min(wider * _STEP, _WIDEST)
        elif recall > _AMPLE_RECALL:
            wider = max(wider / _STEP, 1.0)
        if wider > 1.0:
            self._widened[space] = wider

    def _few(self, restriction: Restriction, dimensions: int) -> bool:
        few = self.compared_exactly or exact_rows(dimensions)
        return restriction.at_most is not None and restriction.at_most <= few

    async def segments(self, space: Space, reader: str) -> Sequence[Segment]:
        """The approximate indexes over the space that can be used, oldest rows first."""
        at, segments = self._known.get(space, (0.0, ()))
        if time.monotonic() - at < _STATE_SECONDS:
            return segments
        async with tenant_transaction(self.readers, reader) as connection:
            segments = await ready_segments(connection, space)
        if len(self._known) >= _MOST_SPACES_KEPT:
            self._known.clear()
        self._known[space] = time.monotonic(), segments
        return segments


@dataclass(frozen=True, slots=True)
class _Query:
    space: Space
    vector: bytes
    limit: int
    columns: str
    restriction: Restriction

    async def exact(self, connection: asyncpg.Connection) -> Sequence[asyncpg.Record]:
        statement = exact(self.space, self.limit, self.restriction, self.columns)
        return await connection.fetch(statement, self.vector, *self.restriction.parameters)

    async def approximate(self, connection: asyncpg.Connection, segments: Sequence[Segment]) -> Near:
        """Of an index that gave too few it is not known what it missed: then all are compared."""
        statement = approximate(self.space, segments, self.limit, self.restriction, self.columns)
        rows = await connection.fetch(statement, self.vector, *self.restriction.parameters)
        if len(rows) == self.limit:
            return Near(rows, RetrievalMode.INDEX)
        return Near(await self.exact(connection), RetrievalMode.EXACT_FALLBACK)


@asynccontextmanager
async def _under(connection: asyncpg.Connection, settings: Mapping[str, str]) -> AsyncIterator[None]:
    for name, value in settings.items():
        await connection.execute("select set_config($1, $2, true)", name, value)
    yield
    await connection.execute("select set_config('enable_sort', 'on', true)")


async def ready_segments(connection: asyncpg.Connection, space: Space) -> Sequence[Segment]:
    """The segments of the space whose index is built."""
    rows = await connection.fetch(
        "select segment_id, dimensions, low, high, rows from vector_segments"
        " where tenant_id = $1 and kind = $2 and key = $3 and ready order by low, high desc",
        space.tenant_id,
        space.kind.value,
        space.key,
    )
    segments: list[Segment] = []
    for row in rows:
        segment = Segment(**dict(row))
        # One that was merged into a wider one is still there for a moment, and covered.
        if not segments or segment.low >= segments[-1].high:
            segments.append(segment)
    return segments


def exact(space: Space, limit: int, restriction: Restriction = ALL, columns: str = "chunk_id") -> str:
    """The statement that compares all rows of the space that meet the restriction; $1 is the vector."""
    return f"{_compared(space, 'true', limit, restriction, columns)} order by distance, number desc"


def approximate(
    space: Space, segments: Sequence[Segment], limit: int, restriction: Restriction = ALL, columns: str = "chunk_id"
) -> str:
    """The statement that searches the segments, and compares what they do not cover."""
    legs = [
        f"(select embedding::{segment.distance_type} <#> $1::{segment.distance_type} as distance, number, {columns}"  # noqa: S608
        f" from {space.table} where {space.members} and {segment.range}{restriction.clause}"
        f" order by embedding::{segment.distance_type} <#> $1::{segment.distance_type} limit {limit})"
        for segment in segments
    ]
    legs += [f"({_compared(space, gap, limit, restriction, columns)})" for gap in gaps(segments)]
    return (
        f"with near as materialized ({' union all '.join(legs)})"  # noqa: S608
        f" select * from near order by distance, number desc limit {limit}"
    )


def approximate_settings(candidates: int) -> dict[str, str]:
    """What an approximate statement runs under: an index scan that goes on until it has enough, and no sort instead."""
    return {
        "hnsw.ef_search": str(min(candidates, MAX_CANDIDATES)),
        "hnsw.iterative_scan": "relaxed_order",
        "enable_sort": "off",
    }


def _compared(space: Space, where: str, limit: int, restriction: Restriction, columns: str) -> str:
    # "+ 0": no index can give this order, so all of it is compared. What else is asked of a row is read of the nearest
    # only, and by key ("offset 0"), whatever the planner thinks of a table that has just been filled.
    return (
        f"select distance, number, {columns} from (select (embedding <#> $1::halfvec) + 0 as distance, number as place"  # noqa: S608
        f" from {space.table} where {space.members} and {where}{restriction.clause}"
        f" order by distance, place desc limit {limit}) as near"
        f" cross join lateral (select number, {columns} from {space.table}"
        f" where {space.members} and number = near.place offset 0) as found"
    )


def gaps(segments: Sequence[Segment]) -> list[str]:
    """The ranges of numbers that no segment covers, as SQL; the last one is of the newest rows."""
    found, covered = [], None
    for segment in segments:
        if covered is None and segment.low > 0:
            found.append(f"number <= {segment.low}")
        elif covered is not None and segment.low > covered:
            found.append(f"number > {covered} and number <= {segment.low}")
        covered = segment.high
    return [*found, f"number > {covered or 0}"]
