"""How much approximate search finds of what is there, sampled steadily, and put right where it is too little.

Once a minute one large space is looked at: a few stored vectors are asked for their neighbours, once through the index
and once by comparing all. What a round may cost is bounded by the number of questions and the time they may take. Data
differ in how hard they are to index: a space that falls short of what was promised is searched wider from then on.
"""

import asyncio
import time
from collections.abc import Sequence

import asyncpg
import numpy as np

from services.document_rag.search.vectors import (
    Kind,
    Space,
    VectorSearch,
    approximate,
    approximate_settings,
    exact,
    from_halfvec,
    halfvec_rows,
)
from shared.postgres import tenant_transaction
from shared.telemetry import gauge, get_logger

TOP_K = 10
QUESTIONS = 20
ROUND_SECONDS = 5.0
_SHAKE = 0.25  # of a vector's length: a question is near a stored vector, seldom equal to one

# The spaces with an index, in an order that every round goes on in.
_NEXT = """
    select tenant_id, kind, key, max(dimensions) as dimensions from vector_segments
    where ready group by tenant_id, kind, key
    order by (tenant_id, kind, key) <= ($1, $2, $3), tenant_id, kind, key limit 1
"""

_log = get_logger()


class RecallSampler:
    """Looks at one space after the other."""

    def __init__(self, pool: asyncpg.Pool, search: VectorSearch) -> None:
        self._pool = pool
        self._search = search
        self._last = ("", "", "")
        self._random = np.random.default_rng()

    async def sample(self) -> float | None:
        """Recall@10 of the next space with an index; None when there is none."""
        async with tenant_transaction(self._pool, "*") as connection:
            row = await connection.fetchrow(_NEXT, *self._last)
        if row is None:
            return None
        self._last = row["tenant_id"], row["kind"], row["key"]
        space = Space(row["tenant_id"], Kind(row["kind"]), row["key"])
        recalls: list[float] = []
        give_up = time.monotonic() + ROUND_SECONDS
        while len(recalls) < QUESTIONS and time.monotonic() < give_up:
            recall = await self._asked(space)
            if recall is None:
                return None
            recalls.append(recall)
            await asyncio.sleep(0)
        measured = float(np.mean(recalls))
        gauge("prosa.vectors.recall_at_10").set(measured, {"tenant": space.tenant_id})
        _log.info("recall_sampled", tenant=space.tenant_id, recall_at_10=round(measured, 3), questions=len(recalls))
        self._search.heed(space, measured)
        return measured

    async def _asked(self, space: Space) -> float | None:
        segments = await self._search.segments(space, space.tenant_id)
        if not segments:
            return None
        settings = approximate_settings(self._search.candidates(space, segments))
        async with tenant_transaction(self._pool, space.tenant_id, settings=settings) as connection:
            place = int(self._random.integers(segments[0].low, segments[-1].high, endpoint=True))
            stored = await connection.fetchval(
                f"select embedding from {space.table} where {space.members} and number >= $1"  # noqa: S608
                " order by number limit 1",
                place,
            )
            if stored is None:
                return None
            question = halfvec_rows(self._near(from_halfvec(stored)).reshape(1, -1))[0]
            found = await connection.fetch(approximate(space, segments, TOP_K), question)
            await connection.execute("select set_config('enable_sort', 'on', true)")
            there = await connection.fetch(exact(space, TOP_K), question)
        return _share(found, there)

    def _near(self, vector: np.ndarray) -> np.ndarray:
        noise = self._random.normal(size=len(vector))
        shaken = vector + _SHAKE * noise / np.linalg.norm(noise)
        return np.asarray(shaken / np.linalg.norm(shaken), dtype=np.float32)


def _share(found: Sequence[asyncpg.Record], there: Sequence[asyncpg.Record]) -> float:
    """Of as many nearest ones as exist; one at the distance of the last counts, whichever of its equals it is."""
    if not there:
        return 1.0
    farthest = there[-1]["distance"] + 1e-6
    return sum(1 for row in found if row["distance"] <= farthest) / len(there)
