"""SignalService: one RPC, one intent."""

from collections.abc import AsyncIterator
from typing import Any

from google.protobuf.empty_pb2 import Empty

from prosa.tenant_quota.v1 import signal_service_pb2 as pb
from prosa.tenant_quota.v1.signal_service_pb2_grpc import SignalServiceServicer
from services.tenant_quota import signal_wire, wire
from services.tenant_quota.quota_model import Level
from services.tenant_quota.quotas import Quotas
from services.tenant_quota.signal_feed import SignalFeed
from services.tenant_quota.signal_store import SignalStore
from services.tenant_quota.tenancy import ledger_users, named_tenant, tenant_or_own, visible_user
from services.tenant_quota.webhook_address import Addresses
from services.tenant_quota.webhooks import Webhooks
from shared.paging import page_size


class SignalHandlers(SignalServiceServicer):
    """Answers for signals and webhooks."""

    def __init__(
        self, feed: SignalFeed, signals: SignalStore, quotas: Quotas, webhooks: Webhooks, addresses: Addresses
    ) -> None:
        self._feed = feed
        self._signals = signals
        self._quotas = quotas
        self._webhooks = webhooks
        self._addresses = addresses

    async def WatchUsage(self, request: pb.WatchUsageRequest, _: Any) -> AsyncIterator[pb.WatchUsageResponse]:
        """How usage stands, then signals."""
        tenant_id = tenant_or_own(wire.checked(request).tenant_id)
        user_id = _concerned(request.user_id)
        after = request.after_signal_id if request.HasField("after_signal_id") else None
        async with self._feed.following(tenant_id, user_id, after) as signals:
            usages = await self._quotas.usage(tenant_id, user_id or "")
            yield pb.WatchUsageResponse(standing=signal_wire.standing_message(usages, user_id))
            async for signal in signals:
                yield pb.WatchUsageResponse(signal=signal_wire.signal_message(signal))

    async def ListSignals(self, request: pb.ListSignalsRequest, _: Any) -> pb.ListSignalsResponse:
        """Signals, newest first."""
        tenant_id = tenant_or_own(wire.checked(request).tenant_id)
        user_id = _concerned(request.user_id)
        query = {"list": "signals", "tenant_id": tenant_id, "user_id": user_id}
        size = page_size(request.page_size)
        before = wire.position(request.page_token, query, int)
        found = await self._signals.newest(tenant_id, user_id, before[1] if before else None, size + 1)
        shown, following = wire.page(found, size, query, lambda each: (each.create_time, each.signal_id))
        return pb.ListSignalsResponse(signals=map(signal_wire.signal_message, shown), next_page_token=following)

    async def CreateWebhook(self, request: pb.CreateWebhookRequest, _: Any) -> pb.CreateWebhookResponse:
        """A new webhook, with its secret this once."""
        tenant_id = named_tenant(wire.checked(request).tenant_id)
        url = self._addresses.clean("url", request.url)
        levels = [Level(level) for level in request.levels]
        name, again = request.display_name.strip(), wire.replay(request)
        webhook, secret = await self._webhooks.create(tenant_id, url, name, levels, again)
        return pb.CreateWebhookResponse(webhook=signal_wire.webhook_message(webhook), secret=secret)

    async def GetWebhook(self, request: pb.GetWebhookRequest, _: Any) -> pb.Webhook:
        """A webhook."""
        tenant_id = named_tenant(wire.checked(request).tenant_id)
        return signal_wire.webhook_message(await self._webhooks.get(tenant_id, request.webhook_id))

    async def ListWebhooks(self, request: pb.ListWebhooksRequest, _: Any) -> pb.ListWebhooksResponse:
        """The webhooks of a tenant."""
        found = await self._webhooks.list(named_tenant(wire.checked(request).tenant_id))
        return pb.ListWebhooksResponse(webhooks=map(signal_wire.webhook_message, found))

    async def UpdateWebhook(self, request: pb.UpdateWebhookRequest, _: Any) -> pb.Webhook:
        """A webhook changed."""
        tenant_id = named_tenant(wire.checked(request).tenant_id)
        changes = signal_wire.webhook_changes(request, self._addresses)
        return signal_wire.webhook_message(await self._webhooks.update(tenant_id, request.webhook_id, changes))

    async def DeleteWebhook(self, request: pb.DeleteWebhookRequest, _: Any) -> Empty:
        """A webhook gone."""
        tenant_id = named_tenant(wire.checked(request).tenant_id)
        await self._webhooks.delete(tenant_id, request.webhook_id)
        return Empty()

    async def RotateWebhookSecret(
        self, request: pb.RotateWebhookSecretRequest, _: Any
    ) -> pb.RotateWebhookSecretResponse:
        """A webhook with a new secret."""
        tenant_id = named_tenant(wire.checked(request).tenant_id)
        webhook, secret = await self._webhooks.rotate(tenant_id, request.webhook_id)
        return pb.RotateWebhookSecretResponse(webhook=signal_wire.webhook_message(webhook), secret=secret)

    async def TestWebhook(self, request: pb.TestWebhookRequest, _: Any) -> pb.Delivery:
        """A test on its way."""
        tenant_id = named_tenant(wire.checked(request).tenant_id)
        return signal_wire.delivery_message(await self._webhooks.test(tenant_id, request.webhook_id))

    async def ListDeliveries(self, request: pb.ListDeliveriesRequest, _: Any) -> pb.ListDeliveriesResponse:
        """What was delivered, newest first."""
        tenant_id = named_tenant(wire.checked(request).tenant_id)
        webhook_id, state = request.webhook_id, int(request.state)
        query = {"list": "deliveries", "tenant_id": tenant_id, "webhook_id": webhook_id, "state": state}
        size = page_size(request.page_size)
        before = wire.position(request.page_token, query, str)
        found = await self._webhooks.deliveries(tenant_id, webhook_id, state, before, size + 1)
        shown, following = wire.page(found, size, query, lambda each: (each.create_time, each.delivery_id))
        return pb.ListDeliveriesResponse(deliveries=map(signal_wire.delivery_message, shown), next_page_token=following)


def _concerned(user_id: str) -> str | None:
    """Whose signals are wanted; None is everybody's, which a caller who manages nobody never gets."""
    return ledger_users(visible_user(user_id))[1]
