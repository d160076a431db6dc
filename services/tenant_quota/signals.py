"""Who has passed a share of a limit? Found beside the hot path: a settlement only says whose counters it moved.

settlement ─► touched ─► every 200 ms: their counters against their limits ─► signals and deliveries, once each
every minute, one replica: everybody's counters ─► what a killed replica did not come to, and what new limits make
"""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.tenant_quota.quota_model import Level
from services.tenant_quota.signal_store import SignalStore, Subject
from shared.errors import ServiceError
from shared.steadily import in_background, steadily
from shared.telemetry import get_logger

COALESCE_SECONDS = 0.2
SCAN_SECONDS = 60.0
SUBJECTS_AT_ONCE = 2_000
TENANTS_AT_ONCE = 200
# While the database is down no more than these are remembered; the scan finds the others.
MOST_REMEMBERED = 100_000

_log = get_logger()


class Signals:
    """Writes signals; one in each replica."""

    def __init__(
        self,
        store: SignalStore,
        *,
        coalesce_seconds: float = COALESCE_SECONDS,
        scan_seconds: float = SCAN_SECONDS,
    ) -> None:
        self._store = store
        self._coalesce_seconds = coalesce_seconds
        self._scan_seconds = scan_seconds
        self._touched: dict[Subject, None] = {}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Looks regularly inside the block, and once more at its end."""
        looking = steadily("signals", self.record_touched, self._coalesce_seconds)
        # Replicas that start together need not scan together.
        scanning = steadily("signal_scan", self.scan, self._scan_seconds * random.uniform(0.8, 1.2))  # noqa: S311
        async with in_background(looking, scanning):
            yield
        try:
            await self.record_touched()
        except ServiceError as error:
            _log.warning("signals_left_to_the_scan", reason=error.reason)

    def touched(self, tenant_id: str, user_id: str = "", key_id: str = "") -> None:
        """To be told whose counters or limits moved. Returns at once."""
        if len(self._touched) >= MOST_REMEMBERED:
            return
        self._touched[Subject(tenant_id, Level.TENANT, "")] = None
        if user_id:
            self._touched[Subject(tenant_id, Level.USER, user_id)] = None
        if key_id:
            self._touched[Subject(tenant_id, Level.KEY, key_id)] = None

    async def record_touched(self) -> int:
        """Writes what is due of those touched since the last time; returns how many signals that were."""
        written = 0
        while self._touched:
            subjects = list(self._touched)[:SUBJECTS_AT_ONCE]
            for subject in subjects:
                del self._touched[subject]
            try:
                written += await self._store.record(subjects)
            except BaseException:
                self._touched.update(dict.fromkeys(subjects))
                raise
        return written

    async def scan(self) -> int:
        """Writes what is due of everybody, unless another replica is at it; returns how many signals that were."""
        written, tenant_id = 0, ""
        while (step := await self._store.scan(tenant_id, TENANTS_AT_ONCE))[0] is not None:
            tenant_id, count = step[0] or "", step[1]
            written += count
        if written:
            _log.info("signals_found_by_scan", count=written)
        return written
