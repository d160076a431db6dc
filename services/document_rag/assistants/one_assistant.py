"""The answer of one assistant: its history and passages, its model, its references."""

import asyncio
from dataclasses import dataclass

from services.document_rag.assistants.assistant_store import AssistantStore
from services.document_rag.assistants.conversations import Earlier
from services.document_rag.assistants.events import Accepted, AnswerEvent, Citation
from services.document_rag.assistants.model import Assistant, Question, cited
from services.document_rag.assistants.outbox import Outbox
from services.document_rag.assistants.outcome import Outcome, StoredAnswer
from services.document_rag.assistants.prompt import (
    Brief,
    both_ends,
    build_prompt,
    most_prompt_tokens,
    search_query,
    stands_alone,
)
from services.document_rag.assistants.token_budget import Wanted
from services.document_rag.assistants.turn_work import TurnWork
from services.document_rag.assistants.turns import Turn
from services.document_rag.assistants.verifier import verify
from services.document_rag.model import SearchResult


class OneAssistant:
    """Answers questions as the assistants that they name."""

    def __init__(self, assistants: AssistantStore, work: TurnWork) -> None:
        self._assistants = assistants
        self._work = work

    async def ready(self, tenant_id: str, question: Question) -> "AssistantAnswering":
        """The assistant that the question names; NotFound if there is none."""
        assistant = await self._assistants.get(tenant_id, question.assistant_id)
        return AssistantAnswering(self._work, assistant, question)


@dataclass(frozen=True, slots=True)
class AssistantAnswering:
    """An assistant about to answer a question."""

    work: TurnWork
    assistant: Assistant
    question: Question

    async def answer(self, turn: Turn, outbox: Outbox[AnswerEvent], began: float) -> StoredAnswer:
        """Tells Accepted, Citation* and Delta*, and stores the answer."""
        work, assistant, question = self.work, self.assistant, self.question
        budget, brief = work.prompt_budget(turn, assistant), Brief(assistant.instructions)
        longest = assistant.longest_answer(question.max_output_tokens)
        prompt_tokens = most_prompt_tokens(brief, question.text, budget)
        wanted = Wanted(
            tokens=prompt_tokens + longest,
            minimum_tokens=prompt_tokens + min(longest, work.settings.least_answer_tokens),
            model=work.model(assistant),
            assistant_id=assistant.assistant_id,
        )
        prepared = await work.prepared(turn, question, wanted, self._read(turn))
        async with work.given_up_on_failure(turn, question, prepared.hold):
            earlier, found = prepared.read
            history = [each.utterance for each in earlier if each.seq < prepared.question.seq]
            prompt = build_prompt(brief, question.text, history, found, budget)
            await outbox.put(Accepted(turn.conversation_id, prepared.question.message_id, turn.request_id))
            for number, passage in enumerate(prompt.passages, start=1):
                await outbox.put(Citation(number, passage))
            draft = work.draft(assistant, prompt, longest, prepared.hold.granted_tokens)
            await work.write(draft, question.on_disconnect, outbox)
            answer = await work.finished(draft, prepared.hold, began)
            outcome = Outcome(
                answer=answer,
                assistant_id=assistant.assistant_id,
                reservation_id=prepared.hold.reservation_id,
                references=tuple(cited(answer.text, prompt.passages)),
                rag=bool(prompt.passages),
                verification=verify(answer.text, prompt.passages) if assistant.verify_answers else (),
            )
            return await work.store(turn, question, outcome, prepared.question)

    async def _read(self, turn: Turn) -> tuple[list[Earlier], SearchResult]:
        """The history and the passages; the second waits for the first only where it leans on it."""
        work, assistant, question = self.work, self.assistant, self.question
        if turn.is_new_conversation or not stands_alone(question.text):
            earlier = await work.earlier(turn, question)
            query = search_query(question.text, [each.utterance for each in earlier])
            return earlier, await work.search(turn, assistant, query)
        query = both_ends(question.text)
        return await asyncio.gather(work.earlier(turn, question), work.search(turn, assistant, query))
