"""The pure part: what a message counts as and where it is counted."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.analytics.intake.wire import fact_of
from services.analytics.model import Ending, Figures, MessageFact, Speaker
from services.analytics.rollups.series import combined, folded
from tests.analytics.events import COUNTED, NOON, many_events, oracle

ONE = Figures(turns=1)


def message(speaker: Speaker, ending: Ending = Ending.COMPLETE, **kept: Any) -> MessageFact:
    return MessageFact("m", 1, speaker, ending, NOON, **kept)


@pytest.mark.parametrize(
    ("fact", "figures"),
    [
        (message(Speaker.USER), Figures(user_messages=1)),
        (message(Speaker.ASSISTANT), Figures(turns=1)),
        (message(Speaker.ASSISTANT, rag=True), Figures(turns=1, rag_turns=1)),
        (message(Speaker.TEAM, Ending.INTERRUPTED), Figures(turns=1, interrupted_turns=1)),
        (message(Speaker.ASSISTANT, Ending.ERROR, rag=True), Figures(errors=1)),
        (
            message(Speaker.ERROR, Ending.ERROR, input_tokens=9, cost_micros=3),
            Figures(errors=1, input_tokens=9, cost_micros=3),
        ),
        (message(Speaker.SYSTEM), Figures()),
    ],
)
def test_what_a_message_counts_as(fact: MessageFact, figures: Figures) -> None:
    assert fact.figures() == figures


def test_cached_tokens_are_counted_once() -> None:
    fact = message(Speaker.ASSISTANT, input_tokens=60, cached_input_tokens=40, output_tokens=10, reasoning_tokens=2)
    assert (fact.figures().input_tokens, fact.figures().cached_input_tokens) == (60, 40)


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), cut=st.integers(0, 120))
def test_the_fold_equals_the_oracle_and_does_not_depend_on_order_or_batches(seed: int, cut: int) -> None:
    events = many_events(120, seed=seed)
    facts = [fact_of(event.SerializeToString()) for event in events]
    merged = combined(folded(reversed(facts[cut:])))
    for key, figures in combined(folded(facts[:cut])).items():
        merged[key] = merged.get(key, Figures()).plus(figures)
    found = {
        (key.tenant_id, key.hour, key.model, key.user_id, key.assistant_id): {
            name: getattr(figures, name) for name in COUNTED
        }
        for key, figures in merged.items()
    }
    expected = {
        key: {name: sums[name] for name in COUNTED} for key, sums in oracle(events).items() if any(sums.values())
    }
    assert found == expected
