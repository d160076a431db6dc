"""Signals put together: who writes them, who is told, and what is delivered, all beside the path of reservations."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncpg

from prosa.tenant_quota.v1 import signal_service_pb2, signal_service_pb2_grpc
from services.tenant_quota.config import Config
from services.tenant_quota.deliveries import Deliveries
from services.tenant_quota.delivery_worker import DeliveryWorker
from services.tenant_quota.quotas import Quotas
from services.tenant_quota.signal_feed import SignalFeed
from services.tenant_quota.signal_handlers import SignalHandlers
from services.tenant_quota.signal_model import Patience
from services.tenant_quota.signal_store import SignalStore
from services.tenant_quota.signals import Signals
from services.tenant_quota.webhook_address import Addresses
from services.tenant_quota.webhook_post import Poster
from services.tenant_quota.webhook_secrets import WebhookSecrets
from services.tenant_quota.webhooks import Webhooks
from shared.server import Endpoint


@dataclass(frozen=True)
class Signalling:
    """SignalService, and who is to be told whose counters moved."""

    endpoint: Endpoint
    signals: Signals


@asynccontextmanager
async def open_signalling(pool: asyncpg.Pool, config: Config, quotas: Quotas) -> AsyncIterator[Signalling]:
    """Looks, tells and delivers inside the block."""
    store = SignalStore(pool)
    signals = Signals(store, scan_seconds=config.signal_scan_seconds)
    feed = SignalFeed(pool, store)
    addresses = Addresses(
        private_allowed=config.webhook_private_addresses_allowed, http_allowed=config.webhook_http_allowed
    )
    secrets = WebhookSecrets(config.api_key_pepper)
    worker = DeliveryWorker(Deliveries(pool, Patience()), Poster(addresses), secrets)
    feed.on_news(worker.bell.set)
    handlers = SignalHandlers(feed, store, quotas, Webhooks(pool, secrets), addresses)
    async with worker.running(), feed.running(), signals.running():
        yield Signalling(_endpoint(handlers, feed), signals)


def _endpoint(handlers: SignalHandlers, feed: SignalFeed) -> Endpoint:
    service = signal_service_pb2.DESCRIPTOR.services_by_name["SignalService"]
    add = signal_service_pb2_grpc.add_SignalServiceServicer_to_server
    return Endpoint(add, handlers, service.full_name, drain=feed.close)
