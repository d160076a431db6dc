"""The pure part of reports: how a question is understood, which documents cover it, and how they become rows."""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.analytics.model import HOUR, Step
from services.analytics.reports.calendar import DAY, Grain, Span, next_hour, period_before, spans, step_of
from services.analytics.reports.model import MAX_ROWS, Dimension, Question, RangeTooLargeError
from services.analytics.reports.reports import rows_of
from services.analytics.reports.rollup_reader import Point
from services.analytics.reports.sums import together
from services.analytics.rollups.sketches import bucket_of, joined, merged, quantiles
from shared.errors import InvalidArgument
from tests.analytics.events import NOON

ONE = {"turns": 1}
ZONES = ("America/Sao_Paulo", "UTC", "Asia/Kolkata", "Europe/Lisbon", "America/Havana", "Pacific/Apia", "Africa/Cairo")


def query(**changes: Any) -> Question:
    asked: dict[str, Any] = {
        "start": datetime(2026, 11, 1, tzinfo=UTC),
        "end": datetime(2026, 11, 20, tzinfo=UTC),
        "grain": Grain.DAY,
        "group_by": (),
        "time_zone": "America/Sao_Paulo",
        "now": NOON,
    }
    return Question.of("acme", **{**asked, **changes})


def days(query: Question, hours: Sequence[datetime]) -> list[tuple[datetime, int]]:
    rows = rows_of(query, [Point(hour, (), ONE) for hour in hours])
    return [(row.start, row.sums["turns"]) for row in rows]


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
    places = [(utc(11, 5), ("b", "x")), (utc(10, 5), ("b", "x")), (utc(10, 6), ("a", "y"))]
    hours = [Point(*place, ONE) for place in places]
    rows = rows_of(asked, hours)
    assert [row.split for row in rows] == [("a", "y"), ("b", "x"), ("b", "x")]
    assert together(row.sums for row in rows)["turns"] == 3


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


@pytest.mark.parametrize(("grain", "days"), [(Grain.DAY, 400), (Grain.HOUR, 31), (Grain.MONTH, 1850)])
def test_a_range_too_large_is_refused_by_its_own_reason(grain: Grain, days: int) -> None:
    longest = timedelta(days=days)
    query(grain=grain, start=NOON - longest, end=NOON)
    with pytest.raises(RangeTooLargeError) as refused:
        query(grain=grain, start=NOON - longest - timedelta(seconds=1), end=NOON)
    assert refused.value.reason == "RANGE_TOO_LARGE"


def test_more_rows_than_an_answer_holds_are_refused() -> None:
    hours = [Point(utc(10, 5), (f"user-{number}",), ONE) for number in range(MAX_ROWS + 1)]
    asked = query(group_by=[Dimension.USER])
    assert len(rows_of(asked, hours[:-1])) == MAX_ROWS
    with pytest.raises(RangeTooLargeError):
        rows_of(asked, hours)


moments = st.integers(0, 40 * 365 * 24).map(lambda hours: datetime(1995, 1, 1, tzinfo=UTC) + hours * HOUR)


@settings(max_examples=150)
@given(moments, st.integers(1, 24 * 100), st.sampled_from(Grain), st.sampled_from(ZONES))
def test_what_is_read_covers_each_hour_once_and_no_document_lies_in_two_steps(
    first: datetime, hours: int, grain: Grain, zone_name: str
) -> None:
    zone = ZoneInfo(zone_name)
    found = spans(first, first + hours * HOUR, grain, zone)
    covered: list[datetime] = []
    for span in found:
        moment = span.first
        while moment < span.after:
            within = [moment + number * HOUR for number in range(24 if span.step is Step.DAY else 1)]
            assert len({step_of(hour, grain, zone) for hour in within}) == 1
            covered += within
            moment += len(within) * HOUR
    assert covered == [first + number * HOUR for number in range(hours)]


def test_a_month_of_another_zone_is_read_as_its_days_and_the_hours_at_its_ends() -> None:
    start, end = datetime(2026, 10, 1, 3, tzinfo=UTC), datetime(2026, 11, 1, 3, tzinfo=UTC)
    asked = query(start=start, end=end, grain=Grain.MONTH)
    october = datetime(2026, 10, 2, tzinfo=UTC)
    assert asked.spans() == [
        Span(Step.HOUR, start, october),
        Span(Step.DAY, october, datetime(2026, 11, 1, tzinfo=UTC)),
        Span(Step.HOUR, datetime(2026, 11, 1, tzinfo=UTC), end),
    ]


def test_a_month_whose_clocks_go_back_is_not_longer_than_a_month() -> None:
    """October of Lisbon has 745 hours."""
    october = {"start": datetime(2026, 9, 30, 23, tzinfo=UTC), "end": datetime(2026, 11, 1, tzinfo=UTC)}
    (hours,) = query(**october, grain=Grain.HOUR, time_zone="Europe/Lisbon").spans()
    assert (hours.after - hours.first) / HOUR == 745
    with pytest.raises(RangeTooLargeError):
        query(**october, grain=Grain.HOUR, time_zone="UTC")


def test_a_year_of_days_is_one_span_of_hours_and_in_utc_one_of_days() -> None:
    year = {"start": datetime(2025, 1, 1, 3, tzinfo=UTC), "end": datetime(2026, 1, 1, 3, tzinfo=UTC)}
    (hours,) = query(**year).spans()
    assert (hours.step, (hours.after - hours.first) / HOUR) == (Step.HOUR, 8760)
    start, end = datetime(2025, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)
    assert query(start=start, end=end, time_zone="UTC").spans() == [Span(Step.DAY, start, end)]


@pytest.mark.parametrize(
    ("zone_name", "start", "end", "before"),
    [
        # Two months, one of them with the day on which clocks went back.
        ("America/Sao_Paulo", (2018, 2, 1, 2), (2018, 4, 1, 3), (2017, 12, 1, 2)),
        # Seven days over a change of the clocks are seven days, not 168 hours.
        ("Europe/Lisbon", (2026, 3, 26, 0), (2026, 4, 1, 23), (2026, 3, 19, 0)),
        ("UTC", (2026, 11, 2, 0), (2026, 11, 3, 0), (2026, 11, 1, 0)),
        ("UTC", (2026, 11, 2, 5), (2026, 11, 3, 0), (2026, 11, 1, 10)),
    ],
)
def test_the_period_before_has_as_many_months_or_days_or_is_as_long(
    zone_name: str, start: tuple[int, ...], end: tuple[int, ...], before: tuple[int, ...]
) -> None:
    first, last, expected = (datetime(*each, tzinfo=UTC) for each in (start, end, before))  # type: ignore[arg-type, misc]
    assert period_before(first, last, ZoneInfo(zone_name)) == (expected, first)


def test_a_step_begins_before_its_hours_and_the_next_one_after_them() -> None:
    for zone_name in ZONES:
        zone, hour = ZoneInfo(zone_name), datetime(2011, 12, 25, tzinfo=UTC)
        while hour < datetime(2012, 1, 5, tzinfo=UTC):
            step = step_of(hour, Grain.DAY, zone)
            assert step <= hour < step + DAY + 2 * HOUR
            assert next_hour(step) <= hour
            hour += HOUR


latencies = st.lists(st.integers(1, 10**7), max_size=60)


@settings(max_examples=100)
@given(st.lists(latencies, max_size=6))
def test_distributions_joined_are_the_distribution_of_all_values(several: list[list[int]]) -> None:
    packed = [merged(b"", Counter(map(bucket_of, values))) for values in several]
    everything = Counter(bucket_of(value) for values in several for value in values)
    assert joined(packed) == merged(b"", everything)


@settings(max_examples=200)
@given(st.lists(st.integers(1, 10**7), min_size=1, max_size=60), st.sampled_from([0.5, 0.95, 0.99, 1.0]))
def test_a_percentile_is_the_least_value_that_its_share_is_not_above(values: list[int], share: float) -> None:
    values.sort()
    expected = next(value for place, value in enumerate(values, 1) if place >= round(share * len(values), 6))
    (found,) = quantiles(merged(b"", Counter(map(bucket_of, values))), [share])
    assert found == pytest.approx(expected, rel=0.0101)


def test_of_two_values_the_95th_percentile_is_the_greater_one() -> None:
    assert quantiles(merged(b"", {bucket_of(100): 1, bucket_of(900): 1}), [0.5, 0.95]) == [
        pytest.approx(100, rel=0.01),
        pytest.approx(900, rel=0.01),
    ]
