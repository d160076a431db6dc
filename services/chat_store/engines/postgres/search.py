"""Search: the index tells which messages have the words (schema/0003), the texts tell how well they fit."""

from collections.abc import Iterable, Mapping
from heapq import nlargest
from typing import Any

import asyncpg

from services.chat_store.engines.postgres import rows
from services.chat_store.engines.postgres.database import Database
from services.chat_store.model import Message
from services.chat_store.selection import Found, Hit, HitPlace, Reach, Search, SearchOrder
from services.chat_store.store import SEARCH_CANDIDATES
from services.chat_store.words import Word, rarity_of, score_of

# So many texts are held at once while candidates are ranked.
RANKED_AT_ONCE = 50
_MATCHES = "select * from matches($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)"
# "offset 0" has each place looked up by itself. The planner would rather read all messages of a tenant that its
# statistics do not know yet, again for every RANKED_AT_ONCE of them.
_MESSAGES = """
    select m.* from unnest($2::text[], $3::bigint[]) w(conversation_id, seq) cross join lateral (
        select * from messages where tenant_id = $1 and conversation_id = w.conversation_id and seq = w.seq offset 0) m
"""


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
        wanted = search.limit + 1
        matches = await self._matches(connection, reach, search, search.after, wanted)
        hits = await _hits(connection, reach, zip(matches["conversations"], matches["seqs"], strict=True), {})
        hits = sorted(hits, key=_order, reverse=True)[:wanted]
        return Found(tuple(hits[: search.limit]), len(hits) > search.limit, matches["partial"])

    async def _fittest(self, connection: asyncpg.Connection, reach: Reach, search: Search) -> Found:
        """The score comes first in the order, so all candidates are ranked for every page."""
        matches = await self._matches(connection, reach, search, None, SEARCH_CANDIDATES)
        rarity = _rarity(search, matches)
        places: list[HitPlace] = []
        candidates = list(zip(matches["conversations"], matches["seqs"], strict=True))
        for begin in range(0, len(candidates), RANKED_AT_ONCE):
            ranked = await _hits(connection, reach, candidates[begin : begin + RANKED_AT_ONCE], rarity)
            places += [hit.place for hit in ranked if search.after is None or _key(hit.place) < _key(search.after)]
        best = nlargest(search.limit + 1, places, key=_key)
        page = best[: search.limit]
        hits = await _hits(connection, reach, [(place.conversation_id, place.seq) for place in page], rarity)
        return Found(tuple(sorted(hits, key=_order, reverse=True)), len(best) > search.limit, matches["partial"])

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


async def _hits(
    connection: asyncpg.Connection, reach: Reach, places: Iterable[tuple[str, int]], rarity: Mapping[Word, float]
) -> list[Hit]:
    """The messages at those places, scored when the words' rarity is known."""
    conversations, seqs = tuple(zip(*places, strict=True)) or ((), ())
    found = await connection.fetch(_MESSAGES, reach.tenant_id, list(conversations), list(seqs))
    messages = [(row["conversation_id"], rows.message_of(row)) for row in found]
    return [Hit(conversation_id, message, _score(message, rarity)) for conversation_id, message in messages]


def _score(message: Message, rarity: Mapping[Word, float]) -> float:
    return score_of(message.draft.words, list(rarity), rarity) if rarity else 0.0


def _rarity(search: Search, matches: Any) -> dict[Word, float]:
    """How rare each word is among the newest messages; in steps, so that a few new ones change no page's order."""
    counts = matches["counts"] or [0] * len(search.words)
    seen = _rounded(matches["seen"])
    return {word: rarity_of(_rounded(count), seen) for word, count in zip(search.words, counts, strict=True)}


def _rounded(count: int) -> int:
    """The next power of two."""
    return 1 << count.bit_length()


def _order(hit: Hit) -> tuple[float, Any, str, int]:
    return _key(hit.place)


def _key(place: HitPlace) -> tuple[float, Any, str, int]:
    return place.score, place.time, place.conversation_id, place.seq
