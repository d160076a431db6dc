"""How much time the caller of the RPC in progress still gives, so that calls made for it do not outlive it."""

import time
from contextvars import ContextVar

_ends_at: ContextVar[float] = ContextVar("prosa_deadline")


def set_deadline(seconds_left: float) -> None:
    """The RPC of this task ends in so many seconds."""
    _ends_at.set(time.monotonic() + seconds_left)


def seconds_left() -> float | None:
    """What remains of the caller's time; None outside of an RPC, and for work that deliberately goes on after it."""
    ends_at = _ends_at.get(None)
    if ends_at is None:
        return None
    remaining = ends_at - time.monotonic()
    return remaining if remaining > 0 else None
