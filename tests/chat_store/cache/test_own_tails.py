"""What the process keeps of conversations: any window within it, never more than it may take, never for longer."""

import asyncio
import gc
import tracemalloc
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from itertools import product

import pytest

from services.chat_store.engines.own_tails import OwnTails
from services.chat_store.engines.tails import TAIL_BYTES, TAIL_MESSAGES
from services.chat_store.model import Draft, Feedback, Message, MessageType
from services.chat_store.selection import Page, Version, Window
from shared.config import MIB

TENANT = "t"
START = datetime(2026, 1, 2, tzinfo=UTC)
END = Window(newest_first=True)
LARGE = 100_000


@pytest.fixture
async def tails() -> AsyncIterator[OwnTails]:
    tails = OwnTails(max_bytes=4 * MIB, ttl_seconds=60)
    yield tails
    tails.close()


def messages(first: int, last: int, text: str = "x") -> list[Message]:
    return [
        Message(seq, START, Draft(MessageType.USER, f"{seq} {text}", user_id="ana")) for seq in range(first, last + 1)
    ]


def version(last_seq: int, first_seq: int = 1, revision: int = 0) -> Version:
    return Version(START, first_seq, last_seq, revision)


async def keep(tails: OwnTails, name: str, kept: list[Message], first_seq: int = 1) -> None:
    last_seq = kept[-1].seq if kept else first_seq - 1
    await tails.keep(TENANT, name, version(last_seq, first_seq), kept[::-1])


async def page(tails: OwnTails, name: str, window: Window = END) -> Page | None:
    held = await tails.page(TENANT, name, window)
    return None if held is None else held.page()


def expected(kept: list[Message], window: Window) -> Page:
    wanted = [message for message in kept if window.holds(message.seq)]
    ordered = wanted[::-1] if window.newest_first else wanted
    return Page(tuple(ordered[: window.limit]), more=len(wanted) > window.limit)


@pytest.mark.parametrize("first_seq", [1, 4])
async def test_any_window_within_the_tail_is_cut_as_the_engine_would(tails: OwnTails, first_seq: int) -> None:
    kept = messages(first_seq, 9)
    await keep(tails, "whole", kept, first_seq)
    await tails.keep(TENANT, "end", version(9, first_seq), kept[:3:-1])
    within = 0
    for after, before, newest_first, limit in product(range(12), range(12), (True, False), (1, 2, 3, 50)):
        window = Window(after, before, newest_first, limit)
        assert await page(tails, "whole", window) == expected(kept, window)
        shown = await page(tails, "end", window)
        if shown is not None:
            within += 1
            assert shown == expected(kept, window)
        else:
            assert min(message.seq for message in expected(kept, window).messages) < kept[4].seq
    assert within > 100


async def test_what_is_read_twice_is_the_same_object_twice(tails: OwnTails) -> None:
    kept, more = messages(1, 4), messages(5, 6)
    await keep(tails, "a", kept)
    await tails.extend(TENANT, "a", more)
    for _ in range(2):
        shown = await page(tails, "a")
        assert shown is not None
        assert all(one is other for one, other in zip(shown.messages[::-1], [*kept, *more], strict=True))


async def test_only_what_follows_the_tail_extends_it(tails: OwnTails) -> None:
    await keep(tails, "a", messages(1, 4))
    for first, last in ((6, 7), (4, 4), (1, 5)):
        await tails.extend(TENANT, "a", messages(first, last))
    await tails.extend(TENANT, "b", messages(1, 2))
    held = await tails.page(TENANT, "a", END)
    assert held is not None
    assert (held.version, len(tails)) == (version(4), 1)
    await tails.extend(TENANT, "a", messages(5, 6))
    held = await tails.page(TENANT, "a", END)
    assert held is not None
    assert held.version == version(6)
    assert [message.seq for message in held.page().messages] == [6, 5, 4, 3, 2, 1]


async def test_a_tail_keeps_its_newest_messages(tails: OwnTails) -> None:
    for last in (TAIL_MESSAGES, TAIL_MESSAGES + 30):
        await keep(tails, "many", messages(1, last))
        await tails.extend(TENANT, "many", messages(last + 1, last + 10))
        for limit, is_held in ((TAIL_MESSAGES, True), (TAIL_MESSAGES + 1, False)):
            assert (await page(tails, "many", replace(END, limit=limit)) is not None) == is_held
    await keep(tails, "large", messages(1, 3, "x" * LARGE))
    assert await page(tails, "large", replace(END, limit=2)) is not None
    assert await page(tails, "large", replace(END, limit=3)) is None
    await tails.extend(TENANT, "large", messages(4, 4, "x" * TAIL_BYTES))
    assert await page(tails, "large", replace(END, limit=1)) is None
    assert await page(tails, "large", Window(after_seq=4)) == Page((), more=False)


async def test_all_tails_together_stay_within_their_bytes(tails: OwnTails) -> None:
    names = [f"c{number}" for number in range(100)]
    for name in names:
        await keep(tails, name, messages(1, 1, "x" * LARGE))
        await tails.extend(TENANT, name, messages(2, 2, "x" * LARGE))
        assert 0 < tails.size_bytes <= 4 * MIB
    kept = [name for name in names if await page(tails, name) is not None]
    assert kept == names[-len(kept) :]
    assert 5 <= len(kept) == len(tails) <= 4 * MIB // (2 * LARGE)
    for name in kept:
        assert await tails.forget(TENANT, name) == 1
    assert (len(tails), tails.size_bytes) == (0, 0)


async def test_the_estimate_is_no_less_than_what_is_taken() -> None:
    for text in ("ação " * 80, "🏛️ " * 80, "x" * 3, "x" * LARGE):
        tails = OwnTails(max_bytes=1024 * MIB, ttl_seconds=60)
        gc.collect()
        tracemalloc.start()
        try:
            for number in range(20):
                await keep(tails, f"c{number}", messages(1, 2, text))
            taken, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert taken <= tails.size_bytes
        tails.close()


async def test_of_too_many_tails_that_leaves_whose_confirmation_is_the_longest_ago() -> None:
    tails = OwnTails(max_bytes=4 * MIB, ttl_seconds=60, max_tails=2)
    for name in ("a", "b"):
        await keep(tails, name, messages(1, 1))
    assert await page(tails, "a") is not None
    await tails.extend(TENANT, "b", messages(2, 2))  # which confirms nothing
    await keep(tails, "c", messages(1, 1))
    assert [await page(tails, name) is not None for name in "abc"] == [True, False, True]
    tails.close()


class LoopOfItsOwnTime(asyncio.SelectorEventLoop):
    """Time stands still until it is told to pass."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0

    def time(self) -> float:
        return self._now

    async def passes(self, seconds: float) -> None:
        """Returns when what was to happen by then has."""
        self._now += seconds
        for _ in range(3):
            await asyncio.sleep(0)


def test_a_tail_leaves_by_itself_some_time_after_it_was_confirmed() -> None:
    async def story() -> None:
        tails = OwnTails(max_bytes=4 * MIB, ttl_seconds=60.0)
        for name in ("read", "extended", "left"):
            await keep(tails, name, messages(1, 1))
        await loop.passes(59)
        assert await page(tails, "read") is not None
        await tails.extend(TENANT, "extended", messages(2, 2))
        assert len(tails) == 3
        await loop.passes(1)
        held = [await tails.page(TENANT, name, END) is not None for name in ("read", "extended", "left")]
        assert held == [True, False, False]
        await loop.passes(59)
        assert (len(tails), tails.size_bytes) == (0, 0)
        await keep(tails, "again", messages(1, 1))
        await loop.passes(60)
        assert len(tails) == 0
        tails.close()

    loop = LoopOfItsOwnTime()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(story())


async def test_what_a_person_said_or_thought_is_found_and_forgotten_by_tenant(tails: OwnTails) -> None:
    said, thought = messages(1, 2), [replace(messages(3, 3)[0], feedback=Feedback(5, user_id="bia"))]
    for tenant in ("t", "u"):
        await tails.keep(tenant, "a", version(3), [*thought, *said[::-1]])
    assert [await tails.count_by("t", name) for name in ("ana", "bia", "eva")] == [3, 1, 0]
    assert [await tails.forget_all("t") for _ in range(2)] == [1, 0]
    assert [await tails.count_by(tenant, "ana") for tenant in ("t", "u")] == [0, 3]
