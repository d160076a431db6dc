"""One turn, told in order: lease it, hold tokens and store the question and search at once, stream, store, charge.

The work runs in a task of its own, so that a reader who leaves decides nothing but what its policy says. The answer is
stored before it is charged: an answer nobody can read is never paid for, and a stored one is charged exactly once,
also by another process after this one was killed.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from services.document_rag.assistants.assistant_store import AssistantStore
from services.document_rag.assistants.conversations import Conversations, Earlier, Stored, StoredAnswer, question_id
from services.document_rag.assistants.generation import Draft, generate
from services.document_rag.assistants.model import (
    Answer,
    Assistant,
    Budget,
    ModelPrice,
    OnDisconnect,
    Question,
    Utterance,
    cited,
)
from services.document_rag.assistants.neighbours import patiently
from services.document_rag.assistants.outbox import Outbox
from services.document_rag.assistants.prompt import build_prompt, most_prompt_tokens, search_query
from services.document_rag.assistants.providers import AnswerProvider, Delta, Sampling
from services.document_rag.assistants.token_budget import Hold, Paid, TokenBudget, Wanted
from services.document_rag.assistants.turns import Turn, TurnStore
from services.document_rag.model import DEFAULT_TOP_K, Filter, Passage, SearchMode, SearchResult
from services.document_rag.search.chunk_index import ChunkIndex
from shared.caller import current_caller
from shared.errors import DeadlineExceeded, Internal, RequestIdReused, ServiceError, Unavailable
from shared.telemetry import get_logger

_log = get_logger()


@dataclass(frozen=True, slots=True)
class AnswerSettings:
    """How turns are bounded. `default_model` answers for assistants that name none."""

    default_model: str
    budget: Budget
    history_messages: int
    least_answer_tokens: int
    timeout_seconds: float
    drain_seconds: float
    prices: Mapping[str, ModelPrice]


@dataclass(frozen=True, slots=True)
class Accepted:
    """The question is stored and tokens are held."""

    conversation_id: str
    question_message_id: str
    request_id: str


@dataclass(frozen=True, slots=True)
class Citation:
    """A passage that the answer may cite by its number."""

    number: int
    passage: Passage


@dataclass(frozen=True, slots=True)
class Completed:
    """The answer is stored and charged."""

    stored: Stored
    answer: Answer


AnswerEvent = Accepted | Citation | Completed


@dataclass(frozen=True, slots=True)
class _Prepared:
    hold: Hold
    question: Stored
    history: tuple[Utterance, ...]
    found: SearchResult


@dataclass(slots=True)
class Telling:
    """A turn under way, as its reader sees it."""

    outbox: Outbox[AnswerEvent]
    task: "asyncio.Task[None]" = field(repr=False)

    async def events(self) -> AsyncGenerator[AnswerEvent | Delta, None]:
        """Accepted, Citation*, Delta*, Completed; raises what the turn failed with. To close it is to leave."""
        try:
            while (event := await self.outbox.next()) is not None:
                yield event
                self.outbox.confirm(event)
            if self.outbox.reader_left.is_set():
                raise DeadlineExceeded("the answer was not read for too long")
            await self.task
        finally:
            self.outbox.leave()


class AnswerStory:
    """Carries turns out."""

    def __init__(
        self,
        *,
        assistants: AssistantStore,
        turns: TurnStore,
        conversations: Conversations,
        budget: TokenBudget,
        index: ChunkIndex,
        providers: Callable[[str], AnswerProvider],
        settings: AnswerSettings,
    ) -> None:
        self._assistants = assistants
        self._turns = turns
        self._conversations = conversations
        self._budget = budget
        self._index = index
        self._providers = providers
        self._settings = settings
        self._under_way: set[asyncio.Task[None]] = set()

    def tell(self, question: Question) -> Telling:
        """Begins the turn for the current caller. It goes on, as its policy says, when nobody reads it."""
        outbox: Outbox[AnswerEvent] = Outbox()
        task = asyncio.create_task(self._carry_out(question, outbox))
        self._under_way.add(task)
        task.add_done_callback(self._ended)
        task.add_done_callback(lambda _: outbox.close())
        return Telling(outbox, task)

    async def drained(self) -> None:
        """Lets the turns end whose reader has left; those that take too long give back what they hold and say so."""
        late = self._under_way
        if late:
            _, late = await asyncio.wait(late, timeout=self._settings.drain_seconds)
        for turn in late:
            turn.cancel()
        if late:
            await asyncio.wait(late)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._under_way.discard(task)
        # Fetching the exception here also keeps a turn that nobody reads from being reported as never retrieved.
        if not task.cancelled() and (error := task.exception()) and not isinstance(error, ServiceError):
            _log.error("turn_failed", exc_info=error)

    async def _carry_out(self, question: Question, outbox: Outbox[AnswerEvent]) -> None:
        began = time.monotonic()
        caller = current_caller()
        turn = await self._turns.begin(caller.tenant_id, caller.user_id, question)
        if turn.answer_seq is not None:
            await self._tell_again(turn, await self._conversations.answer_at(turn, turn.answer_seq), outbox)
            return
        async with self._turns.carried_out(turn):
            earlier = await self._stored_before(turn, question)
            stored = earlier or await self._answer(turn, question, outbox, began)
            # A stored answer is only ever charged: if that fails now, a retry of the turn charges it.
            paid = Paid(stored.reservation_id, stored.answer)
            await patiently(lambda: self._budget.charge(turn, question.assistant_id, paid))
            await patiently(lambda: self._turns.done(turn, stored.stored.seq))
        if earlier:
            await self._tell_again(turn, earlier, outbox)
        else:
            await outbox.put(Completed(stored.stored, stored.answer))

    async def _answer(self, turn: Turn, question: Question, outbox: Outbox[AnswerEvent], began: float) -> StoredAnswer:
        assistant = await self._assistants.get(turn.tenant_id, question.assistant_id)
        prepared = await self._prepare(turn, question, assistant)
        try:
            draft = self._draft(assistant, question, prepared)
            await outbox.put(Accepted(turn.conversation_id, prepared.question.message_id, turn.request_id))
            for number, passage in enumerate(draft.prompt.passages, start=1):
                await outbox.put(Citation(number, passage))
            await self._generate(draft, question.on_disconnect, outbox)
            return await self._store(turn, assistant, draft, prepared, began)
        except BaseException as error:
            await self._give_up(turn, question, prepared.hold, error)
            raise

    async def _prepare(self, turn: Turn, question: Question, assistant: Assistant) -> _Prepared:
        """Everything that needs no other's result, at once. None is cancelled when one fails: each ends as it began."""
        hold, asked, found = await asyncio.gather(
            self._budget.hold(turn, self._wanted(turn, assistant, question)),
            self._conversations.add_question(turn, question),
            self._retrieve(turn, question, assistant),
            return_exceptions=True,
        )
        if isinstance(hold, Hold) and isinstance(asked, Stored) and isinstance(found, tuple):
            earlier, result = found
            history = tuple(each.utterance for each in earlier if each.seq < asked.seq)
            return _Prepared(hold, asked, history, result)
        error = next(each for each in (asked, hold, found) if isinstance(each, BaseException))
        await self._give_up(
            turn, question, hold if isinstance(hold, Hold) else None, error, stored=isinstance(asked, Stored)
        )
        raise error

    async def _retrieve(
        self, turn: Turn, question: Question, assistant: Assistant
    ) -> tuple[list[Earlier], SearchResult]:
        earlier: list[Earlier] = []
        if not turn.is_new_conversation:
            earlier = await self._conversations.before_question(turn, self._settings.history_messages)
        query = search_query(question.text, [each.utterance for each in earlier])
        found = await self._index.search(
            turn.tenant_id,
            query,
            top_k=assistant.top_k or DEFAULT_TOP_K,
            mode=SearchMode.HYBRID,
            filter=Filter(document_ids=assistant.document_ids),
        )
        return earlier, found

    def _draft(self, assistant: Assistant, question: Question, prepared: _Prepared) -> Draft:
        prompt = build_prompt(
            assistant.instructions, question.text, prepared.history, prepared.found, self._settings.budget
        )
        longest = assistant.longest_answer(question.max_output_tokens)
        affordable = prepared.hold.granted_tokens - prompt.tokens
        sampling = Sampling(self._model(assistant), assistant.temperature, min(longest, affordable))
        return Draft(prompt, sampling, ends_with_quota=affordable < longest)

    async def _generate(self, draft: Draft, on_disconnect: OnDisconnect, outbox: Outbox[AnswerEvent]) -> None:
        pieces = self._providers(draft.sampling.model).answer(draft.prompt, draft.sampling)
        async with aclosing(pieces):
            await generate(draft, pieces, on_disconnect, outbox, self._settings.timeout_seconds)

    async def _store(
        self, turn: Turn, assistant: Assistant, draft: Draft, prepared: _Prepared, began: float
    ) -> StoredAnswer:
        """Stores the answer; what another attempt of this turn stored first is what counts."""
        answer = draft.finished(began, self._settings.prices)
        references = cited(answer.text, draft.prompt.passages)
        rag = bool(draft.prompt.passages)
        paid_by = prepared.hold.reservation_id
        try:
            stored = await patiently(
                lambda: self._conversations.add_answer(
                    turn, assistant.assistant_id, answer, paid_by, references, rag=rag
                )
            )
        except ServiceError as error:
            if error.reason != RequestIdReused.reason:
                raise
            first = await self._conversations.answer_after(turn, prepared.question.seq)
            if first is None:
                raise
            await _best_effort(self._budget.release(paid_by))
            return first
        return StoredAnswer(stored, answer, paid_by, tuple(references))

    async def _stored_before(self, turn: Turn, question: Question) -> StoredAnswer | None:
        """What an abandoned attempt had stored before its process died."""
        if turn.attempt == 1:
            return None
        asked = await self._conversations.add_question(turn, question)
        return await self._conversations.answer_after(turn, asked.seq)

    async def _tell_again(self, turn: Turn, stored: StoredAnswer, outbox: Outbox[AnswerEvent]) -> None:
        await outbox.put(Accepted(turn.conversation_id, question_id(turn), turn.request_id))
        for number, passage in stored.references:
            await outbox.put(Citation(number, passage))
        if stored.answer.text:
            await outbox.put(Delta(stored.answer.text))
        await outbox.put(Completed(stored.stored, stored.answer))

    async def _give_up(
        self, turn: Turn, question: Question, hold: Hold | None, error: BaseException, *, stored: bool = True
    ) -> None:
        """Gives the tokens back and leaves word in the conversation. Both are best effort: the lease ends anyway."""
        if hold is not None:
            await _best_effort(self._budget.release(hold.reservation_id))
        if stored:
            await _best_effort(self._conversations.add_failure(turn, question.assistant_id, _told(error)))

    def _wanted(self, turn: Turn, assistant: Assistant, question: Question) -> Wanted:
        budget = replace(self._settings.budget, history=0) if turn.is_new_conversation else self._settings.budget
        prompt = most_prompt_tokens(assistant.instructions, question.text, budget)
        longest = assistant.longest_answer(question.max_output_tokens)
        return Wanted(
            tokens=prompt + longest,
            minimum_tokens=prompt + min(longest, self._settings.least_answer_tokens),
            model=self._model(assistant),
            assistant_id=assistant.assistant_id,
        )

    def _model(self, assistant: Assistant) -> str:
        return assistant.model or self._settings.default_model


def _told(error: BaseException) -> ServiceError:
    """The error as the conversation's reader sees it."""
    if isinstance(error, asyncio.CancelledError):
        return Unavailable("the service is stopping", dependency="document_rag")
    return error if isinstance(error, ServiceError) else Internal()


async def _best_effort(work: Coroutine[Any, Any, None]) -> None:
    with suppress(ServiceError):
        await work
