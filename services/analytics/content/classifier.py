"""A small classifier of short texts: ridge regression over words, pairs of words and pieces of words.

It learns from a few hundred labelled texts in a fraction of a second, so it is trained when the service starts and
nothing has to be downloaded or kept. With so few texts the work is done in their kernel (who resembles whom), which
also gives what each text would have been taken for had it not been learnt from: on these the certainty is calibrated,
and they are an honest measure on the development set.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from services.analytics.content.words import stem, words_of

Vector = Mapping[str, float]
Hints = Callable[[str], Vector]
Matrix = NDArray[np.float64]

RIDGE = 0.6
_TEMPERATURES = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 14.0)
_PIECE_LENGTHS = (3, 4, 5)
_WORD_WEIGHT, _PAIR_WEIGHT, _PIECE_WEIGHT = 1.0, 0.7, 0.35


@dataclass(frozen=True, slots=True)
class Guess:
    """A label and how certain it is, from 0 to 1."""

    label: str
    confidence: float


class Classifier:
    """Knows texts by their labels. `hints` are what rules say of a text, taken into account like its words. `learnt`
    are the guesses of each text without having learnt from it."""

    def __init__(self, texts: Sequence[str], labels: Sequence[str], hints: Hints) -> None:
        self.labels = tuple(sorted(set(labels)))
        self._hints = hints
        counted = [self._features(text) for text in texts]
        self._weights = _rarity(counted)
        rows = [self._vector(counts) for counts in counted]
        self._columns = {name: number for number, name in enumerate(self._weights)}
        known = self._matrix(rows)
        targets = np.array([[1.0 if label == each else 0.0 for each in self.labels] for label in labels])
        inverse = np.linalg.inv(known @ known.T + RIDGE * np.eye(len(rows)))
        self._mean = targets.mean(axis=0)
        duals = inverse @ (targets - self._mean)
        self._model: Matrix = known.T @ duals
        left_out = targets - duals / np.diag(inverse)[:, None]
        self._temperature = min(_TEMPERATURES, key=lambda each: _loss(left_out, targets, each))
        self.learnt = [self._best(scores) for scores in left_out]

    def guess(self, text: str) -> Guess:
        """The most likely label."""
        row = self._matrix([self._vector(self._features(text))])[0]
        return self._best(row @ self._model + self._mean)

    def _best(self, scores: Matrix) -> Guess:
        shares = _shares(scores, self._temperature)
        place = int(np.argmax(shares))
        return Guess(self.labels[place], float(shares[place]))

    def _features(self, text: str) -> dict[str, float]:
        return _features(text) | {f"h:{name}": value for name, value in self._hints(text).items() if value}

    def _vector(self, counts: Vector) -> Vector:
        weighed = {name: count * self._weights[name] for name, count in counts.items() if name in self._weights}
        return normalised(weighed)

    def _matrix(self, rows: Sequence[Vector]) -> Matrix:
        matrix = np.zeros((len(rows), len(self._columns)))
        for number, row in enumerate(rows):
            for name, value in row.items():
                matrix[number, self._columns[name]] = value
        return matrix


def normalised(vector: Vector) -> Vector:
    """The vector at length 1; of nothing, nothing."""
    length = math.sqrt(sum(value * value for value in vector.values()))
    return {name: value / length for name, value in vector.items()} if length else {}


def _features(text: str) -> dict[str, float]:
    words = words_of(text)
    stems = [stem(word) for word in words]
    features = {f"w:{each}": _WORD_WEIGHT for each in stems}
    features.update({f"p:{one} {two}": _PAIR_WEIGHT for one, two in pairwise(stems)})
    for word in words:
        padded = f"<{word}>"
        for length in _PIECE_LENGTHS:
            for start in range(len(padded) - length + 1):
                features[f"c:{padded[start : start + length]}"] = _PIECE_WEIGHT
    if "?" in text:
        features["s:?"] = _WORD_WEIGHT
    if "!" in text:
        features["s:!"] = _WORD_WEIGHT
    return features


def _rarity(rows: Sequence[Vector]) -> dict[str, float]:
    """How much each feature tells: the fewer texts have it, the more; those of one text tell of that text only."""
    having = Counter(name for row in rows for name in row)
    return {name: math.log((1 + len(rows)) / (1 + count)) for name, count in having.items() if count > 1}


def _shares(scores: Matrix, temperature: float) -> Matrix:
    powers: Matrix = np.exp((scores - scores.max()) * temperature)
    return np.asarray(powers / powers.sum())


def _loss(scores: Matrix, targets: Matrix, temperature: float) -> float:
    chances = [float((_shares(row, temperature) * target).sum()) for row, target in zip(scores, targets, strict=True)]
    return -sum(math.log(max(chance, 1e-9)) for chance in chances)
