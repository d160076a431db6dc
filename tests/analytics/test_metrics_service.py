"""MetricsService over the wire: what outside producers tell is counted once, whatever is lost on the way."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest

from prosa.analytics.v1 import metrics_service_pb2 as pb
from prosa.analytics.v1.metrics_service_pb2_grpc import MetricsServiceStub
from services.analytics.model import Wish
from services.analytics.rollups.sketches import quantiles, users_counted
from shared.mongo import MongoDatabase
from tests.analytics.conftest import Redis
from tests.analytics.events import NOON
from tests.analytics.intake_site import Site, caller, until
from tests.house.in_process import as_caller, serving, token
from tests.house.signing import SigningKeys


@pytest.fixture
async def site(database: MongoDatabase, redis: Redis) -> Site:
    made = Site(database, redis)
    await made.intake.prepare()
    return made


@pytest.fixture
async def stub(site: Site, signing_keys: SigningKeys) -> AsyncIterator[Any]:
    async with serving(site.endpoints(), signing_keys) as channel:
        yield MetricsServiceStub(channel)


def execution(event_id: str, *, at: datetime = NOON, **more: Any) -> pb.Execution:
    fields: dict[str, Any] = {"user_id": "ana", "assistant_id": "helper", "model": "gpt-x", "latency_ms": 800}
    made = pb.Execution(event_id=event_id, asked=True, **{"cost_micros": 3, **fields, **more})
    made.usage.input_tokens, made.usage.output_tokens = 100, 20
    made.create_time.FromDatetime(at)
    return made


async def series(database: MongoDatabase, axis: str = "total", value: str = "", step: str = "day") -> dict[str, Any]:
    """The sum over the steps of one series of acme."""
    sums: dict[str, Any] = {}
    query = {"_id.tenant_id": "acme", "_id.axis": axis, "_id.value": value, "_id.step": step}
    async for document in database["series"].find(query):
        for name, figure in document.items():
            if name != "_id":
                sums[name] = sums[name] + figure if name in sums else figure
    return sums


async def nothing_left(database: MongoDatabase) -> bool:
    return not await database["inbox"].count_documents({})


async def test_executions_are_counted_once_however_often_they_are_told(
    site: Site, stub: Any, database: MongoDatabase, signing_keys: SigningKeys
) -> None:
    long_ago = NOON - timedelta(days=40)
    first = pb.RecordExecutionRequest(executions=[execution(f"e{n}") for n in range(300)])
    again = pb.RecordExecutionRequest(
        executions=[*(execution(f"e{n}", cost_micros=9) for n in range(200, 300)), execution("late", at=long_ago)]
    )
    for request in (first, again):
        response = await stub.RecordExecution(request, **caller(signing_keys))
        assert response.accepted == len(request.executions)
    async with site.working():
        await until(lambda: nothing_left(database))
    total = await series(database)
    assert (total["turns"], total["user_messages"], total["cost_micros"]) == (301, 301, 903)
    assert (total["input_tokens"], total["output_tokens"], total["timed_turns"]) == (30_100, 6020, 301)
    late = await database["series"].find_one({"_id.axis": "total", "_id.step": "hour", "_id.start": long_ago})
    assert late["turns"] == 1


async def test_two_tenants_may_choose_the_same_ids_and_none_is_taken_for_the_feeds(
    site: Site, stub: Any, database: MongoDatabase, signing_keys: SigningKeys
) -> None:
    request = pb.RecordExecutionRequest(executions=[execution("same")])
    async with site.working():
        for tenant in ("acme", "beta"):
            await stub.RecordExecution(request, **caller(signing_keys, tenant))
        await until(lambda: nothing_left(database))
    assert {fact["_id"] async for fact in database["facts"].find()} == {"outside:acme:same", "outside:beta:same"}


async def test_what_was_accepted_survives_a_redis_that_loses_everything(
    site: Site, stub: Any, database: MongoDatabase, redis: Redis, signing_keys: SigningKeys
) -> None:
    request = pb.RecordExecutionRequest(executions=[execution(f"e{n}") for n in range(50)])
    await stub.RecordExecution(request, **caller(signing_keys))
    await redis.flushdb()
    assert await site.intake.inbox.send_lost(lost_seconds=0) == 1
    await site.intake.inbox.send_lost(lost_seconds=0)  # sent twice, counted once
    async with site.working():
        await until(lambda: nothing_left(database))
        await asyncio.sleep(0.1)
    assert (await series(database))["turns"] == 50


async def test_latencies_are_within_one_percent_and_users_are_counted(
    site: Site, stub: Any, database: MongoDatabase, signing_keys: SigningKeys
) -> None:
    latencies = [20 + n * n % 9973 for n in range(900)]
    request = pb.RecordExecutionRequest(
        executions=[
            execution(f"e{n}", latency_ms=latency, user_id=f"u{n % 250}", time_to_first_token_ms=latency // 2 + 1)
            for n, latency in enumerate(latencies)
        ]
    )
    async with site.working():
        await stub.RecordExecution(request, **caller(signing_keys))
        await until(lambda: nothing_left(database))
    total = await series(database)
    ordered = sorted(latencies)
    for share, found in zip((0.5, 0.95, 0.99), quantiles(total["latency"], (0.5, 0.95, 0.99)), strict=True):
        exact = ordered[int(share * (len(ordered) - 1))]
        assert abs(found - exact) <= 0.01 * exact
    assert users_counted(total["users"]) == 250
    assert total["latency_ms"] == sum(latencies)


async def test_the_newest_of_a_session_and_of_a_content_counts(
    site: Site, stub: Any, database: MongoDatabase, signing_keys: SigningKeys
) -> None:
    def session(event_id: str, revision: int, turns: int, minutes: int) -> pb.RecordedSession:
        made = pb.RecordedSession(event_id=event_id, session_id="s", revision=revision, turns=turns)
        made.start_time.FromDatetime(NOON)
        made.end_time.FromDatetime(NOON + timedelta(minutes=minutes))
        return made

    def content(event_id: str, revision: int, topic: str) -> pb.Content:
        made = pb.Content(event_id=event_id, conversation_id="c", revision=revision, user_id="ana")
        made.topics.add(name=topic, weight=0.9, confidence=0.9)
        made.topics.add(name="outro", weight=0.9, confidence=0.1)
        made.create_time.FromDatetime(NOON)
        return made

    sessions = [session("b", 2, 7, 20), session("a", 1, 3, 10), session("b", 2, 7, 20)]
    contents = [content("y", 2, "IPTU"), content("x", 1, "lixo")]
    async with site.working():
        await stub.RecordSession(pb.RecordSessionRequest(sessions=sessions), **caller(signing_keys))
        await stub.RecordContent(pb.RecordContentRequest(contents=contents), **caller(signing_keys))
        await until(lambda: nothing_left(database))
    total = await series(database)
    assert (total["sessions"], total["session_turns_sum"], total["session_seconds_sum"]) == (1, 7, 1200)
    assert quantiles(total["session_turns"], [0.5]) == [pytest.approx(7, rel=0.01)]
    assert total["analyses"] == 1
    assert (await series(database, "topic", "IPTU"))["analyses"] == 1
    assert (await series(database, "topic", "lixo")).get("analyses", 0) == 0


async def test_wishes_are_fulfilled_once_and_a_wish_that_fails_is_tried_again(
    database: MongoDatabase, redis: Redis, signing_keys: SigningKeys
) -> None:
    tried: list[str] = []

    async def fulfil(wish: Wish) -> None:
        tried.append(wish.conversation_id)
        if wish.conversation_id == "shy" and tried.count("shy") < 3:
            raise ValueError("not yet")

    site = Site(database, redis, fulfil=fulfil)
    request = pb.RequestClassificationRequest(
        classifications=[pb.Classification(event_id=each, conversation_id=each) for each in ("shy", "c1", "c2")]
    )
    async with serving(site.endpoints(), signing_keys) as channel, site.working():
        stub: Any = MetricsServiceStub(channel)
        for _ in range(2):
            await stub.RequestClassification(request, **caller(signing_keys))
        await until(lambda: nothing_left(database))
    assert (tried.count("c1"), tried.count("c2"), tried.count("shy")) == (1, 1, 3)
    assert await database["dead_letters"].count_documents({}) == 0


async def test_a_conversation_that_rests_is_a_session_and_is_wished_to_be_analysed(
    database: MongoDatabase, redis: Redis, signing_keys: SigningKeys
) -> None:
    wishes: list[str] = []

    async def fulfil(wish: Wish) -> None:
        wishes.append(wish.conversation_id)

    site = Site(database, redis, fulfil=fulfil)
    now = datetime.now(UTC)
    rested = [execution(f"e{n}", at=now - timedelta(hours=2 - n), conversation_id="rested") for n in range(2)]
    active = execution("e9", at=now, conversation_id="active")
    async with serving(site.endpoints(), signing_keys) as channel, site.working(session_sweep_seconds=0.1):
        stub: Any = MetricsServiceStub(channel)
        await stub.RecordExecution(pb.RecordExecutionRequest(executions=[*rested, active]), **caller(signing_keys))

        async def wished() -> bool:
            return wishes == ["rested"]

        await until(wished)
        await stub.RecordExecution(
            pb.RecordExecutionRequest(
                executions=[execution("more", at=now - timedelta(minutes=50), conversation_id="rested")]
            ),
            **caller(signing_keys),
        )

        async def wished_again() -> bool:
            return wishes == ["rested", "rested"]

        await until(wished_again)
    total = await series(database)
    assert (total["sessions"], total["session_turns_sum"]) == (1, 3)
    assert total["session_seconds_sum"] == pytest.approx(70 * 60, abs=1)


async def test_a_caller_of_no_tenant_is_refused_and_so_is_one_without_the_permission(
    stub: Any, signing_keys: SigningKeys
) -> None:
    request = pb.RecordExecutionRequest(executions=[execution("e")])
    nobody = {"metadata": as_caller(token(signing_keys, tenant_id="acme", scopes=["reports.read"]))}
    for who in (caller(signing_keys, ""), nobody):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.RecordExecution(request, **who)
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
