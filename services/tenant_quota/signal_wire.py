"""Signals, webhooks and deliveries on the wire: proto ↔ model, both ways, and what a webhook is sent."""

import json
from collections.abc import Iterable
from datetime import UTC, datetime

from google.protobuf.json_format import MessageToDict

from prosa.tenant_quota.v1 import quota_service_pb2
from prosa.tenant_quota.v1 import signal_service_pb2 as pb
from services.tenant_quota.deliveries import Attempt
from services.tenant_quota.model import clean_mask
from services.tenant_quota.quota_model import Level, Usage
from services.tenant_quota.quota_wire import usage_message
from services.tenant_quota.signal_model import SIGNAL_TYPE, TEST_TYPE, Delivery, Signal, Webhook
from services.tenant_quota.webhook_address import Addresses
from services.tenant_quota.wire import timestamp


def event_body(attempt: Attempt) -> bytes:
    """What is posted: the same bytes at every attempt."""
    signal = attempt.signal
    if signal is None:
        kind, moment, data = TEST_TYPE, attempt.create_time, {"webhookId": attempt.webhook_id}
    else:
        kind, moment, data = SIGNAL_TYPE, signal.create_time, MessageToDict(signal_message(signal))
    event = {"type": kind, "timestamp": _rfc3339(moment), "data": data}
    return json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()


def webhook_changes(request: pb.UpdateWebhookRequest, addresses: Addresses) -> dict[str, object]:
    """The new values of a webhook's fields."""
    mask = clean_mask(request.update_mask.paths, ("url", "display_name", "enabled", "levels"))
    wanted = request.webhook
    changes: dict[str, object] = {}
    if "url" in mask:
        changes["url"] = addresses.clean("webhook.url", wanted.url)
    if "display_name" in mask:
        changes["display_name"] = wanted.display_name.strip()
    if "enabled" in mask:
        changes["enabled"] = wanted.enabled
    if "levels" in mask:
        changes["levels"] = [Level(level) for level in wanted.levels]
    return changes


def standing_message(usages: Iterable[Usage], user_id: str | None) -> pb.UsageStanding:
    """How usage stands, of the tenant as a whole when `user_id` is None, else of that user alone."""
    shown = [usage for usage in usages if user_id is None or (user_id and usage.user_id == user_id)]
    return pb.UsageStanding(usages=map(usage_message, shown))


def signal_message(signal: Signal) -> pb.Signal:
    """The signal as clients see it."""
    return pb.Signal(
        signal_id=signal.signal_id,
        tenant_id=signal.tenant_id,
        level=pb.LimitLevel.ValueType(signal.level),
        user_id=signal.subject if signal.level is Level.USER else "",
        key_id=signal.subject if signal.level is Level.KEY else "",
        window=quota_service_pb2.Window.ValueType(signal.window),
        measure=pb.UsageMeasure.ValueType(signal.measure),
        percent=signal.percent,
        limit=signal.limit,
        used=signal.used,
        period_start_time=timestamp(signal.period_start_time),
        create_time=timestamp(signal.create_time),
    )


def webhook_message(webhook: Webhook) -> pb.Webhook:
    """The webhook as its owner sees it, without its secret."""
    return pb.Webhook(
        webhook_id=webhook.webhook_id,
        tenant_id=webhook.tenant_id,
        url=webhook.url,
        display_name=webhook.display_name,
        enabled=webhook.enabled,
        levels=[pb.LimitLevel.ValueType(level) for level in webhook.levels],
        failing_since=timestamp(webhook.failing_since),
        disabled_reason=webhook.disabled_reason,
        previous_secret_expire_time=timestamp(webhook.previous_secret_expire_time),
        create_time=timestamp(webhook.create_time),
        update_time=timestamp(webhook.update_time),
    )


def delivery_message(delivery: Delivery) -> pb.Delivery:
    """The delivery as the webhook's owner sees it."""
    return pb.Delivery(
        delivery_id=delivery.delivery_id,
        webhook_id=delivery.webhook_id,
        signal_id=delivery.signal_id or 0,
        state=pb.DeliveryState.ValueType(delivery.state),
        attempts=delivery.attempts,
        http_status=delivery.http_status,
        last_error=delivery.last_error,
        next_attempt_time=timestamp(delivery.next_attempt_time),
        end_time=timestamp(delivery.end_time),
        create_time=timestamp(delivery.create_time),
    )


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
