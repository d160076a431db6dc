"""A check: read all four records, hold them against each other, keep what differs.

What grows while it is read must not look like drift. Messages are read before facts, and facts only once all that was
told by then has been counted. The ledger is read between two readings of the rollups.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from datetime import date, datetime, timedelta
from typing import Protocol

from services.analytics.agreement.drift_store import DriftStore
from services.analytics.agreement.kept_records import KeptReader, KeptRecords
from services.analytics.agreement.model import (
    NOTHING,
    Days,
    Drift,
    DriftKind,
    Findings,
    Sheet,
    beyond_both,
    differing,
)
from services.analytics.agreement.neighbours import Neighbours, Told
from services.analytics.intake.feed_positions import FeedPositions
from shared.clock import Clock
from shared.errors import Unavailable

# A message is stored before its reservation is settled; this much later it has been.
SETTLING_SECONDS = 2.0
# How long to wait until all that was told has been counted.
COUNTING_SECONDS = 20.0
POLL_SECONDS = 0.1
# The account's days are those of its own zone.
ANY_ZONE = timedelta(days=1)
# The ledger may know of use before the first turn that was counted.
BEFORE_THE_FIRST = timedelta(days=400)


class Access(Protocol):
    """Opens the neighbours for a tenant."""

    def of(self, tenant_id: str) -> AbstractAsyncContextManager[Neighbours]:
        """The neighbours inside the block."""
        ...


class Agreement:
    """Checks tenants, one after the other or when asked."""

    def __init__(
        self,
        reader: KeptReader,
        drifts: DriftStore,
        positions: FeedPositions,
        access: Access,
        clock: Clock,
        *,
        settling_seconds: float = SETTLING_SECONDS,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._reader = reader
        self._drifts = drifts
        self._positions = positions
        self._access = access
        self._clock = clock
        self._settling_seconds = settling_seconds
        self._sleep = sleep

    async def check(self, tenant_id: str, days: Days) -> Findings:
        """What a tenant's records say about these days; the ledger about all. Conflict while another check runs."""
        began = self._clock.now()
        await self._drifts.begin(tenant_id, began)
        try:
            async with self._access.of(tenant_id) as neighbours:
                findings = await self._findings(tenant_id, days, neighbours)
            findings.drifts = await self._drifts.keep(tenant_id, days, findings.drifts, self._clock.now())
        except BaseException:
            await self._drifts.failed(tenant_id, began, self._clock.now())
            raise
        await self._drifts.done(tenant_id, self._clock.now())
        return findings

    async def _findings(self, tenant_id: str, days: Days, neighbours: Neighbours) -> Findings:
        findings = Findings()
        before = await self._reader.totals(tenant_id, charged_only=True)
        told = await neighbours.messages(days)
        await self._sleep(self._settling_seconds)
        charged = await neighbours.ledger(*await self._account_days(tenant_id))
        findings.counted_until = await self._counted(max(told.until, self._clock.now()))
        records = await self._reader.days(tenant_id, days)
        after = await self._reader.totals(tenant_id, charged_only=False)
        _compare_rollups(tenant_id, records, findings)
        _compare_messages(tenant_id, records, told, findings)
        for (_, model), beyond in sorted(beyond_both(before, charged, after).items()):
            findings.drifts.append(Drift(tenant_id, DriftKind.LEDGER, model, None, beyond))
        for model, amounts in charged.items():
            findings.line(model).ledger = amounts
        findings.documents_examined = records.documents_examined + told.examined
        return findings

    async def _account_days(self, tenant_id: str) -> tuple[date, date]:
        today = self._clock.now().date()
        first = await self._reader.first_day(tenant_id) or today
        return first - BEFORE_THE_FIRST, today + ANY_ZONE

    async def _counted(self, moment: datetime) -> datetime:
        """Waits until everything up to the moment has been counted; Unavailable when that takes too long."""
        for _ in range(int(COUNTING_SECONDS / POLL_SECONDS)):
            counted = (await self._positions.read()).counted_until
            if counted is not None and counted >= moment:
                return counted
            await self._sleep(POLL_SECONDS)
        raise Unavailable("what was told has not been counted yet", dependency="feed")


def _compare_rollups(tenant_id: str, records: KeptRecords, findings: Findings) -> None:
    found: dict[str, Drift] = {}
    for sheet in records.rollups.values():
        for drift in differing(tenant_id, DriftKind.ROLLUPS, records.facts, sheet):
            found.setdefault(drift.drift_id, drift)
    findings.drifts += found.values()
    for (_, model), amounts in records.facts.items():
        line = findings.line(model)
        line.facts = line.facts.plus(amounts)
    for (_, model), amounts in records.rollups["days"].items():
        line = findings.line(model)
        line.rollups = line.rollups.plus(amounts)


def _compare_messages(tenant_id: str, records: KeptRecords, told: Told, findings: Findings) -> None:
    missing: Sheet = {}
    for place in records.told.keys() | told.messages.keys():
        day, model, _ = place
        if day in records.emptied:
            continue
        kept, stored = records.told.get(place, NOTHING), told.messages.get(place, NOTHING)
        line = findings.line(model)
        line.messages = line.messages.plus(stored)
        if kept.messages > stored.messages:
            # Deleted since, whole or in part.
            line.forgotten = line.forgotten.plus(kept.minus(stored))
        elif kept != stored:
            missing[day, model] = missing.get((day, model), NOTHING).plus(kept.minus(stored))
    findings.drifts += [
        Drift(tenant_id, DriftKind.MESSAGES, model, day, beyond) for (day, model), beyond in sorted(missing.items())
    ]
