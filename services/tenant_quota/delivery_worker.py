"""Posts what is due to webhooks; one worker in each replica.

    due ─► taken for 30 s ─► signed and posted ─► delivered, or tried again later, or given up

A worker that dies in between leaves what it took to whoever looks after the 30 s: delivered at least once.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.tenant_quota.deliveries import Attempt, Deliveries
from services.tenant_quota.forgetting import FORGET_EVERY_SECONDS
from services.tenant_quota.signal_wire import event_body
from services.tenant_quota.webhook_post import Poster, PostFailedError
from services.tenant_quota.webhook_secrets import WebhookSecrets, signed_headers
from shared.steadily import in_background, steadily
from shared.telemetry import get_logger

POLL_SECONDS = 1.0
MOST_AT_ONCE = 32
# What is under way when the service stops may still end; the rest is delivered again by others.
DRAIN_SECONDS = 5.0

_log = get_logger()


class DeliveryWorker:
    """Delivers; `bell` may be rung when there is something new."""

    def __init__(
        self, deliveries: Deliveries, poster: Poster, secrets: WebhookSecrets, *, poll_seconds: float = POLL_SECONDS
    ) -> None:
        self._deliveries = deliveries
        self._poster = poster
        self._secrets = secrets
        self._poll_seconds = poll_seconds
        self._under_way: dict[asyncio.Task[None], str] = {}
        self.bell = asyncio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Delivers inside the block; at its end what is under way has a few seconds."""
        delivering = steadily("deliveries", self.take, self._poll_seconds, self.bell)
        forgetting = steadily("deliveries_forgetting", self._deliveries.forget, FORGET_EVERY_SECONDS)
        async with in_background(delivering, forgetting):
            yield
        await self._drain()

    async def take(self) -> int:
        """Takes what is due and has room, and begins with it; returns how many that were."""
        room = MOST_AT_ONCE - len(self._under_way)
        if room <= 0:
            return 0
        attempts = await self._deliveries.claim(room, Counter(self._under_way.values()))
        for attempt in attempts:
            task = asyncio.create_task(self._deliver(attempt))
            self._under_way[task] = attempt.webhook
            task.add_done_callback(self._ended)
        return len(attempts)

    async def _deliver(self, attempt: Attempt) -> None:
        body = event_body(attempt)
        secrets = [
            self._secrets.secret(attempt.tenant_id, attempt.webhook_id, version) for version in attempt.secret_versions
        ]
        headers = signed_headers(attempt.delivery_id, int(time.time()), body, secrets)
        try:
            status = await self._poster.post(attempt.url, headers, body)
        except PostFailedError as error:
            await self._failed(attempt, 0, str(error))
            return
        if 200 <= status < 300:
            await self._deliveries.delivered(attempt, status)
        else:
            await self._failed(attempt, status, f"the answer was {status}")

    async def _failed(self, attempt: Attempt, status: int, why: str) -> None:
        # Neither the address nor the body: both are the tenant's.
        _log.info("delivery_failed", webhook_id=attempt.webhook_id, attempt=attempt.number, why=why)
        await self._deliveries.failed(attempt, status, why)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._under_way[task]
        self.bell.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            # It is tried again when its lease ends.
            _log.warning("delivery_not_settled", exc_info=error)

    async def _drain(self) -> None:
        if self._under_way:
            _, late = await asyncio.wait(self._under_way, timeout=DRAIN_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await self._poster.close()
