"""A cancelled task ends, whatever the library does that it waits for."""

import asyncio

import pytest

from shared.cancellation import cancellation_kept


async def _swallowing(*, failing: bool) -> None:
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        if failing:
            raise ConnectionError("lost") from None


@pytest.mark.parametrize("failing", [True, False])
async def test_a_swallowed_cancellation_is_raised_after_all(*, failing: bool) -> None:
    async def work() -> None:
        with cancellation_kept():
            await _swallowing(failing=failing)

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_timeout_around_it_is_still_a_timeout() -> None:
    async def work() -> None:
        async with asyncio.timeout(0.01):
            with cancellation_kept():
                await _swallowing(failing=True)

    with pytest.raises(TimeoutError):
        await work()


async def test_errors_of_tasks_that_nobody_cancels_pass_through() -> None:
    with pytest.raises(KeyError), cancellation_kept():
        raise KeyError


def test_it_needs_no_loop() -> None:
    with pytest.raises(KeyError), cancellation_kept():
        raise KeyError
