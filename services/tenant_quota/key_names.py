"""The names of API keys, as the ledger copies them: kept for a minute, so that they cost the account nothing."""

import time
from collections.abc import Iterable, Mapping

import asyncpg

from services.tenant_quota.tenants import ACROSS_TENANTS
from shared.postgres import tenant_transaction

NAMES = "SELECT key_id, display_name FROM api_keys WHERE key_id = ANY ($1)"
KEPT_SECONDS = 60.0
MOST_KEPT = 10_000


class KeyNames:
    """Looks names up, many at once and rarely."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._kept: dict[str, str] = {}
        self._until = 0.0

    async def of(self, key_ids: Iterable[str]) -> Mapping[str, str]:
        """The names of these keys, and perhaps of others; "" for a key that does not exist."""
        if time.monotonic() > self._until or len(self._kept) > MOST_KEPT:
            self._kept = {"": ""}
            self._until = time.monotonic() + KEPT_SECONDS
        kept = self._kept
        missing = [key_id for key_id in set(key_ids) if key_id not in kept]
        if missing:
            async with tenant_transaction(self._pool, ACROSS_TENANTS) as connection:
                rows = await connection.fetch(NAMES, missing)
            kept.update(dict.fromkeys(missing, ""))
            kept.update({row["key_id"]: row["display_name"] for row in rows})
        return kept
