"""The real service in the test's process, and people who call it."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

import grpc
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from pydantic import SecretStr

from prosa.chat_store.v1 import conversation_service_pb2, event_service_pb2, task_service_pb2
from prosa.chat_store.v1 import conversation_service_pb2_grpc as rpc
from prosa.chat_store.v1 import event_service_pb2_grpc as event_rpc
from prosa.chat_store.v1 import feed_service_pb2_grpc as feed_rpc
from prosa.chat_store.v1 import task_service_pb2_grpc as task_rpc
from services.chat_store.__main__ import open_endpoints
from services.chat_store.config import Config
from services.chat_store.engines import prepare
from shared.identifiers import new_id
from tests.chat_store.replicas import ENGINES, Replicas, open_replicas
from tests.house.in_process import Metadata, as_caller, as_service, serving, token
from tests.house.signing import SigningKeys

MEMBER = {"conversations.read", "conversations.list", "conversations.write"}
ADMIN = MEMBER | {"conversations.read_all"}
END_USER = {"conversations.read", "conversations.write"}
READER = {"conversations.read", "conversations.list"}
SERVICE = ADMIN | {"act_as", "feed.read"}

# Every method with which people use a conversation, by its name.
METHODS: dict[str, MethodDescriptor] = {
    method.name: method
    for contract in (conversation_service_pb2, task_service_pb2, event_service_pb2)
    for service in contract.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}


@dataclass(frozen=True)
class World:
    """A tenant that no other test knows, and the service."""

    conversations: "rpc.ConversationServiceAsyncStub"
    tasks: "task_rpc.TaskServiceAsyncStub"
    events: "event_rpc.EventServiceAsyncStub"
    feed: "feed_rpc.FeedServiceAsyncStub"
    keys: SigningKeys
    tenant_id: str

    def other(self) -> "World":
        """The same service as another tenant meets it."""
        return replace(self, tenant_id=f"{self.tenant_id}-2")

    def method(self, name: str) -> tuple[Any, Message]:
        """The method of that name, and an empty request of it."""
        stubs = {"TaskService": self.tasks, "EventService": self.events}
        described = METHODS[name]
        stub = stubs.get(described.containing_service.name, self.conversations)
        return getattr(stub, name), message_factory.GetMessageClass(described.input_type)()

    def member(self, user_id: str = "ana") -> Metadata:
        return as_caller(self.token(user_id, MEMBER))

    def reader(self, user_id: str = "ana") -> Metadata:
        return as_caller(self.token(user_id, READER))

    def admin(self) -> Metadata:
        return as_caller(self.token("root", ADMIN))

    def end_user(self) -> Metadata:
        return as_caller(self.token("", END_USER))

    def service(self) -> Metadata:
        return as_caller(token(self.keys, scopes=SERVICE))

    def service_for(self, user_id: str) -> Metadata:
        return as_service(token(self.keys, scopes=SERVICE), self.token(user_id, {"assistants.ask"}))

    def tenant_feed(self) -> Metadata:
        return as_caller(self.token("", {"feed.read"}))

    def token(self, user_id: str, scopes: set[str]) -> str:
        return token(self.keys, tenant_id=self.tenant_id, user_id=user_id, scopes=scopes)


@pytest.fixture(scope="module")
def engine() -> str:
    """What the service keeps its conversations in; a module of tests may say otherwise."""
    return "memory"


@pytest.fixture(scope="module")
def config(engine: str, request: pytest.FixtureRequest, signing_keys: SigningKeys) -> Config:
    """The service's settings; only the engine that is asked for is started."""
    settings: dict[str, Any] = {
        "port": 0,
        "engine": engine,
        "token_public_key": signing_keys.public_pem,
        "drain_delay_seconds": 0,
        "feed_idle_seconds": 1,
    }
    if engine == "postgres":
        settings["database_url"] = SecretStr(request.getfixturevalue("fresh_database")())
    if engine == "mongo":
        settings["mongodb_url"] = SecretStr(request.getfixturevalue("mongo_url"))
        settings["mongodb_database"] = f"chat_handlers_{uuid4().hex[:8]}"
    return Config(**settings)


@pytest.fixture(scope="module")
async def channel(config: Config, signing_keys: SigningKeys) -> AsyncIterator[grpc.aio.Channel]:
    await prepare(config)
    async with (
        open_endpoints(config) as endpoints,
        serving(endpoints, signing_keys, config=config) as channel,
    ):
        yield channel


@pytest.fixture
def world(channel: grpc.aio.Channel, signing_keys: SigningKeys) -> World:
    return World(
        conversations=rpc.ConversationServiceStub(channel),
        tasks=task_rpc.TaskServiceStub(channel),
        events=event_rpc.EventServiceStub(channel),
        feed=feed_rpc.FeedServiceStub(channel),
        keys=signing_keys,
        tenant_id=f"t-{new_id()}",
    )


@pytest.fixture(scope="module", params=ENGINES)
async def replicas(
    request: pytest.FixtureRequest, mongo_url: str, fresh_database: Callable[[], str]
) -> AsyncIterator[Replicas]:
    """For what stands on any store: each engine, as two replicas have it."""
    async with open_replicas(request.param, mongo_url, fresh_database) as opened:
        yield opened
