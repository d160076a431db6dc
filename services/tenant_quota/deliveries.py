"""The outbox of deliveries: what is due is taken for a while, and what came of it is written down."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import asyncpg

from services.tenant_quota.forgetting import forget_all
from services.tenant_quota.signal_model import Patience, Signal
from services.tenant_quota.signal_store import signal_of
from services.tenant_quota.webhooks import CALL_OFF
from shared.postgres import ACQUIRE_TIMEOUT_SECONDS, postgres_errors, tenant_transaction

CLAIM = "SELECT * FROM claim_deliveries($1, $2, $3)"
# An attempt that was taken over by somebody else, or called off, changes nothing any more.
DELIVERED = """
UPDATE deliveries SET state = 2, http_status = $4, last_error = '', end_time = clock_timestamp()
 WHERE tenant_id = $1 AND delivery_id = $2 AND attempts = $3 AND state = 1
"""
FAILED = """
UPDATE deliveries
   SET http_status = $4, last_error = $5, next_attempt_time = clock_timestamp() + $6::interval,
       state = CASE WHEN o.over THEN 3 ELSE 1 END, end_time = CASE WHEN o.over THEN clock_timestamp() END
  FROM (SELECT tenant_id, delivery_id,
               signal_id IS NULL OR clock_timestamp() + $6::interval > create_time + $7::interval AS over
          FROM deliveries WHERE tenant_id = $1 AND delivery_id = $2) o
 WHERE deliveries.tenant_id = o.tenant_id AND deliveries.delivery_id = o.delivery_id
   AND attempts = $3 AND state = 1
"""
WORKS_AGAIN = """
UPDATE webhooks SET failing_since = NULL WHERE tenant_id = $1 AND webhook_id = $2 AND failing_since IS NOT NULL
"""
FAILS = """
UPDATE webhooks SET failing_since = coalesce(failing_since, clock_timestamp())
 WHERE tenant_id = $1 AND webhook_id = $2 RETURNING failing_since <= clock_timestamp() - $3::interval
"""
SWITCH_OFF = """
UPDATE webhooks SET enabled = false, disabled_reason = $3, update_time = clock_timestamp()
 WHERE tenant_id = $1 AND webhook_id = $2 AND enabled
"""
FORGET = """
WITH gone AS (
    DELETE FROM deliveries WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM deliveries WHERE state > 1 AND end_time < now() - $2::interval ORDER BY end_time LIMIT $1))
    RETURNING 1
)
SELECT count(*) FROM gone
"""
KEPT_FOR = timedelta(days=30)
GONE = 410


@dataclass(frozen=True, slots=True)
class Attempt:
    """A delivery that this replica has taken; without a signal it is a test."""

    tenant_id: str
    delivery_id: str
    webhook_id: str
    number: int
    url: str = field(repr=False)
    secret_versions: Sequence[int]
    create_time: datetime
    signal: Signal | None

    @property
    def webhook(self) -> str:
        """Names the webhook among those of all tenants."""
        return f"{self.tenant_id} {self.webhook_id}"


class Deliveries:
    """Keeps what is on its way."""

    def __init__(self, pool: asyncpg.Pool, patience: Patience) -> None:
        self._pool = pool
        self._patience = patience

    async def claim(self, most: int, busy: Collection[str]) -> Sequence[Attempt]:
        """Takes up to `most` that are due, few of each webhook and of each tenant, and none of the `busy` webhooks."""
        with postgres_errors():
            async with self._pool.acquire(timeout=ACQUIRE_TIMEOUT_SECONDS) as connection:
                rows = await connection.fetch(CLAIM, most, list(busy), self._patience.lease)
        return [_attempt(row) for row in rows]

    async def delivered(self, attempt: Attempt, http_status: int) -> None:
        """The webhook took it."""
        async with tenant_transaction(self._pool, attempt.tenant_id) as connection:
            await connection.execute(DELIVERED, attempt.tenant_id, attempt.delivery_id, attempt.number, http_status)
            await connection.execute(WORKS_AGAIN, attempt.tenant_id, attempt.webhook_id)

    async def failed(self, attempt: Attempt, http_status: int, why: str) -> None:
        """It is tried again later, or given up; a webhook that fails for too long is switched off."""
        pause, patience = self._patience.pause(attempt.number), self._patience
        values = (attempt.number, http_status, why, pause, patience.give_up_after)
        async with tenant_transaction(self._pool, attempt.tenant_id) as connection:
            await connection.execute(FAILED, attempt.tenant_id, attempt.delivery_id, *values)
            if attempt.signal is None:
                return
            webhook = (attempt.tenant_id, attempt.webhook_id)
            too_long = await connection.fetchval(FAILS, *webhook, patience.disable_after)
            if too_long or http_status == GONE:
                reason = "it answered 410 Gone" if http_status == GONE else "every delivery failed for too long"
                await connection.execute(SWITCH_OFF, *webhook, reason)
                await connection.execute(CALL_OFF, *webhook)

    async def forget(self) -> None:
        """Deletes what is long over."""
        await forget_all(self._pool, FORGET, KEPT_FOR)


def _attempt(row: asyncpg.Record) -> Attempt:
    return Attempt(
        row["tenant_id"],
        row["delivery_id"],
        row["webhook_id"],
        row["attempts"],
        row["url"],
        row["secrets"],
        row["create_time"],
        signal_of(row["signal"]) if row["signal"] is not None else None,
    )
