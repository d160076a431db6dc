"""Ledger, facts, rollups and messages held against each other: what differs is found, listed, mended where it may."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, TypeAlias

import grpc
import pytest

from prosa.analytics.v1 import agreement_service_pb2 as pb
from prosa.analytics.v1 import agreement_service_pb2_grpc as pb_grpc
from services.analytics.agreement.check import Agreement
from services.analytics.agreement.drift_store import RETRY_AFTER, SETTLED_KEPT, DriftStore
from services.analytics.agreement.endpoint import open_agreement
from services.analytics.agreement.kept_records import KeptReader
from services.analytics.agreement.model import NOTHING, Amounts, Days, DriftKind, beyond_both
from services.analytics.agreement.nightly import NightlyAgreement, night_before
from services.analytics.agreement.repair import Repair
from services.analytics.intake.feed_positions import FeedPositions
from services.analytics.model import Position
from services.analytics.rollups.rollup_store import RollupStore
from services.analytics.rollups.statements import StatementStore
from shared.clock import ManualClock
from shared.errors import Conflict, InvalidArgument, Unavailable, error_of
from shared.mongo import MongoDatabase
from tests.analytics.agreeing_neighbours import NOW, Others
from tests.analytics.events import NOON, answer, appended, many_events, question
from tests.analytics.report_stub import content, count, tenant
from tests.house.in_process import serving
from tests.house.signing import SigningKeys

Stub: TypeAlias = Any
TODAY = Days(date(2026, 11, 19), date(2026, 11, 20))


async def no_wait(_seconds: float) -> None:
    """Time is the tests'."""


@pytest.fixture
async def others(store: RollupStore, positions: FeedPositions) -> Others:
    """Everything agrees: what the neighbours have has been counted."""
    events = many_events(300, seed=11)
    await count(store, events)
    await counted_until(positions, NOW)
    return Others(events)


async def counted_until(positions: FeedPositions, moment: datetime) -> None:
    await positions.acquire("tests", 60)
    await positions.keep("tests", Position("t", moment), 60)


@pytest.fixture
def drifts(database: MongoDatabase) -> DriftStore:
    return DriftStore(database)


@pytest.fixture
def agreement(others: Others, store: RollupStore, drifts: DriftStore, positions: FeedPositions) -> Agreement:
    reader = KeptReader(store.projection)
    return Agreement(reader, drifts, positions, others, ManualClock(NOW), settling_seconds=0, sleep=no_wait)


async def snapshot(database: MongoDatabase) -> dict[str, Any]:
    return {
        name: {str(sorted(each.pop("_id").items())): each async for each in database[name].find()}
        for name in ("series", "rollups")
    }


async def test_records_that_agree_have_lines_and_no_drift(agreement: Agreement, others: Others) -> None:
    findings = await agreement.check("acme", TODAY)
    assert findings.drifts == []
    assert set(findings.lines) == {"", "extractive", "gpt-x"}
    for line in findings.lines.values():
        assert line.facts == line.rollups == line.messages != NOTHING
        assert line.facts.tokens_only() == line.ledger.tokens_only()
        assert line.forgotten == NOTHING


CORRUPTIONS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "a sum of a day": (
        "series",
        {"_id.tenant_id": "acme", "_id.axis": "model", "_id.step": "day"},
        {"$inc": {"input_tokens": 5}},
    ),
    "a sum of an hour": (
        "series",
        {"_id.tenant_id": "acme", "_id.axis": "model", "_id.step": "hour"},
        {"$inc": {"turns": -1}},
    ),
    "a combination": ("rollups", {"tenant_id": "acme", "model": "gpt-x"}, {"$inc": {"cost_micros": 1}}),
    "a model that nobody used": (
        "series",
        {"_id": {"tenant_id": "acme", "axis": "model", "step": "hour", "start": NOON, "value": "ghost"}},
        {"$inc": {"turns": 3}},
    ),
}


@pytest.mark.parametrize("case", CORRUPTIONS)
async def test_rollups_that_drift_are_found_and_made_anew_from_the_facts(
    agreement: Agreement, database: MongoDatabase, store: RollupStore, drifts: DriftStore, case: str
) -> None:
    statements = StatementStore(database, store.projection)
    await statements.commit([content(1, {"sessions": 1})])
    whole = await snapshot(database)
    collection, where, change = CORRUPTIONS[case]
    await database[collection].update_one(where, change, upsert=True)
    found = (await agreement.check("acme", TODAY)).drifts
    (drift,) = [each for each in found if each.kind is not DriftKind.LEDGER]
    assert (drift.kind, drift.day) == (DriftKind.ROLLUPS, NOON.date())
    assert drift.difference != NOTHING
    await Repair(store.projection).mend(drift)
    assert (await agreement.check("acme", TODAY)).drifts == []
    mended = await snapshot(database)
    # What nobody wanted is left without content.
    mended["series"] = {key: document for key, document in mended["series"].items() if document}
    assert mended == whole
    settled = await drifts.get("acme", drift.drift_id)
    assert settled.settle_time == NOW


async def test_repairing_loses_nothing_that_is_counted_meanwhile(
    agreement: Agreement, others: Others, database: MongoDatabase, store: RollupStore
) -> None:
    await database["series"].update_one({"_id.tenant_id": "acme", "_id.axis": "model"}, {"$inc": {"turns": 1}})
    more = [appended(f"more-{number}", question(), answer()) for number in range(60)]

    async def go_on() -> None:
        for event in more:
            await count(store, [event])

    await asyncio.gather(go_on(), Repair(store.projection).day("acme", NOON.date()))
    others.events += more
    assert (await agreement.check("acme", TODAY)).drifts == []


async def test_a_fact_that_is_missing_is_a_drift_of_messages_that_only_the_feed_can_mend(
    agreement: Agreement, others: Others, store: RollupStore
) -> None:
    lost = appended("lost", answer(model="gpt-x", tokens=(7, 0, 0, 0)), conversation_id="other")
    others.events.append(lost)
    found = {drift.kind: drift for drift in (await agreement.check("acme", TODAY)).drifts}
    assert set(found) == {DriftKind.MESSAGES, DriftKind.LEDGER}
    assert (found[DriftKind.MESSAGES].difference.input_tokens, found[DriftKind.MESSAGES].difference.messages) == (
        -7,
        -1,
    )
    assert found[DriftKind.LEDGER].difference == Amounts(input_tokens=-7)
    await count(store, [lost])
    assert (await agreement.check("acme", TODAY)).drifts == []


async def test_what_was_deleted_from_chat_store_is_forgotten_and_no_drift(
    agreement: Agreement, others: Others, store: RollupStore
) -> None:
    deleted = appended("deleted", answer(model="gpt-x", tokens=(9, 0, 0, 0)), conversation_id="gone")
    others.events.append(deleted)
    others.gone.add("deleted")
    await count(store, [deleted])
    findings = await agreement.check("acme", TODAY)
    assert findings.drifts == []
    assert findings.lines["gpt-x"].forgotten.input_tokens == 9


async def test_a_ledger_above_and_one_below_are_drifts(agreement: Agreement, others: Others) -> None:
    others.ledger_extra["gpt-x"] = 40
    (drift,) = (await agreement.check("acme", TODAY)).drifts
    assert (drift.kind, drift.day, drift.difference.input_tokens) == (DriftKind.LEDGER, None, -40)
    others.ledger_extra["gpt-x"] = -3
    (again,) = (await agreement.check("acme", TODAY)).drifts
    assert (again.drift_id, again.difference.input_tokens) == (drift.drift_id, 3)


def test_what_is_under_way_while_the_ledger_is_read_is_no_drift() -> None:
    before, after = {"m": Amounts(10, 0, 5, 0)}, {"m": Amounts(30, 0, 9, 0)}
    for charged in (Amounts(10, 0, 5, 0, 99, 1), Amounts(20, 0, 7, 0), Amounts(30, 0, 9, 0)):
        assert beyond_both(before, {"m": charged}, after) == {}
    assert beyond_both(before, {"m": Amounts(9, 0, 5, 0)}, after) == {(date.min, "m"): Amounts(input_tokens=1)}
    assert beyond_both(before, {"m": Amounts(31, 0, 5, 0)}, after) == {(date.min, "m"): Amounts(input_tokens=-1)}


async def test_what_analyses_were_charged_is_in_the_ledger_and_in_no_message(
    agreement: Agreement, others: Others, database: MongoDatabase
) -> None:
    """Two versions may tell of one reservation; one that is not charged yet may be in the ledger or not."""
    spent = {"model": "gpt-x", "input_tokens": 30, "reservation_id": "r1"}
    versions: list[dict[str, Any]] = [
        {"_id": name, "tenant_id": "acme", "spent": spent, "pending": []} for name in ("a-1", "a-2")
    ]
    await database["analyses"].insert_many(versions)
    others.ledger_extra["gpt-x"] = 30
    assert (await agreement.check("acme", TODAY)).drifts == []
    unsettled = {"tenant_id": "acme", "spent": {**spent, "reservation_id": "r2"}, "pending": ["charge", "count"]}
    await database["analyses"].insert_one({"_id": "b-1", **unsettled})
    for charged in (30, 60):
        others.ledger_extra["gpt-x"] = charged
        assert (await agreement.check("acme", TODAY)).drifts == []
    others.ledger_extra["gpt-x"] = 61
    assert [each.kind for each in (await agreement.check("acme", TODAY)).drifts] == [DriftKind.LEDGER]


async def test_a_day_whose_facts_are_no_longer_kept_is_compared_with_nothing(
    agreement: Agreement, database: MongoDatabase, store: RollupStore, drifts: DriftStore
) -> None:
    await database["series"].update_one({"_id.tenant_id": "acme", "_id.axis": "model"}, {"$inc": {"turns": 1}})
    (drift,) = (await agreement.check("acme", TODAY)).drifts
    # As the cleaning leaves them.
    mark = {"$replaceWith": {"_id": "$_id", "tenant_id": "$tenant_id", "emptied": True}}
    await database["facts"].update_many({"tenant_id": "acme", "time": {"$lt": NOON + timedelta(minutes=5)}}, [mark])
    with pytest.raises(Exception, match="not kept") as refused:
        await Repair(store.projection).mend(drift)
    assert refused.value.reason == "DRIFT_NOT_REPAIRABLE"  # type: ignore[attr-defined]
    assert [each.kind for each in (await agreement.check("acme", TODAY)).drifts if each.day] == []


async def test_what_was_told_and_is_not_counted_yet_is_waited_for(
    agreement: Agreement, positions: FeedPositions
) -> None:
    await counted_until(positions, NOW - timedelta(seconds=1))
    with pytest.raises(Unavailable, match="not been counted"):
        await agreement.check("acme", TODAY)


async def test_two_checks_of_a_tenant_do_not_run_at_once(agreement: Agreement, drifts: DriftStore) -> None:
    await drifts.begin("acme", NOW)
    with pytest.raises(Conflict):
        await agreement.check("acme", TODAY)
    await drifts.begin("beta", NOW)
    await drifts.done("acme", NOW)
    await agreement.check("acme", TODAY)


async def test_every_night_all_tenants_are_checked_once(
    agreement: Agreement,
    others: Others,
    store: RollupStore,
    drifts: DriftStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown: dict[str, float] = {}

    @dataclass
    class Shown:
        name: str

        def set(self, value: float) -> None:
            shown[self.name] = value

    monkeypatch.setattr("services.analytics.agreement.nightly.gauge", Shown)
    clock = ManualClock(NOW - timedelta(days=1))
    others.ledger_extra["gpt-x"] = 40
    nightly = NightlyAgreement(agreement, KeptReader(store.projection), drifts, clock, utc_hour=5)
    await nightly.look()
    assert (await drifts.standing()).oldest_check is None, "whoever is new has a turn in the next night"
    clock.advance(24 * 3600)
    await nightly.look()
    assert not await drifts.due(["acme", "beta"], NOW, NOW)
    assert shown["prosa.analytics.drifts"] == 2
    assert shown["prosa.analytics.oldest_agreement_time"] == NOW.timestamp()
    others.ledger_extra.clear()
    await nightly.look()
    assert (await drifts.standing()).open_drifts == 2, "not before the next night"
    assert night_before(NOW.replace(hour=4), 5) == NOW.replace(day=19, hour=5)


async def test_settled_drifts_are_not_kept_for_ever(
    agreement: Agreement, others: Others, drifts: DriftStore, database: MongoDatabase
) -> None:
    others.ledger_extra["gpt-x"] = 40
    await drifts.prepare()
    await agreement.check("acme", TODAY)
    kept = (await database["drifts"].index_information())["expire"]
    assert kept["expireAfterSeconds"] == SETTLED_KEPT.total_seconds()
    assert kept["key"] == [("settle_time", 1)]
    drift = await database["drifts"].find_one()
    assert drift["settle_time"] is None, "without a time, MongoDB keeps it"


async def test_a_check_that_failed_is_made_up_for_the_same_night(
    others: Others, drifts: DriftStore, store: RollupStore, positions: FeedPositions
) -> None:
    clock = ManualClock(NOW - timedelta(days=1))
    agreement = Agreement(KeptReader(store.projection), drifts, positions, others, clock, sleep=no_wait)
    nightly = NightlyAgreement(agreement, KeptReader(store.projection), drifts, clock, utc_hour=5)
    await nightly.look()
    clock.advance(24 * 3600)
    others.away = True
    await nightly.look()
    others.away = False
    await nightly.look()
    assert (await drifts.standing()).oldest_check is None, "a neighbour that is away is not asked all the time"
    clock.advance(RETRY_AFTER.total_seconds())
    await counted_until(positions, clock.now())
    await nightly.look()
    assert (await drifts.standing()).oldest_check == clock.now()
    assert not await drifts.due(["acme", "beta"], NOW, clock.now() + RETRY_AFTER)


@pytest.mark.parametrize(
    ("first", "last"),
    [("2026-11-21", "2026-11-20"), ("2026-02-30", ""), ("", "0001-01-01"), ("2026-10-20", "2026-11-20")],
)
def test_days_that_make_no_sense_are_refused(first: str, last: str) -> None:
    with pytest.raises(InvalidArgument):
        Days.of(first, last, NOW)


@pytest.fixture
async def stub(
    others: Others, store: RollupStore, positions: FeedPositions, signing_keys: SigningKeys, database: MongoDatabase
) -> AsyncIterator[Stub]:
    clock = ManualClock(NOW)
    async with (
        open_agreement(store.projection, positions, others, clock, utc_hour=None) as endpoint,
        serving([endpoint], signing_keys) as channel,
    ):
        yield pb_grpc.AgreementServiceStub(channel)


async def test_drifts_are_listed_in_pages_and_repaired_by_their_own_tenant_only(
    stub: Stub, others: Others, database: MongoDatabase, signing_keys: SigningKeys
) -> None:
    await database["series"].update_one(
        {"_id.tenant_id": "acme", "_id.axis": "model", "_id.value": "gpt-x"}, {"$inc": {"turns": 1}}
    )
    others.ledger_extra["extractive"] = 5
    acme = tenant(signing_keys, scopes=("reports.read", "reports.repair"))
    checked = await stub.CheckAgreement(pb.CheckAgreementRequest(), **acme)
    assert {each.kind for each in checked.drifts} == {pb.DRIFT_KIND_ROLLUPS, pb.DRIFT_KIND_LEDGER}
    assert checked.counted_until_time.ToDatetime(UTC) == NOW
    first = await stub.ListDrift(pb.ListDriftRequest(page_size=1), **acme)
    second = await stub.ListDrift(pb.ListDriftRequest(page_size=1, page_token=first.next_page_token), **acme)
    assert {first.drifts[0].drift_id, second.drifts[0].drift_id} == {each.drift_id for each in checked.drifts}
    assert second.next_page_token == ""
    by_kind = {each.kind: each for each in checked.drifts}
    repair = pb.RepairDriftRequest(drift_id=by_kind[pb.DRIFT_KIND_ROLLUPS].drift_id)
    beta = tenant(signing_keys, "beta", scopes=("reports.read", "reports.repair"))
    assert not (await stub.ListDrift(pb.ListDriftRequest(), **beta)).drifts
    for call, code in (
        (stub.RepairDrift(repair, **beta), grpc.StatusCode.NOT_FOUND),
        (stub.RepairDrift(repair, **tenant(signing_keys)), grpc.StatusCode.PERMISSION_DENIED),
        (
            stub.RepairDrift(pb.RepairDriftRequest(drift_id=by_kind[pb.DRIFT_KIND_LEDGER].drift_id), **acme),
            grpc.StatusCode.FAILED_PRECONDITION,
        ),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call
        assert refused.value.code() is code
    assert error_of(refused.value).reason == "DRIFT_NOT_REPAIRABLE"
    assert (await stub.RepairDrift(repair, **acme)).HasField("settle_time")
    assert len((await stub.ListDrift(pb.ListDriftRequest(), **acme)).drifts) == 1
    assert len((await stub.ListDrift(pb.ListDriftRequest(include_settled=True), **acme)).drifts) == 2
