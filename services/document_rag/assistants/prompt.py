"""What a provider is given: rules, earlier messages, and the retrieved passages as delimited data. Pure.

Retrieved text is untrusted: it stands only inside a block whose boundary is random for each request, in a message of
role user, after rules that say it is data.
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TypeVar

from services.document_rag.assistants.model import Budget, Utterance
from services.document_rag.model import Passage, SearchResult
from services.document_rag.search.words import words_of
from services.document_rag.tokens import count_tokens

_RULES = resources.files("services.document_rag.assistants").joinpath("prompts/answer.txt").read_text(encoding="utf-8")

_TOKENS_AROUND_A_MESSAGE = 8  # what chat formats add to each message, rounded up
_MESSAGES_ALWAYS_SENT = 2

Item = TypeVar("Item")

# A question with fewer content words than this leans on the one before ("e qual é o valor?").
_WORDS_OF_A_WHOLE_QUESTION = 4


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

    @property
    def user_message(self) -> str:
        """The last message: the passages as data, then the question."""
        if not self.passages:
            return f"<{self.boundary}>\n(no passages were found)\n</{self.boundary}>\n\n{self.question}"
        blocks = "\n\n".join(_block(number, passage) for number, passage in enumerate(self.passages, start=1))
        return f"<{self.boundary}>\n{blocks}\n</{self.boundary}>\n\n{self.question}"


def build_prompt(
    instructions: str, question: str, history: Sequence[Utterance], found: SearchResult, budget: Budget
) -> Prompt:
    """The prompt within its budget: best passages first, newest messages first."""
    boundary = _boundary()
    kept_passages, passage_tokens = _within(
        found.passages,
        [count_tokens(_block(number, each)) for number, each in enumerate(found.passages, start=1)],
        budget.passages,
    )
    newest_first = list(reversed(history))
    costs = [count_tokens(each.text) + _TOKENS_AROUND_A_MESSAGE for each in newest_first]
    kept_history, history_tokens = _within(newest_first, costs, budget.history)
    return Prompt(
        system=rules(instructions, boundary),
        history=tuple(reversed(kept_history)),
        question=question,
        passages=tuple(kept_passages),
        word_weights=found.word_weights,
        boundary=boundary,
        tokens=_fixed_tokens(instructions, question, boundary) + passage_tokens + history_tokens,
    )


def most_prompt_tokens(instructions: str, question: str, budget: Budget) -> int:
    """Tokens that no prompt of this question can exceed, known before anything is retrieved."""
    return _fixed_tokens(instructions, question, _boundary()) + budget.passages + budget.history


def rules(instructions: str, boundary: str) -> str:
    """The system message: our rules around the assistant's own instructions."""
    return _RULES.replace("{boundary}", boundary).replace("{instructions}", instructions).strip()


def search_query(question: str, history: Sequence[Utterance]) -> str:
    """What to search for: the question, under the one before it when it is too short to stand alone."""
    if len(words_of(question)) >= _WORDS_OF_A_WHOLE_QUESTION:
        return question
    earlier = next((each.text for each in reversed(history) if each.by_user), "")
    return f"{earlier}\n{question}" if earlier else question


def _boundary() -> str:
    return f"passages-{secrets.randbelow(10**16):016d}"  # digits: every boundary has as many tokens as another


def _fixed_tokens(instructions: str, question: str, boundary: str) -> int:
    texts = (
        rules(instructions, boundary),
        question,
        f"<{boundary}>\n\n</{boundary}>\n\n(no passages were found)",
    )
    return sum(map(count_tokens, texts)) + _MESSAGES_ALWAYS_SENT * _TOKENS_AROUND_A_MESSAGE


def _block(number: int, passage: Passage) -> str:
    where = " › ".join(part for part in (passage.title, passage.section) if part)
    page = f", p. {passage.page}" if passage.page else ""
    return f"[{number}] {where}{page}\n{passage.text}"


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
