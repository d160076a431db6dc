"""Reading the candidates again: how closely the words of a question stand in a passage.

BM25 over stems counts a passage's terms and knows nothing else of it. Here the passage's own words are looked at: a
word in the very spelling of the question counts more than its stem, one that only begins alike counts too, and words
that stand together in the question are worth more where they stand together in the passage.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

from services.document_rag.search.postings import BM25_B, BM25_DELTA, BM25_K1, Statistics, WordUse, rarity
from services.document_rag.search.words import folded_words

_EXACT = 0.5  # weights beside 1 for the stems, tuned on half of the articles of a Portuguese set, held on the other
_ALIKE = 0.5
_TOGETHER = 0.7
_OPENING = 5  # letters by which inflections of a word begin alike
_ASKED_TOGETHER = 3  # words of the question at most between which togetherness counts
_FOUND_TOGETHER = 6  # words of the passage at most

_Positions = Mapping[str, Sequence[int]]


def closeness(uses: Sequence[WordUse], statistics: Statistics, texts: Sequence[str]) -> list[float]:
    """What is to be added to the BM25 of each text, in the order of the texts."""
    words = [_Word(use, statistics) for use in uses]
    passages = [folded_words(text) for text in texts]
    mean_length = max(1.0, sum(map(len, passages)) / max(1, len(passages)))
    return [_closeness(words, passage, len(passage) / mean_length) for passage in passages]


class _Word:
    """A word of the question: how much its spelling and how much its stem tell."""

    __slots__ = ("opening", "spelling_tells", "stem_tells", "text")

    def __init__(self, use: WordUse, statistics: Statistics) -> None:
        stem = max(use.terms.values(), default=1)
        self.text = use.word
        self.opening = use.word[:_OPENING]
        self.stem_tells = rarity(stem, statistics.chunks) * use.certainty
        self.spelling_tells = rarity(use.spelt or stem, statistics.chunks) * use.certainty


def _closeness(words: Sequence[_Word], passage: Sequence[str], length: float) -> float:
    openings = {word.opening for word in words}
    positions: dict[str, list[int]] = {}
    spelt: dict[str, int] = {}
    asked = {word.text for word in words}
    for position, token in enumerate(passage):
        opening = token[:_OPENING]
        if opening in openings:
            positions.setdefault(opening, []).append(position)
            if token in asked:
                spelt[token] = spelt.get(token, 0) + 1
    if not positions:
        return 0.0
    score = 0.0
    for word in words:
        exact = word.spelling_tells * _saturated(spelt.get(word.text, 0), length)
        score += _EXACT * exact
        if len(word.text) > _OPENING:
            score += _ALIKE * word.stem_tells * _saturated(len(positions.get(word.opening, ())), length)
        else:
            score += _ALIKE * exact
    return score + _TOGETHER * _togetherness(words, positions)


def _saturated(times: int, length: float) -> float:
    """BM25+ of a word that stands there so many times, in a passage of this length (1: as long as the others)."""
    if not times:
        return 0.0
    return times * (BM25_K1 + 1) / (times + BM25_K1 * (1 - BM25_B + BM25_B * length)) + BM25_DELTA


def _togetherness(words: Sequence[_Word], positions: _Positions) -> float:
    total = 0.0
    for number, first in enumerate(words):
        here = positions.get(first.opening)
        if here is None:
            continue
        for second in words[number + 1 : number + 1 + _ASKED_TOGETHER]:
            there = positions.get(second.opening)
            if there is None or first.opening == second.opening:
                continue
            distance = _least_distance(here, there)
            if distance <= _FOUND_TOGETHER:
                total += min(first.stem_tells, second.stem_tells) * (1 - (distance - 1) / _FOUND_TOGETHER)
    return total


def _least_distance(here: Sequence[int], there: Sequence[int]) -> int:
    """Of two ascending lists of positions without a common one."""
    merged = sorted([(position, True) for position in here] + [(position, False) for position in there])
    return min(after[0] - before[0] for before, after in pairwise(merged) if before[1] is not after[1])
