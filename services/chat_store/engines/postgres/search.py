"""Search: the index tells which messages have the words (schema/0003), the texts tell how well they fit."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from functools import partial
from heapq import nlargest
from typing import Any, TypeAlias

import asyncpg

from services.chat_store.engines.postgres import rows
from services.chat_store.engines.postgres.database import Database
from services.chat_store.selection import Found, Hit, HitPlace, Reach, Search, SearchOrder
from services.chat_store.store import SEARCH_CANDIDATES
from services.chat_store.words import Word, rarity_of, scorer_of

# Candidates are ranked all at once, but of those that are larger only so many are held at a time.
SMALL_BYTES = 8 * 1024
LARGE_AT_ONCE = 50
_ANY_BYTES = 2**31 - 1
_MATCHES = "select * from matches($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)"
# "offset 0" has each place looked up by itself. The planner would rather read all messages of a tenant that its
# statistics do not know yet.
_AT_PLACES = """
    select m.* from unnest($2::text[], $3::bigint[]) w(conversation_id, seq) cross join lateral (
        select {} from messages where tenant_id = $1 and conversation_id = w.conversation_id and seq = w.seq offset 0) m
"""
_MESSAGES = _AT_PLACES.format("*")
_CANDIDATES = _AT_PLACES.format(
    "conversation_id, seq, create_time, case when size <= $4 then coalesce(changed, said) end as message"
)

_Place: TypeAlias = tuple[str, int]
# Score, time, conversation and seq of a candidate: as results are ordered. A search makes a thousand.
_Rank: TypeAlias = tuple[float, datetime, str, int]


class PostgresSearch:
    """Finds messages of one database by their words."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, reach: Reach, search: Search) -> Found:
        """See ChatStore.search."""
        if not search.words:
            return Found((), more=False, partial=False)
        async with self._database.transaction(reach.tenant_id) as connection:
            if search.order is SearchOrder.RECENCY:
                return await self._newest(connection, reach, search)
            return await self._fittest(connection, reach, search)

    async def _newest(self, connection: asyncpg.Connection, reach: Reach, search: Search) -> Found:
        matches = await self._matches(connection, reach, search, search.after, search.limit + 1)
        hits = await _hits(connection, reach, dict.fromkeys(_places(matches)[: search.limit + 1], 0.0))
        return Found(tuple(hits[: search.limit]), len(hits) > search.limit, matches["partial"])

    async def _fittest(self, connection: asyncpg.Connection, reach: Reach, search: Search) -> Found:
        """The score comes first in the order, so all candidates are ranked for every page."""
        matches = await self._matches(connection, reach, search, None, SEARCH_CANDIDATES)
        rank = partial(_ranked, score=scorer_of(_rarity(search, matches)), after=search.after)
        best = nlargest(search.limit + 1, await _ranks(connection, reach, _places(matches), rank))
        page = {(conversation_id, seq): score for score, _, conversation_id, seq in best[: search.limit]}
        hits = await _hits(connection, reach, page)
        return Found(tuple(hits), len(best) > search.limit, matches["partial"])

    async def _matches(
        self, connection: asyncpg.Connection, reach: Reach, search: Search, after: HitPlace | None, wanted: int
    ) -> Any:
        return await connection.fetchrow(
            _MATCHES,
            None if reach.user_id is None else rows.plain(reach.user_id),
            search.conversation_id,
            rows.plain(search.assistant_id),
            rows.plain(search.team_id),
            sorted(status.value for status in search.statuses),
            reach.deleted,
            sorted(kind.value for kind in search.types),
            rows.words_in(reach.tenant_id, search.words),
            rows.bound(search.created.start),
            rows.bound(search.created.end),
            *((None, None, None) if after is None else (after.time, after.conversation_id, after.seq)),
            wanted,
            SEARCH_CANDIDATES,
            self._database.now(),
        )


def _places(matches: Any) -> list[_Place]:
    return list(zip(matches["conversations"], matches["seqs"], strict=True))


async def _ranks(
    connection: asyncpg.Connection, reach: Reach, places: list[_Place], rank: Callable[[Iterable[Any]], list[_Rank]]
) -> list[_Rank]:
    """Ranks the messages at the places, beside the event loop: there may be many, and long ones."""
    found = await connection.fetch(_CANDIDATES, reach.tenant_id, *_columns(places), SMALL_BYTES)
    ranks = await asyncio.to_thread(rank, [row for row in found if row["message"] is not None])
    large = [(row["conversation_id"], row["seq"]) for row in found if row["message"] is None]
    for begin in range(0, len(large), LARGE_AT_ONCE):
        some = large[begin : begin + LARGE_AT_ONCE]
        found = await connection.fetch(_CANDIDATES, reach.tenant_id, *_columns(some), _ANY_BYTES)
        ranks += await asyncio.to_thread(rank, found)
    return ranks


def _ranked(candidates: Iterable[Any], score: Callable[[str], float], after: HitPlace | None) -> list[_Rank]:
    """The ranks of those that come after that place in the results."""
    ranks = [
        (score(rows.words_said(row["message"])), row["create_time"], row["conversation_id"], row["seq"])
        for row in candidates
    ]
    return ranks if after is None else [rank for rank in ranks if rank < _rank_of(after)]


async def _hits(connection: asyncpg.Connection, reach: Reach, scores: Mapping[_Place, float]) -> list[Hit]:
    """The messages at those places with their scores, in the order of results."""
    found = await connection.fetch(_MESSAGES, reach.tenant_id, *_columns(scores))
    messages = {(row["conversation_id"], row["seq"]): rows.message_of(row) for row in found}
    hits = [Hit(place[0], message, scores[place]) for place, message in messages.items()]
    return sorted(hits, key=lambda hit: _rank_of(hit.place), reverse=True)


def _columns(places: Iterable[_Place]) -> tuple[list[str], list[int]]:
    conversations, seqs = tuple(zip(*places, strict=True)) or ((), ())
    return list(conversations), list(seqs)


def _rarity(search: Search, matches: Any) -> dict[Word, float]:
    """How rare each word is among the newest messages; in steps, so that a few new ones change no page's order."""
    counts = matches["counts"] or [0] * len(search.words)
    seen = _rounded(matches["seen"])
    return {word: rarity_of(_rounded(count), seen) for word, count in zip(search.words, counts, strict=True)}


def _rounded(count: int) -> int:
    """The next power of two."""
    return 1 << count.bit_length()


def _rank_of(place: HitPlace) -> _Rank:
    return place.score, place.time, place.conversation_id, place.seq
