"""The steps of one turn of a team while they are taken: told, paid for from the team's one budget, and remembered."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from services.document_rag.assistants.events import AnswerEvent, Citation
from services.document_rag.assistants.generation import Backstage, Draft
from services.document_rag.assistants.model import (
    EXTRACTIVE,
    Answer,
    FinishReason,
    OnDisconnect,
    Question,
    TokenCount,
    UsageSource,
    Utterance,
)
from services.document_rag.assistants.outbox import Outbox
from services.document_rag.assistants.prompt import Finding, build_prompt, search_query
from services.document_rag.assistants.providers import Delta
from services.document_rag.assistants.sources import Sources, without_marks_above
from services.document_rag.assistants.steps import Step, StepKind, StepRole, StepState
from services.document_rag.assistants.team_course import TASK_TOKENS, Course, Slot, within_tokens
from services.document_rag.assistants.token_budget import Hold, Wanted
from services.document_rag.assistants.turn_work import TurnWork
from services.document_rag.assistants.turns import Turn
from services.document_rag.model import Passage, RetrievalMode, SearchResult
from shared.errors import ServiceError

_WEAKEST_FIRST = (UsageSource.ESTIMATED, UsageSource.PARTIAL, UsageSource.PROVIDER)


class ReaderLeft(Exception):
    """The reader left, and the policy is to stop."""


@dataclass(frozen=True, slots=True)
class Job:
    """What a step is given beside its slot. `aloud`: its text is the answer, told to the reader as it is written."""

    question: str
    task: str = ""
    findings: tuple[Finding, ...] = ()
    aloud: bool = False


@dataclass(frozen=True, slots=True)
class Written:
    """What a step wrote, and the passages that it cites by their numbers from 1."""

    answer: Answer
    passages: tuple[Passage, ...]
    first_piece_at: float | None


@dataclass(slots=True)
class TeamRun:
    """One turn of a team under way.

    `has_spoken`: a part of the answer was told, so nobody else can give it. `cited`: how many passages were told.
    """

    work: TurnWork
    turn: Turn
    asked: Question
    outbox: Outbox[AnswerEvent]
    hold: Hold
    course: Course
    history: list[Utterance]
    began: float
    sources: Sources = field(default_factory=Sources)
    steps: list[Step] = field(default_factory=list)
    has_spoken: bool = False
    cited: int = 0

    @property
    def reader_left(self) -> bool:
        """Whether the turn is to end because nobody reads it."""
        return self.asked.on_disconnect is OnDisconnect.STOP and self.outbox.reader_left.is_set()

    async def note(self, kind: StepKind, text: str) -> None:
        """Tells and remembers a decision that took no model."""
        step = Step(self._next_number(), StepRole.LEADER, kind, StepState.FINISHED, text=text)
        self.steps.append(step)
        await self.outbox.put(step)

    async def take(self, slot: Slot, job: Job) -> Written:
        """One step, from its part of the budget to its text. Raises what it failed with, when that has been told."""
        if self.reader_left:
            raise ReaderLeft
        step = self._begun(slot)
        await self.outbox.put(replace(step, text=job.task or job.question))
        began = time.monotonic()
        try:
            written = await self._written(slot, job, step, began)
        except ServiceError as error:
            await self._end(replace(step, state=StepState.FAILED, error_reason=error.reason, reservation_id=""), began)
            raise
        answer = written.answer
        done = replace(
            self.steps[step.number - 1],
            state=StepState.FINISHED,
            text="" if job.aloud else without_marks_above(answer.text, 0),
            model=answer.model,
            tokens=answer.tokens,
            usage_source=answer.usage_source,
            cost_micros=answer.cost_micros,
        )
        await self._end(done, began)
        if answer.finish_reason is FinishReason.INTERRUPTED and not job.aloud:
            raise ReaderLeft
        return written

    async def say(self, text: str) -> Answer:
        """An answer in the service's own words; nothing is asked of a model."""
        first_piece_at = None
        if not self.reader_left:
            first_piece_at = time.monotonic()
            await self.outbox.put(Delta(text))
        reason = FinishReason.STOP if first_piece_at else FinishReason.INTERRUPTED
        return self.whole(text if first_piece_at else "", reason, self._last_model(), first_piece_at)

    async def say_cited(self, text: str) -> Answer:
        """An answer made of what the steps found, after the passages that it cites."""
        await self._cite(self.sources.passages)
        return await self.say(text)

    def whole(self, text: str, reason: FinishReason, model: str, first_piece_at: float | None) -> Answer:
        """The answer of the turn, with what all its steps used together."""
        now = time.monotonic()
        paid = [step for step in self.steps if step.reservation_id]
        sources = [source for source in _WEAKEST_FIRST if any(step.usage_source is source for step in paid)]
        return Answer(
            text=text,
            finish_reason=reason,
            tokens=TokenCount(
                input=sum(step.tokens.input for step in paid),
                cached_input=sum(step.tokens.cached_input for step in paid),
                output=sum(step.tokens.output for step in paid),
                reasoning=sum(step.tokens.reasoning for step in paid),
            ),
            usage_source=sources[0] if sources else UsageSource.PROVIDER,
            cost_micros=sum(step.cost_micros for step in paid),
            model=model,
            latency_ms=round((now - self.began) * 1000),
            time_to_first_token_ms=round(((first_piece_at or now) - self.began) * 1000),
        )

    async def _written(self, slot: Slot, job: Job, step: Step, began: float) -> Written:
        hold, found = await asyncio.gather(self._hold_part(slot, step), self._found(slot, job), return_exceptions=True)
        try:
            if isinstance(hold, BaseException):
                raise hold
            if isinstance(found, BaseException):
                raise found
            draft = self._draft(slot, job, found, hold)
            await self._write(draft, job)
            answer = await self.work.finished(draft, hold, began)
        except ServiceError:
            if isinstance(hold, Hold):
                with suppress(ServiceError):  # it ends with the whole
                    await self.work.budget.release(hold.reservation_id)
            raise
        return Written(answer, draft.prompt.passages, draft.first_piece_at)

    async def _hold_part(self, slot: Slot, step: Step) -> Hold:
        wanted = Wanted(
            tokens=self.course.share(slot, self.hold.granted_tokens),
            minimum_tokens=slot.minimum_tokens,
            model=slot.model,
            assistant_id=slot.assistant.assistant_id,
            phases=self.course.phases,
        )
        hold = await self.work.budget.hold_part(self.turn, self.hold, wanted, f"step-{step.number}")
        self.steps[step.number - 1] = replace(step, reservation_id=hold.reservation_id)
        return hold

    async def _found(self, slot: Slot, job: Job) -> SearchResult:
        """The passages of a step: a member searches, and sees what those before it cited; the leader sees only that."""
        if slot.kind is not StepKind.ANSWER:
            return SearchResult(tuple(self.sources.passages), RetrievalMode.NONE, {})
        query = job.task or search_query(job.question, self.history)
        found = await self.work.search(self.turn, slot.assistant, query)
        return replace(found, passages=self.sources.before(found.passages)) if job.findings else found

    def _draft(self, slot: Slot, job: Job, found: SearchResult, hold: Hold) -> Draft:
        brief = replace(slot.brief, task=within_tokens(job.task, TASK_TOKENS), findings=job.findings)
        prompt = build_prompt(brief, job.question, self.history, found, slot.budget)
        shown = len(prompt.passages)
        if job.findings and shown < len(self.sources.passages):
            findings = tuple(Finding(each.name, without_marks_above(each.text, shown)) for each in job.findings)
            prompt = build_prompt(replace(brief, findings=findings), job.question, self.history, found, slot.budget)
        return self.work.draft(slot.assistant, prompt, slot.longest, hold.granted_tokens)

    async def _write(self, draft: Draft, job: Job) -> None:
        if not job.aloud:
            await self.work.write(draft, self.asked.on_disconnect, Backstage(self.outbox.reader_left))
            return
        await self._cite(draft.prompt.passages)
        try:
            await self.work.write(draft, self.asked.on_disconnect, self.outbox)
        finally:
            self.has_spoken = bool(draft.text)

    async def _cite(self, passages: Sequence[Passage]) -> None:
        """Tells the passages not told before: those of the turn come first in every step, so their numbers agree."""
        for number, passage in enumerate(passages[self.cited :], start=self.cited + 1):
            await self.outbox.put(Citation(number, passage))
        self.cited = max(self.cited, len(passages))

    def _begun(self, slot: Slot) -> Step:
        step = Step(
            self._next_number(),
            slot.role,
            slot.kind,
            StepState.STARTED,
            assistant_id=slot.assistant.assistant_id,
            display_name=slot.assistant.display_name,
        )
        self.steps.append(step)
        return step

    async def _end(self, step: Step, began: float) -> None:
        ended = replace(step, latency_ms=round((time.monotonic() - began) * 1000))
        self.steps[step.number - 1] = ended
        await self.outbox.put(ended)

    def _next_number(self) -> int:
        return len(self.steps) + 1

    def _last_model(self) -> str:
        return next((step.model for step in reversed(self.steps) if step.model), EXTRACTIVE)
