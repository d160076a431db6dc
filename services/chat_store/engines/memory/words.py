"""Which messages in memory have a term, in the order of their time."""

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime
from heapq import merge
from typing import TypeAlias

from services.chat_store.model import Message
from services.chat_store.selection import HitPlace
from services.chat_store.words import Word, terms_of

Spot: TypeAlias = tuple[datetime, str, int]
"""Time, conversation and `seq` of a message: the order of results of one score."""


class WordIndex:
    """The terms of every message that is kept, tenant by tenant."""

    def __init__(self) -> None:
        self._terms: dict[str, dict[Spot, frozenset[str]]] = defaultdict(dict)
        self._spots: dict[str, dict[str, list[Spot]]] = defaultdict(lambda: defaultdict(list))

    def put(self, key: tuple[str, str], message: Message, text: str) -> None:
        """The message, of the conversation of that key, is found by the words of the text, and no others."""
        self.drop(key, message)
        spot, terms = _spot(key, message), frozenset(terms_of(text))
        self._terms[key[0]][spot] = terms
        for term in terms:
            insort(self._spots[key[0]][term], spot)

    def drop(self, key: tuple[str, str], message: Message) -> None:
        """The message is found no more."""
        spot, spots = _spot(key, message), self._spots[key[0]]
        for term in self._terms[key[0]].pop(spot, frozenset()):
            found = spots[term]
            del found[bisect_left(found, spot)]
            if not found:
                del spots[term]

    def messages(self, tenant_id: str) -> int:
        """How many there are."""
        return len(self._terms.get(tenant_id, {}))

    def count(self, tenant_id: str, word: Word) -> int:
        """How many messages have the word; one with several of its terms counts for each."""
        return sum(len(spots) for spots in self._of(tenant_id, word))

    def newest_first(self, tenant_id: str, words: tuple[Word, ...], after: HitPlace | None) -> Iterator[Spot]:
        """The messages that have all the words, from behind that place on."""
        rarest = min(words, key=lambda word: self.count(tenant_id, word))
        bound = None if after is None else (after.time, after.conversation_id, after.seq)
        lists = [_down(spots, bound) for spots in self._of(tenant_id, rarest)]
        before = None
        for spot in merge(*lists, reverse=True):
            terms = self._terms[tenant_id][spot]
            if spot != before and all(not terms.isdisjoint(word.terms) for word in words):
                yield spot
            before = spot

    def _of(self, tenant_id: str, word: Word) -> list[list[Spot]]:
        spots = self._spots.get(tenant_id, {})
        return [spots[term] for term in word.terms if term in spots]


def _spot(key: tuple[str, str], message: Message) -> Spot:
    return message.create_time, key[1], message.seq


def _down(spots: list[Spot], bound: Spot | None) -> Iterator[Spot]:
    end = len(spots) if bound is None else bisect_left(spots, bound)
    return (spots[index] for index in range(end - 1, -1, -1))
