"""The pure part: what a message counts as, where it is counted, and how a question is understood."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.analytics.intake.wire import fact_of
from services.analytics.model import Ending, Figures, MessageFact, Speaker
from services.analytics.reports.model import MAX_ROWS, Dimension, Grain, RangeTooLargeError, UsageQuery
from services.analytics.reports.rows import rows_of, total_of
from services.analytics.rollups.series import combined, folded
from shared.errors import InvalidArgument
from tests.analytics.events import COUNTED, NOON, many_events, oracle

ONE = Figures(turns=1)


def query(**changes: Any) -> UsageQuery:
    asked: dict[str, Any] = {
        "start": datetime(2026, 11, 1, tzinfo=UTC),
        "end": datetime(2026, 11, 20, tzinfo=UTC),
        "grain": Grain.DAY,
        "group_by": (),
        "time_zone": "America/Sao_Paulo",
        "now": NOON,
    }
    return UsageQuery.of("acme", **{**asked, **changes})


def message(speaker: Speaker, ending: Ending = Ending.COMPLETE, **kept: Any) -> MessageFact:
    return MessageFact("m", 1, speaker, ending, NOON, **kept)


@pytest.mark.parametrize(
    ("fact", "figures"),
    [
        (message(Speaker.USER), Figures(user_messages=1)),
        (message(Speaker.ASSISTANT), Figures(turns=1)),
        (message(Speaker.ASSISTANT, rag=True), Figures(turns=1, rag_turns=1)),
        (message(Speaker.TEAM, Ending.INTERRUPTED), Figures(turns=1)),
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


@settings(max_examples=25, deadline=None)
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


def days(query: UsageQuery, hours: Sequence[datetime]) -> list[tuple[datetime, int]]:
    rows = rows_of(query, [(hour, (), ONE) for hour in hours])
    return [(row.start, row.figures.turns) for row in rows]


def utc(day: int, hour: int) -> datetime:
    return datetime(2026, 11, day, hour, tzinfo=UTC)


def test_days_begin_at_the_tenants_midnight() -> None:
    hours = [utc(10, 2), utc(10, 3), utc(11, 2), utc(11, 3)]
    assert days(query(), hours) == [(utc(9, 3), 1), (utc(10, 3), 2), (utc(11, 3), 1)]


def test_in_a_zone_half_an_hour_off_an_hour_belongs_to_the_day_in_which_it_begins() -> None:
    rows = days(query(time_zone="Asia/Kolkata"), [utc(10, 17), utc(10, 18), utc(10, 19)])
    half_past = timedelta(minutes=30)
    assert rows == [(utc(9, 18) + half_past, 2), (utc(10, 18) + half_past, 1)]


def test_a_day_without_midnight_begins_with_its_first_moment() -> None:
    """On 4 November 2018 clocks in São Paulo went from 00:00 to 01:00."""
    hour = datetime(2018, 11, 4, 15, tzinfo=UTC)
    start, end = datetime(2018, 11, 1, tzinfo=UTC), datetime(2018, 11, 9, tzinfo=UTC)
    assert days(query(start=start, end=end), [hour]) == [(datetime(2018, 11, 4, 3, tzinfo=UTC), 1)]


def test_hours_are_steps_of_their_own() -> None:
    asked = query(grain=Grain.HOUR)
    assert days(asked, [utc(10, 2), utc(10, 2), utc(10, 3)]) == [(utc(10, 2), 2), (utc(10, 3), 1)]


def test_rows_come_by_time_and_then_by_dimension() -> None:
    asked = query(group_by=[Dimension.MODEL, Dimension.USER])
    hours = [(utc(11, 5), ("b", "x"), ONE), (utc(10, 5), ("b", "x"), ONE), (utc(10, 6), ("a", "y"), ONE)]
    rows = rows_of(asked, hours)
    assert [row.split for row in rows] == [("a", "y"), ("b", "x"), ("b", "x")]
    assert total_of(rows) == Figures(turns=3)


def test_adjacent_ranges_share_no_hour_and_miss_none() -> None:
    half_past = utc(10, 5) + timedelta(minutes=30)
    before, after = query(end=half_past), query(start=half_past)
    assert before.hour_after() == after.first_hour() == utc(10, 6)
    assert query(end=utc(10, 5)).hour_after() == utc(10, 5)


def test_the_last_thirty_days_until_now_are_meant_when_nothing_is_said() -> None:
    asked = query(start=None, end=None, time_zone="")
    assert (asked.start, asked.end, asked.zone.key) == (NOON - timedelta(days=30), NOON, "America/Sao_Paulo")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"start": NOON, "end": NOON}, "start_time"),
        ({"start": utc(12, 0), "end": utc(11, 0)}, "start_time"),
        ({"time_zone": "Brasília"}, "time_zone"),
        ({"time_zone": "../../etc/passwd"}, "time_zone"),
        ({"time_zone": "America"}, "time_zone"),
        ({"time_zone": "a\0b"}, "time_zone"),
        ({"start": None, "end": datetime(1, 1, 2, tzinfo=UTC)}, "end_time"),
        ({"start": None, "end": datetime(9999, 12, 31, 23, 59, tzinfo=UTC)}, "end_time"),
        ({"start": datetime(1, 1, 1, tzinfo=UTC)}, "start_time"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused_naming_the_field(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        query(**changes)
    assert [violation.field for violation in refused.value.violations] == [field]
    assert refused.value.reason == "VALIDATION_FAILED"


@pytest.mark.parametrize(("grain", "days"), [(Grain.DAY, 400), (Grain.HOUR, 31)])
def test_a_range_too_large_is_refused_by_its_own_reason(grain: Grain, days: int) -> None:
    longest = timedelta(days=days)
    query(grain=grain, start=NOON - longest, end=NOON)
    with pytest.raises(RangeTooLargeError) as refused:
        query(grain=grain, start=NOON - longest - timedelta(seconds=1), end=NOON)
    assert refused.value.reason == "RANGE_TOO_LARGE"


def test_more_rows_than_an_answer_holds_are_refused() -> None:
    hours = [(utc(10, 5), (f"user-{number}",), ONE) for number in range(MAX_ROWS + 1)]
    asked = query(group_by=[Dimension.USER])
    assert len(rows_of(asked, hours[:-1])) == MAX_ROWS
    with pytest.raises(RangeTooLargeError):
        rows_of(asked, hours)
