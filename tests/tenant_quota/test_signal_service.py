"""SignalService through the wire, on two replicas, from settlements to those who watch."""

import asyncio
import time
from collections.abc import AsyncIterator

import grpc
import pytest

from prosa.tenant_quota.v1 import signal_service_pb2 as pb
from services.tenant_quota.config import Config
from services.tenant_quota.model import Role
from services.tenant_quota.quota_model import Level
from services.tenant_quota.quotas import Quotas
from services.tenant_quota.reservations import Reservations
from services.tenant_quota.signalling import open_signalling
from shared.caller import TokenVerifier
from shared.config import ServiceConfig
from shared.postgres import tenant_transaction
from shared.server import running_server
from tests.house.signing import SigningKeys
from tests.tenant_quota.signal_world import Replica, limit, replica, tenant_with, use
from tests.tenant_quota.world import commit, refusal, wish

Replicas = tuple[Replica, Replica]
PRICE = """
INSERT INTO prices (model, effective_time, input_micros, cached_input_micros, output_micros, reasoning_micros)
VALUES ('model', '2026-01-01', 1000000, 1000000, 1000000, 1000000) ON CONFLICT DO NOTHING
"""


@pytest.fixture(scope="module")
async def replicas(signal_config: Config, signing_keys: SigningKeys) -> AsyncIterator[Replicas]:
    async with replica(signal_config, signing_keys) as one, replica(signal_config, signing_keys) as other:
        yield one, other


async def spend(store: Reservations, tenant_id: str, tokens: int, user_id: str = "") -> None:
    """A reservation made and committed."""
    held = await store.reserve(wish(tenant_id, tokens, user_id=user_id))
    await store.settle(commit(tenant_id, held.reservation_id, tokens, cost_micros=tokens))


def store_of(running: Replica) -> Reservations:
    """The account as that replica keeps it."""
    return Reservations(running.pool, on_settled=running.signalling.signals.touched)


async def price(running: Replica) -> None:
    """A millionth of the currency for each token of the model that the tests use."""
    async with tenant_transaction(running.pool, "*") as connection:
        await connection.execute(PRICE)


async def read(stream: AsyncIterator[pb.WatchUsageResponse], count: int = 1) -> list[pb.WatchUsageResponse]:
    """The next messages."""
    async with asyncio.timeout(30):
        return [await anext(stream) for _ in range(count)]


async def test_a_share_is_said_once_whatever_the_concurrency_and_the_number_of_replicas(replicas: Replicas) -> None:
    one, _ = replicas
    await price(one)
    tenant_id = await tenant_with(one.pool, day=6_400, month=100_000, cost=6_400)
    await limit(one.pool, tenant_id, Level.USER, "maria", day=3_200)
    watches = [aiter(each.watch(tenant_id)) for each in replicas]
    for watch in watches:
        await read(watch)
    stores = [store_of(each) for each in replicas]
    await asyncio.gather(*(spend(stores[n % 2], tenant_id, 100, "maria" if n < 32 else "") for n in range(64)))
    expected = {
        (pb.LIMIT_LEVEL_TENANT, pb.USAGE_MEASURE_TOKENS, 80),
        (pb.LIMIT_LEVEL_TENANT, pb.USAGE_MEASURE_TOKENS, 100),
        (pb.LIMIT_LEVEL_TENANT, pb.USAGE_MEASURE_COST, 80),
        (pb.LIMIT_LEVEL_TENANT, pb.USAGE_MEASURE_COST, 100),
        (pb.LIMIT_LEVEL_USER, pb.USAGE_MEASURE_TOKENS, 80),
        (pb.LIMIT_LEVEL_USER, pb.USAGE_MEASURE_TOKENS, 100),
    }
    for watch in watches:
        told = [each.signal for each in await read(watch, len(expected))]
        assert {(each.level, each.measure, each.percent) for each in told} == expected
    await asyncio.gather(*(each.signalling.signals.scan() for each in replicas))
    assert len(await one.signals(tenant_id)) == len(expected)
    for store in stores:
        await store.close()


async def test_a_watcher_on_another_replica_sees_a_settlement_pass_a_share_before_any_scan(replicas: Replicas) -> None:
    one, other = replicas
    tenant_id = await tenant_with(one.pool, day=1_000)
    watch = aiter(other.watch(tenant_id))
    (first,) = await read(watch)
    assert first.WhichOneof("update") == "standing"
    assert [each.limit_tokens for each in first.standing.usages] == [1_000, 0]
    store = store_of(one)
    began = time.monotonic()
    await spend(store, tenant_id, 900)
    (told,) = await read(watch)
    assert time.monotonic() - began < 10, "by notification: a scan comes once a minute only"
    assert (told.signal.percent, told.signal.used, told.signal.limit) == (80, 900, 1_000)
    await store.close()


async def test_a_broken_stream_goes_on_after_the_last_signal_seen(replicas: Replicas) -> None:
    one, other = replicas
    tenant_id = await tenant_with(one.pool, day=100, percents=[10, 20, 30, 40])
    await one.spend(tenant_id, 10)
    begun = one.watch(tenant_id, after_signal_id=0)
    _, first = await read(aiter(begun), 2)
    begun.cancel()
    await one.spend(tenant_id, 20)
    resumed = aiter(other.watch(tenant_id, after_signal_id=first.signal.signal_id))
    standing, *told = await read(resumed, 3)
    assert standing.WhichOneof("update") == "standing"
    assert [each.signal.percent for each in told] == [20, 30]
    fresh = aiter(other.watch(tenant_id))
    await read(fresh)
    await one.spend(tenant_id, 10)
    for watch in (resumed, fresh):
        (last,) = await read(watch)
        assert last.signal.percent == 40


async def test_a_member_watches_their_own_user_and_nobody_else(replicas: Replicas) -> None:
    one, _ = replicas
    tenant_id = await tenant_with(one.pool, day=100)
    member = one.caller(tenant_id, Role.MEMBER, "maria")
    await limit(one.pool, tenant_id, Level.USER, "maria", day=100)
    watch = aiter(one.watch(tenant_id, member, after_signal_id=0))
    (first,) = await read(watch)
    assert {each.user_id for each in first.standing.usages} == {"maria"}
    await use(one.pool, tenant_id, 100)
    await use(one.pool, tenant_id, 80, level=Level.USER, subject="maria")
    one.signalling.signals.touched(tenant_id, "maria")
    (told,) = await read(watch)
    assert (told.signal.user_id, told.signal.level) == ("maria", pb.LIMIT_LEVEL_USER)
    listed = await one.stub.ListSignals(pb.ListSignalsRequest(), metadata=member)
    assert [each.user_id for each in listed.signals] == ["maria"]
    for call in (
        one.stub.ListSignals(pb.ListSignalsRequest(user_id="joana"), metadata=member),
        read(aiter(one.watch(tenant_id, member, user_id="joana"))),
    ):
        assert (await refusal(call)).code is grpc.StatusCode.NOT_FOUND
    nobody = aiter(one.watch(tenant_id, one.caller(tenant_id, Role.MEMBER), after_signal_id=0))
    (empty,) = await read(nobody)
    assert not empty.standing.usages


async def test_a_tenant_sees_its_own_and_no_other(replicas: Replicas) -> None:
    one, _ = replicas
    own, other = await tenant_with(one.pool, day=100), await tenant_with(one.pool, day=100)
    await one.spend(other, 100)
    watch = aiter(one.watch(own, after_signal_id=0))
    await read(watch)
    await one.spend(own, 80)
    (told,) = await read(watch)
    assert told.signal.tenant_id == own
    foreign = await refusal(read(aiter(one.watch(other, one.caller(own)))))
    assert foreign.reason == "TENANT_MISMATCH"
    assert {each.tenant_id for each in await one.signals(own)} == {own}


async def test_signals_are_listed_newest_first_in_pages(replicas: Replicas) -> None:
    one, _ = replicas
    tenant_id = await tenant_with(one.pool, day=100, percents=[10, 20, 30, 40, 50])
    watch = aiter(one.watch(tenant_id))
    await read(watch)
    await one.spend(tenant_id, 50)
    await read(watch, 5)
    seen, page_token = [], ""
    for _ in range(3):
        page = await one.stub.ListSignals(
            pb.ListSignalsRequest(page_size=2, page_token=page_token), metadata=one.caller(tenant_id)
        )
        seen += [each.percent for each in page.signals]
        page_token = page.next_page_token
    assert (seen, page_token) == ([50, 40, 30, 20, 10], "")


async def test_a_stop_ends_streams_at_once_and_they_may_be_taken_up_again(
    replicas: Replicas, signing_keys: SigningKeys
) -> None:
    one, other = replicas
    tenant_id = await tenant_with(one.pool, day=100)
    config = ServiceConfig(port=0, drain_delay_seconds=0, shutdown_grace_seconds=30)
    verifier = TokenVerifier(signing_keys.public_pem)
    async with open_signalling(one.pool, one.config, Quotas(one.pool)) as signalling:
        stopping = running_server(config, [signalling.endpoint], verifier=verifier, ready={})
        port = await stopping.__aenter__()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            watched = Replica(one.config, one.pool, signalling, channel, signing_keys)
            watch = aiter(watched.watch(tenant_id))
            await read(watch)
            ended = asyncio.create_task(refusal(read(watch)))
            began = time.monotonic()
            await stopping.__aexit__(None, None, None)
            assert (await ended).code is grpc.StatusCode.UNAVAILABLE
            assert time.monotonic() - began < 15
    again = aiter(other.watch(tenant_id, after_signal_id=0))
    await one.spend(tenant_id, 80)
    assert (await read(again, 2))[1].signal.percent == 80


async def test_a_tenant_that_does_not_exist_cannot_be_watched(replicas: Replicas) -> None:
    one, _ = replicas
    assert (await refusal(read(aiter(one.watch("nobody"))))).code is grpc.StatusCode.NOT_FOUND
    listing = pb.ListSignalsRequest(tenant_id="nobody")
    missing = await refusal(one.stub.ListSignals(listing, metadata=one.caller("nobody")))
    assert missing.code is grpc.StatusCode.NOT_FOUND
