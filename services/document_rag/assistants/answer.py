"""One turn, told in order: lease it, let an assistant or a team answer and store what it says, charge it, tell the end.

The work runs in a task of its own, so that a reader who leaves decides nothing but what its policy says. The answer is
stored before it is charged: an answer nobody can read is never paid for, and a stored one is charged exactly once,
also by another process after this one was killed.
"""

import asyncio
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from services.document_rag.assistants.conversations import Conversations, question_id
from services.document_rag.assistants.events import Accepted, AnswerEvent, Citation, Completed, Verification
from services.document_rag.assistants.model import Question
from services.document_rag.assistants.outbox import Outbox
from services.document_rag.assistants.outcome import StoredAnswer
from services.document_rag.assistants.patience import patiently
from services.document_rag.assistants.providers import Delta
from services.document_rag.assistants.token_budget import TokenBudget
from services.document_rag.assistants.turns import Turn, TurnStore
from shared.caller import current_caller
from shared.errors import DeadlineExceeded, ServiceError
from shared.telemetry import get_logger

_log = get_logger()


class Answering(Protocol):
    """Who is to answer a question, found and ready."""

    async def answer(self, turn: Turn, outbox: Outbox[AnswerEvent], began: float) -> StoredAnswer:
        """Tells everything from Accepted to the last Delta, and stores the answer; `began` on the monotonic clock.

        Whatever it raises, the tokens held for it were given back and the conversation holds word of the failure.
        """
        ...


class Answerer(Protocol):
    """Who answers questions: assistants, or teams."""

    async def ready(self, tenant_id: str, question: Question) -> Answering:
        """Finds whom the question is for; NotFound when there is none. Needs no lease: it only reads."""
        ...


@dataclass(slots=True)
class Telling:
    """A turn under way, as its reader sees it."""

    outbox: Outbox[AnswerEvent]
    task: "asyncio.Task[None]" = field(repr=False)

    async def events(self) -> AsyncGenerator[AnswerEvent | Delta, None]:
        """The events of a turn in their order; raises what the turn failed with. To close it is to leave."""
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
        turns: TurnStore,
        conversations: Conversations,
        budget: TokenBudget,
        assistant: Answerer,
        team: Answerer,
        drain_seconds: float,
    ) -> None:
        self._turns = turns
        self._conversations = conversations
        self._budget = budget
        self._assistant = assistant
        self._team = team
        self._drain_seconds = drain_seconds
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
            _, late = await asyncio.wait(late, timeout=self._drain_seconds)
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
        finding = asyncio.create_task(self._answerer(question).ready(caller.tenant_id, question))
        # Whom the question is for does not matter to a turn that is only told again, nor that nobody is.
        finding.add_done_callback(lambda found: found.cancelled() or found.exception())
        turn = await self._turns.begin(caller.tenant_id, caller.user_id, question)
        if turn.answer_seq is not None:
            await self._tell_again(turn, await self._conversations.answer_at(turn, turn.answer_seq), outbox)
            return
        async with self._turns.carried_out(turn):
            earlier = await self._stored_before(turn, question)
            stored = earlier or await (await finding).answer(turn, outbox, began)
            # A stored answer is only ever charged: if that fails now, a retry of the turn charges it.
            for paid in stored.outcome.payments():
                await patiently(partial(self._budget.charge, turn, paid))
            await patiently(lambda: self._turns.done(turn, stored.stored.seq))
        if earlier:
            await self._tell_again(turn, earlier, outbox)
        else:
            await self._tell_end(stored, outbox)

    def _answerer(self, question: Question) -> Answerer:
        return self._team if question.team_id else self._assistant

    async def _stored_before(self, turn: Turn, question: Question) -> StoredAnswer | None:
        """What an abandoned attempt had stored before its process died."""
        if turn.attempt == 1:
            return None
        asked = await self._conversations.add_question(turn, question)
        return await self._conversations.answer_after(turn, asked.seq)

    async def _tell_again(self, turn: Turn, stored: StoredAnswer, outbox: Outbox[AnswerEvent]) -> None:
        outcome = stored.outcome
        await outbox.put(Accepted(turn.conversation_id, question_id(turn), turn.request_id))
        for step in outcome.steps:
            await outbox.put(step)
        for number, passage in outcome.references:
            await outbox.put(Citation(number, passage))
        if outcome.answer.text:
            await outbox.put(Delta(outcome.answer.text))
        await self._tell_end(stored, outbox)

    async def _tell_end(self, stored: StoredAnswer, outbox: Outbox[AnswerEvent]) -> None:
        if stored.outcome.verification:
            await outbox.put(Verification(stored.outcome.verification))
        await outbox.put(Completed(stored.stored, stored.outcome.answer))
