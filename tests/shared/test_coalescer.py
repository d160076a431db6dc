"""What shares a statement, what waits, and what happens to those who leave."""

import asyncio
from collections.abc import Sequence

import pytest

from shared.coalescer import BUSY_BATCH, LARGE_BATCH, Coalescer
from shared.errors import Unavailable
from tests.house.waiting import until

BUSY = [str(number) for number in range(BUSY_BATCH)]


class Statement:
    """Takes batches and answers them when told to."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.open = asyncio.Event()
        self.open.set()

    async def run(self, items: Sequence[str]) -> Sequence[str]:
        self.batches.append(list(items))
        await self.open.wait()
        for item in items:
            if item.startswith("poison"):
                raise LookupError(item)
        if items[0] == "down":
            raise Unavailable("down")
        return [item.upper() for item in items]


@pytest.fixture
def statement() -> Statement:
    return Statement()


def coalescer(statement: Statement, *, largest: int = 100, in_flight: int = 1) -> Coalescer[str, str]:
    return Coalescer(statement.run, lambda item: item.split("#")[0], largest_batch=largest, most_in_flight=in_flight)


async def test_requests_of_one_tick_share_a_statement(statement: Statement) -> None:
    gatherer = coalescer(statement)
    answers = await asyncio.gather(*(gatherer.submit(item) for item in "abcdef"))
    assert answers == list("ABCDEF")
    assert statement.batches == [list("abcdef")]


async def test_a_lone_request_leaves_at_once(statement: Statement) -> None:
    gatherer = coalescer(statement)
    assert [await gatherer.submit("a"), await gatherer.submit("b")] == ["A", "B"]
    assert statement.batches == [["a"], ["b"]]


async def test_while_a_statement_runs_the_next_ones_gather(statement: Statement) -> None:
    gatherer = coalescer(statement)
    statement.open.clear()
    first = asyncio.create_task(gatherer.submit("a"))
    await until(lambda: statement.batches)
    later = [asyncio.create_task(gatherer.submit(item)) for item in "bcd"]
    await asyncio.sleep(0.01)
    assert statement.batches == [["a"]]
    statement.open.set()
    await asyncio.gather(first, *later)
    assert statement.batches == [["a"], ["b", "c", "d"]]


async def test_a_statement_that_takes_long_holds_up_no_other_one(statement: Statement) -> None:
    gatherer = Coalescer[str, str](statement.run, most_in_flight=1, patience_seconds=1.0)
    statement.open.clear()
    first = asyncio.create_task(gatherer.submit("a"))
    await until(lambda: statement.batches)
    later = [asyncio.create_task(gatherer.submit(item)) for item in "bc"]
    await asyncio.sleep(0)
    assert statement.batches == [["a"]]
    await until(lambda: statement.batches == [["a"], ["b", "c"]])
    statement.open.set()
    assert await asyncio.gather(first, *later) == ["A", "B", "C"]


async def test_after_a_statement_of_several_the_next_waits_for_more_or_is_large(statement: Statement) -> None:
    gatherer = Coalescer[str, str](statement.run, pace_seconds=3_600.0)
    await asyncio.gather(*(gatherer.submit(item) for item in BUSY))
    small = [asyncio.create_task(gatherer.submit("c")) for _ in range(LARGE_BATCH - 1)]
    await asyncio.sleep(0.01)
    assert statement.batches == [BUSY]
    await asyncio.gather(gatherer.submit("c"), *small)
    assert statement.batches == [BUSY, ["c"] * LARGE_BATCH]


async def test_a_small_statement_leaves_when_its_time_has_come(statement: Statement) -> None:
    gatherer = Coalescer[str, str](statement.run, pace_seconds=0.05)
    await asyncio.gather(*(gatherer.submit(item) for item in BUSY))
    assert await gatherer.submit("c") == "C"


async def test_few_keep_no_pace(statement: Statement) -> None:
    gatherer = Coalescer[str, str](statement.run, pace_seconds=3_600.0)
    for _ in range(2):
        await asyncio.gather(*(gatherer.submit(item) for item in BUSY[1:]))
    assert statement.batches == [BUSY[1:]] * 2


async def test_a_statement_that_waits_for_more_leaves_before_the_end(statement: Statement) -> None:
    gatherer = Coalescer[str, str](statement.run, pace_seconds=3_600.0)
    await asyncio.gather(*(gatherer.submit(item) for item in BUSY))
    last = asyncio.create_task(gatherer.submit("c"))
    await asyncio.sleep(0)
    await gatherer.close()
    assert await last == "C"


async def test_a_statement_takes_no_more_than_the_largest_batch(statement: Statement) -> None:
    gatherer = coalescer(statement, largest=3)
    await asyncio.gather(*(gatherer.submit(item) for item in "abcdefgh"))
    assert [len(batch) for batch in statement.batches] == [3, 3, 2]


async def test_two_items_of_one_identity_never_share_a_statement(statement: Statement) -> None:
    gatherer = coalescer(statement, in_flight=4)
    answers = await asyncio.gather(*(gatherer.submit(item) for item in ("a#1", "a#2", "b#1", "a#3")))
    assert answers == ["A#1", "A#2", "B#1", "A#3"]
    assert statement.batches == [["a#1", "b#1"], ["a#2"], ["a#3"]]


async def test_items_without_an_identity_share_a_statement(statement: Statement) -> None:
    gatherer = Coalescer[str, str](statement.run)
    assert await asyncio.gather(*(gatherer.submit("a") for _ in range(3))) == ["A"] * 3
    assert statement.batches == [["a", "a", "a"]]


async def test_one_poisonous_item_fails_alone(statement: Statement) -> None:
    gatherer = coalescer(statement)
    answers = await asyncio.gather(*(gatherer.submit(item) for item in ("a", "poison", "b")), return_exceptions=True)
    assert answers[0] == "A"
    assert isinstance(answers[1], LookupError)
    assert answers[2] == "B"


async def test_an_outage_fails_the_whole_batch_once(statement: Statement) -> None:
    gatherer = coalescer(statement)
    answers = await asyncio.gather(*(gatherer.submit(item) for item in ("down", "a")), return_exceptions=True)
    assert all(isinstance(answer, Unavailable) for answer in answers)
    assert len(statement.batches) == 1


async def test_a_caller_that_is_gone_before_its_batch_leaves_takes_its_item_along(statement: Statement) -> None:
    gatherer = coalescer(statement)
    statement.open.clear()
    first = asyncio.create_task(gatherer.submit("a"))
    await until(lambda: statement.batches)
    gone, patient = asyncio.create_task(gatherer.submit("b")), asyncio.create_task(gatherer.submit("c"))
    await asyncio.sleep(0.01)
    gone.cancel()
    statement.open.set()
    assert await first == "A"
    assert await patient == "C"
    assert statement.batches == [["a"], ["c"]]


async def test_closing_finishes_what_is_in_and_takes_nothing_new(statement: Statement) -> None:
    gatherer = coalescer(statement, largest=1)
    waiting = [asyncio.create_task(gatherer.submit(item)) for item in "abc"]
    await asyncio.sleep(0)
    await gatherer.close()
    assert await asyncio.gather(*waiting) == list("ABC")
    with pytest.raises(Unavailable):
        await gatherer.submit("d")


@pytest.mark.parametrize("cancelled", [True, False])
async def test_nobody_waits_for_ever_for_a_statement_that_was_broken_off(*, cancelled: bool) -> None:
    async def too_little(items: Sequence[str]) -> Sequence[str]:
        if cancelled:
            raise asyncio.CancelledError
        return items[:-1]

    gatherer = Coalescer(too_little)
    async with asyncio.timeout(20):
        answers = await asyncio.gather(*(gatherer.submit(item) for item in "ab"), return_exceptions=True)
    assert isinstance(answers[1], Unavailable)
