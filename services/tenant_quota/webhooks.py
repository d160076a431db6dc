"""The store of webhooks, and of what was delivered to them as their owner sees it."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import asyncpg

from services.tenant_quota.model import Replay
from services.tenant_quota.quota_model import Level
from services.tenant_quota.replays import once
from services.tenant_quota.signal_feed import CHANNEL
from services.tenant_quota.signal_model import MOST_TESTS, MOST_WEBHOOKS, Delivery, DeliveryState, Webhook
from services.tenant_quota.tenants import Position, bounds, require_tenant
from services.tenant_quota.webhook_secrets import WebhookSecrets
from shared.errors import FailedPrecondition, NotFound
from shared.identifiers import new_id
from shared.postgres import tenant_transaction

PREVIOUS_SECRET_IS_GOOD_FOR = timedelta(hours=24)

# Two creations at once must not both be the tenth.
LOCK_WEBHOOKS = "SELECT pg_advisory_xact_lock(hashtext('tenant_quota.webhooks'), hashtext($1))"
COUNT = "SELECT count(*) FROM webhooks WHERE tenant_id = $1"
INSERT = """
INSERT INTO webhooks (tenant_id, webhook_id, url, display_name, levels) VALUES ($1, $2, $3, $4, $5) RETURNING *
"""
GET = "SELECT * FROM webhooks WHERE tenant_id = $1 AND webhook_id = $2"
LIST = "SELECT * FROM webhooks WHERE tenant_id = $1 ORDER BY create_time DESC, webhook_id DESC"
UPDATE = """
UPDATE webhooks SET url = coalesce($3, url), display_name = coalesce($4, display_name), levels = coalesce($5, levels),
                    enabled = coalesce($6, enabled), update_time = clock_timestamp(),
                    failing_since = CASE WHEN $6 THEN NULL ELSE failing_since END,
                    disabled_reason = CASE WHEN $6 IS NULL THEN disabled_reason ELSE '' END
 WHERE tenant_id = $1 AND webhook_id = $2 RETURNING *
"""
ROTATE = """
UPDATE webhooks
   SET secret_version = secret_version + 1, rotate_time = clock_timestamp(), update_time = clock_timestamp()
 WHERE tenant_id = $1 AND webhook_id = $2 RETURNING *
"""
DELETE = "DELETE FROM webhooks WHERE tenant_id = $1 AND webhook_id = $2 RETURNING true"
# What is on its way to a webhook that was switched off; a test goes on.
CALL_OFF = """
UPDATE deliveries SET state = 3, last_error = 'the webhook was switched off', end_time = clock_timestamp()
 WHERE tenant_id = $1 AND webhook_id = $2 AND state = 1 AND signal_id IS NOT NULL
"""
INSERT_TEST = """
INSERT INTO deliveries (tenant_id, webhook_id)
SELECT $1, $2 WHERE $3 > (SELECT count(*) FROM deliveries
                           WHERE tenant_id = $1 AND webhook_id = $2 AND state = 1 AND signal_id IS NULL)
RETURNING *
"""
NOTIFY = f"SELECT pg_notify('{CHANNEL}', $1)"
LIST_DELIVERIES = """
SELECT * FROM deliveries
 WHERE tenant_id = $1 AND webhook_id = $2 AND (create_time, delivery_id) < ($3::text::timestamptz, $4)
   AND ($5::smallint = 0 OR state = $5)
 ORDER BY create_time DESC, delivery_id DESC LIMIT $6
"""


class Webhooks:
    """Keeps the webhooks of tenants."""

    def __init__(self, pool: asyncpg.Pool, secrets: WebhookSecrets) -> None:
        self._pool = pool
        self._secrets = secrets

    async def create(
        self, tenant_id: str, url: str, display_name: str, levels: Sequence[Level], replay: Replay | None
    ) -> tuple[Webhook, str]:
        """The webhook and its secret; the secret is "" when the request was a repetition.

        NotFound without the tenant, FailedPrecondition (TOO_MANY) when it has all it may have.
        """

        async def make() -> asyncpg.Record | None:
            await connection.execute(LOCK_WEBHOOKS, tenant_id)
            if await connection.fetchval(COUNT, tenant_id) >= MOST_WEBHOOKS:
                raise FailedPrecondition(f"at most {MOST_WEBHOOKS} webhooks can be created", reason="TOO_MANY")
            return await connection.fetchrow(INSERT, tenant_id, new_id(), url, display_name, levels)

        async with tenant_transaction(self._pool, tenant_id) as connection:
            await require_tenant(connection, tenant_id)
            row, is_new = await once(connection, tenant_id, "CreateWebhook", replay, "webhooks", make)
        webhook = _webhook(row)
        return webhook, self._secret(webhook) if is_new else ""

    async def get(self, tenant_id: str, webhook_id: str) -> Webhook:
        """NotFound when the tenant has none of that id."""
        async with tenant_transaction(self._pool, tenant_id) as connection:
            return _found(await connection.fetchrow(GET, tenant_id, webhook_id), webhook_id)

    async def list(self, tenant_id: str) -> Sequence[Webhook]:
        """All of the tenant, newest first; NotFound when there is no such tenant."""
        async with tenant_transaction(self._pool, tenant_id) as connection:
            await require_tenant(connection, tenant_id)
            return [_webhook(row) for row in await connection.fetch(LIST, tenant_id)]

    async def update(self, tenant_id: str, webhook_id: str, changes: Mapping[str, object]) -> Webhook:
        """Changes url, display_name, levels, enabled, as far as they are in `changes`; NotFound."""
        values = [changes.get(name) for name in ("url", "display_name", "levels", "enabled")]
        async with tenant_transaction(self._pool, tenant_id) as connection:
            webhook = _found(await connection.fetchrow(UPDATE, tenant_id, webhook_id, *values), webhook_id)
            if not webhook.enabled:
                await connection.execute(CALL_OFF, tenant_id, webhook_id)
        return webhook

    async def rotate(self, tenant_id: str, webhook_id: str) -> tuple[Webhook, str]:
        """The webhook and its new secret; NotFound."""
        async with tenant_transaction(self._pool, tenant_id) as connection:
            webhook = _found(await connection.fetchrow(ROTATE, tenant_id, webhook_id), webhook_id)
        return webhook, self._secret(webhook)

    async def delete(self, tenant_id: str, webhook_id: str) -> None:
        """With its deliveries; NotFound."""
        async with tenant_transaction(self._pool, tenant_id) as connection:
            if not await connection.fetchval(DELETE, tenant_id, webhook_id):
                raise NotFound("webhook", webhook_id)

    async def test(self, tenant_id: str, webhook_id: str) -> Delivery:
        """A delivery on its way; NotFound, FailedPrecondition (TOO_MANY) while too many are."""
        async with tenant_transaction(self._pool, tenant_id) as connection:
            _found(await connection.fetchrow(GET, tenant_id, webhook_id), webhook_id)
            made = await connection.fetchrow(INSERT_TEST, tenant_id, webhook_id, MOST_TESTS)
            if made is None:
                raise FailedPrecondition(f"at most {MOST_TESTS} tests can be on their way", reason="TOO_MANY")
            await connection.execute(NOTIFY, tenant_id)
        return _delivery(made)

    async def deliveries(
        self, tenant_id: str, webhook_id: str, state: int, before: Position | None, most: int
    ) -> Sequence[Delivery]:
        """Newest first, only those in `state` unless 0; NotFound without the webhook."""
        async with tenant_transaction(self._pool, tenant_id) as connection:
            _found(await connection.fetchrow(GET, tenant_id, webhook_id), webhook_id)
            rows = await connection.fetch(LIST_DELIVERIES, tenant_id, webhook_id, *bounds(before), state, most)
        return [_delivery(row) for row in rows]

    def _secret(self, webhook: Webhook) -> str:
        return self._secrets.secret(webhook.tenant_id, webhook.webhook_id, webhook.secret_version)


def _found(row: asyncpg.Record | None, webhook_id: str) -> Webhook:
    if row is None:
        raise NotFound("webhook", webhook_id)
    return _webhook(row)


def _webhook(row: asyncpg.Record) -> Webhook:
    rotated: datetime | None = row["rotate_time"]
    return Webhook(
        row["webhook_id"],
        row["tenant_id"],
        row["url"],
        row["display_name"],
        row["enabled"],
        [Level(level) for level in row["levels"]],
        row["failing_since"],
        row["disabled_reason"],
        row["secret_version"],
        rotated and rotated + PREVIOUS_SECRET_IS_GOOD_FOR,
        row["create_time"],
        row["update_time"],
    )


def _delivery(row: asyncpg.Record) -> Delivery:
    state = DeliveryState(row["state"])
    return Delivery(
        row["delivery_id"],
        row["webhook_id"],
        row["signal_id"],
        state,
        row["attempts"],
        row["http_status"],
        row["last_error"],
        row["next_attempt_time"] if state is DeliveryState.PENDING else None,
        row["end_time"],
        row["create_time"],
    )
