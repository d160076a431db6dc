"""What can be found without asking anybody: by the tenant's corrections, by rules, and by the local model, in this
order."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from services.analytics.analyses.examples import Example, nearest
from services.analytics.analyses.model import (
    MAX_SUMMARY_CHARACTERS,
    Category,
    Finding,
    Findings,
    MessageContent,
    Resolution,
    Sentiment,
    Stage,
    Transcript,
    Utterance,
)
from services.analytics.content.classifier import Guess
from services.analytics.content.keywords import keywords_of
from services.analytics.content.local_model import local_model, whole
from services.analytics.content.rules import feeling_of, issue_of, subject_of
from services.analytics.content.topics import FoundTopic, ranked, topic_name, topics_of
from services.analytics.content.words import blotted, words_of

# From where on rules decide: on the development set they are right in 96 and 99 of 100 of what they decide so. Of the
# category they were right in 73 only, so that is left to the model, which takes their hints.
RULES_CERTAIN = {"sentiment": 0.7, "main_topic": 0.6}
# Below, the local model's word is taken too, but a language model is asked for a better one where there is one.
LOCAL_CERTAIN = {"sentiment": 0.6, "main_topic": 0.5, "category": 0.5}

_CLOSING = frozenset(
    "obrigado obrigada valeu certo entendi combinado perfeito recebi aguardo sim thanks ok beleza".split()
)
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
_LONGEST_QUOTE = 240
# A long conversation is judged by how it ended.
_TELLING_CHARACTERS = 2_000
_KEYWORDS_OF_A_MESSAGE = 5


@dataclass(frozen=True, slots=True)
class Decision:
    """A label, who decided it, and how certain that was."""

    label: str
    finding: Finding


def local_findings(transcript: Transcript, examples: Sequence[Example]) -> Findings:
    """All findings; whatever says less than its threshold is marked by its confidence."""
    texts = transcript.asked
    told = nearest(texts, examples)
    sentiment = _told(told, "sentiment") or feeling(texts)
    subject = subject_decided(texts)
    category = _told(told, "category") or wish(texts)
    topics = _topics(texts, subject, _told(told, "main_topic"))
    resolution = _resolution(transcript, sentiment, category)
    satisfaction = _satisfaction(transcript, sentiment, resolution)
    return Findings(
        category=Category(category.label),
        main_topic=topics[0].name if topics else "",
        topics=topics,
        keywords=tuple(each.text for each in keywords_of(texts)),
        sentiment=Sentiment(sentiment.label),
        satisfaction=int(satisfaction.label),
        resolution=Resolution(resolution.label),
        issue_category=_issue(texts, sentiment.label, category.label),
        summary=summary_of(transcript),
        made={
            "sentiment": sentiment.finding,
            "main_topic": (_told(told, "main_topic") or subject).finding,
            "category": category.finding,
            "resolution": resolution.finding,
            "satisfaction": satisfaction.finding,
        },
        messages=tuple(_content(each) for each in transcript.utterances if each.by_user and each.text.strip()),
    )


def feeling(texts: Sequence[str]) -> Decision:
    """positivo, negativo or neutro at the end: by rules where they are certain, else by the local model."""
    last = _end_of(texts)
    return _cascaded("sentiment", feeling_of(whole(last)), local_model().feeling(last))


def subject_decided(texts: Sequence[str]) -> Decision:
    """The subject of the lexicon, or "outro"."""
    return _cascaded("main_topic", subject_of(whole(texts)), local_model().subject(texts))


def wish(texts: Sequence[str]) -> Decision:
    """What the person wanted."""
    by_model = local_model().wish(texts)
    return Decision(by_model.label, Finding(Stage.LOCAL_MODEL, by_model.confidence))


def uncertain(findings: Findings) -> frozenset[str]:
    """What a language model should have a say in."""
    return frozenset(
        field
        for field, least in LOCAL_CERTAIN.items()
        if findings.made[field].stage is Stage.LOCAL_MODEL and findings.made[field].confidence < least
    )


def summary_of(transcript: Transcript) -> str:
    """What was asked and, if anything, answered last, in their own words, long numbers and addresses blotted out."""
    answers = [each.text for each in transcript.utterances if not each.by_user and each.text.strip()]
    asked = f"Pedido: {_quote(transcript.asked[0])}"
    return (f"{asked} Resposta: {_quote(answers[-1])}" if answers else asked)[:MAX_SUMMARY_CHARACTERS]


def _content(utterance: Utterance) -> MessageContent:
    texts = [utterance.text]
    subject, felt = subject_decided(texts), feeling(texts)
    return MessageContent(
        message_id=utterance.message_id,
        seq=utterance.seq,
        topic=topic_name(subject.label) if subject.finding.confidence >= LOCAL_CERTAIN["main_topic"] else "",
        topic_confidence=subject.finding.confidence,
        sentiment=felt.label,
        sentiment_confidence=felt.finding.confidence,
        keywords=tuple(each.text for each in keywords_of(texts)[:_KEYWORDS_OF_A_MESSAGE]),
    )


def _cascaded(field: str, by_rules: Guess, by_model: Guess) -> Decision:
    if by_rules.confidence >= RULES_CERTAIN[field]:
        return Decision(by_rules.label, Finding(Stage.RULES, by_rules.confidence))
    return Decision(by_model.label, Finding(Stage.LOCAL_MODEL, by_model.confidence))


def _told(example: tuple[Example, float] | None, field: str) -> Decision | None:
    if example is None or field not in example[0].labels:
        return None
    return Decision(str(example[0].labels[field]), Finding(Stage.EXAMPLES, example[1]))


def _topics(texts: Sequence[str], subject: Decision, told: Decision | None) -> tuple[FoundTopic, ...]:
    found = topics_of(texts, Guess(subject.label, subject.finding.confidence))
    if told is None:
        return found
    others = [each for each in found if each.name != told.label]
    return ranked([FoundTopic(told.label, 1.0, 1.0, 1.0), *others])


def _resolution(transcript: Transcript, sentiment: Decision, category: Decision) -> Decision:
    """By how it ended: content people were helped; so was whoever closes politely after an answer."""
    label, confidence = Resolution.UNKNOWN, 0.4
    answered = any(not each.by_user and each.text for each in transcript.utterances)
    if sentiment.label == Sentiment.POSITIVE:
        label, confidence = Resolution.RESOLVED, sentiment.finding.confidence
    elif sentiment.label == Sentiment.NEGATIVE and (answered or category.label == Category.COMPLAINT):
        label, confidence = Resolution.UNRESOLVED, sentiment.finding.confidence
    elif answered and _closes(transcript):
        label, confidence = Resolution.RESOLVED, 0.7
    return Decision(label.value, Finding(Stage.RULES, confidence))


def _closes(transcript: Transcript) -> bool:
    """Whether the person has the last word with a polite closing, or lets the answer stand after having asked again."""
    last = next((each for each in reversed(transcript.utterances) if each.by_user and each.text), None)
    return last is not None and bool(_CLOSING.intersection(words_of(last.text))) and len(words_of(last.text)) <= 8


def _satisfaction(transcript: Transcript, sentiment: Decision, resolution: Decision) -> Decision:
    """What people said themselves counts; else by feeling and outcome."""
    given = [each.rating for each in transcript.utterances if each.rating and not each.generated_rating]
    if given:
        return Decision(str(given[-1]), Finding(Stage.HUMAN, 1.0))
    helped = resolution.label == Resolution.RESOLVED
    match sentiment.label:
        case Sentiment.POSITIVE:
            rating = 5 if helped else 4
        case Sentiment.NEGATIVE:
            rating = 1 if resolution.label == Resolution.UNRESOLVED else 2
        case _:
            rating = 4 if helped else 3
    return Decision(str(rating), Finding(Stage.RULES, sentiment.finding.confidence))


def _issue(texts: Sequence[str], sentiment: str, category: str) -> str:
    wrong = sentiment == Sentiment.NEGATIVE or category in (Category.COMPLAINT, Category.REPORT)
    return issue_of(whole(texts)) if wrong else ""


def _end_of(texts: Sequence[str]) -> list[str]:
    """The last messages, as many as tell how somebody feels by now, and the last one in any case."""
    kept = [texts[-1][-_TELLING_CHARACTERS:]]
    for text in reversed(texts[:-1]):
        if sum(map(len, kept)) + len(text) > _TELLING_CHARACTERS:
            break
        kept.append(text)
    return kept[::-1]


def _quote(text: str) -> str:
    beginning = blotted(text.strip()[: 4 * _LONGEST_QUOTE])
    sentences = [each.strip() for each in _SENTENCE.split(beginning) if each.strip()]
    first = sentences[0] if sentences else ""
    return first if len(first) <= _LONGEST_QUOTE else f"{first[:_LONGEST_QUOTE]}…"
