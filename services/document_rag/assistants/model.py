"""Assistants, and what is true of a turn whoever answers it: its budget, its states, its end. No input or output."""

import enum
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import datetime

from services.document_rag.assistants.citation_marks import numbers_in
from services.document_rag.model import Filter, Passage, SearchMode, refuse_nul
from shared.errors import FailedPrecondition, FieldViolation, InvalidArgument, Unavailable

DEFAULT_MAX_OUTPUT_TOKENS = 1024
EXTRACTIVE = "extractive"


class ProviderFailed(Unavailable):
    """The model gave no whole answer: it refused, broke off or stayed silent."""

    reason = "PROVIDER_FAILED"

    def __init__(self) -> None:
        super().__init__("the answer provider failed", dependency="answer_provider")


class ProviderRateLimited(Unavailable):
    """The provider refused because too much is asked of it; it is not the caller's own quota."""

    reason = "PROVIDER_RATE_LIMITED"

    def __init__(self, retry_after_seconds: float) -> None:
        super().__init__(
            "the answer provider is overloaded",
            dependency="answer_provider",
            retry_after_seconds=retry_after_seconds,
        )


class ModelUnavailable(FailedPrecondition):
    """The assistant names a model that this deployment has no provider for."""

    reason = "MODEL_UNAVAILABLE"

    def __init__(self, model: str) -> None:
        super().__init__("no answer provider serves the assistant's model", metadata={"model": model})


@dataclass(frozen=True, slots=True)
class Assistant:
    """An assistant as kept. `model` "" means the service's default; `history_tokens` None, the service's own limit.

    It reads the documents of either `document_ids` or `collection_ids`; when both are empty, all in the tenant's reach.
    """

    assistant_id: str
    display_name: str
    instructions: str
    model: str
    top_k: int
    temperature: float | None
    max_output_tokens: int
    document_ids: tuple[str, ...]
    collection_ids: tuple[str, ...]
    description: str
    keywords: tuple[str, ...]
    search_mode: SearchMode
    history_tokens: int | None
    verify_answers: bool
    created_at: datetime
    updated_at: datetime

    @property
    def reads(self) -> Filter:
        """What it may find."""
        return Filter(document_ids=self.document_ids, collection_ids=self.collection_ids)

    def longest_answer(self, asked: int) -> int:
        """Tokens an answer may have: what was asked for, within what the assistant allows."""
        allowed = self.max_output_tokens or DEFAULT_MAX_OUTPUT_TOKENS
        return min(asked, allowed) if asked else allowed


@dataclass(frozen=True, slots=True)
class AssistantFields:
    """What a client may set of an assistant."""

    display_name: str
    instructions: str = ""
    model: str = ""
    top_k: int = 0
    temperature: float | None = None
    max_output_tokens: int = 0
    document_ids: tuple[str, ...] = ()
    collection_ids: tuple[str, ...] = ()
    description: str = ""
    keywords: tuple[str, ...] = ()
    search_mode: SearchMode = SearchMode.HYBRID
    history_tokens: int | None = None
    verify_answers: bool = True

    def __post_init__(self) -> None:
        broken = list(self._broken_rules())
        if broken:
            raise InvalidArgument(violations=broken)
        named = {"display_name": self.display_name, "instructions": self.instructions, "model": self.model}
        named["description"] = self.description
        for name in ("document_ids", "collection_ids", "keywords"):
            named |= {f"{name}[{index}]": each for index, each in enumerate(getattr(self, name))}
        refuse_nul({f"assistant.{name}": text for name, text in named.items()})

    def _broken_rules(self) -> Iterator[FieldViolation]:
        """The rules of the contract, kept here too: it cannot check what an update's mask leaves out."""
        rules = {
            "display_name": (self.display_name.strip() and len(self.display_name) <= 200, "1 to 200 characters"),
            "instructions": (len(self.instructions.encode()) <= 32_768, "at most 32768 bytes"),
            "model": (len(self.model) <= 200, "at most 200 characters"),
            "top_k": (0 <= self.top_k <= 50, "0 to 50"),
            "temperature": (self.temperature is None or 0 <= self.temperature <= 2, "0 to 2"),
            "max_output_tokens": (0 <= self.max_output_tokens <= 100_000, "0 to 100000"),
            "document_ids": (_distinct(self.document_ids, 1000), "at most 1000 different ids of 1 to 64 characters"),
            "collection_ids": (_distinct(self.collection_ids, 100), "at most 100 different ids of 1 to 64 characters"),
            "description": (len(self.description) <= 2000, "at most 2000 characters"),
            "keywords": (_distinct(self.keywords, 100), "at most 100 different ones of 1 to 64 characters"),
            "history_tokens": (self.history_tokens is None or 0 <= self.history_tokens <= 100_000, "0 to 100000"),
        }
        for name, (holds, rule) in rules.items():
            if not holds:
                yield FieldViolation(f"assistant.{name}", f"must be {rule}", f"assistant.{name}")

    def fingerprint(self) -> bytes:
        """What a retry with the same request_id must repeat. What is left out counts for nothing: fields are added."""
        values = {each: getattr(self, each.name) for each in fields(self)}
        stated = sorted((each.name, value) for each, value in values.items() if value != each.default)
        return hashlib.sha256(repr(stated).encode()).digest()


class OnDisconnect(enum.Enum):
    """What becomes of an answer whose reader leaves."""

    STOP = "stop"
    FINISH = "finish"


class FinishReason(enum.Enum):
    """Why an answer ended, in the words kept with the message."""

    STOP = "stop"
    LENGTH = "length"
    QUOTA = "quota"
    CONTENT_FILTER = "content_filter"
    INTERRUPTED = "interrupted"


class UsageSource(enum.Enum):
    """How the figures of a TokenCount are known."""

    PROVIDER = "provider"
    PARTIAL = "partial"
    ESTIMATED = "estimated"


@dataclass(frozen=True, slots=True)
class TokenCount:
    """Tokens of one answer, in disjoint components."""

    input: int = 0
    cached_input: int = 0
    output: int = 0
    reasoning: int = 0

    @property
    def total(self) -> int:
        """What is charged."""
        return self.input + self.cached_input + self.output + self.reasoning


@dataclass(frozen=True, slots=True)
class ModelPrice:
    """What a model costs, in millionths of the tenant's currency per million tokens."""

    input: int = 0
    cached_input: int = 0
    output: int = 0
    reasoning: int = 0

    def of(self, tokens: TokenCount) -> int:
        """The cost in millionths, rounded up: a fraction of a millionth is not given away."""
        exact = (
            tokens.input * self.input
            + tokens.cached_input * self.cached_input
            + tokens.output * self.output
            + tokens.reasoning * self.reasoning
        )
        return -(-exact // 1_000_000)


@dataclass(frozen=True, slots=True)
class Question:
    """One turn as asked, of an assistant or of a team. `request_id` is never empty here.

    `conversation_id` "" asks for a new conversation; with `begins_conversation` one that does not exist is begun.
    """

    assistant_id: str
    conversation_id: str
    text: str
    on_disconnect: OnDisconnect
    max_output_tokens: int
    channel: str
    request_id: str
    team_id: str = ""
    begins_conversation: bool = False

    def fingerprint(self) -> bytes:
        """What a retry with the same request_id must repeat."""
        parts = (
            self.assistant_id,
            self.conversation_id,
            self.text,
            str(self.max_output_tokens),
            self.channel,
            *([self.team_id] if self.team_id else []),
        )
        return hashlib.sha256("".join(f"{len(part)}:{part}" for part in parts).encode()).digest()


@dataclass(frozen=True, slots=True)
class Utterance:
    """An earlier message of the conversation, as the model sees it."""

    by_user: bool
    text: str


@dataclass(frozen=True, slots=True)
class Budget:
    """Most tokens the variable parts of a prompt may take. What does not fit is left out, oldest and worst first.

    `findings`: what other assistants of a team found.
    """

    passages: int
    history: int
    findings: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """A finished answer as it will be kept and charged. `not_in_documents`: it says that they do not hold it."""

    text: str
    finish_reason: FinishReason
    tokens: TokenCount
    usage_source: UsageSource
    cost_micros: int
    model: str
    latency_ms: int
    time_to_first_token_ms: int
    not_in_documents: bool = False


def cited(text: str, passages: Sequence[Passage]) -> list[tuple[int, Passage]]:
    """The passages that the text cites, with their numbers in order; numbers of no passage are ignored."""
    return [(number, passages[number - 1]) for number in sorted(set(numbers_in(text))) if 1 <= number <= len(passages)]


def _distinct(texts: Sequence[str], most: int) -> bool:
    return len(texts) <= most and len(set(texts)) == len(texts) and all(1 <= len(each) <= 64 for each in texts)
