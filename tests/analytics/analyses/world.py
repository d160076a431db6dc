"""The analyses of analytics between a real chat_store and a real tenant_quota, and people who talk."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import asyncpg
import grpc
from pydantic import SecretStr

from prosa.analytics.v1 import analysis_service_pb2 as pb
from prosa.analytics.v1.analysis_service_pb2_grpc import AnalysisServiceStub
from prosa.chat_store.v1 import conversation_service_pb2 as chat_pb
from prosa.chat_store.v1.conversation_service_pb2_grpc import ConversationServiceStub
from services.analytics.analyses.opening import AnalysesRoom, open_analyses
from services.analytics.config import Config
from services.analytics.rollups.projection import Projection
from services.chat_store.__main__ import open_endpoints as open_chat_store
from services.chat_store.config import Config as ChatStoreConfig
from services.tenant_quota import __main__ as tenant_quota
from services.tenant_quota.audit import discrepancies
from services.tenant_quota.config import Config as TenantQuotaConfig
from services.tenant_quota.model import new_secret
from services.tenant_quota.quota_model import Quota
from services.tenant_quota.quotas import Quotas
from services.tenant_quota.tenants import Tenants
from shared.mongo import MongoDatabase
from shared.postgres import migrate, tenant_transaction
from tests.analytics.feed_source import served
from tests.house.in_process import Metadata, as_caller, serving, token
from tests.house.signing import SigningKeys
from tests.house.zones import AT_NOON

if TYPE_CHECKING:
    from prosa.analytics.v1.analysis_service_pb2_grpc import AnalysisServiceAsyncStub
    from prosa.chat_store.v1.conversation_service_pb2_grpc import ConversationServiceAsyncStub

SCOPES = (
    "analyses.read",
    "analyses.write",
    "reports.read",
    "conversations.read",
    "conversations.write",
    "conversations.read_all",
)
BAD_LIGHT = "A rua está no escuro há duas semanas, é um absurdo, ninguém resolve."
GOOD_SCHOOL = "A professora da escola é excelente, adorei, muito obrigada!"
# Neither the rules nor the local model are sure of anything in it.
RIDDLE = "então e a barraca do seu zé lá como que fica isso aí"


@dataclass(frozen=True)
class House:
    """The neighbours and the settings with which the room is opened."""

    keys: SigningKeys
    config: Config
    quota_pool: asyncpg.Pool
    conversations: "ConversationServiceAsyncStub"


@dataclass(frozen=True)
class World:
    """The room on a database of its own, and a tenant nobody else uses."""

    house: House
    tenant_id: str
    room: AnalysesRoom
    analyses: "AnalysisServiceAsyncStub"
    database: MongoDatabase
    projection: Projection

    def person(self, user_id: str = "ana", tenant_id: str = "") -> Metadata:
        named = tenant_id or self.tenant_id
        return as_caller(token(self.house.keys, tenant_id=named, user_id=user_id, scopes=SCOPES))

    async def conversation(self, *said: str, user_id: str = "ana", answer: str = "Vou verificar.") -> str:
        """A conversation in which a person says this, each time answered unless `answer` is empty."""
        request = chat_pb.CreateConversationRequest(assistant_id="atendente", channel="web")
        made = await self.house.conversations.CreateConversation(request, metadata=self.person(user_id))
        for text in said:
            await self.say(made.conversation_id, text, user_id=user_id, answer=answer)
        return made.conversation_id

    async def say(
        self, conversation_id: str, text: str, *, user_id: str = "ana", answer: str = "Vou verificar."
    ) -> None:
        messages = [chat_pb.Message(type=chat_pb.MESSAGE_TYPE_USER, text=text)]
        if answer:
            messages.append(chat_pb.Message(type=chat_pb.MESSAGE_TYPE_ASSISTANT, text=answer))
        request = chat_pb.AppendMessagesRequest(conversation_id=conversation_id, messages=messages)
        await self.house.conversations.AppendMessages(request, metadata=self.person(user_id))

    async def analyze(self, conversation_id: str, **fields: Any) -> pb.Analysis:
        request = pb.AnalyzeConversationRequest(conversation_id=conversation_id, **fields)
        return await self.analyses.AnalyzeConversation(request, metadata=self.person())

    async def correct(self, analysis_id: str, request_id: str = "", **fields: Any) -> pb.Analysis:
        request = pb.CorrectAnalysisRequest(
            analysis_id=analysis_id, analysis=pb.Analysis(**fields), request_id=request_id
        )
        request.update_mask.paths.extend(fields)
        return await self.analyses.CorrectAnalysis(request, metadata=self.person())

    async def settle(self, **fields: Any) -> pb.AnalysisSettings:
        """Changes the tenant's settings."""
        request = pb.UpdateAnalysisSettingsRequest(settings=pb.AnalysisSettings(**fields))
        request.update_mask.paths.extend(fields)
        return await self.analyses.UpdateAnalysisSettings(request, metadata=self.person())

    async def topic_map(self) -> pb.TopicMap:
        return await self.analyses.GetTopicMap(pb.GetTopicMapRequest(), metadata=self.person())

    async def told(self, conversation_id: str) -> chat_pb.Conversation:
        """The conversation as chat_store has it."""
        request = chat_pb.GetConversationRequest(conversation_id=conversation_id)
        return await self.house.conversations.GetConversation(request, metadata=self.person())

    async def messages(self, conversation_id: str) -> Sequence[chat_pb.Message]:
        request = chat_pb.ListMessagesRequest(conversation_id=conversation_id)
        return (await self.house.conversations.ListMessages(request, metadata=self.person())).messages

    async def counted(self, axis: str = "total", value: str = "") -> dict[str, int]:
        """What the analyses add to a series over all days, empty sums left out."""
        series = (await self.projection.current()).series
        place = {"_id.tenant_id": self.tenant_id, "_id.axis": axis, "_id.step": "day", "_id.value": value}
        sums: dict[str, int] = {}
        async for document in series.find(place):
            for name, amount in document.items():
                if isinstance(amount, int) and amount:
                    sums[name] = sums.get(name, 0) + amount
        return {name: amount for name, amount in sums.items() if amount}

    async def kept(self, collection: str) -> list[dict[str, Any]]:
        """The tenant's documents of a collection."""
        theirs = {"$or": [{"tenant_id": self.tenant_id}, {"_id.tenant_id": self.tenant_id}]}
        return [document async for document in self.database[collection].find(theirs)]

    async def change(self, collection: str, **fields: Any) -> None:
        """Sets fields of the tenant's documents."""
        theirs = {"$or": [{"tenant_id": self.tenant_id}, {"_id.tenant_id": self.tenant_id}]}
        await self.database[collection].update_many(theirs, {"$set": fields})

    async def limit(self, tokens_per_day: int) -> None:
        await Quotas(self.house.quota_pool).set(Quota(self.tenant_id, "", tokens_per_day))

    async def used_and_held(self) -> tuple[int, int]:
        """Of the tenant's quota; the ledger must explain both."""
        assert not await discrepancies(self.house.quota_pool, self.tenant_id)
        day = (await Quotas(self.house.quota_pool).usage(self.tenant_id, ""))[0]
        return day.used_tokens, day.held_tokens

    async def charges(self) -> list[int]:
        """What was charged, in order."""
        async with tenant_transaction(self.house.quota_pool, self.tenant_id) as connection:
            rows = await connection.fetch("select used_delta from ledger where kind = 2 order by entry_id")
        return [row["used_delta"] for row in rows]


@asynccontextmanager
async def house(postgres_database: str, mongo_url: str, provider_url: str, keys: SigningKeys) -> AsyncIterator[House]:
    """tenant_quota and chat_store on one port each."""
    url, service_key = SecretStr(postgres_database), SecretStr(new_secret("test"))
    await migrate(url, schema=tenant_quota.SCHEMA, directory=tenant_quota.SCHEMA_DIRECTORY)
    quota_config = TenantQuotaConfig(
        database_url=url,
        token_signing_key=SecretStr(keys.private_pem),
        token_public_key=keys.public_pem,
        api_key_pepper=SecretStr("a pepper of these tests"),
        bootstrap_service_key=service_key,
    )
    chat_config = ChatStoreConfig(
        mongodb_url=SecretStr(mongo_url),
        mongodb_database=f"analysed_{uuid4().hex[:8]}",
        token_public_key=keys.public_pem,
        feed_idle_seconds=0.2,
    )
    async with AsyncExitStack() as stack:
        quota = await stack.enter_async_context(tenant_quota.open_endpoints(quota_config))
        chats = await stack.enter_async_context(open_chat_store(chat_config))
        quota_port = await stack.enter_async_context(served(quota.endpoints, keys))
        chat_port = await stack.enter_async_context(served(chats, keys))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{chat_port}"))
        config = Config(
            port=0,
            mongodb_url=SecretStr(mongo_url),
            tenant_quota_target=f"127.0.0.1:{quota_port}",
            chat_store_target=f"127.0.0.1:{chat_port}",
            service_key=service_key,
            openai_api_key=SecretStr("fake"),
            openai_base_url=provider_url,
            classification_timeout_seconds=60,
            token_public_key=keys.public_pem,
        )
        yield House(keys, config, quota.pool, ConversationServiceStub(channel))


@asynccontextmanager
async def world(house: House, database: MongoDatabase, *, model: str = "") -> AsyncIterator[World]:
    """The room with this language model, seen by a tenant of its own."""
    tenant_id = await new_tenant(house)
    projection = Projection(database)
    config = house.config.model_copy(update={"classification_model": model})
    async with open_analyses(config, database, projection) as room, serving([room.endpoint], house.keys) as channel:
        yield World(house, tenant_id, room, AnalysisServiceStub(channel), database, projection)


async def new_tenant(house: House) -> str:
    """A tenant that tenant_quota knows."""
    tenant_id = f"tenant-{uuid4()}"
    await Tenants(house.quota_pool).create(tenant_id, "Prefeitura", AT_NOON, None)
    return tenant_id


def of_another(world: World, tenant_id: str = "") -> World:
    """The same room, seen by another tenant; one that tenant_quota does not know unless it is named."""
    return replace(world, tenant_id=tenant_id or f"tenant-{uuid4()}")
