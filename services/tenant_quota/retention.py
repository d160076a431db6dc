"""Settled reservations and signals are kept for a time. The ledger is kept for ever, and explains them all."""

import asyncio
import time

import asyncpg

from services.tenant_quota.config import Config
from services.tenant_quota.forgetting import ROWS_AT_ONCE, forget_all
from services.tenant_quota.tenants import ACROSS_TENANTS
from shared.postgres import tenant_transaction

EVERY_SECONDS = 3_600.0
FORGET_RESERVATIONS = "SELECT forget_reservations($1, make_interval(days => $2), $3)"
FORGET_SIGNALS = """
WITH gone AS (
    DELETE FROM signals WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM signals WHERE create_time < now() - make_interval(days => $2) ORDER BY create_time LIMIT $1))
    RETURNING 1
)
SELECT count(*) FROM gone
"""


async def forget_the_old(pool: asyncpg.Pool, config: Config) -> None:
    """Whatever was kept for as long as the settings say."""
    await forget_signals(pool, config.signals_kept_days)
    await forget_reservations(pool, config.reservations_kept_days)


async def forget_signals(pool: asyncpg.Pool, kept_days: int) -> None:
    """Those that were written so long ago."""
    await forget_all(pool, FORGET_SIGNALS, kept_days)


async def forget_reservations(pool: asyncpg.Pool, kept_days: int, *, at_once: int = ROWS_AT_ONCE) -> None:
    """Those that were settled so long ago, with their children: then their request_ids hold anew.

    Reads `at_once` entries of the ledger at a time; ends at once while another replica is at it.
    """
    after: str | None = ""
    while after is not None:
        began = time.monotonic()
        async with tenant_transaction(pool, ACROSS_TENANTS) as connection:
            after = await connection.fetchval(FORGET_RESERVATIONS, after, kept_days, at_once)
        # Half of the time is left to others, however much there is to forget.
        await asyncio.sleep(time.monotonic() - began)
