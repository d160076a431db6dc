"""How a team's tokens are reckoned and shared out, before anything is asked."""

import pytest

from services.document_rag.assistants.model import EXTRACTIVE, Budget, OnDisconnect, Question
from services.document_rag.assistants.sources import Sources, without_marks_above
from services.document_rag.assistants.steps import StepKind
from services.document_rag.assistants.team_course import Course, Terms, course_of, within_tokens
from services.document_rag.assistants.team_model import Strategy, Team, TeamFields
from services.document_rag.tokens import count_tokens
from tests.document_rag.assistants.test_routing import HEALTH, NOW, TAXES, TEAM, WASTE, member
from tests.document_rag.passages import passage


def course(strategy: Strategy, question: str = "Quais são os horários?", *, leader_model: str = "m") -> Course:
    team = Team("t", TeamFields("x", "l", ("a", "b", "c"), strategy=strategy), NOW, NOW)
    terms = Terms(
        Question("", "", question, OnDisconnect.STOP, 0, "", "r"),
        lambda _: Budget(passages=1000, history=200),
        lambda assistant: leader_model if assistant.display_name == "Chefia" else "m",
        64,
    )
    return course_of(team, member("Chefia"), TEAM, terms)


@pytest.mark.parametrize("strategy", list(Strategy))
@pytest.mark.parametrize("part", [0.0, 0.37, 1.0])
def test_every_step_gets_what_it_needs_and_together_they_never_get_more_than_was_granted(
    strategy: Strategy, part: float
) -> None:
    reckoned = course(strategy)
    granted = reckoned.minimum_tokens + int(part * (reckoned.tokens - reckoned.minimum_tokens))
    possible = [(*reckoned.slots, each) for each in reckoned.either] or [reckoned.slots]
    for slots in possible:
        shares = [reckoned.share(each, granted) for each in slots]
        assert sum(shares) <= granted
        assert all(share >= slot.minimum_tokens for share, slot in zip(shares, slots, strict=True))
        assert part < 1 or shares == [each.tokens for each in slots]


@pytest.mark.parametrize(
    ("strategy", "leader_model", "kinds"),
    [
        (Strategy.ROUTE, "m", ["ROUTE"]),
        (Strategy.ROUTE, EXTRACTIVE, []),
        (Strategy.COORDINATE, "m", ["PLAN", "ANSWER", "ANSWER", "ANSWER", "COMPOSE"]),
        (Strategy.COORDINATE, EXTRACTIVE, ["ANSWER", "ANSWER", "ANSWER", "COMPOSE"]),
        (Strategy.SEQUENCE, EXTRACTIVE, ["ANSWER", "ANSWER", "ANSWER"]),
    ],
)
def test_a_leader_without_a_model_is_asked_for_nothing_that_takes_one(
    strategy: Strategy, leader_model: str, kinds: list[str]
) -> None:
    assert [each.kind.name for each in course(strategy, leader_model=leader_model).slots] == kinds


def test_a_question_that_shows_whose_it_is_holds_tokens_for_one_answer_only() -> None:
    one = course(Strategy.ROUTE, "Quando vence o IPTU?")
    assert [(each.kind, each.assistant) for each in one.slots] == [(StepKind.ANSWER, TAXES.assistant)]
    assert one.either == ()
    assert {each.assistant.display_name for each in course(Strategy.ROUTE).either} == {
        each.assistant.display_name for each in (TAXES, WASTE, HEALTH)
    }


def test_numbers_of_members_become_numbers_of_the_turn() -> None:
    first, second, third = (passage(f"Trecho {number}.") for number in range(3))
    sources = Sources()
    assert sources.taken_over("A [2]. B [1][2]. C [7].", [first, second]) == "A [1]. B [2][1]. C."
    assert sources.taken_over("D [1]. E [2].", [third, first]) == "D [3]. E [2]."
    assert sources.passages == [second, first, third]
    assert sources.before([third, passage("Novo.")])[:3] == (second, first, third)
    assert without_marks_above("A [1]. B [3]. C [2][3].", 2) == "A [1]. B. C [2]."


def test_a_task_is_cut_to_its_tokens() -> None:
    assert within_tokens("Veja o prazo.", 120) == "Veja o prazo."
    assert 0 < count_tokens(within_tokens("palavra 🦜 " * 500, 120)) <= 120
