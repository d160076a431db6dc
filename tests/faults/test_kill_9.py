"""kill -9 of every process and every datastore, under load and in mid-turn."""

import time
from contextlib import suppress
from uuid import uuid4

import httpx
import pytest

from tests.faults.conftest import LEASE_SECONDS
from tests.faults.writers import writing
from tests.house.processes import System
from tests.journeys.tenant import PATIENCE_SECONDS, Json, Tenant, Told, eventually, new_tenant

SERVICES = ("gateway", "tenant_quota", "chat_store", "document_rag", "analytics")
# A transaction that was killed with its worker is ended by MongoDB after 5 s, and its events are delivered again.
COUNTED_WITHIN_SECONDS = 40
DATASTORES = ("postgres", "mongod", "redis")


@pytest.mark.parametrize("victim", [*SERVICES, *DATASTORES])
def test_an_acknowledged_write_survives_kill_9_of_any_process_and_of_any_datastore(system: System, victim: str) -> None:
    tenant = _tenant(system)
    with writing(tenant) as writers:
        time.sleep(0.5)
        system.kill_and_wait(victim)
        time.sleep(0.5)
    assert all(writer.sent > 3 for writer in writers)
    for writer in writers:
        writer.check()


@pytest.mark.parametrize("victim", SERVICES)
def test_a_turn_survives_kill_9_of_any_process(system: System, victim: str) -> None:
    tenant = _tenant(system, model="fake-slow-10")
    request_id = str(uuid4())
    former_pid = _killed_in_mid_turn(system, tenant, request_id, victim)
    system.wait_until_back(victim, former_pid)

    told = _retried(tenant, request_id)
    messages = tenant.admin.messages(told.conversation_id)
    assert [message["type"] for message in messages] == ["MESSAGE_TYPE_USER", "MESSAGE_TYPE_ASSISTANT"]
    assert messages[1]["text"] == told.text
    eventually(lambda: tenant.held_tokens() == 0, within_seconds=LEASE_SECONDS + 5)
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
    eventually(lambda: tenant.held_tokens() == 0, within_seconds=LEASE_SECONDS + 5)
    assert tenant.used_tokens() == 0
    assert tenant.ledger()[0]["kind"] == "LEDGER_ENTRY_KIND_EXPIRED"


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
        tenant.admin.asking(tenant.assistant_id, "Conte devagar.", requestId=request_id) as (told, events),
    ):
        for _ in events:
            if told.text and not former_pid:
                former_pid = system.kill(victim)
    assert former_pid, "the turn ended before it was disturbed"
    return former_pid


def _retried(tenant: Tenant, request_id: str) -> Told:
    """The same turn again, as a client retries: until it is answered."""
    outcomes = []
    for _ in range(60):
        with suppress(httpx.TransportError):
            told = tenant.admin.ask(tenant.assistant_id, "Conte devagar.", requestId=request_id)
            if told.of("completed"):
                return told
            outcomes.append(told.error)
            assert told.error is None or told.error["code"] in (10, 14), told.error
        time.sleep(0.5)
    raise AssertionError(outcomes)


def _reported(tenant: Tenant) -> tuple[int, int]:
    total = tenant.admin.get("/v1/reports/usage")["total"]
    return int(total["turns"]), _total(total["usage"])


def _total(usage: Json) -> int:
    return sum(int(tokens) for tokens in usage.values())
