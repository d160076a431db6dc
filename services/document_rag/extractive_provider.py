"""The embedded default: no model, the best-supported sentences of the retrieved passages, verbatim and cited."""

import math
import re
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass

from services.document_rag.assistant_model import EXTRACTIVE, FinishReason, TokenCount
from services.document_rag.model import Passage
from services.document_rag.prompt import Prompt
from services.document_rag.providers import Delta, Finish, Sampling
from services.document_rag.tokens import count_tokens
from services.document_rag.words import fold, words_of

SENTENCES = 4
_SHORTEST_SENTENCE = 12  # characters
_STEM_LENGTH = 5  # enough of a Portuguese or English word to match its inflections
_LEAST_SUPPORT = 0.34  # share of the question's weight that the best sentence and its passage must carry
_WORTH_ADDING = 0.5  # of the best sentence's score

_SENTENCE_END = re.compile(r"(?<=[.!?…;])\s+(?=[\"“(\[*]*[A-ZÀ-Ý0-9])")
_MARKUP = re.compile(r"^\s*(?:[#>*\-•|]+|\d+[.)])\s+")
_HEADING = re.compile(r"^\s*#")
_TABLE_ROW = re.compile(r"^\s*\|")
_ENGLISH = frozenset(
    """
    what when where who how which is are the does do can much many of to in my
    """.split()
)

NOT_FOUND = {
    "pt": "Não encontrei essa informação nos documentos.",
    "en": "I did not find that in the documents.",
}


@dataclass(frozen=True, slots=True)
class _Sentence:
    number: int
    order: int
    text: str
    score: float


class ExtractiveProvider:
    """Answers by quoting. Charges what it read (the prompt) and what it said."""

    async def answer(self, prompt: Prompt, sampling: Sampling) -> AsyncGenerator[Delta | Finish, None]:
        """Yields a sentence at a time, each with the number of its passage."""
        reason, said = FinishReason.STOP, ""
        for piece in _pieces(prompt):
            if count_tokens(said + piece) > sampling.max_output_tokens:
                reason = FinishReason.LENGTH
                break
            said += piece
            yield Delta(piece)
        tokens = TokenCount(input=prompt.tokens, output=count_tokens(said))
        yield Finish(reason, tokens, EXTRACTIVE)


def _pieces(prompt: Prompt) -> Iterator[str]:
    chosen = _best_sentences(prompt)
    if not chosen:
        yield NOT_FOUND[_language(prompt.question)]
        return
    for position, sentence in enumerate(chosen):
        yield f"{' ' if position else ''}{sentence.text} [{sentence.number}]"


def _best_sentences(prompt: Prompt) -> list[_Sentence]:
    """At most SENTENCES sentences, told in the order of their passages; none when nothing supports an answer."""
    earlier = next((each.text for each in reversed(prompt.history) if each.by_user), "")
    asked = _stems(prompt.question) or _stems(earlier)
    if not asked or not prompt.passages:
        return []
    # A short follow-up takes its subject from the question before, at half weight.
    weights = dict.fromkeys(_stems(earlier), 0.5) | dict.fromkeys(asked, 1.0)
    rarity = _rarity(prompt.passages)
    weights = {stem: weight * rarity.get(stem, 0.0) for stem, weight in weights.items()}
    carried = sum(weights.values())
    if carried == 0 or _coverage(prompt, asked) < _LEAST_SUPPORT:
        return []
    ranked = sorted(_scored(prompt.passages, weights), key=lambda each: -each.score)
    best = [each for each in ranked[:SENTENCES] if each.score >= _WORTH_ADDING * ranked[0].score]
    return sorted(best, key=lambda each: (each.number, each.order))


def _scored(passages: tuple[Passage, ...], weights: dict[str, float]) -> Iterator[_Sentence]:
    """Every sentence with its support: its own words, and a share of its passage's and its section's."""
    for number, passage in enumerate(passages, start=1):
        context = _weight(_stems(f"{passage.title} {passage.section} {passage.text}"), weights)
        for order, text in enumerate(_sentences(passage.text)):
            own = _weight(_stems(text), weights)
            score = (own + 0.35 * context) / (1 + 0.12 * (number - 1))
            yield _Sentence(number, order, text, score)


def _coverage(prompt: Prompt, asked: frozenset[str]) -> float:
    """Share of the question's words that the best passage holds; words of no passage count against it."""
    held = max(len(asked & _stems(f"{each.title} {each.section} {each.text}")) for each in prompt.passages)
    return held / len(asked)


def _weight(stems: frozenset[str], weights: dict[str, float]) -> float:
    return sum(weight for stem, weight in weights.items() if stem in stems)


def _rarity(passages: tuple[Passage, ...]) -> dict[str, float]:
    """How much a stem tells passages apart, as inverse document frequency over the retrieved ones."""
    held = Counter(stem for each in passages for stem in _stems(f"{each.title} {each.section} {each.text}"))
    return {stem: math.log(1 + len(passages) / count) for stem, count in held.items()}


def _sentences(text: str) -> Iterator[str]:
    for block in _blocks(text):
        for sentence in _SENTENCE_END.split(block):
            if len(sentence) >= _SHORTEST_SENTENCE and any(letter.isalpha() for letter in sentence):
                yield sentence.strip()


def _blocks(text: str) -> Iterator[str]:
    """Paragraphs, list items and table rows, each on one line: a line end inside a paragraph ends no sentence."""
    lines: list[str] = []
    for line in [*text.splitlines(), ""]:
        if not line.strip() or _MARKUP.match(line):
            yield " ".join(lines)
            lines = []
        if line.strip() and not _HEADING.match(line):
            lines.append(_MARKUP.sub("", line).strip())
        if _TABLE_ROW.match(line):
            yield " ".join(lines)
            lines = []


def _stems(text: str) -> frozenset[str]:
    return frozenset(fold(word)[:_STEM_LENGTH] for word in words_of(text) if len(word) > 1)


def _language(question: str) -> str:
    words = question.lower().split()
    return "en" if sum(word in _ENGLISH for word in words) * 3 >= max(len(words), 1) else "pt"
