"""Gives back what dead holders hold. Every replica runs one."""

from typing import NoReturn

from services.tenant_quota.reservations import Reservations
from shared.steadily import steadily
from shared.telemetry import get_logger

_log = get_logger()


class Sweeper:
    """Sweeps every `interval_seconds`, at most `batch` reservations a statement, until all are given back."""

    def __init__(self, reservations: Reservations, interval_seconds: float, batch: int) -> None:
        self._reservations = reservations
        self._interval_seconds = interval_seconds
        self._batch = batch

    async def run(self) -> NoReturn:
        """Until cancelled. A database that is down is waited for."""
        await steadily("sweep", self.sweep, self._interval_seconds)

    async def sweep(self) -> int:
        """Gives back everything whose lease has ended; returns how many reservations that were."""
        total = 0
        while count := await self._reservations.sweep(self._batch):
            total += count
        if total:
            _log.info("leases_expired", count=total)
        return total
