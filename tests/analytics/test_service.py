"""The composed service beside a real chat_store: what is said there is in the report here, engines come and go."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from pydantic import SecretStr, ValidationError

from deploy.local.engine import start
from deploy.local.engines import Redis as RedisEngine
from prosa.analytics.v1 import report_service_pb2 as pb
from prosa.analytics.v1 import report_service_pb2_grpc as pb_grpc
from prosa.chat_store.v1 import conversation_service_pb2 as chat_pb
from prosa.chat_store.v1 import conversation_service_pb2_grpc as chat_grpc
from prosa.tenant_quota.v1 import tenant_service_pb2 as tenant_pb
from prosa.tenant_quota.v1 import tenant_service_pb2_grpc as tenant_grpc
from services.analytics.__main__ import open_analytics, open_endpoints
from services.analytics.config import Config
from services.chat_store.__main__ import open_endpoints as open_chat_store
from services.chat_store.config import Config as ChatStoreConfig
from shared.mongo import MongoDatabase
from shared.server import Endpoint
from tests.analytics.events import answer, question
from tests.analytics.feed_source import served
from tests.house.in_process import as_caller, serving, token
from tests.house.ports import own_port
from tests.house.signing import SigningKeys

SERVICE_KEY = "pk_test_service"


class OneKey(tenant_grpc.TenantServiceServicer):
    """tenant_quota as far as a service needs it: one key, good for the feed."""

    def __init__(self, keys: SigningKeys) -> None:
        self._keys = keys

    async def Authenticate(
        self, request: tenant_pb.AuthenticateRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> tenant_pb.AuthenticateResponse:
        assert request.credential == SERVICE_KEY
        response = tenant_pb.AuthenticateResponse(access_token=token(self._keys, scopes=["feed.read"]))
        response.expire_time.FromDatetime(datetime.now(UTC) + timedelta(seconds=60))
        return response


def one_key(keys: SigningKeys) -> Endpoint:
    return Endpoint(
        add=tenant_grpc.add_TenantServiceServicer_to_server,
        servicer=OneKey(keys),  # type: ignore[abstract]
        full_name=tenant_pb.DESCRIPTOR.services_by_name["TenantService"].full_name,
    )


@pytest.fixture
async def neighbours(mongo_url: str, database: MongoDatabase, signing_keys: SigningKeys) -> AsyncIterator[int]:
    """A real chat_store and the exchange of keys, on one port."""
    config = ChatStoreConfig(
        port=0,
        mongodb_url=SecretStr(mongo_url),
        mongodb_database=f"{database.name}_chats",
        feed_idle_seconds=0.2,
    )
    async with (
        open_chat_store(config) as chat_store,
        served([*chat_store, one_key(signing_keys)], signing_keys) as port,
    ):
        yield port
    await database.client.drop_database(config.mongodb_database)


def config_for(mongo_url: str, database: str, redis_url: str, neighbours: int, **settings: Any) -> Config:
    return Config(
        port=0,
        mongodb_url=SecretStr(mongo_url),
        mongodb_database=database,
        redis_url=SecretStr(redis_url),
        chat_store_target=f"127.0.0.1:{neighbours}",
        tenant_quota_target=f"127.0.0.1:{neighbours}",
        service_key=SecretStr(SERVICE_KEY),
        feed_checkpoint_seconds=0.05,
        worker_block_ms=50,
        **settings,
    )


def caller(keys: SigningKeys, tenant_id: str = "acme") -> dict[str, Any]:
    scopes = ["reports.read", "conversations.write", "conversations.read"]
    return {"metadata": as_caller(token(keys, tenant_id=tenant_id, user_id="ana", scopes=scopes)), "timeout": 60}


async def converse(port: int, keys: SigningKeys, conversation_id: str, turns: int, tenant_id: str = "acme") -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub: Any = chat_grpc.ConversationServiceStub(channel)
        create = chat_pb.CreateConversationRequest(conversation_id=conversation_id, assistant_id="helper")
        await stub.CreateConversation(create, **caller(keys, tenant_id))
        for _ in range(turns):
            messages = [question(), answer()]
            for message in messages:
                message.ClearField("create_time")
            append = chat_pb.AppendMessagesRequest(conversation_id=conversation_id, messages=messages)
            await stub.AppendMessages(append, **caller(keys, tenant_id))


@asynccontextmanager
async def reports(endpoints: list[Endpoint], keys: SigningKeys) -> AsyncIterator[Any]:
    async with serving(endpoints, keys) as channel:
        yield pb_grpc.ReportServiceStub(channel)


async def turns_counted(stub: Any, keys: SigningKeys, turns: int, tenant_id: str = "acme") -> pb.GetUsageReportResponse:
    """The report, as soon as it shows so many turns."""
    async with asyncio.timeout(60):
        while True:
            report: pb.GetUsageReportResponse = await stub.GetUsageReport(
                pb.GetUsageReportRequest(group_by=[pb.DIMENSION_MODEL]), **caller(keys, tenant_id)
            )
            if report.total.turns >= turns:
                assert report.total.turns == turns
                return report
            await asyncio.sleep(0.05)


async def test_what_was_said_in_chat_store_is_in_the_report(
    mongo_url: str, database: MongoDatabase, own_redis_url: str, redis: Any, neighbours: int, signing_keys: SigningKeys
) -> None:
    """History and live, two tenants; the sums are those of the messages; a new process counts nothing again."""
    await converse(neighbours, signing_keys, "c1", 3)
    await converse(neighbours, signing_keys, "c1", 2, tenant_id="beta")
    config = config_for(mongo_url, database.name, own_redis_url, neighbours)
    async with open_endpoints(config) as endpoints, reports(endpoints, signing_keys) as stub:
        await turns_counted(stub, signing_keys, 3)
        await converse(neighbours, signing_keys, "c2", 4)
        report = await turns_counted(stub, signing_keys, 7)
        await turns_counted(stub, signing_keys, 2, tenant_id="beta")
    total = report.total
    usage = total.usage
    tokens = (usage.input_tokens, usage.cached_input_tokens, usage.output_tokens, usage.reasoning_tokens)
    assert tokens == (700, 280, 140, 35)
    assert (total.user_messages, total.rag_turns, total.errors, total.cost_micros) == (7, 7, 0, 49)
    assert {row.model: (row.turns, row.user_messages) for row in report.rows} == {"": (0, 7), "extractive": (7, 0)}

    async with open_endpoints(config) as endpoints, reports(endpoints, signing_keys) as stub:
        await converse(neighbours, signing_keys, "c3", 1)
        await turns_counted(stub, signing_keys, 8)
        async with asyncio.timeout(60):
            while not (await turns_counted(stub, signing_keys, 8)).HasField("counted_until_time"):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
    assert await database["facts"].count_documents({"tenant_id": "acme"}) == 8


async def test_reports_go_on_without_redis_and_nothing_is_missing_when_an_empty_one_comes_back(
    mongo_url: str, database: MongoDatabase, tmp_path: Path, neighbours: int, signing_keys: SigningKeys
) -> None:
    port = own_port()
    first = RedisEngine(tmp_path / "first", port)
    running = start(first)
    try:
        config = config_for(mongo_url, database.name, first.url(), neighbours)
        async with AsyncExitStack() as stack:
            analytics = await stack.enter_async_context(open_analytics(config))
            stub = await stack.enter_async_context(reports(analytics.endpoints, signing_keys))
            await converse(neighbours, signing_keys, "c1", 2)
            await turns_counted(stub, signing_keys, 2)
            running.kill()
            running.wait(30)
            await converse(neighbours, signing_keys, "c2", 3)
            assert (
                await turns_counted(stub, signing_keys, 2)
            ).documents_examined <= 4  # a model and the people, of one hour or of two
            for probe in analytics.ready.values():
                await probe()
            running = start(RedisEngine(tmp_path / "second", port))
            await turns_counted(stub, signing_keys, 5)
    finally:
        running.stop(5)


async def test_without_a_service_key_reports_are_served_and_the_feed_is_left_alone(
    mongo_url: str, database: MongoDatabase, own_redis_url: str, redis: Any, signing_keys: SigningKeys
) -> None:
    config = config_for(mongo_url, database.name, own_redis_url, own_port()).model_copy(
        update={"service_key": SecretStr("")}
    )
    async with open_endpoints(config) as endpoints, reports(endpoints, signing_keys) as stub:
        await turns_counted(stub, signing_keys, 0)


async def test_without_mongodb_a_report_is_a_typed_error_and_the_service_says_it_is_not_ready(
    own_redis_url: str, redis: Any, signing_keys: SigningKeys
) -> None:
    nowhere = f"mongodb://127.0.0.1:{own_port()}/?replicaSet=none&connectTimeoutMS=200"
    config = config_for(nowhere, "analytics_none", own_redis_url, own_port(), mongodb_timeout_ms=500)
    async with open_analytics(config) as analytics, reports(analytics.endpoints, signing_keys) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.GetUsageReport(pb.GetUsageReportRequest(), **caller(signing_keys))
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        with pytest.raises(Exception, match="unavailable"):
            await analytics.ready["mongodb"]()


def test_the_plans_names_of_the_engines_work_and_misspelt_ones_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONGODB_URL", "mongodb://elsewhere")
    monkeypatch.setenv("REDIS_URL", "redis://elsewhere")
    assert Config().mongodb_url.get_secret_value() == "mongodb://elsewhere"
    assert Config().redis_url.get_secret_value() == "redis://elsewhere"
    assert Config().mongodb_database == "prosa_analytics"
    monkeypatch.setenv("ANALYTICS_REDIS_URI", "redis://typo")
    with pytest.raises(ValidationError, match="ANALYTICS_REDIS_URI"):
        Config()
