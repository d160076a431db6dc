"""Between writer and reader: order, joined pieces, and readers who keep a turn waiting."""

import asyncio

import pytest

from services.document_rag.assistants.answer import Telling
from services.document_rag.assistants.events import AnswerEvent
from services.document_rag.assistants.outbox import Outbox
from services.document_rag.assistants.providers import Delta
from shared.errors import DeadlineExceeded

MANY = [Delta(f"palavra{number} ") for number in range(400)]


async def test_pieces_that_wait_together_become_one() -> None:
    outbox = Outbox[str]()
    for event in ("accepted", Delta("Em "), Delta("março."), "completed"):
        await outbox.put(event)
    outbox.close()
    assert [await outbox.next() for _ in range(4)] == ["accepted", Delta("Em março."), "completed", None]


async def test_a_reader_who_does_not_read_has_left_after_a_while_with_what_was_handed_out() -> None:
    outbox = Outbox[str](patience_seconds=0.05)
    await outbox.put(Delta("Em "))
    handed = await outbox.next()
    assert handed == Delta("Em ")
    async with asyncio.timeout(20):
        for piece in MANY:
            await outbox.put(piece)
    assert outbox.reader_left.is_set()
    assert outbox.delivered_text == "Em "
    outbox.confirm(handed)
    assert outbox.delivered_text == "Em ", "what counted once does not count again"


async def test_patience_is_for_the_whole_turn_and_not_for_each_piece() -> None:
    outbox = Outbox[str](patience_seconds=0.2)
    writing = asyncio.create_task(_write(outbox))
    async with asyncio.timeout(20):
        while not outbox.reader_left.is_set():
            await asyncio.sleep(0.08)
            if not outbox.reader_left.is_set() and (event := await outbox.next()):
                outbox.confirm(event)
    writing.cancel()


async def test_a_reader_who_was_given_up_is_told_so_at_the_end() -> None:
    outbox = Outbox[AnswerEvent](patience_seconds=0.01)
    task = asyncio.create_task(_put_all(outbox))
    task.add_done_callback(lambda _: outbox.close())
    events = Telling(outbox, task).events()
    assert isinstance(await anext(events), Delta)
    await task
    with pytest.raises(DeadlineExceeded):
        await anext(events)


async def test_to_close_the_events_is_to_leave() -> None:
    outbox = Outbox[AnswerEvent]()
    task = asyncio.create_task(_put_all(outbox))
    events = Telling(outbox, task).events()
    event = await anext(events)
    await events.aclose()
    await task
    assert outbox.reader_left.is_set()
    assert isinstance(event, Delta)
    assert outbox.delivered_text == event.text, "what was being written when the reader left may have been read"


async def test_the_words_are_on_their_way_before_what_comes_after_them() -> None:
    outbox = Outbox[AnswerEvent](moment_seconds=30)
    task = asyncio.create_task(_put_all(outbox))
    task.add_done_callback(lambda _: outbox.close())
    reading = asyncio.create_task(_read_slowly(Telling(outbox, task)))
    await task
    await outbox.heard()
    assert outbox.delivered_text == "".join(each.text for each in MANY * 2)
    await reading


@pytest.mark.parametrize("leaves", [True, False])
async def test_a_reader_who_reads_no_further_or_left_is_not_waited_for(leaves: bool) -> None:
    outbox = Outbox[str](moment_seconds=300 if leaves else 0.01)
    await outbox.put("accepted")
    assert await outbox.next() == "accepted"
    async with asyncio.timeout(60):
        waiting = asyncio.create_task(outbox.heard())
        await asyncio.sleep(0)
        if leaves:
            outbox.leave()
        await waiting


async def _read_slowly(telling: Telling) -> None:
    async for _ in telling.events():
        for _ in range(10):
            await asyncio.sleep(0)


async def _put_all(outbox: Outbox[AnswerEvent]) -> None:
    for piece in MANY * 2:
        await outbox.put(piece)


async def _write(outbox: Outbox[str]) -> None:
    while True:
        for piece in MANY:
            await outbox.put(piece)
        await asyncio.sleep(0)
