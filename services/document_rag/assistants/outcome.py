"""What came of a turn, and what is to be paid for it. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass

from services.document_rag.assistants.model import Answer, TokenCount, UsageSource
from services.document_rag.assistants.steps import Step
from services.document_rag.assistants.verifier import Verified
from services.document_rag.model import Passage


@dataclass(frozen=True, slots=True)
class Paid:
    """What a reservation is to be settled with. `name` tells the reservations of one turn apart."""

    name: str
    reservation_id: str
    assistant_id: str
    model: str
    tokens: TokenCount
    usage_source: UsageSource
    cost_micros: int


@dataclass(frozen=True, slots=True)
class Stored:
    """Where a message ended up."""

    message_id: str
    seq: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """An answer and everything that is kept with it.

    `reservation_id` holds the tokens of the turn; the steps of a team hold parts of them. `references` are the passages
    that the answer cites, by their numbers; `rag`: whether there were passages to answer from.
    """

    answer: Answer
    assistant_id: str
    reservation_id: str
    references: tuple[tuple[int, Passage], ...]
    rag: bool
    verification: tuple[Verified, ...] = ()
    steps: tuple[Step, ...] = ()

    def payments(self) -> Iterator[Paid]:
        """What is to be paid, parts before the whole: the end of the whole ends parts that are still held."""
        parts = [step for step in self.steps if step.reservation_id]
        for step in parts:
            yield Paid(
                f"step-{step.number}",
                step.reservation_id,
                step.assistant_id,
                step.model,
                step.tokens,
                step.usage_source,
                step.cost_micros,
            )
        answer = self.answer
        own = (
            (TokenCount(), answer.usage_source, 0)
            if self.steps
            else (answer.tokens, answer.usage_source, answer.cost_micros)
        )
        yield Paid("", self.reservation_id, self.assistant_id, answer.model, *own)


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """An outcome as it stands in the conversation."""

    stored: Stored
    outcome: Outcome
