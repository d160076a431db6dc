"""The service as operators meet it: its settings, and an engine that is away."""

from collections.abc import Callable

import grpc
import pytest
from pydantic import SecretStr, ValidationError

from prosa.chat_store.v1 import conversation_service_pb2 as pb
from prosa.chat_store.v1 import conversation_service_pb2_grpc as rpc
from prosa.chat_store.v1 import feed_service_pb2 as feed_pb
from prosa.chat_store.v1 import feed_service_pb2_grpc as feed_rpc
from services.chat_store.__main__ import open_endpoints
from services.chat_store.config import Config
from services.chat_store.engines import open_store, prepare
from services.chat_store.model import NewConversation
from services.chat_store.selection import Reach
from shared.errors import Unavailable, error_of
from tests.chat_store.conftest import MEMBER, SERVICE
from tests.house.in_process import as_caller, serving, token
from tests.house.ports import own_port
from tests.house.signing import SigningKeys


@pytest.mark.parametrize("driver", ["motor", "pymongo"])
async def test_an_absent_engine_makes_every_call_unavailable(driver: str, signing_keys: SigningKeys) -> None:
    config = Config.model_validate(
        {
            "port": 0,
            "mongodb_url": SecretStr(f"mongodb://127.0.0.1:{own_port()}/?replicaSet=prosa"),
            "mongodb_driver": driver,
            "mongodb_timeout_ms": 300,
            "drain_delay_seconds": 0,
        }
    )
    async with open_store(config) as store:
        with pytest.raises(Unavailable):
            await store.ready()
    member = as_caller(token(signing_keys, tenant_id="t1", user_id="ana", scopes=MEMBER))
    async with open_endpoints(config) as endpoints, serving(endpoints, signing_keys, config=config) as channel:
        conversations, feed = rpc.ConversationServiceStub(channel), feed_rpc.FeedServiceStub(channel)
        service = as_caller(token(signing_keys, scopes=SERVICE))
        for call in (
            conversations.CreateConversation(pb.CreateConversationRequest(), metadata=member),
            conversations.GetConversation(pb.GetConversationRequest(conversation_id="c"), metadata=member),
            conversations.ListConversations(pb.ListConversationsRequest(), metadata=member),
            conversations.ListMessages(pb.ListMessagesRequest(conversation_id="c"), metadata=member),
            feed.WatchEvents(feed_pb.WatchEventsRequest(), metadata=service).read(),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call
            error = error_of(refused.value)
            assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "DEPENDENCY_UNAVAILABLE")
            assert error.metadata["dependency"] == "mongodb"
            assert error.retry_after_seconds is not None


def test_the_plans_names_and_the_services_own_names_set_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "MONGODB_URL": "mongodb://a",
        "MONGODB_DATABASE": "chats",
        "MONGODB_MAX_POOL_SIZE": "7",
        "MONGODB_MIN_POOL_SIZE": "2",
        "MONGODB_TIMEOUT": "1500",
        "MONGODB_DRIVER": "motor",
        "CHAT_STORE_ENGINE": "mongo",
        "CHAT_STORE_MONGODB_URL": "mongodb://b",
    }.items():
        monkeypatch.setenv(name, value)
    config = Config()
    assert config.mongodb_url.get_secret_value() == "mongodb://b"
    assert (config.mongodb_database, config.mongodb_driver) == ("chats", "motor")
    assert (config.mongodb_max_pool_size, config.mongodb_min_pool_size, config.mongodb_timeout_ms) == (7, 2, 1500)
    assert config.port == 50052


def test_an_unknown_engine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONGODB_URL", "mongodb://a")
    monkeypatch.setenv("CHAT_STORE_ENGINE", "oracle")
    with pytest.raises(ValidationError, match="engine"):
        Config()


@pytest.mark.parametrize(
    ("engine", "variable", "other"),
    [("mongo", "MONGODB_URL", "DATABASE_URL"), ("postgres", "DATABASE_URL", "MONGODB_URL")],
)
def test_an_engine_needs_its_own_address_and_no_others(
    engine: str, variable: str, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHAT_STORE_ENGINE", engine)
    monkeypatch.setenv(other, "elsewhere://x")
    with pytest.raises(ValidationError, match=f"the engine {engine} needs {variable} \\(or CHAT_STORE_{variable}\\)"):
        Config()
    monkeypatch.delenv(other)
    monkeypatch.setenv(f"CHAT_STORE_{variable}", "there://y")
    assert Config().engine == engine


async def test_postgres_is_migrated_once_and_keeps_conversations(fresh_database: Callable[[], str]) -> None:
    config = Config(engine="postgres", database_url=SecretStr(fresh_database()))
    assert await prepare(config) == [
        "0001_conversations.sql",
        "0002_talking.sql",
        "0003_search.sql",
        "0004_search_at_once.sql",
    ]
    assert await prepare(config) == []
    reach = Reach("t1", "ana")
    async with open_store(config) as store:
        await store.ready()
        made = await store.create(reach, NewConversation("c1", "ana"))
    async with open_store(config) as store:
        assert await store.get(reach, "c1") == made
