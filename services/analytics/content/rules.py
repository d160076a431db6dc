"""The first stage that decides: words that say plainly what a text is about, what is wanted, and how somebody feels."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import pairwise

from services.analytics.content.classifier import Guess
from services.analytics.content.lexicon import (
    EMOJIS,
    FEELINGS,
    ISSUES,
    NEGATION_REACH,
    NEGATIONS,
    OTHER,
    SUBJECTS,
    WISHES,
)
from services.analytics.content.words import STOP_WORDS, stem, words_of

POSITIVE, NEUTRAL, NEGATIVE = "positivo", "neutro", "negativo"
_STRONG, _WEAK = 2.0, 0.7
# How much what the rules say weighs beside a text's words in the local model.
_FEELING_HINT, _SUBJECT_HINT, _WISH_HINT = 2.0, 4.0, 4.0
Terms = Mapping[str, float]


def subject_of(text: str) -> Guess:
    """The subject that most words speak of; OTHER with little confidence when none do."""
    scores = subject_scores(text)
    ranked = sorted(scores.items(), key=lambda each: (-each[1], each[0]))
    if not ranked:
        return Guess(OTHER, 0.0)
    best, most = ranked[0]
    second = ranked[1][1] if len(ranked) > 1 else 0.0
    # Certain where much speaks for it and little for anything else.
    return Guess(best, (most - second) / (most + second + 0.5))


def subject_scores(text: str) -> dict[str, float]:
    """How much the words of a text speak of each subject."""
    terms = _terms(words_of(text))
    scores: dict[str, float] = {}
    for subject, known in _subjects().items():
        score = sum(known[term] for term in terms if term in known)
        if score:
            scores[subject] = score
    return scores


def feeling_of(text: str) -> Guess:
    """Positive or negative where words say so plainly; neutral, with little confidence, where none do."""
    score, found = _feeling(text)
    if not found:
        return Guess(NEUTRAL, 0.3)
    if abs(score) < 1:
        return Guess(NEUTRAL, 0.2)
    label = POSITIVE if score > 0 else NEGATIVE
    # What is contradicted within the text is not plain.
    return Guess(label, min(abs(score) / (found + 1.0), 0.99))


def issue_of(text: str) -> str:
    """What went wrong, by the words of a complaint; "outro" when none says so."""
    terms = _terms(words_of(text))
    scores = {issue: sum(term in known for term in terms) for issue, known in _issues().items()}
    best = max(scores, key=lambda each: scores[each])
    return best if scores[best] else OTHER


def subject_hints(text: str) -> dict[str, float]:
    """What the rules say of the subject, for the local model."""
    scores = subject_scores(text)
    most = max([*scores.values(), _STRONG])
    return {subject: _SUBJECT_HINT * score / most for subject, score in scores.items()}


def feeling_hints(text: str) -> dict[str, float]:
    """What the rules say of the feeling, for the local model: for and against, nothing at all, both."""
    score, found = _feeling(text)
    return {
        "pos": _FEELING_HINT * min(max(score, 0.0), 4.0) / 3,
        "neg": _FEELING_HINT * min(max(-score, 0.0), 4.0) / 3,
        "none": _FEELING_HINT / 2 if not found else 0.0,
        "mixed": _FEELING_HINT / 2 if found - abs(score) > 1 else 0.0,
    }


def wish_hints(text: str) -> dict[str, float]:
    """What the rules say of the category, for the local model; feelings tell complaints from questions."""
    terms = set(_terms(words_of(text)))
    named = {wish: _WISH_HINT * min(1.0, len(terms & known) / 2) for wish, known in _wishes().items()}
    return {name: value * _WISH_HINT / _FEELING_HINT for name, value in feeling_hints(text).items()} | named


def _feeling(text: str) -> tuple[float, float]:
    """The sum of what the words say, and of how much they say either way."""
    words = words_of(text)
    score = found = 0.0
    for place in range(len(words)):
        weight = _weight(words, place)
        if not weight:
            continue
        if any(each in NEGATIONS for each in words[max(0, place - NEGATION_REACH) : place]) and weight > 0:
            weight = -weight * 0.9
        score += weight
        found += abs(weight)
    for sign, weight in EMOJIS.items():
        score += weight * text.count(sign)
        found += abs(weight) * text.count(sign)
    return score, found


def _weight(words: Sequence[str], place: int) -> float:
    known = _feelings()
    one = _form(words[place])
    pair = f"{one}_{_form(words[place + 1])}" if place + 1 < len(words) else ""
    return known.get(pair) or known.get(one, 0.0)


def _form(word: str) -> str:
    """The word without gender and number. Stems would take too much off: "gostaria" is no "gostei"."""
    bare = word[:-1] if word.endswith("s") and len(word) > 3 else word
    return bare[:-1] + "o" if bare.endswith("a") and len(bare) > 3 else bare


def _terms(words: Sequence[str]) -> list[str]:
    """The stems and the pairs of neighbouring stems, without and with the function words between them."""
    stems = [stem(word) for word in words]
    telling = [stem(word) for word in words if word not in STOP_WORDS]
    pairs = [f"{one}_{two}" for some in (stems, telling) for one, two in pairwise(some)]
    return list(dict.fromkeys([*stems, *pairs]))


def _term(written: str) -> str:
    """A word or pair of the lexicon as it is matched."""
    return "_".join(map(stem, written.split("_")))


def _stemmed(written: Iterable[str], weight: float) -> dict[str, float]:
    return {_term(each): weight for each in written}


@cache
def _subjects() -> Mapping[str, Terms]:
    return {
        subject: _stemmed(weak.split(), _WEAK) | _stemmed(strong.split(), _STRONG)
        for subject, (_, strong, weak) in SUBJECTS.items()
    }


@cache
def _feelings() -> Terms:
    return {"_".join(map(_form, written.split("_"))): weight for written, weight in FEELINGS.items()}


@cache
def _wishes() -> Mapping[str, frozenset[str]]:
    return {wish: frozenset(map(_term, words.split())) for wish, words in WISHES.items()}


@cache
def _issues() -> Mapping[str, frozenset[str]]:
    return {issue: frozenset(map(_term, words.split())) for issue, words in ISSUES.items()}
