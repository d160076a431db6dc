"""Pushed chunks in a search over everything: which collections are in reach, what is near in them, and their passages.

In a search a pushed chunk is known by its collection and its number, as a document's chunk is by document and ordinal.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from services.document_rag.ids import uuids
from services.document_rag.model import (
    GLOBAL_LIBRARY,
    Condition,
    Filter,
    Passage,
    RetrievalMode,
    Scope,
    printable_title,
)
from services.document_rag.search.embedders import Vectors
from services.document_rag.search.filters import metadata_condition
from services.document_rag.search.vectors import Kind, Restriction, Space, VectorSearch, condition_parameters

Place = tuple[UUID, int]

# Of a ready vector is known only how long it is; a vector of ours fits the collections that we make the vectors of.
_REACH = """
    select tenant_id, collection_id, embedding_model = '' as is_ours, dimensions
    from collections
    where tenant_id = any($1::text[]) and deleted_at is null and ($2::uuid[] is null or collection_id = any($2))
      and exists (select from vector_spaces known where known.tenant_id = collections.tenant_id
                  and kind = 'pushed' and key = collection_id::text and rows > 0)
    order by collection_id
"""

_BATCHES = "select batch_id from word_batches where tenant_id = any($1::text[]) and collection_id = any($2::uuid[])"

_NUMBERS = """
    select batch_id, collection_id, numbers from word_batches
    where tenant_id = any($1::text[]) and batch_id = any($2::uuid[])
"""


@dataclass(frozen=True, slots=True)
class Reach:
    """Collections with pushed chunks that a search may read, by id, and what must hold of a chunk's metadata."""

    spaces: Mapping[UUID, Space]
    comparable: frozenset[UUID]
    conditions: tuple[Condition, ...] = ()

    @property
    def libraries(self) -> list[str]:
        """Whose they are."""
        return sorted({space.tenant_id for space in self.spaces.values()})


async def reach_of(
    connection: asyncpg.Connection, libraries: Sequence[str], wanted: Filter, given: Vectors | None
) -> Reach:
    """The collections that the filter leaves: none, where it names documents or languages alone.

    `given` is the ready vector of the query, if it has one: it is compared in collections of as many dimensions.
    """
    named = uuids(wanted.collection_ids) if wanted.collection_ids else None
    if wanted.languages or (wanted.document_ids and named is None):
        return Reach({}, frozenset())
    rows = await connection.fetch(_REACH, libraries, named)
    spaces = {row["collection_id"]: Space(row["tenant_id"], Kind.PUSHED, str(row["collection_id"])) for row in rows}
    comparable = frozenset(
        row["collection_id"]
        for row in rows
        if (row["is_ours"] if given is None else row["dimensions"] == len(given) and named is not None)
    )
    return Reach(spaces, comparable, wanted.conditions)


async def batches_of(connection: asyncpg.Connection, reach: Reach) -> list[UUID]:
    """What stands for the collections' chunks in the keyword index."""
    if not reach.spaces:
        return []
    rows = await connection.fetch(_BATCHES, reach.libraries, list(reach.spaces))
    return [row["batch_id"] for row in rows]


async def by_number(
    connection: asyncpg.Connection, reach: Reach, by_words: Mapping[Place, float]
) -> dict[Place, float]:
    """The same scores, places in batches turned into places in collections."""
    if not reach.spaces or not by_words:
        return dict(by_words)
    rows = await connection.fetch(_NUMBERS, reach.libraries, list({batch_id for batch_id, _ in by_words}))
    batches = {row["batch_id"]: row for row in rows}
    return {_numbered(place, batches.get(place[0])): score for place, score in by_words.items()}


async def near_in(
    connection: asyncpg.Connection,
    vectors: VectorSearch,
    reach: Reach,
    vector: Vectors,
    limit: int,
    *,
    model: str | None,
) -> tuple[list[tuple[float, Place]], list[RetrievalMode]]:
    """Distances and places of the nearest chunks of each comparable collection, and how each was searched.

    `model` is the one that made the query's vector, None for a ready one.
    """
    parameters = condition_parameters()
    clauses = [metadata_condition(each, parameters) for each in reach.conditions]
    if model is not None:
        clauses.append(f"embedding_model = {parameters.add(model)}")
    restriction = Restriction(" and ".join(clauses), tuple(parameters[1:]))
    found: list[tuple[float, Place]] = []
    modes: list[RetrievalMode] = []
    for collection_id in sorted(reach.comparable):
        near = await vectors.nearest_within(
            connection, reach.spaces[collection_id], vector, limit, columns="chunk_id", restriction=restriction
        )
        found += [(row["distance"], (collection_id, row["number"])) for row in near.rows]
        modes.append(near.mode)
    return found, modes


async def pushed_rows(
    connection: asyncpg.Connection, reach: Reach, places: Sequence[Place]
) -> dict[Place, asyncpg.Record]:
    """The chunks at these places that are still there and meet the conditions."""
    inside = [place for place in places if place[0] in reach.spaces]
    if not inside:
        return {}
    parameters = condition_parameters()
    parameters[0] = reach.libraries
    wanted = parameters.add([place[0] for place in inside]), parameters.add([place[1] for place in inside])
    conditions = "".join(f" and {metadata_condition(each, parameters)}" for each in reach.conditions)
    rows = await connection.fetch(
        f"select tenant_id, collection_id, number, chunk_id, body, metadata, '' as section,"  # noqa: S608
        f" coalesce(metadata ->> 'title', '') as title"
        f" from unnest({wanted[0]}::uuid[], {wanted[1]}::bigint[]) as wanted (collection_id, number)"
        f" join pushed_chunks using (collection_id, number) where tenant_id = any($1::text[]){conditions}",
        *parameters,
    )
    return {(row["collection_id"], row["number"]): row for row in rows}


def pushed_passage(row: asyncpg.Record, score: float) -> Passage:
    """A pushed chunk as a search gives it: it has no document, and its span is the whole of its text."""
    return Passage(
        chunk_id=row["chunk_id"],
        document_id="",
        title=printable_title(row["title"]),
        version=1,
        page=0,
        section="",
        char_start=0,
        char_end=len(row["body"]),
        text=row["body"],
        score=score,
        collection_id=str(row["collection_id"]),
        scope=Scope.GLOBAL if row["tenant_id"] == GLOBAL_LIBRARY else Scope.TENANT,
        language="",
        metadata=row["metadata"],
    )


def _numbered(place: Place, batch: asyncpg.Record | None) -> Place:
    return place if batch is None else (batch["collection_id"], batch["numbers"][place[1]])
