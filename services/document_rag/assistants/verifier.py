"""Whether the passages bear out an answer, sentence by sentence, by comparing words and figures. No model, no I/O.

It is a check, not a proof: a sentence that turns the words of a passage round may pass. What it is good for is what
readers are hurt by most: a figure, a date or an amount that no cited passage has.
"""

import enum
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from services.document_rag.assistants.citation_marks import MARK, numbers_in, without_marks
from services.document_rag.assistants.figures import Figures, figures_of, unknown_figures, without_figures
from services.document_rag.assistants.wording import content_stems, says_not_in_documents
from services.document_rag.model import Passage
from services.document_rag.search.words import fold

MOST_SENTENCES = 300
# Measured on tests/document_rag/assistants/verified_sentences.py.
SUPPORTED_OVERLAP = 0.7
PARTLY_OVERLAP = 0.4
MOST_CITATIONS = 8  # of a sentence, that are told and kept
_FEWEST_STEMS = 3  # "Claro!" and "Espero ter ajudado." state nothing

_MARKS = rf"(?:\s*+{MARK})"
# Begun only where a run of dots or spaces begins: ten thousand of them are read once, not once each.
_END = re.compile(rf"(?<![.!?…])[.!?…]++[\"”»)*_]*+{_MARKS}*(?=\s|$)|(?<!\s){_MARKS}+(?=\s+[\"“(]?[A-ZÀ-Ý])|\n+")
_ABBREVIATIONS = frozenset(
    "art arts av dr dra ex fl fls inc nº no n núm num p pág pag par prof profa r sr sra srs tel v vs mr mrs st".split()
)
_LAST_WORD = re.compile(r"(\w+)\.$")
_NEGATIONS = frozenset("nao nunca jamais nenhum nenhuma not never cannot tampoco ningun ninguna".split())
_WORD = re.compile(r"\w+")
_CLAUSE_END = re.compile(r"[:;]\s")


class Support(enum.Enum):
    """What the passages bear out of a sentence."""

    SUPPORTED = "supported"
    PARTLY = "partly"
    UNSUPPORTED = "unsupported"


@dataclass(frozen=True, slots=True)
class Verified:
    """A sentence, answer[start:end], and the first of the passages that it was held against, by their numbers."""

    start: int
    end: int
    support: Support
    citations: tuple[int, ...]


@dataclass(frozen=True)
class _Evidence:
    """A passage, prepared for comparison."""

    number: int
    text: str

    @cached_property
    def words(self) -> str:
        return _spoken(self.text)

    @cached_property
    def stems(self) -> set[str]:
        return content_stems(self.text)

    @cached_property
    def figures(self) -> Figures:
        return figures_of(self.text)

    @cached_property
    def clauses(self) -> list[set[str]]:
        spans = [self.text[start:end] for start, end in sentence_spans(self.text)]
        return [set(_WORD.findall(fold(clause))) for span in spans for clause in _CLAUSE_END.split(span)]


def verify(answer: str, passages: Sequence[Passage]) -> tuple[Verified, ...]:
    """The sentences that state something, at most MOST_SENTENCES. `passages` in the order of their numbers."""
    evidence = [
        _Evidence(number, f"{each.title}. {each.section}. {each.text}") for number, each in enumerate(passages, start=1)
    ]
    checked: list[Verified] = []
    for start, end in sentence_spans(answer):
        if len(checked) == MOST_SENTENCES:
            break
        verified = _verified(answer, start, end, evidence)
        if verified is not None:
            checked.append(verified)
    return tuple(checked)


def sentence_spans(text: str) -> Iterator[tuple[int, int]]:
    """Where the sentences of a text stand, without the space around them; marks of citations go with what they mark."""
    start = 0
    for end in [*(each.end() for each in _END.finditer(text) if not _goes_on(text, each)), len(text)]:
        piece = text[start:end]
        left = len(piece) - len(piece.lstrip())
        stripped = piece.strip()
        if stripped:
            yield start + left, start + left + len(stripped)
        start = end


def _goes_on(text: str, end: re.Match[str]) -> bool:
    """Whether what looks like an end is none: an abbreviation, an initial, the number of a list item."""
    if "\n" in end.group():
        return False
    before = text[max(0, end.start() - 12) : end.start() + 1]
    last = _LAST_WORD.search(before)
    if last is None or end.group() != ".":
        return False
    word = last[1]
    begins_line = not text[: end.start() - len(word)].rpartition("\n")[2].strip()
    return word.lower() in _ABBREVIATIONS or (len(word) == 1 and word.isupper()) or (word.isdigit() and begins_line)


def _verified(answer: str, start: int, end: int, evidence: Sequence[_Evidence]) -> Verified | None:
    sentence = answer[start:end]
    numbers = numbers_in(sentence)
    claim = without_marks(sentence)
    if not _states_something(claim, cited=bool(numbers)):
        return None
    cited = [each for each in evidence if each.number in numbers]
    if cited:
        support = _support(claim, cited)
        if support is Support.UNSUPPORTED and any(_support(claim, [each]) is Support.SUPPORTED for each in evidence):
            support = Support.PARTLY
        return Verified(start, end, support, tuple(each.number for each in cited[:MOST_CITATIONS]))
    if numbers:  # cites only what does not exist
        return Verified(start, end, Support.UNSUPPORTED, ())
    nearest = max(evidence, key=lambda each: _overlap(claim, each.stems), default=None)
    if nearest is None or _support(claim, [nearest]) is Support.UNSUPPORTED:
        return Verified(start, end, Support.UNSUPPORTED, ())
    return Verified(start, end, Support.PARTLY, (nearest.number,))


def _states_something(claim: str, *, cited: bool) -> bool:
    if says_not_in_documents(claim):
        return False
    figures = figures_of(claim).stated
    stems = content_stems(claim)
    if not (stems or figures):
        return False
    is_question = claim.rstrip().endswith("?")
    is_heading = claim.lstrip().startswith("#") or (claim.rstrip().endswith(":") and not figures)
    return cited or bool(figures) or not (is_question or is_heading or len(stems) < _FEWEST_STEMS)


def _support(claim: str, evidence: Sequence[_Evidence]) -> Support:
    known = Figures(
        frozenset().union(*(each.figures.stated for each in evidence)),
        frozenset().union(*(each.figures.plain for each in evidence)),
    )
    if any(unknown_figures(claim, known)):
        return Support.UNSUPPORTED
    spoken = _spoken(claim)
    if any(spoken in each.words for each in evidence):
        return Support.SUPPORTED
    overlap = _overlap(claim, set().union(*(each.stems for each in evidence)))
    if overlap < PARTLY_OVERLAP:
        return Support.UNSUPPORTED
    return Support.SUPPORTED if overlap >= SUPPORTED_OVERLAP and not _denies(claim, evidence) else Support.PARTLY


def _overlap(claim: str, stems: set[str]) -> float:
    claimed = content_stems(without_figures(claim))
    return len(claimed & stems) / len(claimed) if claimed else 1.0


def _denies(claim: str, evidence: Sequence[_Evidence]) -> bool:
    """Whether the claim says no where the clause that comes nearest to it says yes, or the other way round."""
    words = set(_WORD.findall(fold(claim)))
    clauses = [clause for each in evidence for clause in each.clauses]
    nearest = max(clauses, key=lambda each: len(each & words) / (1 + len(each | words)), default=set())
    return bool(words & _NEGATIONS) != bool(nearest & _NEGATIONS)


def _spoken(text: str) -> str:
    """The words and figures alone, so that quotes, markup and line ends do not matter."""
    return f" {' '.join(_WORD.findall(fold(text)))} "
