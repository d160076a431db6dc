"""Search: the index tells which messages have the words (schema/0003), the texts tell how well they fit."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from heapq import nlargest
from typing import TypeAlias

from services.chat_store.engines.postgres import rows
from services.chat_store.engines.postgres.database import Database
from services.chat_store.engines.postgres.rows import Row
from services.chat_store.selection import Found, Hit, HitPlace, Reach, Search, SearchOrder
from services.chat_store.store import SEARCH_CANDIDATES
from services.chat_store.words import Word, rarity_of, scorer_of

# Messages that are larger do not come with the others that were found; so many of them are held at a time.
SMALL_BYTES = 8 * 1024
LARGE_AT_ONCE = 50
_FOUND = "select * from found($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)"
_MESSAGES = "select * from messages_at($1, $2, $3, $4)"
_ANY_BYTES = 2**31 - 1

_Place: TypeAlias = tuple[str, int]
# Score, time, conversation and seq, as results are ordered: a search ranks a thousand messages.
_Rank: TypeAlias = tuple[float, datetime, str, int]


class PostgresSearch:
    """Finds messages of one database by their words."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, reach: Reach, search: Search) -> Found:
        """See ChatStore.search."""
        if not search.words:
            return Found((), more=False, partial=False)
        if search.order is SearchOrder.RECENCY:
            return await self._newest(reach, search)
        return await self._fittest(reach, search)

    async def _newest(self, reach: Reach, search: Search) -> Found:
        facts, *found = await self._found(reach, search, search.after, search.limit + 1)
        hits = await self._hits(reach, found[: search.limit], dict.fromkeys(map(_place_of, found), 0.0))
        return Found(tuple(hits), len(found) > search.limit, facts["partial"])

    async def _fittest(self, reach: Reach, search: Search) -> Found:
        """The score comes first in the order, so all candidates are ranked for every page."""
        facts, *found = await self._found(reach, search, None, SEARCH_CANDIDATES)
        rank = partial(_ranked, score=scorer_of(_rarity(search, facts)), after=search.after)
        best = nlargest(search.limit + 1, await self._ranks(reach, found, rank))
        page = {(conversation_id, seq): score for score, _, conversation_id, seq in best[: search.limit]}
        hits = await self._hits(reach, [row for row in found if _place_of(row) in page], page)
        return Found(tuple(hits), len(best) > search.limit, facts["partial"])

    async def _found(self, reach: Reach, search: Search, after: HitPlace | None, wanted: int) -> list[Row]:
        """What the index knows of the words; then the messages that have them, the newest first."""
        return await self._database.call(
            _FOUND,
            reach.tenant_id,
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
            SMALL_BYTES,
        )

    async def _ranks(
        self, reach: Reach, found: Sequence[Row], rank: Callable[[Iterable[Row]], list[_Rank]]
    ) -> list[_Rank]:
        """Ranks what was found beside the event loop: there may be much, and long texts."""
        ranks = await asyncio.to_thread(rank, [row for row in found if not _is_large(row)])
        large = [row for row in found if _is_large(row)]
        for begin in range(0, len(large), LARGE_AT_ONCE):
            ranks += await asyncio.to_thread(rank, await self._read(reach, large[begin : begin + LARGE_AT_ONCE]))
        return ranks

    async def _hits(self, reach: Reach, found: Sequence[Row], scores: Mapping[_Place, float]) -> list[Hit]:
        """What was found, with the scores of their places, in the order of results."""
        large = [row for row in found if _is_large(row)]
        whole = [row for row in found if not _is_large(row)] + (await self._read(reach, large) if large else [])
        hits = [Hit(row["conversation_id"], rows.message_of(row), scores[_place_of(row)]) for row in whole]
        return sorted(hits, key=lambda hit: _rank_of(hit.place), reverse=True)

    async def _read(self, reach: Reach, found: Sequence[Row]) -> list[Row]:
        """The messages of which only the places came."""
        places = [row["conversation_id"] for row in found], [row["seq"] for row in found]
        return await self._database.call(_MESSAGES, reach.tenant_id, *places, _ANY_BYTES)


def _ranked(messages: Iterable[Row], score: Callable[[str], float], after: HitPlace | None) -> list[_Rank]:
    """The ranks of those that come after that place in the results."""
    ranks = [(score(rows.words_said(row)), row["create_time"], row["conversation_id"], row["seq"]) for row in messages]
    return ranks if after is None else [rank for rank in ranks if rank < _rank_of(after)]


def _is_large(row: Row) -> bool:
    return row["said"] is None


def _place_of(row: Row) -> _Place:
    return row["conversation_id"], row["seq"]


def _rarity(search: Search, facts: Row) -> dict[Word, float]:
    """How rare each word is among the newest messages; in steps, so that a few new ones change no page's order."""
    counts = facts["counts"] or [0] * len(search.words)
    seen = _rounded(facts["seen"])
    return {word: rarity_of(_rounded(count), seen) for word, count in zip(search.words, counts, strict=True)}


def _rounded(count: int) -> int:
    """The next power of two."""
    return 1 << count.bit_length()


def _rank_of(place: HitPlace) -> _Rank:
    return place.score, place.time, place.conversation_id, place.seq
