"""Nobody learns from reports what fewer people than the floor spoke about, whatever they hold against each other."""

import csv
import io
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from itertools import product

import pytest
from bson import Binary
from hypothesis import given, settings
from hypothesis import strategies as st

from prosa.analytics.v1 import report_service_pb2 as pb
from services.analytics.intake.feed_positions import FeedPositions
from services.analytics.model import Axis
from services.analytics.reports.crowds import Cell, cells_of
from services.analytics.reports.rollup_reader import Point
from services.analytics.rollups import names
from services.analytics.rollups.rollup_store import RollupStore
from services.analytics.rollups.series import USERS
from services.analytics.rollups.sketches import digest_of, users_merged
from services.analytics.rollups.statements import StatementStore
from tests.analytics.events import NOON
from tests.analytics.report_stub import Stub, content, reporting, start_of, tenant
from tests.house.signing import SigningKeys

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
# So many people are a crowd in the pure part.
FLOOR = 3
# A month of São Paulo.
BEGIN, END = datetime(2026, 10, 1, 3, tzinfo=UTC), datetime(2026, 11, 1, 3, tzinfo=UTC)


@pytest.fixture
async def stub(store: RollupStore, positions: FeedPositions, signing_keys: SigningKeys) -> AsyncIterator[Stub]:
    async with reporting(store, positions, signing_keys) as opened:
        yield opened


async def talk(statements: StatementStore, *spoken: tuple[str, str, datetime], first: int = 0) -> None:
    """Conversations about a topic, by a person, at a time."""
    await statements.commit(
        [
            content(number, {names.ANALYSES: 1}, places=((Axis.TOPIC.value, topic),), user_id=user, at=at)
            for number, (topic, user, at) in enumerate(spoken, first)
        ]
    )


def asked(
    start: datetime, end: datetime, grain: pb.Grain.ValueType = pb.GRAIN_DAY, zone: str = "America/Sao_Paulo"
) -> pb.GetTopicsReportRequest:
    request = pb.GetTopicsReportRequest(grain=grain, time_zone=zone)
    request.start_time.FromDatetime(start)
    request.end_time.FromDatetime(end)
    return request


async def count_of(stub: Stub, keys: SigningKeys, request: pb.GetTopicsReportRequest, topic: str = "IPTU") -> int:
    report = await stub.GetTopicsReport(request, **tenant(keys))
    return sum(each.conversations for each in report.topics if each.topic == topic)


async def test_what_a_total_has_beyond_its_rows_is_nobody_alone(
    stub: Stub, statements: StatementStore, signing_keys: SigningKeys
) -> None:
    """Three days of six people each, and a day of one: his conversation is neither a row's nor the total's rest."""
    crowd = [("IPTU", f"u{number}", BEGIN + day * DAY) for day in range(3) for number in range(6)]
    await talk(statements, *crowd, ("IPTU", "ana", BEGIN + 5 * DAY))
    report = await stub.GetTopicsReport(asked(BEGIN, END), **tenant(signing_keys))
    assert [(start_of(row), row.conversations) for row in report.rows] == [(BEGIN + day * DAY, 6) for day in range(3)]
    assert [each.conversations for each in report.topics] == [18]
    assert (report.analyses, report.hidden_conversations) == (19, 1)
    request = pb.ExportReportRequest(report=pb.REPORT_KIND_TOPICS)
    request.start_time.FromDatetime(BEGIN)
    request.end_time.FromDatetime(END)
    file = (await stub.ExportReport(request, **tenant(signing_keys))).data.decode("utf-8-sig")
    assert [line[2] for line in list(csv.reader(io.StringIO(file), delimiter=";"))[1:]] == ["6", "6", "6"]


async def test_two_ranges_do_not_differ_by_what_one_person_said(
    stub: Stub, statements: StatementStore, signing_keys: SigningKeys
) -> None:
    """Whoever slides the end of a range, or its zone, over a conversation learns nothing of it."""
    alone = BEGIN + 4 * DAY + 9 * HOUR
    crowd = [("IPTU", f"u{number}", BEGIN + 2 * DAY) for number in range(7)]
    await talk(statements, *crowd, ("IPTU", "ana", alone), ("lixo", "ana", alone))
    ends = [alone, alone + HOUR, alone + 2 * HOUR, alone + DAY, END]
    assert [await count_of(stub, signing_keys, asked(BEGIN, end)) for end in ends] == [7, 7, 7, 7, 7]
    starts = [BEGIN, BEGIN + DAY, alone, alone + HOUR]
    assert [await count_of(stub, signing_keys, asked(start, END)) for start in starts] == [7, 7, 0, 0]
    for zone, grain in product(("UTC", "Asia/Tokyo", "Pacific/Honolulu"), (pb.GRAIN_HOUR, pb.GRAIN_DAY)):
        report = await stub.GetTopicsReport(asked(BEGIN, BEGIN + 30 * DAY, grain, zone), **tenant(signing_keys))
        assert [row.conversations for row in report.rows] == [7]


async def test_few_people_an_hour_are_told_with_their_day_and_few_a_day_with_their_week(
    stub: Stub, statements: StatementStore, signing_keys: SigningKeys
) -> None:
    day = [("IPTU", f"u{number}", BEGIN + number * HOUR) for number in range(5)]
    week = [("IPTU", f"w{number}", BEGIN + (8 + number) * DAY) for number in range(5)]
    month = [("IPTU", f"m{number}", BEGIN + (15 + number * 4) * DAY) for number in range(4)]
    await talk(statements, *day, *week, *month)

    async def rows(grain: pb.Grain.ValueType) -> list[int]:
        report = await stub.GetTopicsReport(asked(BEGIN, END, grain), **tenant(signing_keys))
        assert [each.conversations for each in report.topics] == [10]
        return [row.conversations for row in report.rows]

    assert [await rows(grain) for grain in (pb.GRAIN_HOUR, pb.GRAIN_DAY, pb.GRAIN_MONTH)] == [[], [5], [10]]
    await talk(statements, ("IPTU", "m4", END - HOUR), first=100)
    report = await stub.GetTopicsReport(asked(BEGIN, END, pb.GRAIN_MONTH), **tenant(signing_keys))
    assert [row.conversations for row in report.rows] == [15]
    assert await count_of(stub, signing_keys, asked(BEGIN, END - HOUR)) == 10


async def test_today_is_told_while_it_lasts(stub: Stub, statements: StatementStore, signing_keys: SigningKeys) -> None:
    """A range that reaches to the present holds the day and the week in progress. It is noon of the day after NOON."""
    today = NOON + DAY
    await talk(statements, *[("IPTU", f"u{number}", today - number * HOUR) for number in range(1, 6)])
    report = await stub.GetTopicsReport(pb.GetTopicsReportRequest(), **tenant(signing_keys))
    assert [(each.topic, each.conversations) for each in report.topics] == [("IPTU", 5)]
    assert await count_of(stub, signing_keys, asked(today - DAY, today - HOUR)) == 0


async def test_people_whose_conversations_were_about_something_else_hide_nobody(
    stub: Stub, statements: StatementStore, signing_keys: SigningKeys
) -> None:
    """Five spoke about it, says the first analysis; of four the next version says otherwise. One is left, alone."""
    await talk(statements, *[("IPTU", f"u{number}", NOON) for number in range(5)])
    assert await count_of(stub, signing_keys, asked(NOON - DAY, NOON + DAY)) == 5
    later = [
        content(number, {names.ANALYSES: 1}, places=((Axis.TOPIC.value, "lixo"),), user_id=f"u{number}", version=2)
        for number in range(4)
    ]
    await statements.commit(later)
    assert await count_of(stub, signing_keys, asked(NOON - DAY, NOON + DAY)) == 0


@st.composite
def conversations(draw: st.DrawFn) -> list[tuple[str, str, datetime]]:
    """Who spoke about what, mostly in the same few hours of three months."""
    hours = draw(st.lists(st.integers(0, 90 * 24), min_size=1, max_size=12))
    spoken = st.tuples(st.sampled_from(["IPTU", "lixo"]), st.sampled_from("abcdef"), st.sampled_from(hours))
    return [(topic, user, BEGIN + hour * HOUR) for topic, user, hour in draw(st.lists(spoken, max_size=60))]


def points_of(spoken: list[tuple[str, str, datetime]]) -> list[Point]:
    """The hours of the topics, as they are kept."""
    return [
        Point(
            hour,
            (topic,),
            {
                names.ANALYSES: sum(each[0] == topic and each[2] == hour for each in spoken),
                USERS: Binary(users_merged(b"", {digest_of(each[1]) for each in spoken if each[::2] == (topic, hour)})),
            },
        )
        for topic, hour in {(topic, hour) for topic, _, hour in spoken}
    ]


@settings(max_examples=200)
@given(spoken=conversations())
def test_a_cell_is_of_enough_people_and_of_nobody_elses_conversations(spoken: list[tuple[str, str, datetime]]) -> None:
    cells = sorted(cells_of(points_of(spoken), FLOOR), key=lambda cell: cell.after - cell.first)
    people: dict[Cell, list[str]] = {cell: [] for cell in cells}
    for topic, user, at in spoken:
        own = next((cell for cell in cells if cell.topic == topic and cell.first <= at < cell.after), None)
        if own is not None:
            people[own].append(user)
    for cell, users in people.items():
        assert len(set(users)) >= FLOOR
        assert len(users) == cell.conversations


@settings(max_examples=200)
@given(spoken=conversations(), start=st.integers(0, 90 * 24), length=st.integers(1, 90 * 24))
def test_which_cells_lie_in_a_range_does_not_depend_on_what_is_read_beyond_it(
    spoken: list[tuple[str, str, datetime]], start: int, length: int
) -> None:
    first, after = BEGIN + start * HOUR, BEGIN + (start + length) * HOUR
    read = [each for each in spoken if first <= each[2] < after]

    def inside(told: list[tuple[str, str, datetime]]) -> set[Cell]:
        return {cell for cell in cells_of(points_of(told), FLOOR) if first <= cell.first and cell.after <= after}

    assert inside(read) == inside(spoken)
