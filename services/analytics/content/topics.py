"""Topics: which ones a conversation has, which one is its main topic, and which names mean the same.

**The main topic** is the one with the largest weight × confidence × recency. Weight is the share of the person's words
that speak of it; confidence is how certain the classification is; recency is between 0.5 (mentioned in the first
message only) and 1 (mentioned in the last). Of equal ones the one that was mentioned first wins, then the one whose
name sorts first: the same conversation always has the same main topic.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.analytics.content.classifier import Guess
from services.analytics.content.keywords import Keyword, keywords_of
from services.analytics.content.lexicon import OTHER, SUBJECTS
from services.analytics.content.rules import subject_scores
from services.analytics.content.words import STOP_WORDS, stem, words_of

SAME_SIMILARITY = 0.6
MOST_TOPICS = 8
_LEAST_CONFIDENCE = 0.35  # below, a subject is no better than the words themselves


@dataclass(frozen=True, slots=True)
class FoundTopic:
    """A topic of a conversation; all three figures from 0 to 1."""

    name: str
    weight: float
    confidence: float
    recency: float
    first_mention: int = 0

    @property
    def standing(self) -> float:
        """What topics are ranked by."""
        return self.weight * self.confidence * self.recency


def topics_of(texts: Sequence[str], subject: Guess) -> tuple[FoundTopic, ...]:
    """The topics of what a person said, message by message, the main one first; `subject` is what it is about as a
    whole.

    Where no subject is certain enough, the strongest phrases are the topics.
    """
    found = _subjects(texts, subject)
    if not found:
        found = [_phrase(texts, keyword) for keyword in keywords_of(texts)[:3]]
    return ranked(found)


def ranked(topics: Sequence[FoundTopic]) -> tuple[FoundTopic, ...]:
    """By the rule of the main topic."""
    in_order = sorted(topics, key=lambda each: (-round(each.standing, 9), each.first_mention, each.name))
    return tuple(in_order[:MOST_TOPICS])


def topic_name(subject: str) -> str:
    """What a subject is called in a topic map; "" for OTHER."""
    return "" if subject == OTHER else SUBJECTS[subject][0]


def topic_key(name: str) -> str:
    """What two names have in common that differ in case, accents, inflection, order and function words only."""
    words = words_of(name)
    telling = [word for word in words if word not in STOP_WORDS] or words
    return " ".join(sorted({stem(word) for word in telling}))


def similarity(one: str, other: str) -> float:
    """How alike two keys are, from 0 to 1: the share of three-letter pieces that both have."""
    first, second = _trigrams(one), _trigrams(other)
    return len(first & second) / len(first | second) if first | second else 1.0


def _trigrams(key: str) -> set[str]:
    padded = [f"  {word} " for word in key.split()]
    return {word[start : start + 3] for word in padded for start in range(len(word) - 2)}


def _subjects(texts: Sequence[str], subject: Guess) -> list[FoundTopic]:
    lengths = [len(words_of(text)) + 1 for text in texts]
    spoken: list[Mapping[str, float]] = [subject_scores(text) for text in texts]
    names = {name for scores in spoken for name in scores}
    if subject.label != OTHER and subject.confidence >= _LEAST_CONFIDENCE:
        names.add(subject.label)
    elif subject.label == OTHER:
        return []
    topics = []
    for name in names:
        confidence = subject.confidence if name == subject.label else (1 - subject.confidence) / 2
        if confidence < _LEAST_CONFIDENCE / 2:
            continue
        shares = [scores.get(name, 0.0) / sum(scores.values()) if scores else 0.0 for scores in spoken]
        mentions = [place for place, share in enumerate(shares) if share] or [0]
        weight = sum(share * length for share, length in zip(shares, lengths, strict=True)) / sum(lengths)
        if name == subject.label:
            weight = max(weight, 0.5)  # the classification has read the whole
        topics.append(_topic(topic_name(name), weight, confidence, mentions, len(texts)))
    return topics


def _phrase(texts: Sequence[str], keyword: Keyword) -> FoundTopic:
    return _topic(keyword.text, keyword.share, _LEAST_CONFIDENCE, keyword.mentions, len(texts))


def _topic(name: str, weight: float, confidence: float, mentions: Sequence[int], messages: int) -> FoundTopic:
    last = mentions[-1] / (messages - 1) if messages > 1 else 1.0
    return FoundTopic(name, weight, confidence, 0.5 + 0.5 * last, mentions[0])
