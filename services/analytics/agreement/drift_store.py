"""Drifts in MongoDB, and whose turn it is to be checked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from pymongo import DESCENDING, ReturnDocument, UpdateOne
from pymongo.errors import DuplicateKeyError

from services.analytics.agreement.model import Amounts, Days, Drift, DriftKind
from shared.errors import Conflict, NotFound
from shared.mongo import MongoDatabase, mongo_errors

DRIFTS = "drifts"
CHECKS = "agreement_checks"
# How long a check may take before another one may begin in its place.
LONGEST_CHECK = timedelta(hours=1)
# When a check that failed is due again; later if it took long, so that it takes up a fifth of the time at the most.
RETRY_AFTER = timedelta(minutes=15)
RESTS_AFTER_FAILURE = 4
SETTLED_KEPT = timedelta(days=400)


@dataclass(frozen=True, slots=True)
class Standing:
    """How all tenants stand: drifts that go on, and the oldest last check."""

    open_drifts: int
    oldest_check: datetime | None


class DriftStore:
    """The only reader and writer of drifts."""

    def __init__(self, database: MongoDatabase) -> None:
        self._drifts = database[DRIFTS]
        self._checks = database[CHECKS]

    async def prepare(self) -> None:
        """Creates the index of the list, and the one by which old settled drifts go; again and again is fine."""
        with mongo_errors():
            await self._drifts.create_index(
                [("tenant_id", DESCENDING), ("find_time", DESCENDING), ("_id", DESCENDING)], name="tenant_found"
            )
            # Those that go on have no time, and stay.
            await self._drifts.create_index(
                "settle_time", expireAfterSeconds=int(SETTLED_KEPT.total_seconds()), name="expire"
            )

    async def begin(self, tenant_id: str, now: datetime) -> None:
        """Takes the tenant's turn; Conflict while somebody else has it."""
        free = {"_id": tenant_id, "until": {"$lte": now}}
        try:
            with mongo_errors():
                await self._checks.update_one(free, {"$set": {"until": now + LONGEST_CHECK}}, upsert=True)
        except DuplicateKeyError:
            raise Conflict("another check of the tenant is under way") from None

    async def done(self, tenant_id: str, now: datetime) -> None:
        """Gives the turn back: the tenant was checked."""
        with mongo_errors():
            checked = {"until": now, "tried": now, "checked": now}
            await self._checks.update_one({"_id": tenant_id}, {"$set": checked, "$unset": {"again": ""}})

    async def failed(self, tenant_id: str, began: datetime, now: datetime) -> None:
        """Gives the turn back: the tenant has another one soon."""
        again = now + max(RETRY_AFTER, RESTS_AFTER_FAILURE * (now - began))
        with mongo_errors():
            await self._checks.update_one({"_id": tenant_id}, {"$set": {"until": now, "again": again}})

    async def due(self, tenants: Sequence[str], since: datetime, now: datetime) -> set[str]:
        """Who has had no turn since then, save for those whose check has just failed; whoever is new has had it now."""
        seen = {"$setOnInsert": {"tried": now, "until": now}}
        waiting = {"_id": {"$in": list(tenants)}, "tried": {"$lt": since}, "again": {"$not": {"$gt": now}}}
        with mongo_errors():
            if tenants:
                await self._checks.bulk_write([UpdateOne({"_id": each}, seen, upsert=True) for each in tenants])
            return {each["_id"] async for each in self._checks.find(waiting, {"_id": 1})}

    async def keep(self, tenant_id: str, days: Days, found: Sequence[Drift], now: datetime) -> list[Drift]:
        """Keeps what a check has found, and settles what it looked for and did not find; returns the drifts as kept."""
        ids = [drift.drift_id for drift in found]
        looked_at = [*(day.isoformat() for day in days.each()), ""]
        gone = {"tenant_id": tenant_id, "_id": {"$nin": ids}, "settle_time": None, "day": {"$in": looked_at}}
        with mongo_errors():
            if found:
                await self._drifts.bulk_write([_found(drift, now) for drift in found], ordered=False)
            await self._drifts.update_many(gone, {"$set": {"settle_time": now}})
            kept = self._drifts.find({"_id": {"$in": ids}, "tenant_id": tenant_id})
            return sorted([_drift(each) async for each in kept], key=lambda drift: (drift.kind.value, drift.model))

    async def get(self, tenant_id: str, drift_id: str) -> Drift:
        """NotFound when the tenant has none of that id."""
        with mongo_errors():
            found = await self._drifts.find_one({"_id": drift_id, "tenant_id": tenant_id})
        if found is None:
            raise NotFound("drift", drift_id)
        return _drift(found)

    async def settle(self, drift: Drift, now: datetime) -> Drift:
        """The drift is repaired."""
        with mongo_errors():
            done = await self._drifts.find_one_and_update(
                {"_id": drift.drift_id, "tenant_id": drift.tenant_id},
                {"$set": {"settle_time": now}},
                return_document=ReturnDocument.AFTER,
            )
        return _drift(done)

    async def page(
        self, tenant_id: str, *, settled: bool, after: tuple[datetime, str] | None, size: int
    ) -> Sequence[Drift]:
        """Those found last first, behind the given one."""
        wanted: dict[str, Any] = {"tenant_id": tenant_id} | ({} if settled else {"settle_time": None})
        if after is not None:
            time, drift_id = after
            wanted["$or"] = [{"find_time": {"$lt": time}}, {"find_time": time, "_id": {"$lt": drift_id}}]
        cursor = self._drifts.find(wanted, limit=size).sort([("find_time", DESCENDING), ("_id", DESCENDING)])
        with mongo_errors():
            return [_drift(each) async for each in cursor]

    async def standing(self) -> Standing:
        """How all tenants stand."""
        with mongo_errors():
            drifts = await self._drifts.count_documents({"settle_time": None})
            oldest = await self._checks.find_one({"checked": {"$exists": True}}, sort=[("checked", 1)])
        return Standing(drifts, oldest["checked"] if oldest else None)


def _found(drift: Drift, now: datetime) -> UpdateOne:
    names = {
        "tenant_id": drift.tenant_id,
        "kind": drift.kind.value,
        "model": drift.model,
        "day": drift.day.isoformat() if drift.day else "",
    }
    return UpdateOne(
        {"_id": drift.drift_id},
        {
            "$set": {"difference": list(drift.difference), "check_time": now, "settle_time": None},
            "$setOnInsert": {**names, "find_time": now},
        },
        upsert=True,
    )


def _drift(document: Mapping[str, Any]) -> Drift:
    return Drift(
        tenant_id=document["tenant_id"],
        kind=DriftKind(document["kind"]),
        model=document["model"],
        day=date.fromisoformat(document["day"]) if document["day"] else None,
        difference=Amounts(*document["difference"]),
        find_time=document["find_time"],
        check_time=document["check_time"],
        settle_time=document["settle_time"],
    )
