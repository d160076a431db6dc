"""How often each stage of the cascade is right on the held-apart set, which no rule and no model was made with."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from services.analytics.analyses.local_findings import (
    RULES_CERTAIN,
    feeling,
    local_findings,
    subject_decided,
    uncertain,
    wish,
)
from services.analytics.analyses.model import Findings, Resolution, Transcript, Utterance
from services.analytics.content.classifier import Guess
from services.analytics.content.lexicon import SUBJECTS
from services.analytics.content.local_model import asked_in, development_set, local_model, whole
from services.analytics.content.rules import feeling_of, subject_of
from services.analytics.content.topics import topic_name

HELD_APART = Path(__file__).with_name("held_apart.jsonl")
NOON = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


@dataclass(frozen=True)
class Accuracy:
    """How many of a hundred a stage gets right, of all and of what it decides; how many it decides."""

    field: str
    stage: str
    of_all: float
    decided: float
    of_decided: float


def held_apart_set() -> list[dict[str, Any]]:
    """The labelled conversations."""
    return [json.loads(line) for line in HELD_APART.read_text(encoding="utf-8").splitlines()]


def transcript_of(example: dict[str, Any]) -> Transcript:
    """A labelled conversation as chat_store would give it."""
    utterances = [
        Utterance(f"m{place}", place, message["by"] == "user", message["text"], NOON + timedelta(seconds=place))
        for place, message in enumerate(example["messages"], 1)
    ]
    return Transcript("acme", example["id"], utterances)


def measured() -> list[Accuracy]:
    """Every field by every stage."""
    examples = held_apart_set()
    said = [asked_in(example) for example in examples]
    findings = [local_findings(transcript_of(example), ()) for example in examples]
    rows = []
    for field, label, by_rules, by_model, decide in _STAGES:
        labels = [example[label] for example in examples]
        model = [by_model(texts) for texts in said]
        if by_rules is not None:
            rows.append(accuracy_of("rules", field, [by_rules(texts) for texts in said], labels, RULES_CERTAIN[field]))
        rows.append(accuracy_of("local model", field, model, labels, 0.0))
        cascade = [decide(texts) for texts in said]
        certain = [
            Guess(each.label, float(field not in uncertain(found)))
            for each, found in zip(cascade, findings, strict=True)
        ]
        rows.append(accuracy_of("rules, then local model", field, certain, labels, 1.0))
    return [*rows, _main_topics(examples, findings), _resolutions(examples, findings)]


def guessing(field: str) -> float:
    """How many of a hundred are right for whoever always says the development set's most frequent label.

    Where that set has no such label, the held-apart one's.
    """
    label = next((label for each, label, *_ in _STAGES if each == field), "resolved")
    labels = [example[label] for example in held_apart_set() if label in example]
    known = [example[label] for example in development_set() if label in example] or labels
    return 100 * labels.count(Counter(known).most_common(1)[0][0]) / len(labels)


def _main_topics(examples: Sequence[dict[str, Any]], findings: Sequence[Findings]) -> Accuracy:
    """The main topic by its rule, as it enters the topic map: right when it bears the label's name."""
    names = {name for name, _, _ in SUBJECTS.values()}
    guesses = [Guess(found.main_topic if found.main_topic in names else "", 1.0) for found in findings]
    labels = [topic_name(example["topic"]) for example in examples]
    return accuracy_of("main topic by its rule", "main_topic", guesses, labels, 0.0)


def _resolutions(examples: Sequence[dict[str, Any]], findings: Sequence[Findings]) -> Accuracy:
    """Of the conversations with an answer of which it was labelled."""
    known = [(found, each["resolved"]) for found, each in zip(findings, examples, strict=True) if "resolved" in each]
    guesses = [Guess(found.resolution.value, float(found.resolution is not Resolution.UNKNOWN)) for found, _ in known]
    labels = [(Resolution.RESOLVED if resolved else Resolution.UNRESOLVED).value for _, resolved in known]
    return accuracy_of("rules", "resolution", guesses, labels, 1.0)


def accuracy_of(stage: str, field: str, guesses: Sequence[Guess], labels: Sequence[str], certain: float) -> Accuracy:
    """How often these guesses are right; those of at least this certainty are decided."""
    right = [guess.label == label for guess, label in zip(guesses, labels, strict=True)]
    decided = [each for each, guess in zip(right, guesses, strict=True) if guess.confidence >= certain]
    return Accuracy(
        field,
        stage,
        100 * sum(right) / len(right),
        100 * len(decided) / len(right),
        100 * sum(decided) / max(1, len(decided)),
    )


_Says = Callable[[Sequence[str]], Guess]
_Stage = tuple[str, str, _Says | None, _Says, Callable[[Sequence[str]], Any]]
_STAGES: list[_Stage] = [
    (
        "sentiment",
        "sentiment",
        lambda texts: feeling_of(whole(texts)),
        lambda texts: local_model().feeling(texts),
        feeling,
    ),
    (
        "main_topic",
        "topic",
        lambda texts: subject_of(whole(texts)),
        lambda texts: local_model().subject(texts),
        subject_decided,
    ),
    ("category", "category", None, lambda texts: local_model().wish(texts), wish),
]
