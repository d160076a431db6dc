"""What may be kept of the feed's position, whatever the order in which events are settled."""

from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from services.analytics.intake.feed import Window
from services.analytics.model import Position

# The window only remembers where an entry is.
NO_STREAM: Any = None


@given(
    sizes=st.lists(st.booleans(), max_size=40),
    settle_order=st.randoms(use_true_random=False),
)
def test_the_window_never_passes_an_unsettled_event(sizes: list[bool], settle_order: object) -> None:
    window = Window(Position("at-0"))
    places: dict[str, int] = {}
    for place, counts in enumerate(sizes, start=1):
        after = Position(f"at-{place}", datetime(2026, 1, 1, tzinfo=UTC))
        if counts:
            places[f"e{place}"] = place
            window.send({f"e{place}": (NO_STREAM, f"{place}-0")}, after)
        else:
            window.send({}, after)
    waiting = list(places)
    settle_order.shuffle(waiting)  # type: ignore[attr-defined]
    while waiting:
        first = min(places[event_id] for event_id in waiting)
        assert int(window.position.token.removeprefix("at-")) == first - 1
        window.settle([waiting.pop()])
    assert window.position.token == f"at-{len(sizes)}"
