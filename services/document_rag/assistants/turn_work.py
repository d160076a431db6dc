"""What every turn is made of, whoever answers: holding tokens, reading, searching, writing, storing, giving up."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from services.document_rag.assistants.conversations import Conversations, Earlier
from services.document_rag.assistants.generation import Draft, Stage, generate
from services.document_rag.assistants.model import (
    Answer,
    Assistant,
    Budget,
    ModelPrice,
    OnDisconnect,
    Question,
)
from services.document_rag.assistants.outcome import Outcome, Stored, StoredAnswer
from services.document_rag.assistants.patience import patiently
from services.document_rag.assistants.prompt import Prompt
from services.document_rag.assistants.providers import AnswerProvider, Sampling
from services.document_rag.assistants.token_budget import Hold, TokenBudget, Wanted
from services.document_rag.assistants.turns import Turn
from services.document_rag.model import DEFAULT_TOP_K, SearchResult
from services.document_rag.search.chunk_index import ChunkIndex
from shared.errors import Internal, NotFound, RequestIdReused, ServiceError, Unavailable

Read = TypeVar("Read")


@dataclass(frozen=True, slots=True)
class AnswerSettings:
    """How turns are bounded. `default_model` answers for assistants that name none.

    `prices` are of models of which the price book knows none.
    """

    default_model: str
    budget: Budget
    history_messages: int
    least_answer_tokens: int
    timeout_seconds: float
    prices: Mapping[str, ModelPrice]


@dataclass(frozen=True, slots=True)
class Prepared(Generic[Read]):
    """Tokens are held, the question is stored, and what was to be read is there."""

    hold: Hold
    question: Stored
    read: Read


class TurnWork:
    """The steps of a turn, each with what it does when it goes wrong."""

    def __init__(
        self,
        *,
        conversations: Conversations,
        budget: TokenBudget,
        index: ChunkIndex,
        providers: Callable[[str], AnswerProvider],
        settings: AnswerSettings,
    ) -> None:
        self._conversations = conversations
        self._providers = providers
        self._index = index
        self.budget = budget
        self.settings = settings

    async def prepared(
        self, turn: Turn, question: Question, wanted: Wanted, reading: Coroutine[Any, Any, Read]
    ) -> Prepared[Read]:
        """Everything that needs no other's result, at once. None is cancelled when one fails: each ends as it began."""
        read, hold, asked = await asyncio.gather(
            reading,  # first, for it takes longest
            self.budget.hold(turn, wanted),
            self._conversations.add_question(turn, question),
            return_exceptions=True,
        )
        if isinstance(hold, Hold) and isinstance(asked, Stored) and not isinstance(read, BaseException):
            return Prepared(hold, asked, read)
        error = next(each for each in (asked, hold, read) if isinstance(each, BaseException))
        held = hold if isinstance(hold, Hold) else None
        await self._give_up(turn, question, held, error, stored=isinstance(asked, Stored))
        raise error

    async def earlier(self, turn: Turn, question: Question) -> list[Earlier]:
        """What was said in the conversation before, oldest first."""
        if turn.is_new_conversation:
            return []
        try:
            # Since an earlier attempt stored the question, the conversation may have gone on without it.
            asked_at = (await self._conversations.add_question(turn, question)).seq if turn.attempt > 1 else 0
            return await self._conversations.before_question(turn, self.settings.history_messages, asked_at)
        except NotFound:
            if not question.begins_conversation:
                raise
            return []

    async def search(self, turn: Turn, assistant: Assistant, query: str) -> SearchResult:
        """What the assistant may read that fits the query."""
        return await self._index.search(
            turn.tenant_id,
            query,
            top_k=assistant.top_k or DEFAULT_TOP_K,
            mode=assistant.search_mode,
            filter=assistant.reads,
        )

    def prompt_budget(self, turn: Turn, assistant: Assistant) -> Budget:
        """What the variable parts of the assistant's prompt may take."""
        budget = self.settings.budget
        if turn.is_new_conversation:
            return replace(budget, history=0)
        own = assistant.history_tokens
        return budget if own is None else replace(budget, history=own)

    def model(self, assistant: Assistant) -> str:
        """The model that answers for the assistant."""
        return assistant.model or self.settings.default_model

    def draft(self, assistant: Assistant, prompt: Prompt, longest: int, granted_tokens: int) -> Draft:
        """An answer to be written within what was granted."""
        affordable = granted_tokens - prompt.tokens
        sampling = Sampling(self.model(assistant), assistant.temperature, min(longest, affordable))
        return Draft(prompt, sampling, ends_with_quota=affordable < longest)

    async def write(self, draft: Draft, on_disconnect: OnDisconnect, stage: Stage) -> None:
        """Lets the model write the draft to its end, or to where its reader left."""
        pieces = self._providers(draft.sampling.model).answer(draft.prompt, draft.sampling)
        async with aclosing(pieces):
            await generate(draft, pieces, on_disconnect, stage, self.settings.timeout_seconds)

    async def finished(self, draft: Draft, hold: Hold, began: float) -> Answer:
        """The answer that was written, at the price at which it is charged; `began` on the monotonic clock."""
        return draft.finished(began, await self._prices(draft, hold))

    async def store(self, turn: Turn, question: Question, outcome: Outcome, asked: Stored) -> StoredAnswer:
        """Stores the answer; what another attempt of this turn stored first is what counts."""
        try:
            stored = await patiently(lambda: self._conversations.add_answer(turn, question, outcome))
        except ServiceError as error:
            if error.reason != RequestIdReused.reason:
                raise
            first = await self._conversations.answer_after(turn, asked.seq)
            if first is None:
                raise
            await _best_effort(self.budget.release(outcome.reservation_id))
            return first
        return StoredAnswer(stored, outcome)

    @asynccontextmanager
    async def given_up_on_failure(self, turn: Turn, question: Question, hold: Hold) -> AsyncIterator[None]:
        """Whatever ends the block early: the tokens go back, and the conversation holds word of it."""
        try:
            yield
        except BaseException as error:
            await self._give_up(turn, question, hold, error)
            raise

    async def _prices(self, draft: Draft, hold: Hold) -> Mapping[str, ModelPrice]:
        """Those of the settings; before them that of the price book, by which the ledger charges."""
        if draft.finish is not None:
            with suppress(ServiceError):  # no answer waits for a price book that is away
                price = await self.budget.price(draft.finish.model, hold)
                if price is not None:
                    return {draft.finish.model: price}
        return self.settings.prices

    async def _give_up(
        self, turn: Turn, question: Question, hold: Hold | None, error: BaseException, *, stored: bool = True
    ) -> None:
        """Both are best effort: the lease ends anyway."""
        if hold is not None:
            await _best_effort(self.budget.release(hold.reservation_id))
        if stored:
            await _best_effort(self._conversations.add_failure(turn, question, _told(error)))


def _told(error: BaseException) -> ServiceError:
    """The error as the conversation's reader sees it."""
    if isinstance(error, asyncio.CancelledError):
        return Unavailable("the service is stopping", dependency="document_rag")
    return error if isinstance(error, ServiceError) else Internal()


async def _best_effort(work: Coroutine[Any, Any, None]) -> None:
    with suppress(ServiceError):
        await work
