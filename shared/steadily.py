"""Work that is done again and again in the background, and that no single failure ends."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import NoReturn

from shared.errors import ServiceError
from shared.telemetry import get_logger

_log = get_logger()


async def steadily(
    name: str, work: Callable[[], Awaitable[object]], seconds: float, bell: asyncio.Event | None = None
) -> NoReturn:
    """Does `work`, rests for `seconds` or until the bell rings, and so on until cancelled.

    A failure is logged under `name`: what is down is waited for, and a bug must not end what others rely on.
    """
    while True:
        try:
            await work()
        except ServiceError as error:
            _log.warning(f"{name}_failed", reason=error.reason)
        except Exception:
            _log.exception(f"{name}_failed")
        _heed_cancellation()
        await _rest(seconds, bell)


@asynccontextmanager
async def in_background(*loops: Awaitable[object]) -> AsyncIterator[None]:
    """Runs them inside the block and ends them with it."""
    tasks = [asyncio.ensure_future(loop) for loop in loops]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task


def _heed_cancellation() -> None:
    """Cleaning up after a cancellation may fail, and the failure then hides it."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def _rest(seconds: float, bell: asyncio.Event | None) -> None:
    if bell is None:
        await asyncio.sleep(seconds)
        return
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await bell.wait()
    bell.clear()
