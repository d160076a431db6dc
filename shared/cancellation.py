"""Cancellations that a library swallows."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def cancellation_kept() -> Iterator[None]:
    """Raises the cancellation that came inside the block and was swallowed there.

    redis-py sends by `asyncio.wait_for`, which before Python 3.12 returns its result and forgets a cancellation that
    comes in the same turn of the loop; PyMongo's asyncio client takes one for a lost connection, which a change stream
    and a loop that outlives such losses survive. The caller would then go on for ever, and who waits for it too.
    """
    task = _current_task()
    before = task.cancelling() if task else 0
    try:
        yield
    except asyncio.CancelledError:
        raise
    except Exception as error:
        if task and task.cancelling() > before:
            raise asyncio.CancelledError from error
        raise
    if task and task.cancelling() > before:
        raise asyncio.CancelledError


def _current_task() -> "asyncio.Task[object] | None":
    try:
        return asyncio.current_task()
    except RuntimeError:  # no loop, nothing to cancel
        return None
