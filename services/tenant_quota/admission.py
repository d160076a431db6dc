"""Whether a wish for tokens comes too soon after others; one that was granted before comes in time when repeated."""

import asyncpg

from services.tenant_quota.quota_model import Wish
from services.tenant_quota.rates import RESERVATIONS, Rates, concerned
from shared.postgres import tenant_transaction

GRANTED_BEFORE = "SELECT EXISTS (SELECT FROM reservations WHERE tenant_id = $1 AND request_id = $2)"


class Admission:
    """Counts one request for the tenant, the user and the key of each wish."""

    def __init__(self, rates: Rates, pool: asyncpg.Pool) -> None:
        self._rates = rates
        self._pool = pool

    async def admit(self, wish: Wish) -> None:
        """QuotaExceeded (RATE_LIMITED) when one of them made as many requests in the last minute as it may."""
        subjects = concerned(wish.tenant_id, wish.user_id, wish.key_id)
        denial = (await self._rates.admit(RESERVATIONS, dict.fromkeys(subjects, 1))).denial()
        if denial is not None and not await self._granted_before(wish):
            raise denial

    async def _granted_before(self, wish: Wish) -> bool:
        if wish.replay is None:
            return False
        async with tenant_transaction(self._pool, wish.tenant_id) as connection:
            return bool(await connection.fetchval(GRANTED_BEFORE, wish.tenant_id, wish.replay.request_id))
