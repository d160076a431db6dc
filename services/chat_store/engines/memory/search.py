"""Search in memory: the index leads to the messages, the newest first; of these so many are looked at."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

from services.chat_store.engines.memory.kept import Memory, Talk, moment
from services.chat_store.selection import Found, Hit, HitPlace, Reach, Search, SearchOrder
from services.chat_store.store import SEARCH_CANDIDATES
from services.chat_store.words import Word, rarity_of, scorer_of
from shared.clock import Clock


class MemorySearch:
    """Finds messages by their words."""

    def __init__(self, memory: Memory, clock: Clock) -> None:
        self._memory = memory
        self._clock = clock

    def find(self, reach: Reach, search: Search) -> Found:
        """See ChatStore.search."""
        if not search.words:
            return Found((), more=False, partial=False)
        if search.order is SearchOrder.RECENCY:
            hits = list(islice(self._fitting(reach, search, search.after), search.limit + 1))
            return Found(tuple(hits[: search.limit]), len(hits) > search.limit, partial=False)
        candidates = list(islice(self._fitting(reach, search, None), SEARCH_CANDIDATES + 1))
        best = self._ranked(reach.tenant_id, candidates[:SEARCH_CANDIDATES], search)
        partial = len(candidates) > SEARCH_CANDIDATES
        return Found(tuple(best[: search.limit]), len(best) > search.limit, partial)

    def _fitting(self, reach: Reach, search: Search, after: HitPlace | None) -> Iterator[Hit]:
        """The messages that fit in all but their score, the newest first."""
        fits: dict[str, Talk | None] = {}
        for _, conversation_id, seq in self._memory.words.newest_first(reach.tenant_id, search.words, after):
            if conversation_id not in fits:
                fits[conversation_id] = self._talk(reach, search, conversation_id)
            talk = fits[conversation_id]
            if talk is None:
                continue
            message = self._memory.message(talk, seq)
            if message.draft.type in search.types and search.created.holds(message.create_time):
                yield Hit(conversation_id, message, 0.0)

    def _talk(self, reach: Reach, search: Search, conversation_id: str) -> Talk | None:
        """The conversation if its messages are wanted and within reach."""
        talk = self._memory.talk(reach.tenant_id, conversation_id)
        if talk is None or not reach.shows(talk.conversation, moment(self._clock)):
            return None
        conversation = talk.conversation
        wanted = (
            search.conversation_id in ("", conversation_id)
            and search.assistant_id in ("", conversation.assistant_id)
            and search.team_id in ("", conversation.team_id)
            and conversation.status in search.statuses
        )
        return talk if wanted else None

    def _ranked(self, tenant_id: str, candidates: list[Hit], search: Search) -> list[Hit]:
        """Those behind the place asked for, the best first."""
        score = scorer_of({word: self._rarity(tenant_id, word) for word in search.words})
        scored = [replace(hit, score=score(hit.message.draft.words)) for hit in candidates]
        after = search.after
        beyond = [hit for hit in scored if after is None or _order(hit.place) < _order(after)]
        return sorted(beyond, key=lambda hit: _order(hit.place), reverse=True)

    def _rarity(self, tenant_id: str, word: Word) -> float:
        """In steps, so that a message more between two pages moves nothing."""
        words = self._memory.words
        return rarity_of(_step(words.count(tenant_id, word)), _step(words.messages(tenant_id)))


def _step(count: int) -> int:
    return 1 << count.bit_length()


def _order(place: HitPlace) -> tuple[object, ...]:
    return place.score, place.time, place.conversation_id, place.seq
