"""Teams over HTTP, and the paths by which the plans' programs call agents and teams."""

import httpx

from tests.house.processes import System
from tests.journeys.team import QUESTION, new_team
from tests.journeys.tenant import Json, Tenant, Told, eventually, new_tenant


def test_a_team_answers_as_a_stream_whose_steps_add_up_to_what_is_charged(system: System) -> None:
    tenant = new_tenant(system)
    team_id = new_team(tenant, "TEAM_STRATEGY_COORDINATE")
    told = _asked(tenant, f"/v1/teams/{team_id}:execute", {"question": QUESTION})
    kinds = list(dict.fromkeys(kind for kind, _ in told.events))
    assert kinds == ["accepted", "step", "citation", "textDelta", "verification", "completed"]
    assert "10 de março" in told.text
    assert "terças e quintas" in told.text
    ended = [each for each in told.of("step") if each["state"] != "STEP_STATE_STARTED"]
    assert sum(map(_tokens, ended)) == _tokens(told.completed) == tenant.used_tokens()
    assert {each["support"] for each in told.of("verification")[0]["sentences"]} == {"SENTENCE_SUPPORT_SUPPORTED"}
    question, answer = tenant.admin.messages(told.conversation_id)
    assert (question["type"], answer["type"], answer["teamId"]) == ("MESSAGE_TYPE_USER", "MESSAGE_TYPE_TEAM", team_id)
    assert [each["display_name"] for each in answer["metadata"]["steps"]] == ["Tributos", "Limpeza", "Atendente"]
    eventually(lambda: tenant.held_tokens() == 0)
    also = _asked(tenant, f"/v1/teams/{team_id}:ask", {"question": QUESTION})
    assert also.text == told.text


def test_the_plans_programs_execute_a_team_and_go_on_in_their_session(system: System) -> None:
    tenant = new_tenant(system)
    path = f"/api/teams/{new_team(tenant, 'TEAM_STRATEGY_ROUTE')}/execute"
    first = tenant.admin.post(path, {"task": "Quando vence o IPTU em cota única?", "session_id": "sessao-1"})
    assert "10 de março" in first["response"]
    assert {"session_id", "response", "message_id", "model_used", "tokens_used", "execution_time"} <= first.keys()
    tenant.admin.post(path, {"task": "@Limpeza quando passa a coleta?", "session_id": "sessao-1"})
    kinds = [each["type"].removeprefix("MESSAGE_TYPE_") for each in tenant.admin.messages("sessao-1")]
    assert kinds == ["USER", "TEAM", "USER", "TEAM"]
    assert "session_id" in tenant.admin.post(path, {"task": "IPTU?"})


def test_the_plans_programs_chat_with_an_agent_by_the_query_of_their_url(system: System) -> None:
    tenant = new_tenant(system)
    tenant.admin.upload("iptu.md", b"A cota unica do IPTU vence em 10 de marco.\n")
    query = {"message": "Quando vence a cota única do IPTU?", "agent_id": tenant.assistant_id}
    answered = tenant.admin.http.post("/api/chat/agent", params=query)
    assert answered.status_code == 200, answered.text
    first: Json = answered.json()
    assert "10 de marco" in first["response"]
    assert (first["agent_id"], first["model_used"]) == (tenant.assistant_id, "extractive")
    assert first["tokens_used"] == tenant.used_tokens()
    query["conversation_id"] = first["conversation_id"]
    assert tenant.admin.http.post("/api/chat/agent", params=query).json()["conversation_id"] == first["conversation_id"]
    assert len(tenant.admin.messages(first["conversation_id"])) == 4
    refused: httpx.Response = tenant.admin.http.post("/api/chat/agent", params={"message": "Oi"})
    assert (refused.status_code, refused.json()["details"][0]["reason"]) == (400, "VALIDATION_FAILED")


def _asked(tenant: Tenant, path: str, body: Json) -> Told:
    with tenant.admin.streaming(path, body) as (told, events):
        for _ in events:
            pass
    return told


def _tokens(step: Json) -> int:
    return sum(map(int, step["usage"].values()))
