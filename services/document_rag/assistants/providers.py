"""What answers a prompt: the protocol that every answer provider keeps."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol

from services.document_rag.assistants.model import FinishReason, TokenCount
from services.document_rag.assistants.prompt import Prompt


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a model is to answer. `max_output_tokens` is never exceeded by what is charged."""

    model: str
    temperature: float | None
    max_output_tokens: int


@dataclass(frozen=True, slots=True)
class Delta:
    """The next piece of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Finish:
    """The end of a whole answer. `tokens` None: the provider reported no usage."""

    reason: FinishReason
    tokens: TokenCount | None
    model: str


class AnswerProvider(Protocol):
    """A model, or what stands in for one."""

    def answer(self, prompt: Prompt, sampling: Sampling) -> AsyncGenerator[Delta | Finish, None]:
        """Yields any number of Delta and then exactly one Finish.

        An answer that breaks off without its Finish must raise ProviderFailed or ProviderRateLimited: silence is
        not an end. Closing the iterator must stop the work at the provider at once.
        """
        ...
