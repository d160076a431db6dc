"""The words and phrases that stand out in what a person said: RAKE (Rose et al., 2010) over stems.

A candidate is a run of telling words between function words and punctuation. A word scores by how long the phrases are
in which it stands; a phrase scores by its words. It needs one text only, in either language.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from services.analytics.content.words import (
    MAX_CHARACTERS,
    MAX_WORD_LENGTH,
    SHORT_FORMS,
    blotted,
    folded,
    stem,
    telling,
)

MOST_WORDS = 3
MOST_KEYWORDS = 10
_TOKEN = re.compile(r"[^\W_]+(?:-[^\W_]+)*|[^\w\s]|\n")


@dataclass(frozen=True, slots=True)
class Keyword:
    """A word or phrase as it was typed first, in lower case; its share of all scores; the messages that have it."""

    text: str
    share: float
    mentions: tuple[int, ...]


def keywords_of(texts: Sequence[str]) -> list[Keyword]:
    """The keywords of some messages, the strongest first; numbers of people and e-mail addresses are none."""
    phrases = [(place, phrase) for place, text in enumerate(texts) for phrase in _phrases(text)]
    frequency: Counter[str] = Counter()
    degree: Counter[str] = Counter()
    for _, phrase in phrases:
        for root in map(_root, phrase):
            frequency[root] += 1
            degree[root] += len(phrase)
    mentions: dict[tuple[str, ...], list[int]] = defaultdict(list)
    shown: dict[tuple[str, ...], str] = {}
    for place, phrase in phrases:
        key = tuple(map(_root, phrase))
        mentions[key].append(place)
        shown.setdefault(key, " ".join(phrase))
    scores = {
        key: sum(degree[root] / frequency[root] for root in key) * len(places) ** 0.5
        for key, places in mentions.items()
    }
    total = sum(scores.values()) or 1.0
    best = sorted(scores, key=lambda key: (-scores[key], mentions[key][0], shown[key]))
    return [Keyword(shown[key], scores[key] / total, tuple(dict.fromkeys(mentions[key]))) for key in best][
        :MOST_KEYWORDS
    ]


def _phrases(text: str) -> list[list[str]]:
    phrases: list[list[str]] = [[]]
    for token in _TOKEN.findall(unicodedata.normalize("NFC", blotted(text[:MAX_CHARACTERS])).lower()):
        word = SHORT_FORMS.get(folded(token), token)
        if telling(folded(word)) and len(word) <= MAX_WORD_LENGTH and len(phrases[-1]) < MOST_WORDS and " " not in word:
            phrases[-1].append(word)
        else:
            phrases.append([word] if telling(folded(word)) and " " not in word and word.isalnum() else [])
    return [phrase for phrase in phrases if phrase]


def _root(word: str) -> str:
    return stem(folded(word))
