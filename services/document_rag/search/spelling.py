"""Which word of the documents a misspelt word of a question means.

Trigrams bring the words that look alike; among them decides the least costly way of having mistyped one for the other,
a frequent word before a rare one.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

MIN_CORRECTED_LENGTH = 4
MIN_SIMILARITY = 0.2  # of trigrams: a swap of two letters in a short word leaves no more
SURE_SIMILARITY = 0.5  # of trigrams, where no typing error explains the difference

_SWAPPED, _DOUBLED, _NEIGHBOUR, _OTHER = 0.7, 0.7, 0.6, 1.0
_OTHER_BEGINNING = 0.4  # people rarely mistype the first letter
_WEIGHT_OF_FREQUENCY = 0.12
_MOST_COSTLY_SHORT, _MOST_COSTLY_LONG, _LONG = 1.3, 2.2, 7
_LEAST_CERTAINTY, _DOUBT_PER_COST = 0.3, 0.25
_ROW_OFFSETS = (0.0, 0.25, 0.75)
_KEYS = {
    letter: (row, column + _ROW_OFFSETS[row])
    for row, letters in enumerate(("qwertyuiop", "asdfghjkl", "zxcvbnm"))
    for column, letter in enumerate(letters)
}


@dataclass(frozen=True, slots=True)
class Spelling:
    """A word that the documents have, how alike its trigrams are (0 to 1), and in how many chunks it stands."""

    word: str
    similarity: float
    chunks: int


@dataclass(frozen=True, slots=True)
class Correction:
    """The word that is meant, and how sure that is (0 to 1)."""

    word: str
    certainty: float


def is_correctable(word: str) -> bool:
    """Whether another word may be meant: numbers, codes and very short words are what they are."""
    return len(word) >= MIN_CORRECTED_LENGTH and not any(letter.isdigit() for letter in word)


def corrected(word: str, near: Iterable[Spelling]) -> Correction | None:
    """The word meant, among those that look alike; None when none of them does."""
    known = sorted(near, key=lambda spelling: (-spelling.similarity, spelling.word))
    most = _MOST_COSTLY_LONG if len(word) >= _LONG else _MOST_COSTLY_SHORT
    costs = {spelling: _cost(word, spelling.word) for spelling in known}
    mistyped = [spelling for spelling in known if costs[spelling] <= most]
    if mistyped:
        best = min(mistyped, key=lambda each: costs[each] - _WEIGHT_OF_FREQUENCY * math.log(max(1, each.chunks)))
        return Correction(best.word, max(_LEAST_CERTAINTY, 1 - _DOUBT_PER_COST * costs[best]))
    alike = [spelling for spelling in known if spelling.similarity >= _LEAST_CERTAINTY]
    return Correction(alike[0].word, min(1.0, alike[0].similarity / SURE_SIMILARITY)) if alike else None


def _cost(typed: str, meant: str) -> float:
    """What it takes to mistype one word for the other: letters left out, added, swapped, or taken for a neighbour."""
    previous: list[float] = []
    row = [float(column) for column in range(len(meant) + 1)]
    for i, letter in enumerate(typed, start=1):
        before, previous, row = previous, row, [float(i)]
        added = _DOUBLED if i > 1 and letter == typed[i - 2] else _OTHER
        for j, wanted in enumerate(meant, start=1):
            left_out = _DOUBLED if j > 1 and wanted == meant[j - 2] else _OTHER
            cost = min(previous[j] + added, row[j - 1] + left_out, previous[j - 1] + _taken_for(letter, wanted))
            if i > 1 and j > 1 and letter == meant[j - 2] and typed[i - 2] == wanted:
                cost = min(cost, before[j - 2] + _SWAPPED)
            row.append(cost)
    return row[-1] + (_OTHER_BEGINNING if typed[0] != meant[0] else 0.0)


def _taken_for(letter: str, wanted: str) -> float:
    if letter == wanted:
        return 0.0
    here, there = _KEYS.get(letter), _KEYS.get(wanted)
    if here is None or there is None:
        return _OTHER
    is_beside = abs(here[0] - there[0]) <= 1 and abs(here[1] - there[1]) <= 1.3
    return _NEIGHBOUR if is_beside else _OTHER
