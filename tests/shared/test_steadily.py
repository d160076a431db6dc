"""Work in the background: no failure ends it, and a stop always does."""

import asyncio

import pytest

from shared.errors import Unavailable
from shared.steadily import in_background, steadily


async def test_neither_an_outage_nor_a_bug_ends_it() -> None:
    failures: list[Exception] = [RuntimeError("a bug"), Unavailable("down")]
    done = asyncio.Event()

    async def work() -> None:
        if failures:
            raise failures.pop()
        done.set()

    async with in_background(steadily("work", work, 0.01)):
        await asyncio.wait_for(done.wait(), 20)


@pytest.mark.parametrize("failure", [Unavailable("down"), RuntimeError("a bug")])
async def test_a_stop_is_heeded_though_cleaning_up_fails(failure: Exception) -> None:
    begun = asyncio.Event()

    async def work() -> None:
        try:
            begun.set()
            await asyncio.sleep(60)
        finally:
            raise failure

    async with asyncio.timeout(20):
        async with in_background(steadily("work", work, 0.01)):
            await begun.wait()


async def test_a_bell_ends_the_rest() -> None:
    bell, rounds = asyncio.Event(), asyncio.Semaphore(0)

    async def work() -> None:
        rounds.release()

    async with in_background(steadily("work", work, 60.0, bell)):
        for _ in range(3):
            await asyncio.wait_for(rounds.acquire(), 20)
            bell.set()
