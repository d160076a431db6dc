"""The answer of a team: who works on the question, in which order, and what is made of what they find."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from services.document_rag.assistants.assistant_store import AssistantStore
from services.document_rag.assistants.events import Accepted, AnswerEvent
from services.document_rag.assistants.model import EXTRACTIVE, Answer, Assistant, FinishReason, Question, cited
from services.document_rag.assistants.outbox import Outbox
from services.document_rag.assistants.outcome import Outcome, StoredAnswer
from services.document_rag.assistants.prompt import Finding
from services.document_rag.assistants.routing import Candidate, mentioned
from services.document_rag.assistants.steps import StepKind
from services.document_rag.assistants.team_course import Course, Slot, Terms, course_of
from services.document_rag.assistants.team_model import OnMemberFailure, Strategy, Team, TeamIncomplete
from services.document_rag.assistants.team_run import Job, ReaderLeft, TeamRun, Written
from services.document_rag.assistants.team_store import TeamStore
from services.document_rag.assistants.token_budget import Wanted
from services.document_rag.assistants.turn_work import TurnWork
from services.document_rag.assistants.turns import Turn
from services.document_rag.assistants.verifier import verify
from services.document_rag.assistants.wording import (
    NOT_IN_DOCUMENTS,
    language_of_question,
    says_not_in_documents,
    who_shall_answer,
)
from services.document_rag.model import Passage
from shared.errors import ServiceError

_BULLETS = " \t-*•.)0123456789"


class TeamAnswerer:
    """Answers questions as the teams that they name."""

    def __init__(self, teams: TeamStore, assistants: AssistantStore, work: TurnWork) -> None:
        self._teams = teams
        self._assistants = assistants
        self._work = work

    async def ready(self, tenant_id: str, question: Question) -> "TeamAnswering":
        """The team that the question names, and its people; NotFound if there is none, TeamIncomplete without them."""
        team = await self._teams.get(tenant_id, question.team_id)
        leader, candidates = await self._people(tenant_id, team)
        return TeamAnswering(self._work, team, leader, candidates, question)

    async def _people(self, tenant_id: str, team: Team) -> tuple[Assistant, list[Candidate]]:
        fields = team.fields
        known = await self._assistants.get_all(tenant_id, [fields.leader_id, *fields.member_ids])
        leader = known.get(fields.leader_id)
        members = [known[each] for each in fields.member_ids if each in known]
        if leader is None:
            raise TeamIncomplete("the team has no leader any more")
        if not members:
            raise TeamIncomplete("the team has no members any more")
        collections = {each for member in members for each in member.collection_ids}
        names = await self._teams.collection_texts(tenant_id, sorted(collections))
        return leader, [
            Candidate(member, " ".join(names.get(each, "") for each in member.collection_ids)) for member in members
        ]


@dataclass(frozen=True, slots=True)
class TeamAnswering:
    """A team about to answer a question."""

    work: TurnWork
    team: Team
    leader: Assistant
    candidates: Sequence[Candidate]
    question: Question

    async def answer(self, turn: Turn, outbox: Outbox[AnswerEvent], began: float) -> StoredAnswer:
        """Tells Accepted, Step*, Citation* and Delta*, and stores the answer."""
        work, team, leader, candidates, question = self.work, self.team, self.leader, self.candidates, self.question
        terms = Terms(
            question,
            lambda assistant: work.prompt_budget(turn, assistant),
            work.model,
            work.settings.least_answer_tokens,
        )
        course = course_of(team, leader, candidates, terms)
        wanted = Wanted(course.tokens, course.minimum_tokens, *_label(course, leader, terms), phases=course.phases)
        prepared = await work.prepared(turn, question, wanted, work.earlier(turn, question))
        async with work.given_up_on_failure(turn, question, prepared.hold):
            history = [each.utterance for each in prepared.read if each.seq < prepared.question.seq]
            await outbox.put(Accepted(turn.conversation_id, prepared.question.message_id, turn.request_id))
            run = TeamRun(work, turn, question, outbox, prepared.hold, course, history, began)
            members = [each.assistant for each in candidates]
            outcome = await _Performance(team, leader, members, run).outcome()
            return await work.store(turn, question, outcome, prepared.question)


class _Performance:
    """One strategy carried out."""

    def __init__(self, team: Team, leader: Assistant, members: Sequence[Assistant], run: TeamRun) -> None:
        self._team = team
        self._leader = leader
        self._members = members
        self._run = run

    async def outcome(self) -> Outcome:
        """What came of it; of a reader who left, what the steps had used by then."""
        try:
            match self._team.fields.strategy:
                case Strategy.ROUTE:
                    return await self._route()
                case Strategy.COORDINATE:
                    return await self._coordinate()
                case Strategy.SEQUENCE:
                    return await self._sequence()
        except ReaderLeft:
            answer = self._run.whole("", FinishReason.INTERRUPTED, EXTRACTIVE, None)
            return self._kept(answer, self._leader, ())

    async def _route(self) -> Outcome:
        run, choice = self._run, self._run.course.choice
        if choice is not None:
            await run.note(StepKind.ROUTE, f"@{choice.assistant.display_name} ({choice.reason})")
            return await self._answered_by(run.course.slots[0], choice.question)
        decision = await self._decision()
        choice = mentioned(decision, self._members)
        if choice is None:
            names = [each.display_name for each in self._members]
            back = decision or who_shall_answer(language_of_question(run.asked.text, run.history), names)
            return self._kept(await run.say(back), self._leader, ())
        slot = next(each for each in run.course.either if each.assistant is choice.assistant)
        return await self._answered_by(slot, run.asked.text)

    async def _decision(self) -> str:
        """What the leader says of whose the question is; nothing where no leader can say."""
        run = self._run
        if not run.course.slots:
            await run.note(StepKind.ROUTE, "asks back")
            return ""
        return await self._led(run.course.slots[0])

    async def _led(self, slot: Slot) -> str:
        """What the leader's model says; nothing when it fails and the team can go on without it."""
        try:
            return (await self._run.take(slot, Job(self._run.asked.text))).answer.text.strip()
        except ServiceError:
            if self._one_failure_is_enough:
                raise
            return ""

    async def _answered_by(self, slot: Slot, question: str) -> Outcome:
        written = await self._run.take(slot, Job(question, aloud=True))
        return self._told(written, slot.assistant)

    async def _coordinate(self) -> Outcome:
        run = self._run
        *slots, compose = run.course.slots
        plan = await self._led(slots.pop(0)) if slots[0].kind is StepKind.PLAN else ""
        tasks = self._tasks(plan)
        working = [each for each in slots if each.assistant.assistant_id in tasks]
        jobs = [Job(run.asked.text, tasks[each.assistant.assistant_id]) for each in working]
        results = await asyncio.gather(
            *(run.take(slot, job) for slot, job in zip(working, jobs, strict=True)), return_exceptions=True
        )
        findings = self._findings(working, results)
        if not findings:
            language = language_of_question(run.asked.text, run.history)
            return self._kept(await run.say(NOT_IN_DOCUMENTS[language]), self._leader, ())
        return await self._concluded(compose, findings, "\n\n".join(each.text for each in findings))

    async def _sequence(self) -> Outcome:
        run = self._run
        *first, last = run.course.slots
        findings: tuple[Finding, ...] = ()
        for slot in first:
            result = await asyncio.gather(
                run.take(slot, Job(run.asked.text, findings=findings)), return_exceptions=True
            )
            findings = (*findings, *self._findings([slot], result, among_others=True))
        return await self._concluded(last, findings, findings[-1].text if findings else "")

    async def _concluded(self, slot: Slot, findings: tuple[Finding, ...], found: str) -> Outcome:
        """The answer of the last step, or what was found before it when it fails without having begun."""
        run = self._run
        try:
            written = await run.take(slot, Job(run.asked.text, findings=findings, aloud=True))
        except ServiceError:
            if not found or self._one_failure_is_enough or run.has_spoken:
                raise
            return self._kept(await run.say_cited(found), self._leader, run.sources.passages)
        return self._told(written, slot.assistant)

    @property
    def _one_failure_is_enough(self) -> bool:
        return self._team.fields.on_member_failure is OnMemberFailure.FAIL

    def _tasks(self, plan: str) -> dict[str, str]:
        """What each member is to look at, by its id; everybody at the question when the plan names nobody."""
        tasks: dict[str, str] = {}
        for line in plan.splitlines():
            name, _, task = line.lstrip(_BULLETS).replace("：", ":").partition(":")
            named = mentioned(name, self._members)
            if named is not None and task.strip():
                tasks.setdefault(named.assistant.assistant_id, task.strip())
        return tasks or {each.assistant_id: "" for each in self._members}

    def _findings(
        self, slots: Sequence[Slot], results: Sequence[Written | BaseException], *, among_others: bool = False
    ) -> tuple[Finding, ...]:
        """What was found. Raises a failure where one is enough to fail the turn, or where nobody found anything.

        What somebody could not look for is not said to be missing.
        """
        found = [
            (slot.assistant.display_name, each)
            for slot, each in zip(slots, results, strict=True)
            if isinstance(each, Written) and each.answer.text.strip() and not each.answer.not_in_documents
        ]
        for failure in (each for each in results if isinstance(each, BaseException)):
            stops = self._one_failure_is_enough or not (found or among_others)
            if stops or not isinstance(failure, ServiceError):
                raise failure
        return tuple(
            Finding(name, self._run.sources.taken_over(each.answer.text, each.passages)) for name, each in found
        )

    def _told(self, written: Written, author: Assistant) -> Outcome:
        answer = written.answer
        whole = self._run.whole(answer.text, answer.finish_reason, answer.model, written.first_piece_at)
        return self._kept(whole, author, written.passages)

    def _kept(self, answer: Answer, author: Assistant, passages: Sequence[Passage]) -> Outcome:
        references = tuple(cited(answer.text, passages))
        return Outcome(
            answer=replace(answer, not_in_documents=says_not_in_documents(answer.text) and not references),
            assistant_id=author.assistant_id,
            reservation_id=self._run.hold.reservation_id,
            references=references,
            rag=bool(passages),
            verification=verify(answer.text, passages) if author.verify_answers and passages else (),
            steps=tuple(self._run.steps),
        )


def _label(course: Course, leader: Assistant, terms: Terms) -> tuple[str, str]:
    """The model and the assistant under which the whole is held: those of the last step, which costs most."""
    last = course.slots[-1] if course.slots else None
    return (last.model, last.assistant.assistant_id) if last else (terms.model_of(leader), leader.assistant_id)
