"""Teams whose process dies, whose quota is short, whose reservation lapses: nothing is paid twice, nothing is lost."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from prosa.document_rag.v1 import assistant_service_pb2 as pb
from prosa.document_rag.v1 import team_service_pb2 as team_pb
from services.document_rag.assistants.model import (
    Answer,
    Budget,
    FinishReason,
    OnDisconnect,
    Question,
    TokenCount,
    UsageSource,
)
from services.document_rag.assistants.outcome import Outcome
from services.document_rag.assistants.routing import Candidate
from services.document_rag.assistants.steps import Step, StepKind, StepRole, StepState
from services.document_rag.assistants.team_course import Course, Terms, course_of
from services.document_rag.assistants.team_model import Strategy, TeamFields
from services.document_rag.assistants.team_model import Team as TeamRecord
from services.document_rag.assistants.token_budget import Hold, Wanted
from services.document_rag.assistants.turns import Turn
from tests.document_rag.neighbourhood import Tenant, request_id
from tests.document_rag.team_people import Team, team_of

QUESTION = "Quando vence a cota única e quando passa a coleta de lixo?"
ABANDONED = "Resposta de quem morreu."
USED = (TokenCount(input=40, output=10), TokenCount(input=60, output=20))
TOTAL = 130


@pytest.mark.parametrize(
    "stage",
    [
        pytest.param("held", marks=pytest.mark.long),
        "parts held",
        pytest.param("stored", marks=pytest.mark.long),
        "half charged",
        pytest.param("charged", marks=pytest.mark.long),
    ],
)
async def test_a_turn_of_a_team_abandoned_at_any_stage_is_taken_over(tenant: Tenant, stage: str) -> None:
    team = await team_of(tenant, team_pb.TEAM_STRATEGY_COORDINATE)
    name = request_id()
    turn = await _abandoned(team, name, stage)
    assert await team.refused(QUESTION, request_id=name) == "REQUEST_IN_PROGRESS"
    await tenant.turn_leases_end()
    told = await team.asked(QUESTION, request_id=name)
    was_stored = stage not in ("held", "parts held")
    assert (told.text == ABANDONED) is was_stored
    assert told.accepted.conversation_id == turn.conversation_id
    assert await tenant.kinds(turn.conversation_id) == ["USER", "TEAM"]
    assert told.tokens == TOTAL or not was_stored
    assert await tenant.counters() == (told.tokens, 0)
    assert sum(await tenant.charges()) == told.tokens
    again = await team.asked(QUESTION, request_id=name)
    assert again.completed == told.completed
    assert sum(await tenant.charges()) == told.tokens


async def test_a_stored_turn_of_a_team_whose_reservation_lapsed_is_charged_exactly_once(tenant: Tenant) -> None:
    team = await team_of(tenant, team_pb.TEAM_STRATEGY_COORDINATE)
    name = request_id()
    await _abandoned(team, name, "lapsed")
    await tenant.turn_leases_end()
    told = await team.asked(QUESTION, request_id=name)
    assert told.text == ABANDONED
    await team.asked(QUESTION, request_id=name)
    assert sorted(await tenant.charges()) == [50, 80]
    assert await tenant.counters() == (TOTAL, 0)


async def test_a_short_quota_is_shared_out_so_that_the_leader_still_has_its_part(tenant: Tenant) -> None:
    """Members that would say 2 000 words each are cut to their shares; none takes what the next one needs."""
    team = await team_of(
        tenant,
        team_pb.TEAM_STRATEGY_COORDINATE,
        leader="fake-leader",
        members=("fake-long", "fake-long"),
        max_output_tokens=4000,
    )
    limit = (await _course(team)).minimum_tokens + 1200
    await tenant.set_limit(limit)
    told = await team.asked(QUESTION)
    ended = [each.step for each in told.events if each.step.state == pb.STEP_STATE_FINISHED]
    assert [each.display_name for each in sorted(ended, key=lambda each: each.number)] == [
        "Chefia",
        "Tributos",
        "Limpeza",
        "Chefia",
    ]
    members = [each.usage.output_tokens for each in ended if each.kind == pb.STEP_KIND_ANSWER]
    assert max(members) - min(members) < 50
    used, held = await tenant.counters()
    assert (used, held) == (told.tokens, 0)
    assert used <= limit
    assert told.completed.usage.output_tokens > 1000


async def _course(team: Team) -> Course:
    """What the service reckons with for the question in a new conversation."""
    tenant, config = team.tenant, team.tenant.house.config
    fields = TeamFields("x", team.leader_id, tuple(team.member_ids), strategy=Strategy.COORDINATE)
    people = await tenant.house.parts.assistants.get_all(tenant.tenant_id, [team.leader_id, *team.member_ids])
    leader, *members = (people[each] for each in (team.leader_id, *team.member_ids))
    terms = Terms(
        Question("", "", QUESTION, OnDisconnect.STOP, 0, "", "x", team_id=team.team_id),
        lambda _: Budget(config.passage_tokens, 0),
        lambda assistant: assistant.model,
        config.least_answer_tokens,
    )
    kept = TeamRecord(team.team_id, fields, datetime.now(UTC), datetime.now(UTC))
    return course_of(kept, leader, [Candidate(each) for each in members], terms)


async def _abandoned(team: Team, name: str, stage: str) -> Turn:
    """A turn as a process leaves it that is killed at this stage."""
    tenant, parts = team.tenant, team.tenant.house.parts
    question = Question("", "", QUESTION, OnDisconnect.STOP, 0, "", name, team_id=team.team_id)
    with tenant.acting():
        turn = await parts.turns.begin(tenant.tenant_id, "ana", question)
        await parts.conversations.add_question(turn, question)
        course = await _course(team)
        wanted_in_all = Wanted(course.tokens, course.minimum_tokens, "extractive", team.leader_id, phases=course.phases)
        whole = await parts.budget.hold(turn, wanted_in_all)
        if stage == "held":
            return turn
        wanted = [Wanted(1000, 1000, "extractive", each) for each in team.member_ids]
        held = [
            await parts.budget.hold_part(turn, whole, each, f"step-{number}")
            for number, each in enumerate(wanted, start=1)
        ]
        if stage == "parts held":
            return turn
        outcome = _outcome(team, whole, held)
        await parts.conversations.add_answer(turn, question, outcome)
        if stage == "lapsed":
            await parts.budget.release(whole.reservation_id)
        payments = list(outcome.payments())
        charged = {"half charged": 1, "charged": len(payments)}.get(stage, 0)
        for paid in payments[:charged]:
            await parts.budget.charge(turn, paid)
    return turn


def _outcome(team: Team, whole: Hold, held: list[Hold]) -> Outcome:
    answer = Answer(
        text=ABANDONED,
        finish_reason=FinishReason.STOP,
        tokens=TokenCount(input=100, output=30),
        usage_source=UsageSource.PROVIDER,
        cost_micros=0,
        model="extractive",
        latency_ms=5,
        time_to_first_token_ms=2,
    )
    steps = [
        Step(
            number,
            StepRole.MEMBER,
            StepKind.ANSWER,
            StepState.FINISHED,
            assistant_id=assistant_id,
            model="extractive",
            tokens=tokens,
            usage_source=UsageSource.PROVIDER,
            reservation_id=part.reservation_id,
        )
        for number, (assistant_id, tokens, part) in enumerate(zip(team.member_ids, USED, held, strict=True), start=1)
    ]
    return replace(Outcome(answer, team.leader_id, whole.reservation_id, references=(), rag=False), steps=tuple(steps))
