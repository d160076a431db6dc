"""Ids that sort by time, ids that follow from their parts, and clocks that obey."""

import uuid

from hypothesis import given
from hypothesis import strategies as st

from shared.clock import ManualClock, SystemClock
from shared.identifiers import derived_id, new_id


def test_new_ids_sort_by_their_age() -> None:
    ids = [new_id() for _ in range(1000)]
    assert ids == sorted(ids)
    assert len(set(ids)) == 1000
    assert uuid.UUID(ids[0]).version == 7


def test_derived_ids_are_stable() -> None:
    assert derived_id("t1", "source") == derived_id("t1", "source")
    assert uuid.UUID(derived_id("t1")).version == 5


@given(st.lists(st.text(max_size=5), max_size=4), st.lists(st.text(max_size=5), max_size=4))
def test_other_parts_give_another_id(one: list[str], other: list[str]) -> None:
    assert (derived_id(*one) == derived_id(*other)) == (one == other)


def test_a_manual_clock_moves_only_when_told() -> None:
    clock = ManualClock()
    start = clock.now()
    assert clock.now() == start
    clock.advance(90)
    assert (clock.now() - start).total_seconds() == 90
    clock.advance(-100)
    assert clock.now() < start


def test_the_system_clock_is_in_utc() -> None:
    offset = SystemClock().now().utcoffset()
    assert offset is not None
    assert not offset
