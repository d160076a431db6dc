"""What a team's turn may come to: the steps that are possible, the tokens they need, and how what is granted is shared.

Pure. Every step has its part of the worst case from the start, so no member can use up what the next one needs.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from services.document_rag.assistants.model import EXTRACTIVE, Assistant, Budget, Question
from services.document_rag.assistants.prompt import Brief, Role, finding_cost, most_prompt_tokens
from services.document_rag.assistants.routing import Candidate, Choice, choose
from services.document_rag.assistants.steps import StepKind, StepRole
from services.document_rag.assistants.team_model import DEFAULT_ROUTE_THRESHOLD, Strategy, Team
from services.document_rag.tokens import count_tokens

TASK_TOKENS = 120
_DECISION_TOKENS = 300  # a name, a question back, or a line for each member
_ROOM_FOR_NEW_NUMBERS = 1.25  # citations may become longer when the numbers of a turn replace a member's own
_ROLES = {StepKind.ROUTE: Role.ROUTE, StepKind.PLAN: Role.PLAN, StepKind.COMPOSE: Role.COMPOSE}


@dataclass(frozen=True, slots=True)
class Slot:
    """A step that a turn may take: whose it is, what it is told, how much its prompt and its answer may take."""

    assistant: Assistant
    kind: StepKind
    brief: Brief
    budget: Budget
    model: str
    prompt_tokens: int
    longest: int
    shortest: int

    @property
    def role(self) -> StepRole:
        """Whose work it is."""
        return StepRole.MEMBER if self.kind is StepKind.ANSWER else StepRole.LEADER

    @property
    def tokens(self) -> int:
        """Its worst case."""
        return self.prompt_tokens + self.longest

    @property
    def minimum_tokens(self) -> int:
        """What it needs to be worth beginning."""
        return self.prompt_tokens + self.shortest


@dataclass(frozen=True, slots=True)
class Course:
    """The steps of a turn: all of `slots`, and one of `either` where it does not show yet which.

    `choice`: the member whose question it is, where that shows without asking anybody.
    """

    slots: tuple[Slot, ...]
    either: tuple[Slot, ...] = ()
    choice: Choice | None = None
    phases: int = 1

    @property
    def tokens(self) -> int:
        """The worst case of the whole turn; never 0, which nothing could hold."""
        return max(1, sum(each.tokens for each in self.slots) + max((each.tokens for each in self.either), default=0))

    @property
    def minimum_tokens(self) -> int:
        """What the turn needs to be worth beginning."""
        alternatives = max((each.minimum_tokens for each in self.either), default=0)
        return max(1, sum(each.minimum_tokens for each in self.slots) + alternatives)

    def share(self, slot: Slot, granted: int) -> int:
        """The part of what was granted that is the step's: what it needs, and as much beyond as every other gets."""
        span = self.tokens - self.minimum_tokens
        beyond = slot.tokens - slot.minimum_tokens
        return slot.minimum_tokens + (beyond * max(0, granted - self.minimum_tokens) // span if span else 0)


@dataclass(frozen=True, slots=True)
class Terms:
    """What a course is reckoned with: the question, and what an assistant's prompt and answer may take."""

    question: Question
    budget_of: Callable[[Assistant], Budget]
    model_of: Callable[[Assistant], str]
    least_answer_tokens: int


def course_of(team: Team, leader: Assistant, candidates: Sequence[Candidate], terms: Terms) -> Course:
    """The steps that the team's strategy may take for the question."""
    members = [each.assistant for each in candidates]
    decides = terms.model_of(leader) != EXTRACTIVE  # the extractive provider quotes; it cannot decide or plan
    match team.fields.strategy:
        case Strategy.ROUTE:
            return _route(team, leader, candidates, terms, decides=decides)
        case Strategy.COORDINATE:
            plan = (_decision(StepKind.PLAN, leader, members, terms),) if decides else ()
            answers = tuple(_answer(each, terms) for each in members)
            return Course((*plan, *answers, _composition(leader, answers, terms)), phases=2 + len(plan))
        case Strategy.SEQUENCE:
            slots: list[Slot] = []
            for each in members:
                slots.append(_answer(each, terms, after=slots))
            return Course(tuple(slots), phases=len(slots))


def _route(team: Team, leader: Assistant, candidates: Sequence[Candidate], terms: Terms, *, decides: bool) -> Course:
    threshold = team.fields.route_threshold
    choice = choose(terms.question.text, candidates, DEFAULT_ROUTE_THRESHOLD if threshold is None else threshold)
    if choice is None and len(candidates) == 1:
        choice = Choice(candidates[0].assistant, "only member", terms.question.text)
    if choice is not None:
        return Course((_answer(choice.assistant, terms),), choice=choice)
    if not decides:
        return Course(())
    members = [each.assistant for each in candidates]
    decision = _decision(StepKind.ROUTE, leader, members, terms)
    return Course((decision,), either=tuple(_answer(each, terms) for each in members), phases=2)


def _answer(member: Assistant, terms: Terms, after: Sequence[Slot] = ()) -> Slot:
    budget = terms.budget_of(member)
    if after:
        budget = replace(budget, passages=2 * budget.passages, findings=sum(_finding_costs(after)))
    longest = member.longest_answer(terms.question.max_output_tokens)
    return _slot(member, StepKind.ANSWER, Brief(member.instructions), budget, longest, terms, task=TASK_TOKENS)


def _composition(leader: Assistant, answers: Sequence[Slot], terms: Terms) -> Slot:
    budget = terms.budget_of(leader)
    budget = replace(budget, passages=2 * budget.passages, findings=sum(_finding_costs(answers)))
    longest = leader.longest_answer(terms.question.max_output_tokens)
    return _slot(leader, StepKind.COMPOSE, Brief(leader.instructions), budget, longest, terms)


def _decision(kind: StepKind, leader: Assistant, members: Sequence[Assistant], terms: Terms) -> Slot:
    listed = "\n".join(f"- {each.display_name}: {each.description or 'no description'}" for each in members)
    budget = replace(terms.budget_of(leader), passages=0)
    return _slot(leader, kind, Brief(leader.instructions, members=listed), budget, _DECISION_TOKENS, terms)


def _slot(
    assistant: Assistant, kind: StepKind, brief: Brief, budget: Budget, longest: int, terms: Terms, task: int = 0
) -> Slot:
    brief = replace(brief, role=_ROLES.get(kind, Role.ANSWER))
    return Slot(
        assistant=assistant,
        kind=kind,
        brief=brief,
        budget=budget,
        model=terms.model_of(assistant),
        prompt_tokens=most_prompt_tokens(brief, terms.question.text, budget) + task,
        longest=longest,
        shortest=min(longest, terms.least_answer_tokens),
    )


def _finding_costs(slots: Sequence[Slot]) -> Iterator[int]:
    for each in slots:
        yield finding_cost(each.assistant.display_name, round(each.longest * _ROOM_FOR_NEW_NUMBERS))


def within_tokens(text: str, tokens: int) -> str:
    """The beginning of the text that has at most so many tokens."""
    kept = text[: 6 * tokens]
    while count_tokens(kept) > tokens:
        kept = kept[: len(kept) * 3 // 4]
    return kept
