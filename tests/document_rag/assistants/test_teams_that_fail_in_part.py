"""A team of which somebody fails: what the others found is told, cited and charged, and nothing false is said."""

import pytest

from prosa.document_rag.v1 import assistant_service_pb2 as pb
from prosa.document_rag.v1 import team_service_pb2 as team_pb
from services.document_rag.assistants.token_budget import Hold, TokenBudget, Wanted
from services.document_rag.assistants.turns import Turn
from shared.errors import Unavailable
from tests.document_rag.neighbourhood import Tenant, Told, request_id
from tests.document_rag.team_people import TAXES, WASTE, team_of

ROUTE, COORDINATE, SEQUENCE = (
    team_pb.TEAM_STRATEGY_ROUTE,
    team_pb.TEAM_STRATEGY_COORDINATE,
    team_pb.TEAM_STRATEGY_SEQUENCE,
)
FAIL = team_pb.ON_MEMBER_FAILURE_FAIL
AWAY = "fake-unauthorised"
BOTH = "Quando vence a cota única e quando passa a coleta de lixo?"
NEITHER = "Qual é a massa da Lua?"


async def test_a_leader_that_can_neither_plan_nor_compose_leaves_what_its_members_found(tenant: Tenant) -> None:
    team = await team_of(tenant, COORDINATE, leader=AWAY)
    name = request_id()
    told = await team.asked(BOTH, request_id=name)
    assert _ended(told) == ["PLAN FAILED", "ANSWER FINISHED", "ANSWER FINISHED", "COMPOSE FAILED"]
    assert "10 de março" in told.text
    assert "terças e quintas" in told.text
    assert _cited(told) == {1: TAXES, 2: WASTE}
    assert all(f"[{number}]" in told.text for number in _cited(told))
    assert await tenant.counters() == (told.tokens, 0)
    assert sum(await tenant.charges()) == told.tokens > 0
    again = await team.asked(BOTH, request_id=name)
    assert (again.text, again.completed, _cited(again)) == (told.text, told.completed, _cited(told))


async def test_where_one_failure_is_enough_a_leaders_is_one(tenant: Tenant) -> None:
    team = await team_of(tenant, COORDINATE, leader=AWAY, on_member_failure=FAIL)
    assert await team.refused(BOTH) == "PROVIDER_FAILED"
    assert await tenant.counters() == (0, 0)


async def test_a_leader_that_cannot_decide_asks_whose_the_question_is(tenant: Tenant) -> None:
    team = await team_of(tenant, ROUTE, leader=AWAY, threshold=1.0)
    told = await team.asked("Qual é o horário?")
    assert told.text == "Quem deve responder: Tributos ou Limpeza?"
    assert _ended(told) == ["ROUTE FAILED"]
    assert (told.tokens, await tenant.counters()) == (0, (0, 0))
    strict = await team_of(tenant, ROUTE, leader=AWAY, threshold=1.0, on_member_failure=FAIL)
    assert await strict.refused("Qual é o horário?") == "PROVIDER_FAILED"


async def test_a_question_whose_member_fails_is_nobody_elses(tenant: Tenant) -> None:
    team = await team_of(tenant, ROUTE, members=(AWAY, "extractive"))
    told = Told()
    assert await team.refused("Quando vence o IPTU em cota única?", told=told) == "PROVIDER_FAILED"
    assert await tenant.kinds(told.accepted.conversation_id) == ["USER", "ERROR"]
    assert await tenant.counters() == (0, 0)


async def test_what_nobody_has_looked_for_is_not_said_to_be_missing(tenant: Tenant) -> None:
    """One member found nothing, the other one could not look: that is no answer."""
    team = await team_of(tenant, COORDINATE, members=(AWAY, "extractive"))
    assert await team.refused(NEITHER) == "PROVIDER_FAILED"
    assert await tenant.counters() == (0, 0)


@pytest.mark.parametrize("last", [AWAY, "fake-hang"])
async def test_the_answer_before_the_one_that_fails_comes_with_its_citations(tenant: Tenant, last: str) -> None:
    team = await team_of(tenant, SEQUENCE, members=("extractive", last))
    told = await team.asked(BOTH)
    assert _ended(told) == ["ANSWER FINISHED", "ANSWER FAILED"]
    assert "10 de março" in told.text
    assert _cited(told)[1] == TAXES
    assert await tenant.counters() == (told.tokens, 0)


async def test_what_was_found_is_cited_also_where_the_last_step_never_began(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold_part = TokenBudget.hold_part

    async def away_for_the_last(budget: TokenBudget, turn: Turn, whole: Hold, wanted: Wanted, name: str) -> Hold:
        if name == "step-3":
            raise Unavailable(dependency="tenant_quota")
        return await hold_part(budget, turn, whole, wanted, name)

    monkeypatch.setattr(TokenBudget, "hold_part", away_for_the_last)
    told = await (await team_of(tenant, COORDINATE)).asked(BOTH)
    assert _ended(told) == ["ANSWER FINISHED", "ANSWER FINISHED", "COMPOSE FAILED"]
    assert _cited(told) == {1: TAXES, 2: WASTE}
    assert all(f"[{number}]" in told.text for number in _cited(told))
    assert await tenant.counters() == (told.tokens, 0)


async def test_who_breaks_off_in_the_middle_of_the_answer_ends_the_turn(tenant: Tenant) -> None:
    """What was begun cannot be taken back, so nobody else's words are put after it."""
    team = await team_of(tenant, SEQUENCE, members=("extractive", "fake-truncated"))
    told = Told()
    assert await team.refused(BOTH, told=told) == "PROVIDER_FAILED"
    assert told.text
    assert await tenant.kinds(told.accepted.conversation_id) == ["USER", "ERROR"]
    assert await tenant.counters() == (0, 0)


def _ended(told: Told) -> list[str]:
    steps = [each.step for each in told.events if each.HasField("step")]
    ended = sorted((each for each in steps if each.state != pb.STEP_STATE_STARTED), key=lambda each: each.number)
    return [
        f"{pb.StepKind.Name(each.kind).removeprefix('STEP_KIND_')} "
        f"{pb.StepState.Name(each.state).removeprefix('STEP_STATE_')}"
        for each in ended
    ]


def _cited(told: Told) -> dict[int, str]:
    return {each.citation.number: each.citation.title for each in told.events if each.HasField("citation")}
