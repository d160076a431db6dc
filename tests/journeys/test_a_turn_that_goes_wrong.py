"""Failures, readers who leave, and budgets that end: nothing is lost, nothing is charged twice, nothing stays held."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from services.document_rag.tokens import count_tokens
from tests.house.fake_provider import FakeProvider
from tests.house.processes import System
from tests.journeys.tenant import Json, Tenant, eventually, new_tenant


@pytest.mark.parametrize(
    ("model", "status", "reason"),
    [
        ("fake-error", 503, "PROVIDER_FAILED"),
        ("fake-unauthorised", 503, "PROVIDER_FAILED"),
        ("fake-rate-limited", 503, "PROVIDER_RATE_LIMITED"),
        ("fake-truncated", 503, "PROVIDER_FAILED"),
        ("fake-error-event", 503, "PROVIDER_FAILED"),
    ],
)
def test_a_failing_provider_leaves_an_error_message_and_no_charge(
    system: System, model: str, status: int, reason: str
) -> None:
    tenant = new_tenant(system, model=model)
    told = tenant.admin.ask(tenant.assistant_id, "Qual é o prazo?")
    assert told.of("accepted")
    assert not told.of("completed")
    assert told.error is not None
    assert told.error["code"] == 14
    assert told.error["details"][0]["reason"] == reason
    question, failure = tenant.admin.messages(told.conversation_id)
    assert (question["type"], question["text"]) == ("MESSAGE_TYPE_USER", "Qual é o prazo?")
    assert (failure["type"], failure["errorReason"]) == ("MESSAGE_TYPE_ERROR", reason)
    _nothing_was_charged(tenant)


def test_a_provider_that_recovers_within_the_turn_is_asked_again(system: System) -> None:
    tenant = new_tenant(system, model="fake-flaky")
    assert tenant.admin.ask(tenant.assistant_id, f"Qual é o prazo? {time.time_ns()}").completed


def test_a_disconnected_client_stops_paying_within_a_second(system: System, provider: FakeProvider) -> None:
    tenant = new_tenant(system, model="fake-slow")
    question = f"Conte devagar. {time.time_ns()}"
    with tenant.admin.asking(tenant.assistant_id, question) as (told, events):
        for _ in events:
            if len(told.text.split()) >= 5:
                break
    left = time.monotonic()
    asked = next(each for each in provider.answered if question in each.last_user_message)
    eventually(lambda: asked.disconnected)
    # A second where the machine has time; the whole answer takes ten.
    assert asked.ended_at - left < 5
    eventually(lambda: len(tenant.admin.messages(told.conversation_id)) == 2)
    answer = tenant.admin.messages(told.conversation_id)[1]
    assert answer["status"] == "MESSAGE_STATUS_INTERRUPTED"
    assert answer["text"].startswith(told.text)
    assert answer["usageSource"] == "USAGE_SOURCE_PARTIAL"
    assert int(answer["usage"]["outputTokens"]) == count_tokens(answer["text"])
    eventually(lambda: tenant.held_tokens() == 0)
    assert tenant.used_tokens() == _total(answer["usage"])


def test_an_answer_that_is_to_be_finished_is_finished_without_its_reader(system: System) -> None:
    tenant = new_tenant(system, model="fake-slow-10")
    fields = {"onDisconnect": "ON_DISCONNECT_FINISH"}
    with tenant.admin.asking(tenant.assistant_id, "Conte devagar.", **fields) as (told, events):
        for _ in events:
            if told.text:
                break
    eventually(lambda: len(tenant.admin.messages(told.conversation_id)) == 2)
    answer = tenant.admin.messages(told.conversation_id)[1]
    assert answer["status"] == "MESSAGE_STATUS_COMPLETE"
    assert answer["usageSource"] == "USAGE_SOURCE_PROVIDER"
    eventually(lambda: tenant.held_tokens() == 0)
    assert tenant.used_tokens() == _total(answer["usage"])


def test_an_answer_ends_where_the_quota_ends_and_is_charged_exactly(system: System) -> None:
    tenant = new_tenant(system, model="fake-long", max_output_tokens=20_000)
    limit = _worst_case(tenant) - 19_900
    tenant.set_quota(tokensPerDay=limit)
    told = tenant.admin.ask(tenant.assistant_id, "Conte tudo.")
    assert told.completed["finishReason"] == "FINISH_REASON_QUOTA"
    answer = tenant.admin.messages(told.conversation_id)[-1]
    assert answer["text"] == told.text
    assert tenant.used_tokens() <= limit
    assert (
        _settled(tenant)
        == _total(told.completed["usage"])
        == int(answer["usage"]["inputTokens"]) + count_tokens(told.text)
    )
    assert tenant.held_tokens() == 0


def test_64_turns_at_once_never_pass_a_quota_for_10(system: System) -> None:
    tenant = new_tenant(system, model="fake-plain", max_output_tokens=200)
    limit = _worst_case(tenant) * 10
    tenant.set_quota(tokensPerDay=limit)
    with ThreadPoolExecutor(64) as pool:
        turns = list(pool.map(lambda n: tenant.admin.ask(tenant.assistant_id, f"Pergunta {n}?"), range(64)))
    answered = [told for told in turns if told.of("completed")]
    refused = [told for told in turns if told.error]
    assert len(answered) + len(refused) == 64
    assert len(answered) >= 10
    for told in refused:
        assert told.error is not None
        assert told.error["details"][0]["reason"] == "QUOTA_EXCEEDED"
    entries = tenant.ledger()
    held = most_held = 0
    for entry in reversed(entries):
        held += int(entry["heldDelta"]) + int(entry["usedDelta"])
        most_held = max(most_held, held)
    assert most_held <= limit
    assert tenant.held_tokens() == 0
    first = tenant.used_tokens() - sum(_total(told.completed["usage"]) for told in answered)
    assert first == int(next(each for each in reversed(entries) if int(each["usedDelta"]))["usedDelta"])


def _worst_case(tenant: Tenant) -> int:
    """What one turn holds, read from the ledger of a first turn."""
    tenant.admin.ask(tenant.assistant_id, "Pergunta 0?")
    reserved = [entry for entry in tenant.ledger() if entry["kind"] == "LEDGER_ENTRY_KIND_RESERVED"]
    used = tenant.used_tokens()
    return int(reserved[-1]["heldDelta"]) + used


def _settled(tenant: Tenant) -> int:
    """Tokens of the newest charge."""
    return next(int(each["usedDelta"]) for each in tenant.ledger() if each["kind"] == "LEDGER_ENTRY_KIND_SETTLED")


def _nothing_was_charged(tenant: Tenant) -> None:
    eventually(lambda: tenant.held_tokens() == 0)
    assert tenant.used_tokens() == 0


def _total(usage: Json) -> int:
    return sum(int(tokens) for tokens in usage.values())
