"""The lexicon without every word that the held-apart set has and the development set has not.

Whoever wrote the lexicon had written both sets, so some of its words may be owed to the held-apart one. Without them
accuracy is too low, because most are words that any lexicon has ("hospital", "pix"); with them it may be too high. The
truth lies between.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any
from unittest import mock

from services.analytics.content import local_model, rules
from services.analytics.content.lexicon import FEELINGS, SUBJECTS
from services.analytics.content.local_model import asked_in, development_set, whole
from services.analytics.content.words import STOP_WORDS, stem, words_of
from tests.analytics.content.accuracy import held_apart_set

_CACHED: tuple[Any, ...] = (rules._subjects, rules._feelings, local_model.local_model)


@contextmanager
def struck_lexicon() -> Iterator[int]:
    """The lexicon without them inside the block; how many entries that leaves out."""
    by_stem = _only_held_apart(lambda word: stem(word))
    by_form = _only_held_apart(lambda word: rules._form(word))
    subjects = {
        subject: (name, _kept(strong, stem, by_stem), _kept(weak, stem, by_stem))
        for subject, (name, strong, weak) in SUBJECTS.items()
    }
    feelings = {word: weight for word, weight in FEELINGS.items() if _kept(word, rules._form, by_form)}
    before = sum(len((strong + " " + weak).split()) for _, strong, weak in SUBJECTS.values()) + len(FEELINGS)
    after = sum(len((strong + " " + weak).split()) for _, strong, weak in subjects.values()) + len(feelings)
    with mock.patch.object(rules, "SUBJECTS", subjects), mock.patch.object(rules, "FEELINGS", feelings):
        _forget()
        yield before - after
    _forget()


def _only_held_apart(form: Callable[[str], str]) -> set[str]:
    return _terms(held_apart_set(), form) - _terms(development_set(), form)


def _terms(examples: Sequence[Any], form: Callable[[str], str]) -> set[str]:
    terms: set[str] = set()
    for example in examples:
        words = words_of(whole(asked_in(example)))
        for some in (words, [word for word in words if word not in STOP_WORDS]):
            forms = [form(word) for word in some]
            terms.update(forms, (f"{one}_{two}" for one, two in pairwise(forms)))
    return terms


def _kept(written: str, form: Callable[[str], str], struck: set[str]) -> str:
    return " ".join(each for each in written.split() if "_".join(map(form, each.split("_"))) not in struck)


def _forget() -> None:
    for cached in _CACHED:
        cached.cache_clear()
