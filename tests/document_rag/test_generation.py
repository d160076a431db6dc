"""An answer while it is written: its end, its limits, and readers who leave."""

import asyncio
import time
from collections.abc import AsyncGenerator

import pytest

from services.document_rag.assistants.generation import Draft, generate
from services.document_rag.assistants.model import (
    Budget,
    FinishReason,
    ModelPrice,
    OnDisconnect,
    ProviderFailed,
    TokenCount,
    UsageSource,
)
from services.document_rag.assistants.outbox import Outbox
from services.document_rag.assistants.prompt import Brief, build_prompt
from services.document_rag.assistants.providers import Delta, Finish, Sampling
from services.document_rag.tokens import count_tokens
from tests.document_rag.passages import found
from tests.house.waiting import until

WHOLE = Finish(FinishReason.STOP, TokenCount(input=100, output=3), "m-2026")


def draft(limit: int = 100, *, ends_with_quota: bool = False) -> Draft:
    prompt = build_prompt(Brief(), "Qual é o prazo?", [], found(), Budget(100, 100))
    return Draft(prompt, Sampling("m", None, limit), ends_with_quota)


async def pieces(*given: Delta | Finish, pause: float = 0.0) -> AsyncGenerator[Delta | Finish, None]:
    for piece in given:
        yield piece
        await asyncio.sleep(pause)


async def read(outbox: "Outbox[object]", events: int) -> str:
    text = ""
    for _ in range(events):
        event = await outbox.next()
        if isinstance(event, Delta):
            text += event.text
        if event is not None:
            outbox.confirm(event)
    return text


async def read_slowly(outbox: "Outbox[object]") -> None:
    while (event := await outbox.next()) is not None:
        for _ in range(50):
            await asyncio.sleep(0)
        outbox.confirm(event)


async def test_a_whole_answer_is_charged_as_the_provider_reported() -> None:
    writing = draft()
    await generate(writing, pieces(Delta("Em "), Delta("março."), WHOLE), OnDisconnect.STOP, Outbox(), 5)
    answer = writing.finished(time.monotonic(), {"m-2026": ModelPrice(input=1_000_000, output=2_000_001)})
    assert (answer.text, answer.finish_reason, answer.model) == ("Em março.", FinishReason.STOP, "m-2026")
    assert (answer.tokens, answer.usage_source) == (WHOLE.tokens, UsageSource.PROVIDER)
    assert answer.cost_micros == 100 + 7, "a fraction of a millionth is rounded up"


async def test_the_whole_answer_is_on_its_way_before_it_is_checked_and_stored() -> None:
    outbox = Outbox[object](moment_seconds=30)
    await outbox.put("accepted")
    reading = asyncio.create_task(read_slowly(outbox))
    await generate(draft(), pieces(Delta("Em "), Delta("março."), WHOLE), OnDisconnect.STOP, outbox, 30)
    assert outbox.delivered_text == "Em março."
    reading.cancel()


async def test_a_reported_zero_stays_zero_and_a_missing_report_is_an_estimate() -> None:
    zero, missing = draft(), draft()
    reported = Finish(FinishReason.STOP, TokenCount(), "m")
    await generate(zero, pieces(Delta("Sim."), reported), OnDisconnect.STOP, Outbox(), 5)
    await generate(missing, pieces(Delta("Sim."), Finish(FinishReason.STOP, None, "m")), OnDisconnect.STOP, Outbox(), 5)
    assert zero.finished(0, {}).tokens == TokenCount()
    assert zero.finished(0, {}).usage_source is UsageSource.PROVIDER
    assert missing.finished(0, {}).tokens == TokenCount(input=missing.prompt.tokens, output=count_tokens("Sim."))
    assert missing.finished(0, {}).usage_source is UsageSource.ESTIMATED


async def test_an_answer_without_an_end_is_a_failure() -> None:
    with pytest.raises(ProviderFailed):
        await generate(draft(), pieces(Delta("Em ")), OnDisconnect.STOP, Outbox(), 5)


async def test_a_silent_provider_is_a_failure() -> None:
    with pytest.raises(ProviderFailed):
        await generate(draft(), pieces(Delta("Em "), pause=60), OnDisconnect.STOP, Outbox(), 0.05)


async def test_a_reader_who_leaves_is_charged_exactly_what_was_delivered() -> None:
    writing, outbox = draft(), Outbox[object]()
    endless = pieces(*[Delta(f"palavra{number} ") for number in range(1000)], WHOLE, pause=0.01)
    reading = asyncio.create_task(read(outbox, 5))
    reading.add_done_callback(lambda _: outbox.leave())
    await generate(writing, endless, OnDisconnect.STOP, outbox, 30)
    answer = writing.finished(0, {})
    assert answer.text == await reading
    assert answer.finish_reason is FinishReason.INTERRUPTED
    assert answer.usage_source is UsageSource.PARTIAL
    assert answer.tokens == TokenCount(input=writing.prompt.tokens, output=count_tokens(answer.text))


async def test_a_reader_who_left_before_the_provider_was_asked_is_charged_nothing() -> None:
    writing, outbox = draft(), Outbox[object]()
    outbox.leave()
    await generate(writing, pieces(Delta("Em "), WHOLE), OnDisconnect.STOP, outbox, 5)
    answer = writing.finished(0, {})
    assert (answer.text, answer.tokens.total, writing.provider_asked) == ("", 0, False)


async def test_a_cancelled_turn_stops_the_provider_before_it_goes_on() -> None:
    """A cancellation from outside is not the reader's leaving, and finds nothing still running."""
    closed = asyncio.Event()

    async def endless() -> AsyncGenerator[Delta | Finish, None]:
        try:
            while True:
                yield Delta("sim ")
                await asyncio.sleep(0.01)
        finally:
            await asyncio.sleep(0.05)
            closed.set()

    writing, given = draft(100_000), endless()
    task = asyncio.create_task(generate(writing, given, OnDisconnect.STOP, Outbox(), 30))
    await until(lambda: writing.text)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert closed.is_set()
    assert writing.finish is None
    await given.aclose()


async def test_finish_goes_on_without_its_reader() -> None:
    writing, outbox = draft(2000), Outbox[object]()
    outbox.leave()
    many = [Delta("sim ") for _ in range(600)]
    await generate(writing, pieces(*many, WHOLE), OnDisconnect.FINISH, outbox, 5)
    assert writing.finished(0, {}).text == "sim " * 600


@pytest.mark.parametrize(("ends_with_quota", "reason"), [(True, FinishReason.QUOTA), (False, FinishReason.LENGTH)])
async def test_a_provider_that_ignores_the_limit_is_stopped_at_it(
    *, ends_with_quota: bool, reason: FinishReason
) -> None:
    writing = draft(10, ends_with_quota=ends_with_quota)
    await generate(writing, pieces(*[Delta("sim ")] * 500, WHOLE), OnDisconnect.STOP, Outbox(), 5)
    answer = writing.finished(0, {})
    assert answer.finish_reason is reason
    assert answer.tokens.output == count_tokens(answer.text) <= 10


async def test_a_slow_reader_holds_the_provider_back() -> None:
    outbox = Outbox[object]()
    writing = draft(100_000)
    task = asyncio.create_task(generate(writing, pieces(*[Delta("sim ")] * 5000, WHOLE), OnDisconnect.STOP, outbox, 30))
    await asyncio.sleep(0.05)
    assert len(writing.text) < 4 * 1000
    outbox.leave()
    await task
