"""The second stage that decides: three small classifiers, trained from the committed development set when first asked.

Training takes about a second of one core, once a process.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from services.analytics.content.classifier import Classifier, Guess
from services.analytics.content.rules import feeling_hints, subject_hints, wish_hints


@dataclass(frozen=True, slots=True)
class LocalModel:
    """What a person felt, what it was about, and what was wanted, each from what the person said."""

    feelings: Classifier
    subjects: Classifier
    wishes: Classifier

    def feeling(self, texts: Sequence[str]) -> Guess:
        """positivo, negativo or neutro."""
        return self.feelings.guess(whole(texts))

    def subject(self, texts: Sequence[str]) -> Guess:
        """One of the lexicon's subjects, or "outro"."""
        return self.subjects.guess(whole(texts))

    def wish(self, texts: Sequence[str]) -> Guess:
        """The category: what people want they say first."""
        return self.wishes.guess(texts[0])


def whole(texts: Sequence[str]) -> str:
    """What a person said, as one text."""
    return " ".join(texts)


@cache
def local_model() -> LocalModel:
    """The model of this process."""
    examples = development_set()
    said = [asked_in(each) for each in examples]
    return LocalModel(
        feelings=Classifier([whole(texts) for texts in said], _labels(examples, "sentiment"), feeling_hints),
        subjects=Classifier([whole(texts) for texts in said], _labels(examples, "topic"), subject_hints),
        wishes=Classifier([texts[0] for texts in said], _labels(examples, "category"), wish_hints),
    )


def development_set() -> list[Mapping[str, Any]]:
    """The labelled conversations that rules and model were made with."""
    lines = (files(__package__) / "development.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def asked_in(example: Mapping[str, Any]) -> list[str]:
    """What the person said in a labelled conversation."""
    return [message["text"] for message in example["messages"] if message["by"] == "user"]


def _labels(examples: Sequence[Mapping[str, Any]], field: str) -> list[str]:
    return [example[field] for example in examples]
