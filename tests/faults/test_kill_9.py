"""kill -9 of every process and every datastore, under load and in mid-turn."""

import time
from collections.abc import Sequence
from contextlib import suppress
from uuid import uuid4

import httpx
import pytest

from tests.faults.conftest import LEASE_SECONDS
from tests.faults.writers import Writer, writing
from tests.house.processes import System
from tests.journeys.team import QUESTION, new_team
from tests.journeys.tenant import PATIENCE_SECONDS, Json, Tenant, Told, eventually, new_tenant

SERVICES = ("gateway", "tenant_quota", "chat_store", "document_rag", "analytics")
# A transaction that was killed with its worker is ended by MongoDB after 5 s, and its events are delivered again.
COUNTED_WITHIN_SECONDS = 90
RETRIED_FOR_SECONDS = 120
DATASTORES = ("postgres", "mongod", "redis")
# Members work at once, then the leader composes: the lease of what a team holds is as many times as long.
TEAM_PHASES = 2


@pytest.mark.parametrize("victim", [*SERVICES, *DATASTORES])
def test_an_acknowledged_write_survives_kill_9_of_any_process_and_of_any_datastore(system: System, victim: str) -> None:
    tenant = _tenant(system)
    with writing(tenant) as writers:
        _written_by_all(writers)
        system.kill_and_wait(victim)
        _written_by_all(writers)
    for writer in writers:
        writer.check()


@pytest.mark.parametrize("victim", SERVICES)
def test_a_turn_survives_kill_9_of_any_process(system: System, victim: str) -> None:
    tenant = _tenant(system, model="fake-slow-10")
    request_id = str(uuid4())
    former_pid = _killed_in_mid_turn(system, tenant, request_id, victim)
    system.wait_until_back(victim, former_pid)

    told = _retried(tenant, f"/v1/assistants/{tenant.assistant_id}:ask", _slowly(request_id))
    messages = tenant.admin.messages(told.conversation_id)
    assert [message["type"] for message in messages] == ["MESSAGE_TYPE_USER", "MESSAGE_TYPE_ASSISTANT"]
    assert messages[1]["text"] == told.text
    eventually(lambda: tenant.held_tokens() == 0, within_seconds=LEASE_SECONDS + 30)
    charged = [entry for entry in tenant.ledger() if entry["kind"] == "LEDGER_ENTRY_KIND_SETTLED"]
    assert [int(entry["usedDelta"]) for entry in charged] == [_total(messages[1]["usage"])]
    assert tenant.used_tokens() == _total(messages[1]["usage"])
    eventually(lambda: _reported(tenant) == (1, _total(messages[1]["usage"])), within_seconds=COUNTED_WITHIN_SECONDS)


@pytest.mark.long
def test_a_reservation_whose_holder_was_killed_is_given_back_when_its_lease_ends(system: System) -> None:
    tenant = _tenant(system, model="fake-slow-10")
    former_pid = _killed_in_mid_turn(system, tenant, str(uuid4()), "document_rag")
    assert tenant.held_tokens() > 0
    system.wait_until_back("document_rag", former_pid)
    eventually(lambda: tenant.held_tokens() == 0, within_seconds=LEASE_SECONDS + 30)
    assert tenant.used_tokens() == 0
    assert tenant.ledger()[0]["kind"] == "LEDGER_ENTRY_KIND_EXPIRED"


def test_a_team_whose_process_is_killed_while_a_member_works_answers_once_and_is_charged_once(system: System) -> None:
    """The question is there and nothing else; who asks again waits for a lease, then all steps are taken anew."""
    tenant = _tenant(system)
    request = _TeamRequest(tenant)
    former_pid, conversation_id = _killed_between_two_steps(system, tenant, request)
    assert tenant.held_tokens() > 0, "the steps that were taken died with their process, what they held did not"
    system.wait_until_back("document_rag", former_pid)
    assert [each["type"] for each in tenant.admin.messages(conversation_id)] == ["MESSAGE_TYPE_USER"]

    told = _retried(tenant, request.path, request.body)
    assert told.conversation_id == conversation_id
    question, answer = tenant.admin.messages(conversation_id)
    assert (question["text"], answer["type"], answer["text"]) == (QUESTION, "MESSAGE_TYPE_TEAM", told.text)
    steps = [(each["display_name"], each["state"]) for each in answer["metadata"]["steps"]]
    assert steps == [(name, "finished") for name in ("Tributos", "Limpeza", "Atendente")]
    eventually(lambda: tenant.held_tokens() == 0)
    assert tenant.used_tokens() == _settled(tenant) == _total(answer["usage"]) == _total(told.completed["usage"])
    again = _retried(tenant, request.path, request.body)
    assert (again.text, again.completed) == (told.text, told.completed)
    assert _settled(tenant) == _total(answer["usage"])


@pytest.mark.long
def test_what_a_killed_team_held_is_given_back_when_its_lease_ends(system: System) -> None:
    tenant = _tenant(system)
    former_pid, conversation_id = _killed_between_two_steps(system, tenant, _TeamRequest(tenant))
    system.wait_until_back("document_rag", former_pid)
    eventually(lambda: tenant.held_tokens() == 0, within_seconds=TEAM_PHASES * LEASE_SECONDS + 30)
    assert tenant.used_tokens() == _settled(tenant) == 0
    assert len(tenant.admin.messages(conversation_id)) == 1


def test_quota_and_conversations_do_not_depend_on_redis(system: System) -> None:
    tenant = _tenant(system, model="fake-plain")
    former_pid = system.kill("redis")
    told = tenant.admin.ask(tenant.assistant_id, "Qual é o prazo?")
    assert told.completed
    system.wait_until_back("redis", former_pid)
    eventually(lambda: _reported(tenant) == (1, _total(told.completed["usage"])), within_seconds=COUNTED_WITHIN_SECONDS)


def _tenant(system: System, model: str = "extractive") -> Tenant:
    """A tenant whose clients wait for what the test before has killed."""
    return new_tenant(system, model=model, patience_seconds=PATIENCE_SECONDS)


def _killed_in_mid_turn(system: System, tenant: Tenant, request_id: str, victim: str) -> int:
    """Kills the process after a few words; what the stream then does is its own affair. Returns the dead process id."""
    former_pid = 0
    with (
        suppress(httpx.TransportError),
        tenant.admin.streaming(f"/v1/assistants/{tenant.assistant_id}:ask", _slowly(request_id)) as (told, events),
    ):
        for _ in events:
            if told.text and not former_pid:
                former_pid = system.kill(victim)
    assert former_pid, "the turn ended before it was disturbed"
    return former_pid


def _slowly(request_id: str) -> Json:
    return {"question": "Conte devagar.", "requestId": request_id}


class _TeamRequest:
    """A turn of a team one of whose members is slow."""

    def __init__(self, tenant: Tenant) -> None:
        team_id = new_team(tenant, "TEAM_STRATEGY_COORDINATE", models=("extractive", "fake-slow-10"))
        self.path = f"/v1/teams/{team_id}:execute"
        self.body = {"question": QUESTION, "requestId": str(uuid4())}


def _killed_between_two_steps(system: System, tenant: Tenant, request: _TeamRequest) -> tuple[int, str]:
    """Kills document_rag when the first member is done and the other is not. Its former id, and the conversation."""
    former_pid = 0
    with suppress(httpx.TransportError), tenant.admin.streaming(request.path, request.body) as (told, events):
        for _ in events:
            ended = [each["state"] for each in told.of("step")].count("STEP_STATE_FINISHED")
            if ended == 1 and not former_pid:
                former_pid = system.kill("document_rag")
    assert former_pid, "the turn ended before it was disturbed"
    assert not told.of("completed")
    return former_pid, told.conversation_id


def _retried(tenant: Tenant, path: str, body: Json) -> Told:
    """The same turn again, as a client retries: until it is answered."""
    outcomes = []
    give_up = time.monotonic() + RETRIED_FOR_SECONDS
    while time.monotonic() < give_up:
        with suppress(httpx.TransportError), tenant.admin.streaming(path, body) as (told, events):
            for _event in events:
                pass
            if told.of("completed"):
                return told
            outcomes.append(told.error)
            assert told.error is None or told.error["code"] in (10, 14), told.error
        time.sleep(0.5)
    raise AssertionError(outcomes)


def _written_by_all(writers: Sequence[Writer], pairs: int = 3) -> None:
    """Returns when each has so many pairs more."""
    wanted = [len(writer.acknowledged) + pairs for writer in writers]
    eventually(lambda: all(len(each.acknowledged) >= count for each, count in zip(writers, wanted, strict=True)))


def _settled(tenant: Tenant) -> int:
    """All that was charged."""
    return sum(int(each["usedDelta"]) for each in tenant.ledger() if each["kind"] == "LEDGER_ENTRY_KIND_SETTLED")


def _reported(tenant: Tenant) -> tuple[int, int]:
    total = tenant.admin.get("/v1/reports/usage")["total"]
    return int(total["turns"]), _total(total["usage"])


def _total(usage: Json) -> int:
    return sum(int(tokens) for tokens in usage.values())
