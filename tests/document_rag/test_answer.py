"""A turn between real neighbours: what is stored, what is charged, what a reader who leaves pays."""

import asyncio
import time

import pytest

from prosa.chat_store.v1 import conversation_service_pb2 as chat_pb
from prosa.document_rag.v1 import assistant_service_pb2 as pb
from services.document_rag.assistants.model import DEFAULT_MAX_OUTPUT_TOKENS
from services.document_rag.tokens import count_tokens
from services.tenant_quota.tenants import Tenants
from shared.errors import ServiceError
from tests.document_rag.neighbourhood import Tenant, Told, ask, request_id
from tests.house.fake_oddities import HUGE_PIECE
from tests.house.fake_provider import PLAIN_ANSWER, SLOW_WORDS, FakeProvider
from tests.house.waiting import until


async def test_an_answer_is_stored_charged_and_told_in_order(tenant: Tenant) -> None:
    told = await tenant.ask(ask(await tenant.assistant("fake-plain")))
    steps = [each.WhichOneof("event") for each in told.events]
    assert (steps[0], steps[-2:], set(steps[1:-2])) == ("accepted", ["verification", "completed"], {"text_delta"})
    assert told.text == PLAIN_ANSWER
    question, answer = await tenant.messages(told.accepted.conversation_id)
    assert question.message_id == told.accepted.user_message_id
    assert (answer.message_id, answer.seq, answer.text) == (told.completed.message_id, 2, PLAIN_ANSWER)
    assert answer.metadata["reservation_id"]
    assert await tenant.counters() == (told.tokens, 0)
    assert await tenant.charges() == [told.tokens]


async def test_the_same_request_id_tells_the_stored_answer_without_charge(tenant: Tenant) -> None:
    request = ask(await tenant.assistant("fake-plain"), request_id=request_id())
    told = await tenant.ask(request)
    again = await tenant.ask(request)
    assert (again.accepted, again.text, again.completed) == (told.accepted, told.text, told.completed)
    assert await tenant.charges() == [told.tokens]
    other = ask(request.assistant_id, "Outra?", request_id=request.request_id)
    assert await tenant.refused(other) == "REQUEST_ID_REUSED"


async def test_an_answered_turn_outlives_its_assistant(tenant: Tenant) -> None:
    request = ask(await tenant.assistant("fake-plain"), request_id=request_id())
    told = await tenant.ask(request)
    gone = pb.DeleteAssistantRequest(assistant_id=request.assistant_id)
    await tenant.house.assistants.DeleteAssistant(gone, metadata=tenant.person())
    assert (await tenant.ask(request)).completed == told.completed
    assert await tenant.refused(ask(request.assistant_id)) == "RESOURCE_NOT_FOUND"


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("fake-error", "PROVIDER_FAILED"),
        ("fake-unauthorised", "PROVIDER_FAILED"),
        ("fake-rate-limited", "PROVIDER_RATE_LIMITED"),
        ("fake-truncated", "PROVIDER_FAILED"),
        ("fake-error-event", "PROVIDER_FAILED"),
        ("fake-broken", "PROVIDER_FAILED"),
        ("fake-garbage", "PROVIDER_FAILED"),
        ("fake-page", "PROVIDER_FAILED"),
        ("fake-odd-list", "PROVIDER_FAILED"),
        ("fake-empty", "PROVIDER_FAILED"),
        ("fake-hang", "PROVIDER_FAILED"),
        ("fake-silent", "PROVIDER_FAILED"),
    ],
)
async def test_a_failing_provider_leaves_word_and_costs_nothing(tenant: Tenant, model: str, reason: str) -> None:
    told, began = Told(), time.monotonic()
    assert await tenant.refused(ask(await tenant.assistant(model)), told=told) == reason
    assert time.monotonic() - began < tenant.house.config.answer_timeout_seconds, "silence alone ended it"
    messages = await tenant.messages(told.accepted.conversation_id)
    assert [each.error_reason for each in messages] == ["", reason]
    assert await tenant.counters() == (0, 0)


@pytest.mark.parametrize(
    ("question", "word"),
    [("Qual é o prazo?", "Não foi possível responder"), ("When is it due?", "The question could not be answered")],
)
async def test_word_of_a_failure_is_in_the_language_of_the_question(tenant: Tenant, question: str, word: str) -> None:
    told = Told()
    assert await tenant.refused(ask(await tenant.assistant("fake-unauthorised"), question), told=told)
    left = (await tenant.messages(told.accepted.conversation_id))[-1].text
    assert left.startswith(word)
    assert "/" not in left


@pytest.mark.parametrize("model", ["fake-odd-fortune", "fake-odd-name", "fake-odd-torn"])
async def test_what_a_provider_says_of_itself_keeps_no_answer_from_being_stored_and_paid(
    tenant: Tenant, model: str
) -> None:
    told = await tenant.ask(ask(await tenant.assistant(model)))
    answer = (await tenant.messages(told.accepted.conversation_id))[1]
    assert (answer.text, answer.model) == (told.text, model)
    assert await tenant.charges() == [told.tokens]


async def test_an_answer_that_comes_in_one_huge_piece_ends_at_its_limit_like_any_other(tenant: Tenant) -> None:
    told = await tenant.ask(ask(await tenant.assistant("fake-odd-huge")))
    assert told.completed.finish_reason == pb.FINISH_REASON_LENGTH
    assert 0.7 * DEFAULT_MAX_OUTPUT_TOKENS < count_tokens(told.text) <= DEFAULT_MAX_OUTPUT_TOKENS
    assert (PLAIN_ANSWER + HUGE_PIECE).startswith(told.text)


async def test_a_failed_turn_may_be_asked_again(tenant: Tenant) -> None:
    """The provider gives up for good on the first attempt: its third refusal is the last of a turn."""
    request = ask(await tenant.assistant("fake-error"), request_id=request_id())
    told = Told()
    assert await tenant.refused(request, told=told) == "PROVIDER_FAILED"
    again = Told()
    assert await tenant.refused(request, told=again) == "PROVIDER_FAILED"
    assert again.accepted == told.accepted
    assert await tenant.kinds(told.accepted.conversation_id) == ["USER", "ERROR", "ERROR"]
    await tenant.mend(request.assistant_id)
    answered = await tenant.ask(request)
    assert answered.accepted == told.accepted
    assert await tenant.kinds(told.accepted.conversation_id) == ["USER", "ERROR", "ERROR", "ASSISTANT"]
    assert await tenant.counters() == (answered.tokens, 0)


async def test_a_turn_asked_again_after_many_others_sees_what_was_said_before_it(
    tenant: Tenant, provider: FakeProvider
) -> None:
    plain = await tenant.assistant("fake-plain")
    before = await tenant.ask(ask(plain, "Como tiro o alvará de funcionamento?"))
    conversation_id = before.accepted.conversation_id
    failing = await tenant.assistant("fake-error")
    request = ask(failing, "E quanto custa?", conversation_id=conversation_id, request_id=request_id())
    assert await tenant.refused(request) == "PROVIDER_FAILED"
    for number in range(tenant.house.config.history_messages // 2 + 1):
        await tenant.ask(ask(plain, f"Outro assunto, o de número {number}?", conversation_id=conversation_id))

    await tenant.mend(failing)
    await tenant.ask(request)
    sent = str(provider.answered[-1].messages)
    assert "Como tiro o alvará" in sent
    assert "Outro assunto" not in sent


async def test_two_users_and_a_third_may_choose_the_same_request_id(tenant: Tenant) -> None:
    request = ask(await tenant.assistant("fake-plain"), request_id="1")
    told = [await tenant.ask(request, user) for user in ("ana", "bruno", "carla")]
    assert len({each.accepted.conversation_id for each in told}) == 3
    assert await tenant.charges() == [each.tokens for each in told]
    assert await tenant.kinds(told[2].accepted.conversation_id, "carla") == ["USER", "ASSISTANT"]


async def test_a_foreign_conversation_is_a_missing_one_and_holds_nothing(tenant: Tenant) -> None:
    assistant_id = await tenant.assistant("fake-plain")
    anas = (await tenant.ask(ask(assistant_id))).accepted.conversation_id
    before = await tenant.counters()
    for conversation_id in (anas, "missing"):
        intruding = ask(assistant_id, conversation_id=conversation_id)
        assert await tenant.refused(intruding, "bruno") == "RESOURCE_NOT_FOUND"
    assert await tenant.counters() == before
    assert len(await tenant.messages(anas)) == 2


async def test_a_finalized_conversation_takes_no_question_and_holds_nothing(tenant: Tenant) -> None:
    request = ask(await tenant.assistant("fake-plain"), request_id=request_id())
    told = await tenant.ask(request)
    conversation_id = told.accepted.conversation_id
    await tenant.finalize(conversation_id)
    another = ask(request.assistant_id, "E depois?", conversation_id=conversation_id)
    assert await tenant.refused(another) == "CONVERSATION_CLOSED"
    assert await tenant.kinds(conversation_id) == ["USER", "ASSISTANT"]
    assert await tenant.counters() == (told.tokens, 0)
    assert (await tenant.ask(request)).completed == told.completed


async def test_an_answer_to_what_was_finalized_meanwhile_costs_nothing(tenant: Tenant) -> None:
    told = Told()
    turn = asyncio.create_task(tenant.refused(ask(await tenant.assistant("fake-slow-5")), told=told))
    await until(lambda: told.text)
    await tenant.finalize(told.accepted.conversation_id)
    assert await turn == "CONVERSATION_CLOSED"
    assert await tenant.kinds(told.accepted.conversation_id) == ["USER"]
    assert await tenant.counters() == (0, 0)


async def test_a_conversation_with_a_very_long_message_goes_on(tenant: Tenant) -> None:
    assistant_id = await tenant.assistant("fake-plain")
    conversation_id = (await tenant.ask(ask(assistant_id))).accepted.conversation_id
    await tenant.say(conversation_id, "palavra " * 100_000)
    assert (await tenant.messages(conversation_id))[-1].HasField("body")
    told = await tenant.ask(ask(assistant_id, "E depois?", conversation_id=conversation_id))
    assert told.text == PLAIN_ANSWER


async def test_of_concurrent_duplicates_one_is_carried_out(tenant: Tenant) -> None:
    request = ask(await tenant.assistant("fake-slow-5"), request_id=request_id())
    outcomes = await asyncio.gather(*(_outcome(tenant, request) for _ in range(8)))
    assert sorted(outcomes) == ["REQUEST_IN_PROGRESS"] * 7 + ["answered"]
    told = await tenant.ask(request)
    assert await tenant.kinds(told.accepted.conversation_id) == ["USER", "ASSISTANT"]
    assert await tenant.charges() == [told.tokens]


async def test_a_full_quota_refuses_and_the_question_stays(tenant: Tenant) -> None:
    assistant_id = await tenant.assistant("fake-plain")
    conversation_id = (await tenant.ask(ask(assistant_id))).accepted.conversation_id
    await tenant.set_limit(1)
    assert await tenant.refused(ask(assistant_id, conversation_id=conversation_id)) == "QUOTA_EXCEEDED"
    assert await tenant.kinds(conversation_id) == ["USER", "ASSISTANT", "USER", "ERROR"]
    assert (await tenant.counters())[1] == 0


async def test_a_deactivated_tenant_is_told_so(tenant: Tenant) -> None:
    assistant_id = await tenant.assistant("fake-plain")
    await Tenants(tenant.house.quota_pool).deactivate(tenant.tenant_id)
    assert await tenant.refused(ask(assistant_id)) == "TENANT_INACTIVE"


@pytest.mark.parametrize("finishes", [False, True])
async def test_a_reader_who_leaves_pays_what_its_policy_says(tenant: Tenant, *, finishes: bool) -> None:
    policy = pb.ON_DISCONNECT_FINISH if finishes else pb.ON_DISCONNECT_STOP
    request = ask(await tenant.assistant("fake-slow-5"), on_disconnect=policy, request_id=request_id())
    told = await _first_words(tenant, request)
    conversation_id = told.accepted.conversation_id
    await _stored_by_then(tenant, conversation_id)
    answer = (await tenant.messages(conversation_id))[1]
    await tenant.nothing_held()
    output = answer.usage.output_tokens
    assert await tenant.charges() == [answer.usage.input_tokens + output]
    if finishes:
        assert answer.status == chat_pb.MESSAGE_STATUS_COMPLETE
        assert len(answer.text.split()) == SLOW_WORDS
    else:
        assert answer.status == chat_pb.MESSAGE_STATUS_INTERRUPTED
        assert answer.text.startswith(told.text)
        assert output == count_tokens(answer.text)
        assert (await tenant.ask(request)).completed.finish_reason == pb.FINISH_REASON_INTERRUPTED


async def test_a_reader_who_leaves_at_once_finds_one_turn_later(tenant: Tenant) -> None:
    request = ask(await tenant.assistant("fake-plain"), request_id=request_id())
    call = tenant.house.assistants.Ask(request, metadata=tenant.person())
    await asyncio.sleep(0.002)
    call.cancel()
    await tenant.nothing_held()
    again = await tenant.answered_at_last(request)
    assert (await tenant.counters())[0] == again.tokens
    assert len(await tenant.messages(again.accepted.conversation_id)) == 2


async def _outcome(tenant: Tenant, request: pb.AskRequest) -> str:
    try:
        await tenant.ask(request)
    except ServiceError as error:
        return error.reason
    return "answered"


async def _first_words(tenant: Tenant, request: pb.AskRequest) -> Told:
    """Reads a few words and hangs up."""
    told = Told()
    call = tenant.house.assistants.Ask(request, metadata=tenant.person())
    async for event in call:
        told.events.append(event)
        if len(told.text.split()) >= 5:
            break
    call.cancel()
    return told


async def _stored_by_then(tenant: Tenant, conversation_id: str) -> None:
    async with asyncio.timeout(60):
        while len(await tenant.messages(conversation_id)) < 2:  # noqa: ASYNC110 it happens elsewhere
            await asyncio.sleep(0.05)
