"""Deliveries: at least once, again after a failure, by whoever is left, and none at the cost of others."""

from datetime import timedelta

import asyncpg
import pytest
from pydantic import SecretStr

from services.tenant_quota.deliveries import Deliveries
from services.tenant_quota.delivery_worker import DeliveryWorker
from services.tenant_quota.signal_model import MOST_WEBHOOKS, DeliveryState, Patience
from services.tenant_quota.webhook_address import Addresses
from services.tenant_quota.webhook_post import Poster
from services.tenant_quota.webhook_secrets import WebhookSecrets
from services.tenant_quota.webhooks import Webhooks
from shared.postgres import tenant_transaction
from tests.house.waiting import until_answered
from tests.tenant_quota.signal_world import tenant_with, use
from tests.tenant_quota.webhook_receiver import receiving

SECRETS = WebhookSecrets(SecretStr("a pepper of these tests"))
QUICK = Patience(
    first_pause=timedelta(milliseconds=40),
    longest_pause=timedelta(milliseconds=200),
    give_up_after=timedelta(seconds=30),
    lease=timedelta(seconds=20),
)


@pytest.fixture
def pool(quiet_pool: asyncpg.Pool) -> asyncpg.Pool:
    """Where nobody else delivers."""
    return quiet_pool


@pytest.fixture
def other_pool(other_quiet_pool: asyncpg.Pool) -> asyncpg.Pool:
    """What a second replica has there."""
    return other_quiet_pool


def worker(pool: asyncpg.Pool, patience: Patience = QUICK, timeout_seconds: float = 60.0) -> DeliveryWorker:
    """A worker of its own, quicker to try again than the service's."""
    poster = Poster(Addresses(private_allowed=True), timeout_seconds=timeout_seconds)
    return DeliveryWorker(Deliveries(pool, patience), poster, SECRETS, poll_seconds=0.05)


async def quiet_webhook(pool: asyncpg.Pool, tenant_id: str, url: str) -> str:
    """A webhook with one delivery that is due, of which no worker of the service knows yet."""
    webhook, _ = await Webhooks(pool, SECRETS).create(tenant_id, url, "", [], None)
    return webhook.webhook_id


async def test_a_failed_delivery_is_tried_again_with_the_same_id_and_body(pool: asyncpg.Pool) -> None:
    async with receiving(500, 302, None, 200) as receiver:
        tenant_id = await tenant_with(pool, day=100)
        await quiet_webhook(pool, tenant_id, receiver.url())
        await use(pool, tenant_id, 80)
        await record(pool, tenant_id)
        async with worker(pool, timeout_seconds=3.0).running():
            received = await receiver.wait_for(4)
            await until_answered(lambda: state_of(pool, tenant_id, DeliveryState.DELIVERED))
    assert len({each.headers["webhook-id"] for each in received}) == 1
    assert len({each.body for each in received}) == 1
    async with tenant_transaction(pool, tenant_id) as connection:
        row = await connection.fetchrow("SELECT attempts, http_status, last_error FROM deliveries")
        assert row is not None
        assert tuple(row) == (4, 200, "")
        assert await connection.fetchval("SELECT failing_since FROM webhooks") is None


async def record(pool: asyncpg.Pool, tenant_id: str) -> None:
    """The tenant's signals written, without a service that listens being told: the worker here must find them."""
    async with tenant_transaction(pool, tenant_id) as connection:
        await connection.execute("SELECT record_signals($1, $2, $3)", [tenant_id], [1], [""])


async def state_of(pool: asyncpg.Pool, tenant_id: str, state: DeliveryState) -> bool:
    """Whether all deliveries of the tenant are in it."""
    async with tenant_transaction(pool, tenant_id) as connection:
        found = await connection.fetch("SELECT DISTINCT state FROM deliveries")
    return [row["state"] for row in found] == [state]


async def test_who_takes_a_delivery_and_dies_leaves_it_to_others(pool: asyncpg.Pool, other_pool: asyncpg.Pool) -> None:
    """Killed between the receiver's answer and the note of it: delivered again."""
    async with receiving() as receiver:
        tenant_id = await tenant_with(pool, day=100)
        await quiet_webhook(pool, tenant_id, receiver.url())
        await use(pool, tenant_id, 80)
        await record(pool, tenant_id)
        taken = await until_claimed(Deliveries(pool, QUICK), tenant_id)
        assert not [each for each in await Deliveries(other_pool, QUICK).claim(50, ()) if each.tenant_id == tenant_id]
        async with tenant_transaction(pool, tenant_id) as connection:
            await connection.execute("UPDATE deliveries SET next_attempt_time = clock_timestamp()")  # its lease is over
        async with worker(other_pool).running():
            received = await receiver.wait_for(1)
            await until_answered(lambda: state_of(pool, tenant_id, DeliveryState.DELIVERED))
        assert received[0].headers["webhook-id"] == taken
        # The one that was thought dead comes back: what it says changes nothing any more.
        assert await state_of(pool, tenant_id, DeliveryState.DELIVERED)


async def until_claimed(store: Deliveries, tenant_id: str) -> str:
    """The id of the tenant's delivery, taken by this store."""
    for attempt in await store.claim(100, ()):
        if attempt.tenant_id == tenant_id:
            return attempt.delivery_id
    raise AssertionError("somebody else was quicker")


async def test_two_replicas_deliver_each_once(pool: asyncpg.Pool, other_pool: asyncpg.Pool) -> None:
    async with receiving() as receiver:
        tenant_id = await tenant_with(pool, day=100, percents=range(1, 11))
        for _ in range(4):
            await quiet_webhook(pool, tenant_id, receiver.url())
        await use(pool, tenant_id, 10)
        await record(pool, tenant_id)
        async with worker(pool).running(), worker(other_pool).running():
            await until_answered(lambda: state_of(pool, tenant_id, DeliveryState.DELIVERED))
    ids = [each.headers["webhook-id"] for each in receiver.received]
    assert len(ids) == len(set(ids)) == 40


async def test_a_delivery_is_given_up_after_its_time(pool: asyncpg.Pool) -> None:
    async with receiving(500) as receiver:
        tenant_id = await tenant_with(pool, day=100)
        await quiet_webhook(pool, tenant_id, receiver.url())
        await use(pool, tenant_id, 80)
        await record(pool, tenant_id)
        async with worker(pool).running():
            await receiver.wait_for(3)
            async with tenant_transaction(pool, tenant_id) as connection:
                await connection.execute("UPDATE deliveries SET create_time = create_time - interval '1 hour'")
            await until_answered(lambda: state_of(pool, tenant_id, DeliveryState.FAILED))
    async with tenant_transaction(pool, tenant_id) as connection:
        assert await connection.fetchval("SELECT last_error FROM deliveries") == "the answer was 500"
        assert await connection.fetchval("SELECT failing_since FROM webhooks") is not None
        assert await connection.fetchval("SELECT enabled FROM webhooks")


@pytest.mark.parametrize(("answer", "disable_after"), [(410, timedelta(days=5)), (500, timedelta(0))])
async def test_a_webhook_that_is_gone_or_fails_for_too_long_is_switched_off(
    pool: asyncpg.Pool, answer: int, disable_after: timedelta
) -> None:
    async with receiving(answer) as receiver:
        tenant_id = await tenant_with(pool, day=100)
        webhook_id = await quiet_webhook(pool, tenant_id, receiver.url())
        await use(pool, tenant_id, 100)
        await record(pool, tenant_id)
        patience = Patience(timedelta(milliseconds=30), disable_after=disable_after)
        async with worker(pool, patience).running():
            await until_answered(lambda: state_of(pool, tenant_id, DeliveryState.FAILED))
    webhook = await Webhooks(pool, SECRETS).get(tenant_id, webhook_id)
    assert not webhook.enabled
    assert webhook.disabled_reason
    webhook = await Webhooks(pool, SECRETS).update(tenant_id, webhook_id, {"enabled": True})
    assert (webhook.enabled, webhook.disabled_reason, webhook.failing_since) == (True, "", None)


async def test_slow_webhooks_of_one_tenant_however_many_keep_no_other_waiting(pool: asyncpg.Pool) -> None:
    async with receiving(None) as slow, receiving() as quick:
        first = await tenant_with(pool, day=100, percents=range(1, 11))
        second = await tenant_with(pool, day=100)
        for tenant_id, receiver in (*[(first, slow)] * MOST_WEBHOOKS, (second, quick)):
            await quiet_webhook(pool, tenant_id, receiver.url())
        for tenant_id in (first, second):
            await use(pool, tenant_id, 80)
            await record(pool, tenant_id)
        async with worker(pool).running():
            await quick.wait_for(1)
            assert len(slow.received) <= 8
