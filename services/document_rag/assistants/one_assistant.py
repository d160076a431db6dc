"""The answer of one assistant: its history and passages, its model, its references."""

import asyncio

from services.document_rag.assistants.assistant_store import AssistantStore
from services.document_rag.assistants.conversations import Earlier
from services.document_rag.assistants.events import Accepted, AnswerEvent, Citation
from services.document_rag.assistants.model import Assistant, Question, cited
from services.document_rag.assistants.outbox import Outbox
from services.document_rag.assistants.outcome import Outcome, StoredAnswer
from services.document_rag.assistants.prompt import Brief, build_prompt, most_prompt_tokens, search_query, stands_alone
from services.document_rag.assistants.token_budget import Wanted
from services.document_rag.assistants.turn_work import TurnWork
from services.document_rag.assistants.turns import Turn
from services.document_rag.assistants.verifier import verify
from services.document_rag.model import SearchResult


class OneAssistant:
    """Answers a question as the assistant that it names."""

    def __init__(self, assistants: AssistantStore, work: TurnWork) -> None:
        self._assistants = assistants
        self._work = work

    async def answer(self, turn: Turn, question: Question, outbox: Outbox[AnswerEvent], began: float) -> StoredAnswer:
        """Tells Accepted, Citation* and Delta*, and stores the answer; `began` on the monotonic clock."""
        work = self._work
        assistant = await self._assistants.get(turn.tenant_id, question.assistant_id)
        budget, brief = work.prompt_budget(turn, assistant), Brief(assistant.instructions)
        longest = assistant.longest_answer(question.max_output_tokens)
        prompt_tokens = most_prompt_tokens(brief, question.text, budget)
        wanted = Wanted(
            tokens=prompt_tokens + longest,
            minimum_tokens=prompt_tokens + min(longest, work.settings.least_answer_tokens),
            model=work.model(assistant),
            assistant_id=assistant.assistant_id,
        )
        prepared = await work.prepared(turn, question, wanted, self._read(turn, question, assistant))
        async with work.given_up_on_failure(turn, question, prepared.hold):
            earlier, found = prepared.read
            history = [each.utterance for each in earlier if each.seq < prepared.question.seq]
            prompt = build_prompt(brief, question.text, history, found, budget)
            await outbox.put(Accepted(turn.conversation_id, prepared.question.message_id, turn.request_id))
            for number, passage in enumerate(prompt.passages, start=1):
                await outbox.put(Citation(number, passage))
            draft = work.draft(assistant, prompt, longest, prepared.hold.granted_tokens)
            await work.write(draft, question.on_disconnect, outbox)
            answer = work.finished(draft, began)
            outcome = Outcome(
                answer=answer,
                assistant_id=assistant.assistant_id,
                reservation_id=prepared.hold.reservation_id,
                references=tuple(cited(answer.text, prompt.passages)),
                rag=bool(prompt.passages),
                verification=verify(answer.text, prompt.passages) if assistant.verify_answers else (),
            )
            return await work.store(turn, question, outcome, prepared.question)

    async def _read(self, turn: Turn, question: Question, assistant: Assistant) -> tuple[list[Earlier], SearchResult]:
        """The history and the passages; the second waits for the first only where it leans on it."""
        if turn.is_new_conversation or not stands_alone(question.text):
            earlier = await self._work.earlier(turn, question)
            query = search_query(question.text, [each.utterance for each in earlier])
            return earlier, await self._work.search(turn, assistant, query)
        return await asyncio.gather(
            self._work.earlier(turn, question), self._work.search(turn, assistant, question.text)
        )
