"""Positions in page tokens: whoever edits one is refused, whatever they write."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from prosa.chat_store.v1.admin_service_pb2 import ListAuditEntriesRequest
from services.chat_store.audit_trail import TrailSelection
from services.chat_store.pages import hit_place_at, place_at, revision_at, window_at
from services.chat_store.selection import Window
from services.chat_store.wire.admin import trail_selection
from shared.errors import InvalidArgument

HUGE = 10**400
HIT = {"r": 1.5, "t": 1000, "c": "c1", "s": 7}


def trail(position: dict[str, Any]) -> TrailSelection:
    return trail_selection(ListAuditEntriesRequest(), position, 10)


def window(position: dict[str, Any]) -> Window:
    return window_at(Window(), position)


def test_positions_that_we_made_are_read() -> None:
    place = hit_place_at(HIT)
    assert place is not None
    assert (place.score, place.conversation_id, place.seq) == (1.5, "c1", 7)
    assert hit_place_at({**HIT, "r": 0}) is not None
    assert (window({"s": 2**63 - 1}).after_seq, revision_at({"v": 0})) == (2**63 - 1, 0)


@pytest.mark.parametrize(
    ("read", "position"),
    [
        *((hit_place_at, {**HIT, "r": score}) for score in (HUGE, -HUGE, float("nan"), float("inf"), "1", None)),
        *((hit_place_at, {**HIT, "s": seq}) for seq in (0, -1, 2**63, HUGE, 1.0)),
        *((window, {"s": seq}) for seq in (2**63, HUGE, "1")),
        *((revision_at, {"v": revision}) for revision in (-1, 2**31, HUGE, 1.0)),
        *((trail, {"l": link, "i": index}) for link, index in ((0, 1), (2**63, 1), (HUGE, 1), (1, -1), (1, HUGE))),
        *((place_at, {"t": at, "c": "c1"}) for at in (-1, HUGE, 1.0)),
    ],
    ids=lambda each: each.__name__ if callable(each) else json.dumps(each)[:40],
)
def test_a_position_that_was_edited_is_refused(read: Callable[[Any], object], position: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument) as refused:
        read(position)
    assert refused.value.reason == "PAGE_TOKEN_INVALID"
