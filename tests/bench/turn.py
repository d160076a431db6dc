"""One turn through the services, beside the sum of the engine calls it cannot do without.

The system runs as `make run` starts it, with the extractive provider (no network, no waiting). The peer is the same
work straight on the same engines, by our own stores in this process, one call after the other: no gRPC, no identity, no
gateway. `python -m tests.bench turn`.
"""

import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import httpx
from pydantic import SecretStr

from deploy.local.engine import running_engine
from deploy.local.engines import Mongo, Postgres, Redis
from deploy.local.ports import free_port
from prosa.document_rag.v1 import assistant_service_pb2 as pb
from prosa.document_rag.v1.assistant_service_pb2_grpc import AssistantServiceStub
from prosa.tenant_quota.v1 import tenant_service_pb2
from prosa.tenant_quota.v1.tenant_service_pb2_grpc import TenantServiceStub
from services.chat_store.batch import Batch
from services.chat_store.engines.mongo.store import MongoChatStore
from services.chat_store.model import Draft, MessageType, NewConversation
from services.chat_store.selection import Reach
from services.document_rag.assistants.assistant_store import AssistantStore
from services.document_rag.assistants.model import OnDisconnect, Question
from services.document_rag.assistants.turns import TurnStore
from services.document_rag.documents.index_writer import register_vector_type
from services.document_rag.model import SearchMode
from services.document_rag.search.chunk_index import ChunkIndex
from services.document_rag.search.embedders import HashedEmbedder
from services.document_rag.search.stems import Stemmer
from services.document_rag.search.vectors import VectorSearch
from services.tenant_quota.quota_model import Settlement, State, TokenUsage, Wish
from services.tenant_quota.reservations import Reservations
from shared.identifiers import new_id
from shared.mongo import open_mongo
from shared.postgres import open_pool
from tests.bench.table import Row, publish
from tests.house.processes import REPOSITORY, running_system
from tests.journeys.tenant import Tenant, new_tenant

WARM_UP = 20
SERIAL_TURNS = 150
CONCURRENT = 32
CONCURRENT_TURNS = 640
DOCUMENTS = REPOSITORY / "deploy" / "local" / "demo_documents"
QUESTIONS = (
    "Até que dia posso pagar o IPTU em cota única com desconto?",
    "Em que dias passa a coleta seletiva?",
    "Qual é o horário de atendimento da Prefeitura?",
    "Que documentos preciso levar para a matrícula escolar?",
)

if TYPE_CHECKING:  # these two classes exist for type checkers only
    from prosa.document_rag.v1.assistant_service_pb2_grpc import AssistantServiceAsyncStub
    from prosa.tenant_quota.v1.tenant_service_pb2_grpc import TenantServiceAsyncStub

Turn = Callable[[str], Awaitable[object]]


@dataclass(frozen=True)
class Measured:
    """Seconds of each turn, one at a time; and turns per second, 32 at a time."""

    serial: list[float]
    per_second: float

    def percentile(self, percent: int) -> float:
        """Milliseconds."""
        return statistics.quantiles(self.serial, n=100)[percent - 1] * 1000


def main() -> list[Row]:
    """Measures both sides on the same engines and publishes the table."""
    with tempfile.TemporaryDirectory(prefix="prosa-bench-") as name, _engines(Path(name)) as urls:
        Path(name).chmod(0o755)
        with running_system(Path(name), urls) as system:
            tenant = new_tenant(system)
            for path in sorted(DOCUMENTS.iterdir()):
                tenant.admin.upload(path.name, path.read_bytes())
            services = system.demo["services"]
            through_grpc, through_gateway, raw = asyncio.run(_both_sides(services, tenant, urls))
    rows = _rows(through_grpc, through_gateway, raw)
    publish("turn", rows)
    return rows


async def _both_sides(
    services: dict[str, str], tenant: Tenant, urls: dict[str, str]
) -> tuple[Measured, Measured, Measured]:
    async with (
        grpc.aio.insecure_channel(services["document_rag"]) as channel,
        grpc.aio.insecure_channel(services["tenant_quota"]) as identity,
        httpx.AsyncClient(base_url=tenant.admin.gateway, timeout=60) as gateway,
        _raw_turn(tenant, urls) as raw,
    ):
        through_grpc = _grpc_turn(AssistantServiceStub(channel), TenantServiceStub(identity), tenant)
        return (
            await _measured(through_grpc),
            await _measured(_gateway_turn(gateway, tenant)),
            await _measured(raw),
        )


def _grpc_turn(assistants: "AssistantServiceAsyncStub", tenants: "TenantServiceAsyncStub", tenant: Tenant) -> Turn:
    renewed_at, token = 0.0, ""

    async def turn(question: str) -> None:
        nonlocal renewed_at, token
        if time.monotonic() - renewed_at > 2:
            renewed_at = time.monotonic()
            answer = await tenants.Authenticate(tenant_service_pb2.AuthenticateRequest(credential=tenant.admin.key))
            token = answer.access_token
        request = pb.AskRequest(assistant_id=tenant.assistant_id, question=question)
        last = None
        async for event in assistants.Ask(request, metadata=(("authorization", f"Bearer {token}"),), timeout=60):
            last = event
        assert last is not None
        assert last.HasField("completed")

    return turn


def _gateway_turn(gateway: httpx.AsyncClient, tenant: Tenant) -> Turn:
    headers = {"authorization": f"Bearer {tenant.admin.key}"}

    async def turn(question: str) -> None:
        path = f"/v1/assistants/{tenant.assistant_id}:ask"
        response = await gateway.post(path, content=json.dumps({"question": question}), headers=headers)
        assert "event: completed" in response.text, response.text

    return turn


@asynccontextmanager
async def _raw_turn(tenant: Tenant, urls: dict[str, str]) -> AsyncIterator[Turn]:
    """The engine calls of one turn, in the order in which it needs them."""
    url = SecretStr(urls["DATABASE_URL"])
    async with (
        open_pool(url, schema="document_rag", max_size=CONCURRENT, on_connect=register_vector_type) as documents,
        open_pool(url, schema="tenant_quota", max_size=CONCURRENT) as quotas,
        open_mongo(SecretStr(urls["MONGODB_URL"]), "prosa_chat_store") as database,
    ):
        assistants, turns = AssistantStore(documents), TurnStore(documents, 10)
        index = ChunkIndex(documents, HashedEmbedder(), Stemmer(documents), VectorSearch(documents))
        reservations, chat = Reservations(quotas), MongoChatStore(database)
        tenant_id, reach = tenant.tenant_id, Reach(tenant.tenant_id, "")

        async def turn(text: str) -> None:
            await assistants.get(tenant_id, tenant.assistant_id)
            question = Question(tenant.assistant_id, "", text, OnDisconnect.STOP, 0, "", new_id())
            leased = await turns.begin(tenant_id, "", question)
            held = await reservations.reserve(Wish(tenant_id, "", "bench", new_id(), 6000, 6000, 60))
            await chat.create(reach, NewConversation(leased.conversation_id, ""))
            await chat.append(reach, leased.conversation_id, _batch(MessageType.USER, text))
            await index.search(tenant_id, text, top_k=8, mode=SearchMode.HYBRID)
            await chat.append(reach, leased.conversation_id, _batch(MessageType.ASSISTANT, text * 4))
            usage = TokenUsage(1500, 0, 90, 0)
            await reservations.settle(
                Settlement(tenant_id, held.reservation_id, State.COMMITTED, usage, 1, model="extractive")
            )
            await turns.done(leased, 2)

        yield turn
        await reservations.close()


def _batch(kind: MessageType, text: str) -> Batch:
    return Batch.of([Draft(type=kind, text=text)], new_id(), new_id)


async def _measured(turn: Turn) -> Measured:
    for number in range(WARM_UP):
        await turn(QUESTIONS[number % len(QUESTIONS)])
    serial = []
    for number in range(SERIAL_TURNS):
        began = time.perf_counter()
        await turn(QUESTIONS[number % len(QUESTIONS)])
        serial.append(time.perf_counter() - began)
    return Measured(serial, await _per_second(turn))


async def _per_second(turn: Turn) -> float:
    left = iter(range(CONCURRENT_TURNS))

    async def client() -> None:
        for number in left:
            await turn(QUESTIONS[number % len(QUESTIONS)])

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(CONCURRENT)))
    return CONCURRENT_TURNS / (time.perf_counter() - began)


@contextmanager
def _engines(directory: Path) -> Iterator[dict[str, str]]:
    directory.chmod(0o755)
    postgres = Postgres(directory / "postgres", free_port(), database="prosa")
    mongo, redis = Mongo(directory / "mongo", free_port()), Redis(directory / "redis", free_port())
    with running_engine(postgres), running_engine(mongo), running_engine(redis):
        yield {"DATABASE_URL": postgres.url(), "MONGODB_URL": mongo.url(), "REDIS_URL": redis.url()}


def _rows(through_grpc: Measured, through_gateway: Measured, raw: Measured) -> list[Row]:
    """Nothing is promised yet: these rows are the figure that later ones are held against."""
    figures: Sequence[tuple[str, float, float, str]] = [
        (f"{way}, {what}", ours, peer, unit)
        for way, side in (("gRPC", through_grpc), ("gateway", through_gateway))
        for what, ours, peer, unit in (
            ("one turn p50", side.percentile(50), raw.percentile(50), "ms"),
            ("one turn p95", side.percentile(95), raw.percentile(95), "ms"),
            (f"{CONCURRENT} at once", side.per_second, raw.per_second, "turns/s"),
        )
    ]
    return [Row(case, ours, peer, unit, ours / peer, None, holds=True) for case, ours, peer, unit in figures]
