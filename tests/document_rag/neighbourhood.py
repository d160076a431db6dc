"""document_rag between its real neighbours, all in this process, and people who ask it questions."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import asyncpg
import grpc
from google.protobuf.field_mask_pb2 import FieldMask
from pydantic import SecretStr

from deploy.local.ports import LOOPBACK
from prosa.chat_store.v1 import conversation_service_pb2 as chat_pb
from prosa.chat_store.v1.conversation_service_pb2_grpc import ConversationServiceStub
from prosa.document_rag.v1 import assistant_service_pb2 as pb
from prosa.document_rag.v1 import collection_service_pb2, document_service_pb2
from prosa.document_rag.v1.assistant_service_pb2_grpc import AssistantServiceStub
from prosa.document_rag.v1.collection_service_pb2_grpc import CollectionServiceStub
from prosa.document_rag.v1.document_service_pb2_grpc import DocumentServiceStub
from prosa.document_rag.v1.team_service_pb2_grpc import TeamServiceStub
from services.chat_store.__main__ import open_endpoints as open_chat_store
from services.chat_store.config import Config as ChatStoreConfig
from services.document_rag import __main__ as document_rag
from services.document_rag.assistants.assistant_store import AssistantStore
from services.document_rag.assistants.conversations import Conversations
from services.document_rag.assistants.token_budget import TokenBudget
from services.document_rag.assistants.turns import TurnStore
from services.document_rag.config import Config
from services.tenant_quota import __main__ as tenant_quota
from services.tenant_quota.audit import discrepancies
from services.tenant_quota.config import Config as TenantQuotaConfig
from services.tenant_quota.model import new_secret
from services.tenant_quota.quota_model import Quota
from services.tenant_quota.quotas import Quotas
from services.tenant_quota.tenants import Tenants
from shared.caller import TokenVerifier, acting_as
from shared.channels import ServiceToken, open_channel
from shared.config import ServiceConfig
from shared.errors import ServiceError, error_of
from shared.postgres import migrate, tenant_transaction
from shared.server import Endpoint, running_server
from tests.house.in_process import Metadata, as_caller, token
from tests.house.ports import own_port
from tests.house.signing import SigningKeys
from tests.house.zones import AT_NOON

if TYPE_CHECKING:
    from prosa.chat_store.v1.conversation_service_pb2_grpc import ConversationServiceAsyncStub
    from prosa.document_rag.v1.assistant_service_pb2_grpc import AssistantServiceAsyncStub
    from prosa.document_rag.v1.collection_service_pb2_grpc import CollectionServiceAsyncStub
    from prosa.document_rag.v1.document_service_pb2_grpc import DocumentServiceAsyncStub
    from prosa.document_rag.v1.team_service_pb2_grpc import TeamServiceAsyncStub

# Longer than a busy machine halts: a test that wants a lease to end says so (`turn_leases_end`).
TURN_LEASE_SECONDS = 5.0
RESERVATION_LEASE_SECONDS = 40
SCOPES = ("assistants.ask", "assistants.read", "assistants.write", "conversations.read", "conversations.write")
WRITER = (*SCOPES, "documents.read", "documents.write")
DOCUMENT = b"# Guia do IPTU\n\nA cota unica do IPTU vence em 10 de marco e tem desconto de 12%.\n"


def ask(assistant_id: str, question: str = "Qual é o prazo?", **fields: object) -> pb.AskRequest:
    return pb.AskRequest(assistant_id=assistant_id, question=question, **fields)  # type: ignore[arg-type]


def request_id() -> str:
    return f"pergunta-{uuid4()}"


@dataclass
class Told:
    """What a reader was given."""

    events: list[pb.AskEvent] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(each.text_delta.text for each in self.events)

    @property
    def accepted(self) -> pb.Accepted:
        return self.events[0].accepted

    @property
    def completed(self) -> pb.Completed:
        assert self.events[-1].WhichOneof("event") == "completed"
        return self.events[-1].completed

    @property
    def tokens(self) -> int:
        usage = self.completed.usage
        return usage.input_tokens + usage.cached_input_tokens + usage.output_tokens + usage.reasoning_tokens


class Neighbour:
    """A service that can be gone for a while: the same address, another server."""

    def __init__(self, endpoints: Sequence[Endpoint], keys: SigningKeys) -> None:
        self.target = f"{LOOPBACK}:{own_port()}"
        self._endpoints = endpoints
        self._keys = keys
        self._running = AsyncExitStack()

    async def start(self) -> None:
        config = ServiceConfig(
            port=int(self.target.rpartition(":")[2]),
            token_public_key=self._keys.public_pem,
            drain_delay_seconds=0,
            shutdown_grace_seconds=0,
        )
        verifier = TokenVerifier(self._keys.public_pem)
        await self._running.enter_async_context(running_server(config, self._endpoints, verifier=verifier, ready={}))

    async def stop(self) -> None:
        await self._running.aclose()

    @asynccontextmanager
    async def away(self) -> AsyncIterator[None]:
        await self.stop()
        try:
            yield
        finally:
            await self.start()


@dataclass
class Neighbourhood:
    """The three services, wired as in production; a replica of document_rag is opened by `replica`."""

    keys: SigningKeys
    quota_pool: asyncpg.Pool
    tenant_quota: Neighbour
    chat_store: Neighbour
    config: Config
    parts: "Parts"
    assistants: "AssistantServiceAsyncStub"
    teams: "TeamServiceAsyncStub"
    documents: "DocumentServiceAsyncStub"
    collections: "CollectionServiceAsyncStub"
    conversations: "ConversationServiceAsyncStub"

    async def tenant(self) -> "Tenant":
        """A tenant that nobody else uses."""
        tenant_id = f"tenant-{uuid4()}"
        await Tenants(self.quota_pool).create(tenant_id, "Prefeitura", AT_NOON, None)
        return Tenant(self, tenant_id)


@dataclass
class Parts:
    """What a turn is made of, for tests that stop half-way."""

    assistants: AssistantStore
    turns: TurnStore
    conversations: Conversations
    budget: TokenBudget


@dataclass
class Tenant:
    """A tenant, and what became of its money and words."""

    house: Neighbourhood
    tenant_id: str

    def person(self, user_id: str = "ana", *, scopes: Sequence[str] = SCOPES) -> Metadata:
        return as_caller(self._token(user_id, scopes))

    @contextmanager
    def acting(self, user_id: str = "ana") -> Iterator[None]:
        with acting_as(TokenVerifier(self.house.keys.public_pem).verify(self._token(user_id, SCOPES))):
            yield

    async def assistant(self, model: str, **fields: Any) -> str:
        assistant = pb.Assistant(**{"display_name": "Atendente", "model": model, **fields})
        request = pb.CreateAssistantRequest(assistant=assistant)
        return (await self.house.assistants.CreateAssistant(request, metadata=self.person())).assistant_id

    async def mend(self, assistant_id: str) -> None:
        """From now on the assistant's model is one that answers."""
        mended = pb.Assistant(model="fake-plain")
        mask = FieldMask(paths=["model"])
        request = pb.UpdateAssistantRequest(assistant_id=assistant_id, assistant=mended, update_mask=mask)
        await self.house.assistants.UpdateAssistant(request, metadata=self.person())

    async def document(self, text: str, *, title: str = "", filename: str = "guia.md") -> str:
        """A document of the tenant; its id."""
        request = document_service_pb2.UploadDocumentRequest(filename=filename, title=title, chunk=text.encode())
        uploaded = await self.house.documents.UploadDocument(iter([request]), metadata=self.person(scopes=WRITER))
        return uploaded.document.document_id

    async def collection(self, display_name: str, description: str = "") -> str:
        """A collection of the tenant; its id."""
        wanted = collection_service_pb2.Collection(display_name=display_name, description=description)
        request = collection_service_pb2.CreateCollectionRequest(collection=wanted)
        return (
            await self.house.collections.CreateCollection(request, metadata=self.person(scopes=WRITER))
        ).collection_id

    async def ask(self, request: pb.AskRequest, user_id: str = "ana", told: Told | None = None) -> Told:
        """A turn read to its end; the error of the house when it fails."""
        told = told or Told()
        try:
            async for event in self.house.assistants.Ask(request, metadata=self.person(user_id)):
                told.events.append(event)
        except grpc.aio.AioRpcError as error:
            raise error_of(error) from None
        return told

    async def refused(self, request: pb.AskRequest, user_id: str = "ana", told: Told | None = None) -> str:
        """The reason with which a turn fails."""
        try:
            await self.ask(request, user_id, told)
        except ServiceError as error:
            return error.reason
        raise AssertionError("it was answered")

    async def messages(self, conversation_id: str, user_id: str = "ana") -> list[chat_pb.Message]:
        request = chat_pb.ListMessagesRequest(conversation_id=conversation_id, page_size=100)
        listed = await self.house.conversations.ListMessages(request, metadata=self.person(user_id))
        return list(listed.messages)

    async def say(self, conversation_id: str, text: str) -> None:
        """Something that a person adds to the conversation past the assistant."""
        message = chat_pb.Message(type=chat_pb.MESSAGE_TYPE_USER, text=text)
        request = chat_pb.AppendMessagesRequest(conversation_id=conversation_id, messages=[message])
        await self.house.conversations.AppendMessages(request, metadata=self.person())

    async def finalize(self, conversation_id: str) -> None:
        """Closes the conversation for good."""
        request = chat_pb.FinalizeConversationRequest(conversation_id=conversation_id, reason="resolvida")
        await self.house.conversations.FinalizeConversation(request, metadata=self.person())

    async def kinds(self, conversation_id: str, user_id: str = "ana") -> list[str]:
        """What the conversation is made of: USER, ASSISTANT, ERROR."""
        messages = await self.messages(conversation_id, user_id)
        return [chat_pb.MessageType.Name(each.type).removeprefix("MESSAGE_TYPE_") for each in messages]

    async def answered_at_last(self, request: pb.AskRequest) -> Told:
        """Asks again, as a client retries, until the turn is answered."""
        async with asyncio.timeout(60):
            while True:
                try:
                    return await self.ask(request)
                except ServiceError as error:
                    if error.reason not in ("REQUEST_IN_PROGRESS", "DEPENDENCY_UNAVAILABLE"):
                        raise
                await asyncio.sleep(0.1)

    async def nothing_held(self) -> None:
        """Returns when no tokens are held any more."""
        async with asyncio.timeout(RESERVATION_LEASE_SECONDS + 10):
            while (await self.counters())[1]:  # noqa: ASYNC110 it happens elsewhere
                await asyncio.sleep(0.05)

    async def turn_leases_end(self) -> None:
        """The tenant's turns belong to nobody any more, as after the death of who had them and its time."""
        async with tenant_transaction(self.house.parts.turns._pool, self.tenant_id) as connection:
            await connection.execute("update turns set lease_until = now()")

    async def set_limit(self, tokens_per_day: int) -> None:
        await Quotas(self.house.quota_pool).set(Quota(self.tenant_id, "", tokens_per_day))

    async def costs(self) -> list[int]:
        """What was charged in money, in millionths, in order."""
        async with tenant_transaction(self.house.quota_pool, self.tenant_id) as connection:
            rows = await connection.fetch("select cost_micros from ledger where kind = 2 order by entry_id")
        return [row["cost_micros"] for row in rows]

    async def counters(self) -> tuple[int, int]:
        """Used and held, which the ledger must explain."""
        assert not await discrepancies(self.house.quota_pool, self.tenant_id)
        day = (await Quotas(self.house.quota_pool).usage(self.tenant_id, ""))[0]
        return day.used_tokens, day.held_tokens

    async def charges(self) -> list[int]:
        """What was charged, in order."""
        async with tenant_transaction(self.house.quota_pool, self.tenant_id) as connection:
            rows = await connection.fetch("select used_delta from ledger where kind = 2 order by entry_id")
        return [row["used_delta"] for row in rows]

    def _token(self, user_id: str, scopes: Sequence[str]) -> str:
        return token(self.house.keys, tenant_id=self.tenant_id, user_id=user_id, scopes=scopes)


@asynccontextmanager
async def neighbourhood(
    database: str, mongo_url: str, provider_url: str, originals: Path, keys: SigningKeys
) -> AsyncIterator[Neighbourhood]:
    """All three services on migrated databases; closed at the end of the block."""
    url, service_key = SecretStr(database), SecretStr(new_secret("test"))
    await migrate(url, schema=tenant_quota.SCHEMA, directory=tenant_quota.SCHEMA_DIRECTORY)
    await migrate(url, schema=document_rag.SCHEMA, directory=document_rag.MIGRATIONS)
    quota_config = TenantQuotaConfig(
        database_url=url,
        token_signing_key=SecretStr(keys.private_pem),
        token_public_key=keys.public_pem,
        api_key_pepper=SecretStr("a pepper of these tests"),
        bootstrap_service_key=service_key,
        sweep_interval_seconds=0.2,
    )
    chat_config = ChatStoreConfig(
        mongodb_url=SecretStr(mongo_url), mongodb_database=f"turns_{uuid4().hex[:8]}", token_public_key=keys.public_pem
    )
    async with AsyncExitStack() as stack:
        quota_service = await stack.enter_async_context(tenant_quota.open_endpoints(quota_config))
        chat_endpoints = await stack.enter_async_context(open_chat_store(chat_config))
        neighbours = [Neighbour(quota_service.endpoints, keys), Neighbour(chat_endpoints, keys)]
        for each in neighbours:
            await each.start()
            stack.push_async_callback(each.stop)
        config = Config(
            port=0,
            database_url=url,
            originals_url=str(originals),
            token_public_key=keys.public_pem,
            tenant_quota_target=neighbours[0].target,
            chat_store_target=neighbours[1].target,
            service_key=service_key,
            openai_api_key=SecretStr("fake"),
            openai_base_url=provider_url,
            answer_timeout_seconds=30,
            provider_silence_seconds=4,
            reservation_lease_seconds=RESERVATION_LEASE_SECONDS,
            turn_lease_seconds=TURN_LEASE_SECONDS,
            turn_drain_seconds=1,
            drain_delay_seconds=0,
            shutdown_grace_seconds=0,
        )
        channel, parts = await stack.enter_async_context(replica(config, keys))
        chat_channel = await stack.enter_async_context(grpc.aio.insecure_channel(neighbours[1].target))
        yield Neighbourhood(
            keys,
            quota_service.pool,
            neighbours[0],
            neighbours[1],
            config,
            parts,
            AssistantServiceStub(channel),
            TeamServiceStub(channel),
            DocumentServiceStub(channel),
            CollectionServiceStub(channel),
            ConversationServiceStub(chat_channel),
        )


@asynccontextmanager
async def replica(config: Config, keys: SigningKeys) -> AsyncIterator[tuple[grpc.aio.Channel, Parts]]:
    """document_rag behind its server, stopped in the order in which a SIGTERM stops it."""
    verifier = TokenVerifier(keys.public_pem)
    async with AsyncExitStack() as stack:
        documents = await stack.enter_async_context(document_rag.open_documents(config))
        parts = Parts(
            AssistantStore(documents.pool),
            TurnStore(documents.pool, config.turn_lease_seconds),
            Conversations(await stack.enter_async_context(_channel(config, config.chat_store_target))),
            TokenBudget(
                await stack.enter_async_context(_channel(config, config.tenant_quota_target)),
                config.reservation_lease_seconds,
            ),
        )
        endpoints, _ = await stack.enter_async_context(document_rag.open_endpoints(config))
        port = await stack.enter_async_context(running_server(config, endpoints, verifier=verifier, ready={}))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"{LOOPBACK}:{port}"))
        yield channel, parts


@asynccontextmanager
async def _channel(config: Config, target: str) -> AsyncIterator[grpc.aio.Channel]:
    async with open_channel(config.tenant_quota_target) as identity:
        own = ServiceToken(identity, config.service_key)
        async with open_channel(target, token=own) as channel:
            yield channel
