"""What a provider is given: rules, a question, and between them all that others wrote, as delimited data. Pure.

Retrieved text, earlier messages and what other models said are untrusted: they stand only inside a block whose boundary
is random for each request, in a message of role user, after rules that say it is data. An earlier answer may quote a
document word by word, so it is no safer than the document.
"""

import enum
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TypeVar

from services.document_rag.assistants.citation_marks import disarmed, without_marks
from services.document_rag.assistants.model import Budget, Utterance
from services.document_rag.assistants.wording import NOT_IN_DOCUMENTS
from services.document_rag.model import Passage, SearchResult
from services.document_rag.search.words import words_of
from services.document_rag.tokens import count_tokens

_TOKENS_AROUND_A_MESSAGE = 8  # what chat formats add to each message, and the block to each item, rounded up
_MESSAGES_ALWAYS_SENT = 2
_HEADINGS = (
    "# Earlier in this conversation",
    "# What other assistants found",
    "# Note of the assistant that leads the team",
    "# Passages",
)
_NO_PASSAGES = "(no passages were found)"
# Tags, variation selectors and turned directions: letters that a model reads and no reader of the document sees.
_UNSEEN = re.compile("[\U000e0000-\U000e01ef\u202a-\u202e\u2066-\u2069]")

Item = TypeVar("Item")

# A question with fewer content words than this leans on the one before ("e qual é o valor?").
_WORDS_OF_A_WHOLE_QUESTION = 4
# As many as SearchService takes: the words of a pasted page are looked up one by one, while everybody else waits.
_MOST_SEARCHED_CHARACTERS = 4000


class Role(enum.Enum):
    """What is asked of the model; the rules are in prompts/<value>.txt."""

    ANSWER = "answer"
    COMPOSE = "compose"
    PLAN = "plan"
    ROUTE = "route"


@dataclass(frozen=True, slots=True)
class Finding:
    """What another assistant of a team found, with the numbers of the passages it is given beside."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Brief:
    """What a model is told beside the question. `members`: names and descriptions of a team, for its leader."""

    instructions: str = ""
    role: Role = Role.ANSWER
    members: str = ""
    findings: tuple[Finding, ...] = ()
    task: str = ""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A turn as providers see it.

    `passages` are the ones that fitted, in the order of their numbers from 1; `word_weights` as in SearchResult.
    """

    system: str
    history: tuple[Utterance, ...]
    question: str
    passages: tuple[Passage, ...]
    word_weights: Mapping[str, float]
    boundary: str
    tokens: int
    role: Role = Role.ANSWER
    findings: tuple[Finding, ...] = ()
    task: str = ""

    @property
    def user_message(self) -> str:
        """The last message: everything that others wrote as data, then the question."""
        earlier, found, note, passages = _HEADINGS
        parts = [
            *_part(earlier, [_utterance(each) for each in self.history], "\n"),
            *_part(found, [_finding(each) for each in self.findings]),
            *_part(note, [self.task] if self.task else []),
            *_part(passages, [_block(number, each) for number, each in enumerate(self.passages, start=1)]),
        ]
        if not self.passages:
            parts.append(_NO_PASSAGES)
        return f"<{self.boundary}>\n" + "\n\n".join(parts) + f"\n</{self.boundary}>\n\n{self.question}"


def build_prompt(
    brief: Brief, question: str, history: Sequence[Utterance], found: SearchResult, budget: Budget
) -> Prompt:
    """The prompt within its budget: best passages first, newest messages first."""
    boundary = _boundary()
    kept_passages, passage_tokens = _within(
        found.passages,
        [count_tokens(_block(number, each)) for number, each in enumerate(found.passages, start=1)],
        budget.passages,
    )
    newest_first = list(reversed(history))
    costs = [count_tokens(_utterance(each)) + _TOKENS_AROUND_A_MESSAGE for each in newest_first]
    kept_history, history_tokens = _within(newest_first, costs, budget.history)
    kept_findings, finding_tokens = _within(
        brief.findings, [finding_cost(each.name, count_tokens(each.text)) for each in brief.findings], budget.findings
    )
    fixed = _fixed_tokens(brief, question, boundary)
    return Prompt(
        system=rules(brief, boundary),
        history=tuple(reversed(kept_history)),
        question=question,
        passages=tuple(kept_passages),
        word_weights=found.word_weights,
        boundary=boundary,
        tokens=fixed + passage_tokens + history_tokens + finding_tokens,
        role=brief.role,
        findings=tuple(kept_findings),
        task=brief.task,
    )


def most_prompt_tokens(brief: Brief, question: str, budget: Budget) -> int:
    """Tokens that no prompt of this question can exceed, known before anything is retrieved or found."""
    return _fixed_tokens(brief, question, _boundary()) + budget.passages + budget.history + budget.findings


def finding_cost(name: str, tokens: int) -> int:
    """Tokens of a budget that a finding of so many tokens takes."""
    return tokens + count_tokens(name) + _TOKENS_AROUND_A_MESSAGE


def rules(brief: Brief, boundary: str) -> str:
    """The system message: our rules around the assistant's own instructions."""
    sentences = "\n".join(f"  {sentence}" for sentence in NOT_IN_DOCUMENTS.values())
    text = _template(brief.role).replace("{boundary}", boundary).replace("{not_in_documents}", sentences)
    head, _, tail = text.partition("{instructions}")
    return (head.replace("{members}", brief.members) + brief.instructions + tail).strip()


def search_query(question: str, history: Sequence[Utterance]) -> str:
    """What to search for: the question, under the one before it when it is too short to stand alone."""
    if stands_alone(question):
        return both_ends(question)
    earlier = next((each.text for each in reversed(history) if each.by_user), "")
    return f"{both_ends(earlier)}\n{question}" if earlier else question


def both_ends(text: str) -> str:
    """As much as is searched for of a long text: people ask before what they paste, or after it."""
    half = _MOST_SEARCHED_CHARACTERS // 2
    return text if len(text) <= 2 * half else f"{text[:half]}\n{text[-half:]}"


def stands_alone(question: str) -> bool:
    """Whether a question says what it is about, so that it can be searched for without the one before it."""
    return len(words_of(question)) >= _WORDS_OF_A_WHOLE_QUESTION


@cache
def _template(role: Role) -> str:
    prompts = resources.files("services.document_rag.assistants").joinpath("prompts")
    return prompts.joinpath(f"{role.value}.txt").read_text(encoding="utf-8")


def _boundary() -> str:
    return f"passages-{secrets.randbelow(10**16):016d}"  # digits: every boundary has as many tokens as another


def _fixed_tokens(brief: Brief, question: str, boundary: str) -> int:
    frame = "\n\n".join([f"<{boundary}>", *_HEADINGS, _NO_PASSAGES, f"</{boundary}>"])
    texts = (rules(brief, boundary), question, brief.task, frame)
    return sum(map(count_tokens, texts)) + _MESSAGES_ALWAYS_SENT * _TOKENS_AROUND_A_MESSAGE


def _part(heading: str, items: Sequence[str], between: str = "\n\n") -> list[str]:
    return [f"{heading}\n{between.join(items)}"] if items else []


def _utterance(utterance: Utterance) -> str:
    """Without the marks of an earlier answer: its numbers are other passages now."""
    said = _seen(utterance.text)
    return f"Person: {disarmed(said)}" if utterance.by_user else f"Assistant: {without_marks(said)}"


def _finding(finding: Finding) -> str:
    return f"## {finding.name}\n{finding.text}"


def _block(number: int, passage: Passage) -> str:
    """A passage under its number. Nothing in it looks like another passage: only ours have numbers in brackets."""
    where = " › ".join(" ".join(part.split()) for part in (passage.title, passage.section) if part)
    page = f", p. {passage.page}" if passage.page else ""
    return f"[{number}] {disarmed(_seen(where))}{page}\n{disarmed(_seen(passage.text))}"


def _seen(text: str) -> str:
    return _UNSEEN.sub("", text)


def _within(items: Sequence[Item], costs: Sequence[int], budget: int) -> tuple[list[Item], int]:
    """The longest head of the items that fits the budget, and what it costs."""
    kept: list[Item] = []
    spent = 0
    for item, cost in zip(items, costs, strict=True):
        if spent + cost > budget:
            break
        kept.append(item)
        spent += cost
    return kept, spent
