"""The arithmetic of the keyword index: what a document adds to it, and what a query asks of it (BM25)."""

import math
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from services.document_rag.search.words import fold

BM25_K1 = 0.9
BM25_B = 0.75
BM25_DELTA = 0.5  # BM25+: that a word is there at all counts, however long the chunk
COMMON_SHARE = 0.2
COMMON_FROM_CHUNKS = 1_000  # a word in fewer chunks costs nothing to count
_PLACES_A_BATCH = 10_000  # a few milliseconds of the event loop


class Places(NamedTuple):
    """Where terms stand, as columns: the term, the chunk, how often there, and how many terms that chunk has.

    All places of one term in one document are together.
    """

    terms: list[str]
    ordinals: list[int]
    times: list[int]
    lengths: list[int]


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What one document adds to the keyword index.

    `terms` maps a term, `words` a (folded word, term), to the number of chunks it stands in.
    """

    places: Iterable[Places]
    terms: Mapping[str, int]
    words: Mapping[tuple[str, str], int]
    chunk_total: int
    term_total: int


@dataclass(frozen=True, slots=True)
class WordUse:
    """A folded word of the query, spelt as the documents do, and its terms: each with the chunks it stands in.

    `certainty`: 1 for the word as asked, less for the nearest spelling that the documents have. `spelt`: the chunks in
    which it stands in this very spelling.
    """

    word: str
    terms: Mapping[str, int]
    certainty: float = 1.0
    spelt: int = 0


@dataclass(frozen=True, slots=True)
class Statistics:
    """A tenant's chunks and the terms in them, repetitions counted."""

    chunks: int
    terms: int

    @property
    def mean_length(self) -> float:
        """Terms a chunk, 1 at the least."""
        return max(1.0, self.terms / max(1, self.chunks))


@dataclass(frozen=True, slots=True)
class _PlacesByTerm:
    """Where the terms of a document stand, in batches; kept in little: those of a book are a million."""

    by_term: Mapping[str, "array[int]"]

    def __iter__(self) -> Iterator[Places]:
        batch = Places([], [], [], [])
        for term, places in self.by_term.items():
            batch.ordinals.extend(places[0::3])
            batch.times.extend(places[1::3])
            batch.lengths.extend(places[2::3])
            batch.terms.extend([term] * (len(places) // 3))
            if len(batch.terms) >= _PLACES_A_BATCH:
                yield batch
                batch = Places([], [], [], [])
        if batch.terms:
            yield batch


def vocabulary_of(chunk_words: Sequence[Sequence[str]], terms: Mapping[str, str]) -> Vocabulary:
    """The index entries of a document. `chunk_words[ordinal]` are a chunk's words; `terms`: word → term."""
    places: dict[str, array[int]] = defaultdict(lambda: array("i"))
    words: Counter[tuple[str, str]] = Counter()
    for ordinal, found in enumerate(chunk_words):
        words.update({(fold(word), terms[word]) for word in found})
        for term, times in Counter(terms[word] for word in found).items():
            places[term].extend((ordinal, times, len(found)))
    term_chunks = {term: len(each) // 3 for term, each in places.items()}
    return Vocabulary(_PlacesByTerm(places), term_chunks, words, len(chunk_words), sum(map(len, chunk_words)))


def term_weights(uses: Iterable[WordUse], statistics: Statistics) -> dict[str, float]:
    """How much each term of the query tells.

    A term in a thousand chunks and a fifth of all is dropped if others remain: it costs much and tells little.
    """
    counts: dict[str, tuple[int, float]] = {}
    for use in uses:
        for term, chunks in use.terms.items():
            counts[term] = (chunks, max(use.certainty, counts.get(term, (0, 0.0))[1]))
    most = max(COMMON_FROM_CHUNKS, COMMON_SHARE * statistics.chunks)
    telling = {term: each for term, each in counts.items() if each[0] <= most}
    return {term: rarity(n, statistics.chunks) * certainty for term, (n, certainty) in (telling or counts).items()}


def word_weights(uses: Iterable[WordUse], statistics: Statistics) -> dict[str, float]:
    """The same for the words themselves, for embedders that weigh words. An unknown word counts as a rare one."""
    return {use.word: rarity(max(use.terms.values(), default=1), statistics.chunks) * use.certainty for use in uses}


def rarity(chunks_with: int, chunks: int) -> float:
    """BM25's inverse document frequency; never negative."""
    return math.log(1 + (max(chunks, chunks_with) - chunks_with + 0.5) / (chunks_with + 0.5))
