"""The embedded default: no model, the best-supported sentences of the retrieved passages, verbatim and cited."""

import re
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import Stemmer

from services.document_rag.assistants.citation_marks import disarmed, numbers_in, without_marks
from services.document_rag.assistants.model import EXTRACTIVE, FinishReason, TokenCount
from services.document_rag.assistants.prompt import Prompt, Role
from services.document_rag.assistants.providers import Delta, Finish, Sampling
from services.document_rag.assistants.verifier import sentence_spans
from services.document_rag.assistants.wording import NOT_IN_DOCUMENTS, language_of, language_of_question
from services.document_rag.model import Passage
from services.document_rag.search.words import fold, words_of
from services.document_rag.tokens import count_tokens

SENTENCES = 4
_SHORTEST_SENTENCE = 12  # characters
# Share of the question's weight that the best passage must carry: of 600 questions about Portuguese paragraphs it
# leaves 19 in 20 answered, and by that alone it was chosen.
_LEAST_SUPPORT = 0.41
# A word that no document has weighs so much of the rarest one they have: less, because it may be misspelt.
_UNKNOWN = 0.75
_WORTH_ADDING = 0.6  # of the best sentence's score
_SHARE_OF_CONTEXT = 0.35
_LOSS_PER_RANK = 0.1
_GAIN_OF_A_SUBJECT = 1.3  # a sentence that begins with what is asked about tells about it
# Words that ask, and tell nothing of what is asked about.
_ASKING = frozenset("como diga explique faz fazem fazer onde posso quais quanto quantos serve servem significa".split())

_SENTENCE_END = re.compile(r"(?<=[.!?…;])\s+(?=[\"“(\[*]*[A-ZÀ-Ý0-9])")
_MARKUP = re.compile(r"^\s*(?:[#>*\-•|]+|\d+[.)])\s+")
_HEADING = re.compile(r"^\s*#")
_TABLE_ROW = re.compile(r"^\s*\|")

_STEMMERS = {"pt": Stemmer.Stemmer("portuguese"), "en": Stemmer.Stemmer("english"), "es": Stemmer.Stemmer("spanish")}


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
    """What other assistants of the team found and cited, then what is found here; nothing twice."""
    own = [] if prompt.role is Role.COMPOSE else _best_sentences(prompt)
    cited: dict[str, str] = {}
    for sentence in [*_found(prompt), *(f"{disarmed(each.text)} [{each.number}]" for each in own)]:
        cited.setdefault(without_marks(sentence), sentence)
    if not cited:
        yield NOT_IN_DOCUMENTS[language_of_question(prompt.question, prompt.history)]
    for position, sentence in enumerate(cited.values()):
        yield f"{' ' if position else ''}{sentence}"


def _found(prompt: Prompt) -> Iterator[str]:
    for finding in prompt.findings:
        for start, end in sentence_spans(finding.text):
            if numbers_in(finding.text[start:end]):
                yield finding.text[start:end]


def _best_sentences(prompt: Prompt) -> list[_Sentence]:
    """At most SENTENCES sentences, told in the order of their passages; none when nothing supports an answer."""
    weights, language = _weights(prompt), language_of(prompt.question)
    held = [_held(_stems(_context(each), language), weights) for each in prompt.passages]
    if max(held, default=0.0) < _LEAST_SUPPORT * sum(weights.values()):
        return []
    ranked = sorted(_scored(prompt.passages, held, weights, language), key=lambda each: -each.score)
    best = [each for each in ranked[:SENTENCES] if each.score >= _WORTH_ADDING * ranked[0].score]
    return sorted(best, key=lambda each: (each.number, each.order))


def _weights(prompt: Prompt) -> dict[str, float]:
    """How much each stem of the question tells; the question before counts half, for follow-ups without a subject."""
    earlier = next((each.text for each in reversed(prompt.history) if each.by_user), "")
    telling = [word for word in words_of(prompt.question) if fold(word) not in _ASKING]
    known, language = prompt.word_weights, language_of(prompt.question)
    unknown = _UNKNOWN * max(known.values(), default=1.0)
    asked = {_stem(word, language): known.get(fold(word), unknown) for word in telling or words_of(prompt.question)}
    before = {_stem(word, language): known.get(fold(word), 0.0) / 2 for word in words_of(earlier)}
    return {each: weight for each, weight in (before | asked).items() if weight > 0}


def _scored(
    passages: Sequence[Passage], held: Sequence[float], weights: Mapping[str, float], language: str
) -> Iterator[_Sentence]:
    """Every sentence with its support: its own words, and a share of what its passage holds."""
    for number, (passage, context) in enumerate(zip(passages, held, strict=True), start=1):
        for order, text in enumerate(_sentences(passage.text)):
            stems = _stems(text, language)
            own = _held(stems, weights)
            if own > 0:
                own *= _GAIN_OF_A_SUBJECT if stems[0] in weights else 1
                score = (own + _SHARE_OF_CONTEXT * context) / (1 + _LOSS_PER_RANK * (number - 1))
                yield _Sentence(number, order, text, score)


def _context(passage: Passage) -> str:
    return f"{passage.title} {passage.section} {passage.text}"


def _held(stems: Sequence[str], weights: Mapping[str, float]) -> float:
    """How much of the question's weight the words carry."""
    said = set(stems)
    return sum(weight for each, weight in weights.items() if each in said)


def _stems(text: str, language: str) -> list[str]:
    return [_stem(word, language) for word in words_of(text)]


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


@lru_cache(maxsize=50_000)
def _stem(word: str, language: str) -> str:
    """What the inflections of a word share, accents folded; the stemmer knows words by their accents."""
    return fold(_STEMMERS[language].stemWord(word))
