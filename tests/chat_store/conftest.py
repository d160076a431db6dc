"""The real service in the test's process, and people who call it."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from uuid import uuid4

import grpc
import pytest
from pydantic import SecretStr

from prosa.chat_store.v1 import conversation_service_pb2_grpc as rpc
from prosa.chat_store.v1 import feed_service_pb2_grpc as feed_rpc
from services.chat_store.__main__ import open_endpoints
from services.chat_store.config import Config
from shared.identifiers import new_id
from tests.house.in_process import Metadata, as_caller, as_service, serving, token
from tests.house.signing import SigningKeys

MEMBER = {"conversations.read", "conversations.list", "conversations.write"}
ADMIN = MEMBER | {"conversations.read_all"}
END_USER = {"conversations.read", "conversations.write"}
SERVICE = ADMIN | {"act_as", "feed.read"}


@dataclass(frozen=True)
class World:
    """A tenant that no other test knows, and the service."""

    conversations: "rpc.ConversationServiceAsyncStub"
    feed: "feed_rpc.FeedServiceAsyncStub"
    keys: SigningKeys
    tenant_id: str

    def member(self, user_id: str = "ana") -> Metadata:
        return as_caller(self.token(user_id, MEMBER))

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
async def channel(mongo_url: str, signing_keys: SigningKeys) -> AsyncIterator[grpc.aio.Channel]:
    config = Config(
        port=0,
        mongodb_url=SecretStr(mongo_url),
        mongodb_database=f"chat_handlers_{uuid4().hex[:8]}",
        token_public_key=signing_keys.public_pem,
        drain_delay_seconds=0,
        feed_idle_seconds=1,
    )
    async with (
        open_endpoints(config) as endpoints,
        serving(endpoints, signing_keys, config=config) as channel,
    ):
        yield channel


@pytest.fixture
def world(channel: grpc.aio.Channel, signing_keys: SigningKeys) -> World:
    return World(rpc.ConversationServiceStub(channel), feed_rpc.FeedServiceStub(channel), signing_keys, f"t-{new_id()}")
