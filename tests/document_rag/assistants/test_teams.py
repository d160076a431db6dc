"""Teams between real neighbours: who answers, what each step costs, what is stored, and what goes wrong."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.json_format import MessageToDict

from prosa.chat_store.v1 import conversation_service_pb2 as chat_pb
from prosa.document_rag.v1 import assistant_service_pb2 as pb
from prosa.document_rag.v1 import team_service_pb2 as team_pb
from tests.document_rag.neighbourhood import Tenant, Told, request_id
from tests.document_rag.team_people import TAXES, WASTE, team_of
from tests.house.fake_provider import SLOW_WORDS
from tests.house.fake_roles import ASKED_BACK

ROUTE, COORDINATE, SEQUENCE = (
    team_pb.TEAM_STRATEGY_ROUTE,
    team_pb.TEAM_STRATEGY_COORDINATE,
    team_pb.TEAM_STRATEGY_SEQUENCE,
)
BOTH = "Quando vence a cota única e quando passa a coleta de lixo?"


async def test_a_question_goes_to_the_member_whose_it_is(tenant: Tenant) -> None:
    team = await team_of(tenant, ROUTE)
    told = await team.asked("Quando vence o IPTU em cota única?")
    assert "10 de março" in told.text
    assert _kinds(told) == ["ROUTE FINISHED", "ANSWER STARTED", "ANSWER FINISHED"]
    assert _steps(told)[0].text.startswith("@Tributos")
    assert {each.citation.title for each in told.events if each.HasField("citation")} == {TAXES}
    named = await team.asked("@limpeza quando passa?")
    assert {each.citation.title for each in named.events if each.HasField("citation")} == {WASTE}


async def test_when_it_does_not_show_whose_it_is_the_extractive_team_asks_back_for_nothing(tenant: Tenant) -> None:
    team = await team_of(tenant, ROUTE)
    told = await team.asked("Qual é o horário?")
    assert told.text == "Quem deve responder: Tributos ou Limpeza?"
    assert (told.tokens, await tenant.charges()) == (0, [0])
    conversation_id = told.accepted.conversation_id
    again = await team.asked("Tributos", conversation_id=conversation_id)
    assert _steps(again)[0].text.startswith("@Tributos (mention)")
    assert await tenant.kinds(conversation_id) == ["USER", "TEAM", "USER", "TEAM"]


async def test_a_leader_with_a_model_decides_or_asks_back(tenant: Tenant) -> None:
    team = await team_of(tenant, ROUTE, leader="fake-leader", threshold=1.0)
    told = await team.asked("E os impostos municipais?")
    assert _kinds(told) == ["ROUTE STARTED", "ROUTE FINISHED", "ANSWER STARTED", "ANSWER FINISHED"]
    assert _steps(told)[2].display_name == "Tributos"
    assert told.tokens == sum(map(_used, _ended(told)))
    back = await team.asked("Bom dia a todos!")
    assert back.text == ASKED_BACK
    assert back.tokens == sum(map(_used, _ended(back))) > 0
    assert await tenant.counters() == (told.tokens + back.tokens, 0)


@pytest.mark.parametrize("leader", ["extractive", "fake-leader"])
async def test_members_work_on_their_parts_and_the_leader_makes_one_answer_of_it(tenant: Tenant, leader: str) -> None:
    team = await team_of(tenant, COORDINATE, leader=leader)
    told = await team.asked(BOTH)
    assert "10 de março" in told.text
    assert "terças e quintas" in told.text
    cited = {each.citation.number: each.citation for each in told.events if each.HasField("citation")}
    assert {each.title for each in cited.values()} == {TAXES, WASTE}
    for number, citation in cited.items():
        sentence = next(part for part in told.text.split(f"[{number}]"))
        assert citation.quote
        assert sentence
    planned = ["PLAN"] if leader == "fake-leader" else []
    assert [f"{kind}" for kind in _ended_kinds(told)] == [*planned, "ANSWER", "ANSWER", "COMPOSE"]
    assert told.tokens == sum(map(_used, _ended(told)))
    verdicts = [each.support for each in _verification(told).sentences]
    assert verdicts
    assert set(verdicts) == {pb.SENTENCE_SUPPORT_SUPPORTED}


async def test_in_a_sequence_each_member_sees_what_those_before_found(tenant: Tenant) -> None:
    team = await team_of(tenant, SEQUENCE)
    told = await team.asked(BOTH)
    assert _kinds(told) == ["ANSWER STARTED", "ANSWER FINISHED"] * 2
    assert "10 de março" in told.text
    assert "terças e quintas" in told.text


async def test_a_turn_of_a_team_is_held_once_charged_by_member_and_stored_with_its_steps(tenant: Tenant) -> None:
    team = await team_of(tenant, COORDINATE)
    told = await team.asked(BOTH)
    question, answer = await tenant.messages(told.accepted.conversation_id)
    assert (answer.type, answer.team_id) == (chat_pb.MESSAGE_TYPE_TEAM, team.team_id)
    assert (question.text, answer.text) == (BOTH, told.text)
    steps: Any = MessageToDict(answer.metadata)["steps"]
    assert [(each["display_name"], each["kind"], each["state"]) for each in steps] == [
        ("Tributos", "answer", "finished"),
        ("Limpeza", "answer", "finished"),
        ("Chefia", "compose", "finished"),
    ]
    assert [sum(each["tokens"]) for each in steps] == [_used(each) for each in _ended(told)]
    assert await tenant.charges() == [*(_used(each) for each in _ended(told)), 0], "the parts, then the whole"
    assert await tenant.counters() == (told.tokens, 0)
    assert answer.usage.input_tokens + answer.usage.output_tokens == told.tokens


async def test_the_same_request_id_tells_the_stored_turn_of_a_team_again(tenant: Tenant) -> None:
    team = await team_of(tenant, COORDINATE)
    name = request_id()
    told = await team.asked(BOTH, request_id=name)
    again = await team.asked(BOTH, request_id=name)
    assert (again.text, again.completed, _verification(again)) == (told.text, told.completed, _verification(told))
    assert _ended_kinds(again) == _ended_kinds(told)
    assert [_used(each) for each in _ended(again)] == [_used(each) for each in _ended(told)]
    assert await tenant.counters() == (told.tokens, 0)
    assert await team.refused("Outra?", request_id=name) == "REQUEST_ID_REUSED"


@pytest.mark.parametrize("strategy", [COORDINATE, SEQUENCE])
async def test_the_failure_of_one_member_is_told_and_the_team_goes_on(
    tenant: Tenant, strategy: team_pb.TeamStrategy.ValueType
) -> None:
    team = await team_of(tenant, strategy, members=("fake-unauthorised", "extractive"))
    told = await team.asked(BOTH)
    failed = [each for each in _ended(told) if each.state == pb.STEP_STATE_FAILED]
    assert [(each.display_name, each.error_reason) for each in failed] == [("Tributos", "PROVIDER_FAILED")]
    assert "terças e quintas" in told.text
    assert await tenant.counters() == (told.tokens, 0)
    last_fails = await team_of(tenant, SEQUENCE, members=("extractive", "fake-unauthorised"))
    assert "10 de março" in (await last_fails.asked(BOTH)).text


@pytest.mark.parametrize("strategy", [COORDINATE, SEQUENCE])
async def test_where_one_failure_is_enough_the_turn_fails_and_costs_nothing(
    tenant: Tenant, strategy: team_pb.TeamStrategy.ValueType
) -> None:
    fails = team_pb.ON_MEMBER_FAILURE_FAIL
    team = await team_of(tenant, strategy, members=("fake-unauthorised", "extractive"), on_member_failure=fails)
    told = Told()
    assert await team.refused(BOTH, told=told) == "PROVIDER_FAILED"
    assert await tenant.kinds(told.accepted.conversation_id) == ["USER", "ERROR"]
    assert await tenant.counters() == (0, 0)


async def test_when_every_member_fails_the_turn_fails(tenant: Tenant) -> None:
    team = await team_of(tenant, COORDINATE, members=("fake-unauthorised", "fake-truncated"))
    assert await team.refused(BOTH) == "PROVIDER_FAILED"
    assert await tenant.counters() == (0, 0)


async def test_a_team_that_finds_nothing_says_so_in_the_language_of_the_question(tenant: Tenant) -> None:
    team = await team_of(tenant, COORDINATE)
    told = await team.asked("What does the moon weigh on a Thursday?")
    assert told.text == "I did not find that in the documents."
    assert told.completed.not_in_documents
    assert await tenant.counters() == (told.tokens, 0)


async def test_a_team_never_uses_more_than_the_quota_has_left(tenant: Tenant) -> None:
    team = await team_of(tenant, COORDINATE)
    whole = await team.asked(BOTH)
    assert whole.completed.finish_reason == pb.FINISH_REASON_STOP
    used = (await tenant.counters())[0]
    await tenant.set_limit(used + 1)
    assert await team.refused(BOTH) == "QUOTA_EXCEEDED"
    assert await tenant.counters() == (used, 0)


@pytest.mark.parametrize("finishes", [False, True])
async def test_a_reader_who_leaves_a_team_pays_what_its_policy_says(tenant: Tenant, *, finishes: bool) -> None:
    policy = pb.ON_DISCONNECT_FINISH if finishes else pb.ON_DISCONNECT_STOP
    # Who is to be stopped in the middle writes for far longer than a busy machine halts.
    slow = "fake-slow-5" if finishes else "fake-slow-100"
    team = await team_of(tenant, COORDINATE, members=(slow, "extractive"))
    name = request_id()
    call = tenant.house.teams.ExecuteTeam(
        team.request(BOTH, on_disconnect=policy, request_id=name), metadata=tenant.person()
    )
    events = await _until_a_member_is_done(call)
    call.cancel()
    conversation_id = events[0].accepted.conversation_id
    async with asyncio.timeout(60):
        while len(await tenant.messages(conversation_id)) < 2:  # noqa: ASYNC110 it happens elsewhere
            await asyncio.sleep(0.05)
    await tenant.nothing_held()
    answer = (await tenant.messages(conversation_id))[1]
    steps: Any = MessageToDict(answer.metadata)["steps"]
    assert sum(await tenant.charges()) == sum(sum(each["tokens"]) for each in steps) > 0
    if finishes:
        assert answer.status == chat_pb.MESSAGE_STATUS_COMPLETE
        assert len(steps) == 3
    else:
        assert (answer.status, answer.text) == (chat_pb.MESSAGE_STATUS_INTERRUPTED, "")
        assert [each["kind"] for each in steps] == ["answer", "answer"]
        assert {each["usage_source"] for each in steps} == {"partial", "provider"}, "who was still writing was stopped"
        said = await team.asked(BOTH, request_id=name)
        assert said.completed.finish_reason == pb.FINISH_REASON_INTERRUPTED


async def test_members_of_a_team_work_at_the_same_time(tenant: Tenant, provider: Any) -> None:
    team = await team_of(tenant, COORDINATE, members=("fake-slow-5", "fake-slow-5"), max_output_tokens=2000)
    before = len(provider.answered)
    await team.asked(BOTH)
    first, second = provider.answered[before : before + 2]
    assert first.words_sent == second.words_sent == SLOW_WORDS
    assert max(first.started_at, second.started_at) < min(first.ended_at, second.ended_at)


async def test_a_team_without_its_leader_or_its_members_says_so(tenant: Tenant) -> None:
    team = await team_of(tenant, ROUTE)
    for assistant_id in team.member_ids:
        await _delete(tenant, assistant_id)
    assert await team.refused(BOTH) == "TEAM_INCOMPLETE"
    other = await team_of(tenant, ROUTE)
    await _delete(tenant, other.leader_id)
    assert await other.refused(BOTH) == "TEAM_INCOMPLETE"
    assert await tenant.counters() == (0, 0)


async def test_a_team_is_made_changed_listed_and_deleted(tenant: Tenant) -> None:
    team = await team_of(tenant, SEQUENCE)
    teams, person = tenant.house.teams, tenant.person()
    wanted = team_pb.UpdateTeamRequest(
        team_id=team.team_id,
        team=team_pb.Team(display_name="Nova", strategy=COORDINATE),
        update_mask=FieldMask(paths=["display_name", "strategy", "route_threshold"]),
    )
    changed = await teams.UpdateTeam(wanted, metadata=person)
    assert (changed.display_name, changed.strategy, changed.HasField("route_threshold")) == ("Nova", COORDINATE, False)
    assert list(changed.member_ids) == team.member_ids
    assert await teams.GetTeam(team_pb.GetTeamRequest(team_id=team.team_id), metadata=person) == changed
    other = await team_of(tenant, ROUTE)
    first = await teams.ListTeams(team_pb.ListTeamsRequest(page_size=1), metadata=person)
    rest = await teams.ListTeams(team_pb.ListTeamsRequest(page_token=first.next_page_token), metadata=person)
    assert [each.team_id for each in (*first.teams, *rest.teams)] == [other.team_id, team.team_id]
    await teams.DeleteTeam(team_pb.DeleteTeamRequest(team_id=team.team_id), metadata=person)
    assert await team.refused("Oi?") == "RESOURCE_NOT_FOUND"


async def test_only_assistants_of_the_tenant_can_be_in_a_team(tenant: Tenant) -> None:
    foreign = await (await tenant.house.tenant()).assistant("extractive")
    own = await tenant.assistant("extractive")
    for leader, members, field in ((own, [own, foreign], "member_ids[1]"), ("missing", [own], "leader_id")):
        team = team_pb.Team(display_name="x", leader_id=leader, member_ids=members)
        with pytest.raises(Exception, match=r"assistants that do not exist") as refused:
            await tenant.house.teams.CreateTeam(team_pb.CreateTeamRequest(team=team), metadata=tenant.person())
        assert field in str(refused.value.trailing_metadata())  # type: ignore[attr-defined]


async def test_more_teams_are_changed_at_once_than_there_are_connections(tenant: Tenant) -> None:
    team = await team_of(tenant, ROUTE)
    request = team_pb.UpdateTeamRequest(
        team_id=team.team_id,
        team=team_pb.Team(member_ids=team.member_ids, display_name="Nova"),
        update_mask=FieldMask(paths=["member_ids", "display_name"]),
    )
    many = 3 * tenant.house.config.database_max_connections
    # Whoever waited for a second connection would be refused after a while.
    await asyncio.gather(*(tenant.house.teams.UpdateTeam(request, metadata=tenant.person()) for _ in range(many)))


async def test_the_plans_path_of_a_team_answers_in_one_piece_and_begins_its_session(tenant: Tenant) -> None:
    team = await team_of(tenant, COORDINATE)
    request = team_pb.ExecuteTeamTaskRequest(team_id=team.team_id, task=BOTH, session_id="sessao-1")
    first = await tenant.house.teams.ExecuteTeamTask(request, metadata=tenant.person())
    again = await tenant.house.teams.ExecuteTeamTask(request, metadata=tenant.person())
    assert (first.session_id, first.team_id) == ("sessao-1", team.team_id)
    assert "10 de março" in first.response
    assert [each.display_name for each in first.steps] == ["Tributos", "Limpeza", "Chefia"]
    assert (first.tokens_used + again.tokens_used, 0) == await tenant.counters()
    assert await tenant.kinds("sessao-1") == ["USER", "TEAM"] * 2


async def _delete(tenant: Tenant, assistant_id: str) -> None:
    request = pb.DeleteAssistantRequest(assistant_id=assistant_id)
    await tenant.house.assistants.DeleteAssistant(request, metadata=tenant.person())


async def _until_a_member_is_done(call: Any) -> list[pb.AskEvent]:
    events: list[pb.AskEvent] = []
    async for event in call:
        events.append(event)
        if event.step.state == pb.STEP_STATE_FINISHED:
            break
    return events


def _steps(told: Told) -> list[pb.Step]:
    return [each.step for each in told.events if each.HasField("step")]


def _ended(told: Told) -> list[pb.Step]:
    return sorted((each for each in _steps(told) if each.state != pb.STEP_STATE_STARTED), key=lambda each: each.number)


def _kinds(told: Told) -> list[str]:
    return [f"{_name(each)} {pb.StepState.Name(each.state).removeprefix('STEP_STATE_')}" for each in _steps(told)]


def _ended_kinds(told: Told) -> Sequence[str]:
    return [_name(each) for each in _ended(told)]


def _name(step: pb.Step) -> str:
    return pb.StepKind.Name(step.kind).removeprefix("STEP_KIND_")


def _used(step: pb.Step) -> int:
    usage = step.usage
    return usage.input_tokens + usage.cached_input_tokens + usage.output_tokens + usage.reasoning_tokens


def _verification(told: Told) -> pb.Verification:
    return next((each.verification for each in told.events if each.HasField("verification")), pb.Verification())
