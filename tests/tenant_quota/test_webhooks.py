"""Webhooks as their owners know them: what they are sent, and what became of it."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from pydantic import SecretStr

from prosa.tenant_quota.v1 import signal_service_pb2 as pb
from services.tenant_quota.config import Config
from services.tenant_quota.model import Role
from services.tenant_quota.quota_model import Level
from services.tenant_quota.signal_model import MOST_TESTS
from services.tenant_quota.webhook_secrets import WebhookSecrets
from shared.postgres import tenant_transaction
from tests.house.signing import SigningKeys
from tests.house.waiting import until_answered
from tests.tenant_quota.signal_world import Replica, limit, replica, tenant_with, use
from tests.tenant_quota.webhook_receiver import Receiver, receiving
from tests.tenant_quota.world import refusal

SECRETS = WebhookSecrets(SecretStr("a pepper of these tests"))


@pytest.fixture(scope="module")
async def service(signal_config: Config, signing_keys: SigningKeys) -> AsyncIterator[Replica]:
    async with replica(signal_config, signing_keys) as running:
        yield running


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as listening:
        yield listening


async def create(service: Replica, tenant_id: str, url: str, **more: object) -> pb.CreateWebhookResponse:
    request = pb.CreateWebhookRequest(tenant_id=tenant_id, url=url, **more)  # type: ignore[arg-type]
    return await service.stub.CreateWebhook(request, metadata=service.caller(tenant_id))


async def deliveries(service: Replica, webhook: pb.Webhook) -> list[pb.Delivery]:
    listed = await service.stub.ListDeliveries(
        pb.ListDeliveriesRequest(tenant_id=webhook.tenant_id, webhook_id=webhook.webhook_id),
        metadata=service.caller(webhook.tenant_id),
    )
    return list(listed.deliveries)


async def settled(service: Replica, webhook: pb.Webhook, count: int = 1) -> list[pb.Delivery]:
    """The deliveries once so many are over."""

    async def are_over() -> bool:
        return sum(each.state != pb.DELIVERY_STATE_PENDING for each in await deliveries(service, webhook)) >= count

    await until_answered(are_over)
    return await deliveries(service, webhook)


async def test_a_signal_arrives_signed_and_says_what_happened(service: Replica, receiver: Receiver) -> None:
    tenant_id = await tenant_with(service.pool, month=1000)
    made = await create(service, tenant_id, receiver.url())
    await service.spend(tenant_id, 850)
    (received,) = await receiver.wait_for(1)
    (signal,) = await service.signals(tenant_id)
    assert received.is_signed_with(made.secret)
    assert not received.is_signed_with(SECRETS.secret(tenant_id, "another", 1))
    assert received.event["type"] == "usage.threshold_crossed"
    assert received.event["data"] == {
        "signalId": str(signal.signal_id),
        "tenantId": tenant_id,
        "level": "LIMIT_LEVEL_TENANT",
        "window": "WINDOW_MONTH",
        "measure": "USAGE_MEASURE_TOKENS",
        "percent": 80,
        "limit": "1000",
        "used": "850",
        "periodStartTime": signal.period_start_time.ToJsonString(),
        "createTime": signal.create_time.ToJsonString(),
    }
    (delivery,) = await settled(service, made.webhook)
    assert (delivery.state, delivery.attempts, delivery.http_status) == (pb.DELIVERY_STATE_DELIVERED, 1, 200)
    assert (delivery.delivery_id, delivery.signal_id) == (received.headers["webhook-id"], signal.signal_id)


async def test_a_secret_is_shown_once_and_nowhere_else(
    service: Replica, receiver: Receiver, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    tenant_id = await tenant_with(service.pool)
    made = await create(service, tenant_id, receiver.url(), request_id="again")
    again = await create(service, tenant_id, receiver.url(), request_id="again")
    assert made.secret.startswith("whsec_")
    assert (again.secret, again.webhook) == ("", made.webhook)
    listed = await service.stub.ListWebhooks(
        pb.ListWebhooksRequest(tenant_id=tenant_id), metadata=service.caller(tenant_id)
    )
    assert list(listed.webhooks) == [made.webhook]
    other = create(service, tenant_id, receiver.url() + "x", request_id="again")
    assert (await refusal(other)).reason == "REQUEST_ID_REUSED"
    async with tenant_transaction(service.pool, tenant_id) as connection:
        kept = [str(dict(row)) for row in await connection.fetch("SELECT * FROM webhooks")]
        kept += [str(dict(row)) for row in await connection.fetch("SELECT * FROM requests")]
    written = "".join([*kept, caplog.text, *capfd.readouterr()])
    assert made.secret.removeprefix("whsec_") not in written


async def test_while_a_rotated_secret_is_good_both_sign(service: Replica, receiver: Receiver) -> None:
    tenant_id = await tenant_with(service.pool)
    made = await create(service, tenant_id, receiver.url())
    request = pb.RotateWebhookSecretRequest(tenant_id=tenant_id, webhook_id=made.webhook.webhook_id)
    rotated = await service.stub.RotateWebhookSecret(request, metadata=service.caller(tenant_id))
    assert rotated.secret != made.secret
    assert rotated.webhook.HasField("previous_secret_expire_time")
    await probe(service, made.webhook)
    (received,) = await receiver.wait_for(1)
    assert received.is_signed_with(made.secret)
    assert received.is_signed_with(rotated.secret)
    async with tenant_transaction(service.pool, tenant_id) as connection:
        await connection.execute("UPDATE webhooks SET rotate_time = clock_timestamp() - interval '25 hours'")
    await probe(service, made.webhook)
    _, later = await receiver.wait_for(2)
    assert later.is_signed_with(rotated.secret)
    assert not later.is_signed_with(made.secret)


async def probe(service: Replica, webhook: pb.Webhook) -> pb.Delivery:
    """A test sent."""
    request = pb.TestWebhookRequest(tenant_id=webhook.tenant_id, webhook_id=webhook.webhook_id)
    return await service.stub.TestWebhook(request, metadata=service.caller(webhook.tenant_id))


async def test_a_test_is_tried_once_and_tells_what_came_of_it(service: Replica) -> None:
    tenant_id = await tenant_with(service.pool)
    async with receiving(503) as receiver:
        made = await create(service, tenant_id, receiver.url())
        sent = await probe(service, made.webhook)
        (received,) = await receiver.wait_for(1)
        (delivery,) = await settled(service, made.webhook)
    assert received.event["data"] == {"webhookId": made.webhook.webhook_id}
    assert received.event["type"] == "webhook.test"
    assert (sent.state, sent.attempts) == (pb.DELIVERY_STATE_PENDING, 0)
    assert (delivery.delivery_id, delivery.state) == (sent.delivery_id, pb.DELIVERY_STATE_FAILED)
    assert (delivery.http_status, delivery.last_error, delivery.attempts) == (503, "the answer was 503", 1)


async def test_a_webhook_gets_the_levels_it_asked_for(service: Replica, receiver: Receiver) -> None:
    tenant_id = await tenant_with(service.pool, day=100)
    await limit(service.pool, tenant_id, Level.USER, "maria", day=100)
    await create(service, tenant_id, receiver.url(), levels=[pb.LIMIT_LEVEL_USER])
    await use(service.pool, tenant_id, 80, level=Level.USER, subject="maria")
    await use(service.pool, tenant_id, 80)
    service.signalling.signals.touched(tenant_id, "maria")
    (received,) = await receiver.wait_for(1)
    assert received.event["data"]["userId"] == "maria"
    await asyncio.sleep(0.3)
    assert len(receiver.received) == 1


async def test_switched_off_it_gets_nothing_but_tests(service: Replica, receiver: Receiver) -> None:
    tenant_id = await tenant_with(service.pool, day=100)
    made = await create(service, tenant_id, receiver.url())
    changed = await service.stub.UpdateWebhook(
        pb.UpdateWebhookRequest(
            tenant_id=tenant_id,
            webhook_id=made.webhook.webhook_id,
            webhook=pb.Webhook(enabled=False, display_name="x"),
            update_mask=FieldMask(paths=["enabled"]),
        ),
        metadata=service.caller(tenant_id),
    )
    assert (changed.enabled, changed.display_name, changed.url) == (False, "", made.webhook.url)
    await service.spend(tenant_id, 80)
    await until_answered(lambda: service.signals(tenant_id))
    await probe(service, made.webhook)
    (received,) = await receiver.wait_for(1)
    assert received.event["type"] == "webhook.test"
    assert [each.signal_id for each in await settled(service, made.webhook)] == [0]


async def test_an_address_inside_is_refused_at_creation_and_at_delivery(
    config: Config, quiet_database: SecretStr, signing_keys: SigningKeys
) -> None:
    async with replica(config.model_copy(update={"database_url": quiet_database}), signing_keys) as careful:
        tenant_id = await tenant_with(careful.pool)
        refused = await refusal(create(careful, tenant_id, "https://169.254.169.254/latest/meta-data"))
        assert (refused.code, refused.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["url"])
        made = await create(careful, tenant_id, "https://localhost:1/hook")
        await probe(careful, made.webhook)
        (delivery,) = await settled(careful, made.webhook)
        assert (delivery.http_status, delivery.last_error) == (0, "the host's address is not public")


async def test_a_webhook_is_not_tested_again_and_again_while_it_does_not_answer(service: Replica) -> None:
    tenant_id = await tenant_with(service.pool)
    async with receiving(None) as receiver:
        made = await create(service, tenant_id, receiver.url())
        for _ in range(MOST_TESTS):
            await probe(service, made.webhook)
        refused = await refusal(probe(service, made.webhook))
    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "TOO_MANY")


async def test_ten_webhooks_are_enough(service: Replica, receiver: Receiver) -> None:
    tenant_id = await tenant_with(service.pool)
    attempts = await asyncio.gather(
        *(create(service, tenant_id, receiver.url()) for _ in range(12)), return_exceptions=True
    )
    assert sum(isinstance(each, pb.CreateWebhookResponse) for each in attempts) == 10
    refused = await refusal(create(service, tenant_id, receiver.url()))
    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "TOO_MANY")


async def test_a_deleted_webhook_is_gone_with_its_deliveries(service: Replica, receiver: Receiver) -> None:
    tenant_id = await tenant_with(service.pool)
    made = await create(service, tenant_id, receiver.url())
    await probe(service, made.webhook)
    await settled(service, made.webhook)
    request = pb.DeleteWebhookRequest(tenant_id=tenant_id, webhook_id=made.webhook.webhook_id)
    await service.stub.DeleteWebhook(request, metadata=service.caller(tenant_id))
    again = await refusal(service.stub.DeleteWebhook(request, metadata=service.caller(tenant_id)))
    assert again.code is grpc.StatusCode.NOT_FOUND
    async with tenant_transaction(service.pool, tenant_id) as connection:
        assert not await connection.fetchval("SELECT count(*) FROM deliveries")


async def test_webhooks_are_their_tenants_own_and_their_administrators(service: Replica, receiver: Receiver) -> None:
    own, other = await tenant_with(service.pool), await tenant_with(service.pool)
    made = await create(service, own, receiver.url())
    member = service.caller(own, Role.MEMBER, "maria")
    listing = pb.ListWebhooksRequest(tenant_id=own)
    assert (await refusal(service.stub.ListWebhooks(listing, metadata=member))).reason == "PERMISSION_MISSING"
    foreign = await refusal(service.stub.ListWebhooks(listing, metadata=service.caller(other)))
    assert foreign.reason == "TENANT_MISMATCH"
    for webhook_id in (made.webhook.webhook_id, "missing"):
        request = pb.GetWebhookRequest(tenant_id=other, webhook_id=webhook_id)
        missing = await refusal(service.stub.GetWebhook(request, metadata=service.caller(other)))
        assert missing.code is grpc.StatusCode.NOT_FOUND
