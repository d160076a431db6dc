"""Every night all tenants are checked, one after the other; all replicas tell how they stand."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

from services.analytics.agreement.check import Agreement
from services.analytics.agreement.drift_store import DriftStore
from services.analytics.agreement.kept_records import KeptReader
from services.analytics.agreement.model import Days
from shared.clock import Clock
from shared.errors import Conflict, ServiceError
from shared.steadily import in_background, steadily
from shared.telemetry import gauge, get_logger

LOOK_SECONDS = 60.0

_log = get_logger()


class NightlyAgreement:
    """Looks for whoever was not checked since the last night began."""

    def __init__(
        self,
        agreement: Agreement,
        reader: KeptReader,
        drifts: DriftStore,
        clock: Clock,
        utc_hour: int,
        *,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        self._agreement = agreement
        self._reader = reader
        self._drifts = drifts
        self._clock = clock
        self._utc_hour = utc_hour
        self._look_seconds = look_seconds

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Checks inside the block."""
        async with in_background(steadily("nightly_agreement", self.look, self._look_seconds)):
            yield

    async def look(self) -> None:
        """Checks all who are due, and tells how they stand."""
        await self._drifts.prepare()
        since = night_before(self._clock.now(), self._utc_hour)
        tenants = await self._reader.tenants()
        due = await self._drifts.due(tenants, since, self._clock.now())
        for tenant_id in tenants:
            if tenant_id in due:
                began = time.monotonic()
                await self._check(tenant_id)
                # Half of the time is left to others, however much a tenant has.
                await asyncio.sleep(time.monotonic() - began)
        standing = await self._drifts.standing()
        gauge("prosa.analytics.drifts").set(standing.open_drifts)
        if standing.oldest_check is not None:
            gauge("prosa.analytics.oldest_agreement_time").set(standing.oldest_check.timestamp())

    async def _check(self, tenant_id: str) -> None:
        try:
            findings = await self._agreement.check(tenant_id, Days.of("", "", self._clock.now()))
        except Conflict:
            return  # another replica is at it
        except ServiceError as error:
            _log.warning("agreement_not_checked", tenant_id=tenant_id, reason=error.reason)
            return
        if findings.drifts:
            kinds = sorted({drift.kind.value for drift in findings.drifts})
            _log.error("records_do_not_agree", tenant_id=tenant_id, drifts=len(findings.drifts), kinds=kinds)


def night_before(now: datetime, utc_hour: int) -> datetime:
    """When the last night began, which may be the one in progress."""
    tonight = now.replace(hour=utc_hour, minute=0, second=0, microsecond=0)
    return tonight if tonight <= now else tonight - timedelta(days=1)
