"""Every night all accounts audit themselves, one after the other, by one replica at a time; all replicas tell of it."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

from services.tenant_quota.audits import Audit, Audits
from shared.steadily import in_background, steadily
from shared.telemetry import gauge, get_logger

LOOK_SECONDS = 60.0

_log = get_logger()


class NightlyAudit:
    """Looks for whoever was not audited since the last night began."""

    def __init__(self, audits: Audits, utc_hour: int, *, look_seconds: float = LOOK_SECONDS) -> None:
        self._audits = audits
        self._utc_hour = utc_hour
        self._look_seconds = look_seconds

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Audits inside the block."""
        async with in_background(steadily("nightly_audit", self.look, self._look_seconds)):
            yield

    async def look(self) -> None:
        """Audits all who are due, unless another replica is at it, and tells what the last audits found."""
        since = night_before(datetime.now(UTC), self._utc_hour)
        while True:
            began = time.monotonic()
            audited = await self._audits.run_next(since)
            if audited is None:
                break
            _report(*audited)
            # Half of the time is left to others, however large the accounts are.
            await asyncio.sleep(time.monotonic() - began)
        await self._tell()

    async def _tell(self) -> None:
        found = await self._audits.findings()
        gauge("prosa.quota.discrepancies").set(found.discrepancies)
        gauge("prosa.quota.phantom_held_tokens").set(found.phantom_held_tokens)
        gauge("prosa.quota.overshoot_tokens").set(found.overshoot_tokens)
        if found.oldest is not None:
            gauge("prosa.quota.oldest_audit_time").set(found.oldest.timestamp())


def night_before(now: datetime, utc_hour: int) -> datetime:
    """When the last night began, which may be the one in progress."""
    tonight = now.replace(hour=utc_hour, minute=0, second=0, microsecond=0)
    return tonight if tonight <= now else tonight - timedelta(days=1)


def _report(tenant_id: str, audit: Audit) -> None:
    if not audit.is_clean:
        _log.error(
            "account_does_not_add_up",
            tenant_id=tenant_id,
            discrepancies=len(audit.discrepancies),
            phantom_held_tokens=audit.phantom_held_tokens,
            overshoot_tokens=audit.overshoot_tokens,
        )
