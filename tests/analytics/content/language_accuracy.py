"""How often a language model is right on the held-apart set: asked about every conversation, and as the last stage.

It is the model of the service's own settings, asked as the service asks it. What it does not answer, or answers with
junk, it has got wrong; as the last stage it leaves those to the stages before.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from services.analytics.analyses.language_model import LanguageModel, LanguageModelFailedError, Reply, Verdict
from services.analytics.analyses.local_findings import local_findings, uncertain
from services.analytics.analyses.merging import merged
from services.analytics.analyses.model import Findings, Resolution
from services.analytics.content.classifier import Guess
from services.analytics.content.lexicon import SUBJECTS
from services.analytics.content.topics import topic_key, topic_name
from tests.analytics.content.accuracy import Accuracy, accuracy_of, transcript_of

ALONE, LAST_STAGE = "language model", "rules, local model, language model"
AT_ONCE = 4
_NAMES = {topic_key(name): name for name, _, _ in SUBJECTS.values()}


@dataclass(frozen=True)
class Asked:
    """What the language model's stages are worth, of how many conversations it was needed, and what answers cost."""

    accuracies: list[Accuracy]
    needed: float
    failed: float
    junk: float
    tokens: float


async def asked(model: LanguageModel, examples: Sequence[dict[str, Any]]) -> Asked:
    """Asks about each conversation once. Shares in percent of all; `tokens` is the mean of a conversation answered."""
    replies = [reply async for reply in _replies(model, examples)]
    local = [local_findings(transcript_of(example), ()) for example in examples]
    verdicts = [reply.verdict if reply else None for reply in replies]
    cascade = [
        merged(found, verdict, uncertain(found)) if verdict and uncertain(found) else found
        for found, verdict in zip(local, verdicts, strict=True)
    ]
    answered = [reply for reply in replies if reply]
    return Asked(
        accuracies=[*_alone(examples, verdicts), *_last_stage(examples, cascade)],
        needed=_percent(sum(bool(uncertain(found)) for found in local), len(examples)),
        failed=_percent(replies.count(None), len(examples)),
        junk=_percent(sum(reply.verdict is None for reply in answered), len(examples)),
        tokens=sum(reply.spent.tokens for reply in answered) / max(1, len(answered)),
    )


async def _replies(model: LanguageModel, examples: Sequence[dict[str, Any]]) -> AsyncIterator[Reply | None]:
    for first in range(0, len(examples), AT_ONCE):
        for reply in await asyncio.gather(*(_reply(model, each) for each in examples[first : first + AT_ONCE])):
            yield reply


async def _reply(model: LanguageModel, example: dict[str, Any]) -> Reply | None:
    try:
        return await model.ask(transcript_of(example))
    except LanguageModelFailedError:
        return None


def _alone(examples: Sequence[dict[str, Any]], verdicts: Sequence[Verdict | None]) -> list[Accuracy]:
    said: dict[str, Callable[[Verdict], str]] = {
        "sentiment": lambda verdict: verdict.sentiment,
        "main_topic": lambda verdict: _subject(verdict.main_topic),
        "category": lambda verdict: verdict.category,
        "resolution": lambda verdict: verdict.resolution,
    }
    return [
        _accuracy(field, ALONE, examples, [say(verdict) if verdict else None for verdict in verdicts])
        for field, say in said.items()
    ]


def _last_stage(examples: Sequence[dict[str, Any]], cascade: Sequence[Findings]) -> list[Accuracy]:
    said: dict[str, Callable[[Findings], str]] = {
        "sentiment": lambda found: found.sentiment.value,
        "main_topic": lambda found: _subject(found.main_topic),
        "category": lambda found: found.category.value,
        "resolution": lambda found: found.resolution.value,
    }
    return [_accuracy(field, LAST_STAGE, examples, [say(found) for found in cascade]) for field, say in said.items()]


def _accuracy(field: str, stage: str, examples: Sequence[dict[str, Any]], said: Sequence[str | None]) -> Accuracy:
    """Of the conversations that are labelled; no answer is a wrong one."""
    labels = [_label(field, example) for example in examples]
    known = [(one, label) for one, label in zip(said, labels, strict=True) if label is not None]
    guesses = [Guess(one if one is not None else "no answer", float(one is not None)) for one, _ in known]
    return accuracy_of(stage, field, guesses, [label for _, label in known], 1.0)


def _label(field: str, example: dict[str, Any]) -> str | None:
    match field:
        case "main_topic":
            return topic_name(example["topic"])
        case "resolution":
            wanted = Resolution.RESOLVED if example.get("resolved") else Resolution.UNRESOLVED
            return wanted.value if "resolved" in example else None
        case _:
            return str(example[field])


def _subject(name: str) -> str:
    """The subject of that name, however it is written; "" for one of no subject's."""
    return _NAMES.get(topic_key(name), "")


def _percent(part: int, whole: int) -> float:
    return 100 * part / whole
