"""Gives back what dead holders hold, and forgets requests too old to be repeated. Every replica runs one."""

import time
from typing import NoReturn

import asyncpg

from services.tenant_quota.replays import forget
from services.tenant_quota.reservations import Reservations
from shared.steadily import steadily
from shared.telemetry import get_logger

FORGET_AFTER_HOURS = 48
FORGET_EVERY_SECONDS = 300.0

_log = get_logger()


class Sweeper:
    """Sweeps every `interval_seconds`, at most `batch` reservations a statement, until all are given back."""

    def __init__(self, pool: asyncpg.Pool, reservations: Reservations, interval_seconds: float, batch: int) -> None:
        self._pool = pool
        self._reservations = reservations
        self._interval_seconds = interval_seconds
        self._batch = batch
        self._forget_at = 0.0

    async def run(self) -> NoReturn:
        """Until cancelled. A database that is down is waited for."""
        await steadily("sweep", self._round, self._interval_seconds)

    async def sweep(self) -> int:
        """Gives back everything whose lease has ended; returns how many reservations that were."""
        total = 0
        while count := await self._reservations.sweep(self._batch):
            total += count
        if total:
            _log.info("leases_expired", count=total)
        return total

    async def _round(self) -> None:
        await self.sweep()
        await self._forget()

    async def _forget(self) -> None:
        if time.monotonic() >= self._forget_at:
            self._forget_at = time.monotonic() + FORGET_EVERY_SECONDS
            await forget(self._pool, FORGET_AFTER_HOURS)
