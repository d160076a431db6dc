"""What people corrected, as examples: a conversation that resembles a corrected one is taken for what that was said to
be.

Of the corrected conversation only digests of its words and pairs of words are kept, no words.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from services.analytics.content.words import stem, telling, words_of

# Share of words and pairs in common (cosine) from which on two conversations are alike.
ALIKE = 0.6
MOST_EXAMPLES = 500
_MOST_DIGESTS = 400


@dataclass(frozen=True, slots=True)
class Example:
    """What a corrected conversation was said to be: by field, what a person said."""

    digests: frozenset[int]
    labels: Mapping[str, str]


def digests_of(texts: Sequence[str]) -> frozenset[int]:
    """Digests of the telling words of what a person said, and of their pairs."""
    stems = [stem(word) for text in texts for word in words_of(text) if telling(word)]
    pairs = [f"{one} {two}" for one, two in pairwise(stems)]
    return frozenset(sorted({zlib.crc32(each.encode()) for each in (*stems, *pairs)})[:_MOST_DIGESTS])


def nearest(texts: Sequence[str], examples: Sequence[Example]) -> tuple[Example, float] | None:
    """The example that is most alike, newest first among equals, and how alike; None when none is alike enough."""
    mine = digests_of(texts)
    best: tuple[Example, float] | None = None
    for example in examples:
        likeness = _likeness(mine, example.digests)
        if likeness >= ALIKE and (best is None or likeness > best[1]):
            best = (example, likeness)
    return best


def _likeness(one: frozenset[int], other: frozenset[int]) -> float:
    return float(len(one & other) / (len(one) * len(other)) ** 0.5) if one and other else 0.0
