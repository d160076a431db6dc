"""chat_store as its callers meet it: a process of its own behind gRPC; and the engine below it, in this process."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import grpc
from pydantic import SecretStr

from deploy.local.ports import free_port
from prosa.chat_store.v1 import conversation_service_pb2 as pb
from prosa.chat_store.v1 import conversation_service_pb2_grpc as rpc
from services.chat_store.batch import Batch
from services.chat_store.config import Config
from services.chat_store.engines import open_store
from services.chat_store.model import Conversation, Description, Draft, MessageType, NewConversation, Tokens, Totals
from services.chat_store.selection import Reach, Search, Window
from services.chat_store.snapshot import KeptAppend, KeptConversation, Piece
from services.chat_store.store import ChatStore
from services.chat_store.words import words_of
from shared.identifiers import new_id
from tests.house.in_process import Metadata, as_caller, token
from tests.house.processes import REPOSITORY
from tests.house.signing import SigningKeys

TENANT, USER = "bench", "ana"
REACH = Reach(TENANT, USER)
SCOPES = {"conversations.read", "conversations.list", "conversations.write"}
FILL_BATCH = 500
LAST = 50
TEXT = ("Qual é o prazo para pagar o IPTU deste ano, e onde encontro a segunda via do boleto? " * 5)[:400]
START_SECONDS = 60.0


@dataclass(frozen=True)
class Engines:
    """Addresses of running engines, and which of them keeps the conversations."""

    mongo_url: str
    postgres_url: str
    redis_url: str
    public_key: str

    def environment(self, engine: str, port: int, *, cached: bool = True) -> dict[str, str]:
        """The settings of a service process."""
        return {
            "CHAT_STORE_ENGINE": engine,
            "CHAT_STORE_PORT": str(port),
            "MONGODB_URL": self.mongo_url,
            "DATABASE_URL": self.postgres_url,
            "PROSA_TOKEN_PUBLIC_KEY": self.public_key,
            **({"REDIS_URL": self.redis_url} if cached else {"CHAT_STORE_CACHE": "off"}),
        }

    def config(self, engine: str) -> Config:
        """The same, for the bare engine in this process."""
        return Config.model_validate(
            {
                "port": 0,
                "engine": engine,
                "cache": "off",
                "mongodb_url": SecretStr(self.mongo_url),
                "database_url": SecretStr(self.postgres_url),
                "token_public_key": self.public_key,
                "mongodb_timeout_ms": 60_000,
            }
        )


class EngineSide:
    """The engine as the service uses it, without the service."""

    def __init__(self, store: ChatStore, engine: str) -> None:
        self.name = f"prosa {engine} engine"
        self.store = store

    async def fill(self, conversation_id: str, messages: int) -> None:
        await fill(self.store, conversation_id, messages)

    async def append(self, conversation_id: str) -> None:
        await self.store.append(REACH, conversation_id, _pair())

    async def read(self, conversation_id: str, last: int = LAST) -> int:
        page = await self.store.read(REACH, conversation_id, Window(newest_first=True, limit=last))
        return len(page.messages)

    async def search(self, query: str) -> int:
        found = await self.store.search(REACH, Search(words_of(query)))
        return len(found.hits)


class ServiceSide:
    """The service over gRPC; conversations are filled through its engine."""

    def __init__(self, channel: grpc.aio.Channel, metadata: Metadata, engine: EngineSide) -> None:
        self.name = engine.name.replace("engine", "over gRPC")
        self._stub = rpc.ConversationServiceStub(channel)
        self._metadata = metadata
        self._engine = engine

    async def fill(self, conversation_id: str, messages: int) -> None:
        await self._engine.fill(conversation_id, messages)

    async def append(self, conversation_id: str) -> None:
        request = pb.AppendMessagesRequest(
            conversation_id=conversation_id,
            request_id=new_id(),
            messages=[
                pb.Message(type=pb.MESSAGE_TYPE_USER, text=TEXT),
                pb.Message(type=pb.MESSAGE_TYPE_ASSISTANT, text=TEXT, rag=True),
            ],
        )
        await self._stub.AppendMessages(request, metadata=self._metadata, timeout=60)

    async def read(self, conversation_id: str, last: int = LAST) -> int:
        order = pb.MESSAGE_ORDER_NEWEST_FIRST
        request = pb.ListMessagesRequest(conversation_id=conversation_id, order=order, page_size=last)
        return len((await self._stub.ListMessages(request, metadata=self._metadata, timeout=60)).messages)

    async def search(self, query: str) -> int:
        request = pb.SearchMessagesRequest(query=query)
        return len((await self._stub.SearchMessages(request, metadata=self._metadata, timeout=60)).results)


@asynccontextmanager
async def opened_engine(engines: Engines, engine: str) -> AsyncIterator[EngineSide]:
    """The bare engine, ready."""
    async with open_store(engines.config(engine)) as store:
        await store.ready()
        yield EngineSide(store, engine)


@asynccontextmanager
async def opened_service(
    engines: Engines, keys: SigningKeys, engine: EngineSide, name: str
) -> AsyncIterator[ServiceSide]:
    """The service in a process of its own over that engine, with its cache."""
    signed = token(keys, tenant_id=TENANT, user_id=USER, scopes=SCOPES, lifetime_seconds=36_000)
    port = free_port()
    async with AsyncExitStack() as stack:
        stack.enter_context(running_service(engines.environment(name, port)))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))
        await asyncio.wait_for(channel.channel_ready(), START_SECONDS)
        yield ServiceSide(channel, as_caller(signed), engine)


@contextmanager
def running_service(environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """chat_store until the end of the block."""
    command = [sys.executable, "-m", "services.chat_store"]
    service = subprocess.Popen(
        command, cwd=REPOSITORY, env={**os.environ, **environment}, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    try:
        yield service
    finally:
        service.terminate()
        service.wait(30)


async def fill(store: ChatStore, conversation_id: str, messages: int) -> None:
    """Makes a conversation of that many messages, in pairs, as a backup would bring it back."""
    await store.upkeep.load([_header(conversation_id, messages)])
    pairs = messages // 2
    for start in range(0, pairs, FILL_BATCH):
        await store.upkeep.load(
            [_append(conversation_id, number) for number in range(start, min(start + FILL_BATCH, pairs))]
        )


def _header(conversation_id: str, messages: int) -> Piece:
    totals = Totals()
    for _ in range(messages // 2):
        totals = totals.after(_DRAFTS)
    conversation = Conversation(
        conversation_id=conversation_id,
        tenant_id=TENANT,
        user_id=USER,
        assistant_id="",
        team_id="",
        channel="web",
        description=Description(title="IPTU"),
        create_time=_START,
        last_activity_time=_START + timedelta(milliseconds=messages),
        totals=totals,
        preview=TEXT[:200],
    )
    new = NewConversation(conversation_id, USER)
    return KeptConversation(conversation, "", new.fingerprint)


def _append(conversation_id: str, number: int) -> Piece:
    batch = _pair()
    said = tuple(batch.placed(2 * number + 1, _START + timedelta(milliseconds=number)))
    return KeptAppend(TENANT, conversation_id, _START, batch.request_id, batch.fingerprint, said, ())


def _pair() -> Batch:
    return Batch.of(_DRAFTS, new_id(), new_id)


_START = datetime(2026, 1, 2, tzinfo=UTC)
_DRAFTS = [
    Draft(MessageType.USER, TEXT, user_id=USER),
    Draft(MessageType.ASSISTANT, TEXT, tokens=Tokens(input=100, output=50), rag=True, latency_ms=900),
]
