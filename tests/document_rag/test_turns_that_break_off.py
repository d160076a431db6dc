"""Turns whose process, neighbour or service goes away: what the next attempt finds, and that nobody pays twice."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from prosa.chat_store.v1 import conversation_service_pb2 as chat_pb
from prosa.document_rag.v1 import assistant_service_pb2 as pb
from prosa.document_rag.v1.assistant_service_pb2_grpc import AssistantServiceStub
from services.document_rag.assistants.model import (
    DEFAULT_MAX_OUTPUT_TOKENS,
    Answer,
    Budget,
    FinishReason,
    OnDisconnect,
    Question,
    TokenCount,
    UsageSource,
)
from services.document_rag.assistants.outcome import Outcome
from services.document_rag.assistants.prompt import Brief, most_prompt_tokens
from services.document_rag.assistants.token_budget import Hold, Wanted
from services.document_rag.assistants.turns import Turn
from tests.document_rag.neighbourhood import Tenant, Told, ask, replica, request_id
from tests.house.fake_provider import PLAIN_ANSWER, SLOW_WORDS
from tests.house.waiting import until

ABANDONED = "Resposta de quem morreu."


@pytest.mark.parametrize("stage", ["leased", "held", "stored", "charged"])
async def test_a_turn_abandoned_at_any_stage_is_taken_over(tenant: Tenant, stage: str) -> None:
    request = ask(await tenant.assistant("fake-plain"), request_id=request_id())
    turn, _, _ = await _abandoned(tenant, request, stage)
    assert await tenant.refused(request) == "REQUEST_IN_PROGRESS"
    await tenant.turn_leases_end()
    told = await tenant.ask(request)
    was_stored = stage in ("stored", "charged")
    assert told.text == (ABANDONED if was_stored else PLAIN_ANSWER)
    assert told.accepted.conversation_id == turn.conversation_id
    assert await tenant.kinds(turn.conversation_id) == ["USER", "ASSISTANT"]
    assert await tenant.charges() == [told.tokens]
    assert await tenant.counters() == (told.tokens, 0)
    assert (await tenant.ask(request)).completed == told.completed


async def test_a_stored_answer_whose_reservation_lapsed_is_charged_exactly_once(tenant: Tenant) -> None:
    request = ask(await tenant.assistant("fake-plain"), request_id=request_id())
    turn, hold, _ = await _abandoned(tenant, request, "stored")
    with tenant.acting():
        await tenant.house.parts.budget.release(hold.reservation_id)
    await tenant.turn_leases_end()
    told = await tenant.ask(request)
    assert told.text == ABANDONED
    assert await tenant.charges() == [told.tokens]
    with tenant.acting():
        answer = replace(_answer(), latency_ms=7)
        await _charge(tenant, request, turn, hold, answer)
    assert await tenant.charges() == [told.tokens]


async def test_a_very_long_answer_that_was_stored_is_told_whole(tenant: Tenant) -> None:
    request = ask(await tenant.assistant("fake-plain"), request_id=request_id())
    turn, hold, question = await _abandoned(tenant, request, "held")
    long = replace(_answer(), text="ção " * 100_000)
    with tenant.acting():
        await tenant.house.parts.conversations.add_answer(turn, question, _outcome(request.assistant_id, hold, long))
    await tenant.turn_leases_end()
    assert (await tenant.ask(request)).text == long.text


async def test_a_late_charge_survives_its_own_lapse(tenant: Tenant) -> None:
    """A process that stands still between holding anew and charging must not make the answer free, or dear."""
    request = ask(await tenant.assistant("fake-plain"), request_id=request_id())
    turn, hold, _ = await _abandoned(tenant, request, "stored")
    budget = tenant.house.parts.budget
    exact = Wanted(_answer().tokens.total, _answer().tokens.total, _answer().model, request.assistant_id)
    with tenant.acting():
        await budget.release(hold.reservation_id)
        lapsed = await budget._reserve(turn, exact, "late-0")
        await budget.release(lapsed.reservation_id)
        for _ in range(2):
            await _charge(tenant, request, turn, hold, _answer())
    assert await tenant.charges() == [_answer().tokens.total]
    assert await tenant.counters() == (_answer().tokens.total, 0)


async def test_an_attempt_that_was_overtaken_charges_the_answer_that_was_stored_first(tenant: Tenant) -> None:
    """The first attempt lost its lease but lives: it stores and charges while the second one still writes."""
    request = ask(await tenant.assistant("fake-slow-5"), request_id=request_id())
    turn, hold, question = await _abandoned(tenant, request, "held")
    await tenant.turn_leases_end()
    told = Told()
    second = asyncio.create_task(tenant.ask(request, told=told))
    await until(lambda: told.text)
    with tenant.acting():
        await _store(tenant, turn, hold, question)
        await _charge(tenant, request, turn, hold, _answer())
    completed = (await second).completed
    stored = (await tenant.messages(turn.conversation_id))[1]
    assert (stored.text, completed.message_id) == (ABANDONED, stored.message_id)
    assert await tenant.charges() == [_answer().tokens.total]
    assert await tenant.counters() == (_answer().tokens.total, 0)


@pytest.mark.parametrize("name", ["tenant_quota", "chat_store"])
async def test_a_neighbour_that_is_away_for_a_moment_costs_nothing_but_time(tenant: Tenant, name: str) -> None:
    request = ask(await tenant.assistant("fake-slow-5"), request_id=request_id())
    told = Told()
    turn = asyncio.create_task(tenant.ask(request, told=told))
    await until(lambda: told.text)
    async with getattr(tenant.house, name).away():
        await until(lambda: f"palavra{SLOW_WORDS - 1}" in told.text)
        await asyncio.sleep(0.3)
        assert not turn.done()
    answered = await turn
    assert await tenant.kinds(told.accepted.conversation_id) == ["USER", "ASSISTANT"]
    assert await tenant.charges() == [answered.tokens]


@pytest.mark.parametrize("name", ["tenant_quota", "chat_store"])
async def test_a_turn_that_finds_a_neighbour_away_fails_in_words_and_may_be_retried(tenant: Tenant, name: str) -> None:
    request = ask(await tenant.assistant("fake-plain"), request_id=request_id())
    async with getattr(tenant.house, name).away():
        assert await tenant.refused(request) == "DEPENDENCY_UNAVAILABLE"
    answered = await tenant.answered_at_last(request)
    assert [each.text for each in await tenant.messages(answered.accepted.conversation_id)][-1] == PLAIN_ANSWER
    await tenant.nothing_held()
    assert await tenant.charges() == [answered.tokens]


async def test_a_stopping_service_finishes_the_answers_whose_reader_left(tenant: Tenant) -> None:
    told = await _stopped_under(tenant, "fake-slow-1", pb.ON_DISCONNECT_FINISH, drain_seconds=30)
    answer = (await tenant.messages(told.accepted.conversation_id))[1]
    assert len(answer.text.split()) == SLOW_WORDS
    assert answer.status == chat_pb.MESSAGE_STATUS_COMPLETE
    used, held = await tenant.counters()
    assert (used, held) == (answer.usage.input_tokens + answer.usage.output_tokens, 0)


async def test_a_stopping_service_does_not_wait_for_ever_and_leaves_nothing_held(tenant: Tenant) -> None:
    told = await _stopped_under(tenant, "fake-slow-500", pb.ON_DISCONNECT_FINISH)
    assert await tenant.kinds(told.accepted.conversation_id) == ["USER", "ERROR"], "the whole answer takes 100 s"
    assert await tenant.counters() == (0, 0)


async def test_a_stopping_service_keeps_what_a_reader_was_given(tenant: Tenant) -> None:
    told = await _stopped_under(tenant, "fake-slow-20", pb.ON_DISCONNECT_STOP)
    answer = (await tenant.messages(told.accepted.conversation_id))[1]
    assert answer.status == chat_pb.MESSAGE_STATUS_INTERRUPTED
    assert answer.text.startswith(told.text)
    assert (await tenant.counters())[1] == 0


async def _stopped_under(
    tenant: Tenant, model: str, policy: pb.OnDisconnect.ValueType, drain_seconds: float = 1.0
) -> Told:
    """Another replica is stopped while it answers; what its reader was given."""
    request = ask(await tenant.assistant(model), on_disconnect=policy)
    told = Told()
    config = tenant.house.config.model_copy(update={"turn_drain_seconds": drain_seconds})
    async with replica(config, tenant.house.keys) as (channel, _):
        call = AssistantServiceStub(channel).Ask(request, metadata=tenant.person())
        events: AsyncIterator[pb.AskEvent] = aiter(call)
        while not told.text:
            told.events.append(await anext(events))
    return told


async def _abandoned(tenant: Tenant, request: pb.AskRequest, stage: str) -> tuple[Turn, Hold, Question]:
    """A turn as a process leaves it that is killed at this stage."""
    question = Question(
        assistant_id=request.assistant_id,
        conversation_id=request.conversation_id,
        text=request.question,
        on_disconnect=OnDisconnect.STOP,
        max_output_tokens=0,
        channel="",
        request_id=request.request_id,
    )
    parts = tenant.house.parts
    with tenant.acting():
        turn = await parts.turns.begin(tenant.tenant_id, "ana", question)
        if stage == "leased":
            return turn, Hold("", 0, datetime.now(UTC)), question
        hold = await parts.budget.hold(turn, _wanted(tenant, request))
        await parts.conversations.add_question(turn, question)
        if stage in ("stored", "charged"):
            await _store(tenant, turn, hold, question)
        if stage == "charged":
            await _charge(tenant, request, turn, hold, _answer())
    return turn, hold, question


async def _store(tenant: Tenant, turn: Turn, hold: Hold, question: Question) -> None:
    await tenant.house.parts.conversations.add_answer(turn, question, _outcome(question.assistant_id, hold, _answer()))


async def _charge(tenant: Tenant, request: pb.AskRequest, turn: Turn, hold: Hold, answer: Answer) -> None:
    for paid in _outcome(request.assistant_id, hold, answer).payments():
        await tenant.house.parts.budget.charge(turn, paid)


def _outcome(assistant_id: str, hold: Hold, answer: Answer) -> Outcome:
    return Outcome(answer, assistant_id, hold.reservation_id, references=(), rag=False)


def _wanted(tenant: Tenant, request: pb.AskRequest) -> Wanted:
    """What the service holds for such a question in a new conversation, to the token."""
    config = tenant.house.config
    prompt = most_prompt_tokens(Brief(), request.question, Budget(config.passage_tokens, 0))
    return Wanted(
        tokens=prompt + DEFAULT_MAX_OUTPUT_TOKENS,
        minimum_tokens=prompt + config.least_answer_tokens,
        model="fake-plain",
        assistant_id=request.assistant_id,
    )


def _answer() -> Answer:
    return Answer(
        text=ABANDONED,
        finish_reason=FinishReason.STOP,
        tokens=TokenCount(input=30, output=7),
        usage_source=UsageSource.PROVIDER,
        cost_micros=3,
        model="fake-plain",
        latency_ms=5,
        time_to_first_token_ms=2,
    )
