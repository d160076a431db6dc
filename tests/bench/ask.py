"""How long a reader waits for the first word of an answer, and how many bytes a long answer is.

The system runs as `make run` starts it. First word: beside the raw engine calls that it has to wait for, one after the
other by our own stores in this process (no gRPC, no identity), and four gRPC calls that do nothing: client to
document_rag, document_rag to its two neighbours, and one to spare. Bytes: what the gateway writes for an answer of 500
pieces, one every 20 ms, beside twice what it writes for one of 250; pieces that wait together are told as one.
`python -m tests.bench ask`.
"""

import asyncio
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import httpx
from pydantic import SecretStr

from prosa.document_rag.v1 import assistant_service_pb2 as pb
from prosa.document_rag.v1.assistant_service_pb2_grpc import AssistantServiceStub
from prosa.tenant_quota.v1 import tenant_service_pb2
from prosa.tenant_quota.v1.tenant_service_pb2_grpc import TenantServiceStub
from services.chat_store.engines.mongo.store import MongoChatStore
from services.chat_store.model import MessageType, NewConversation
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
from services.tenant_quota.quota_model import Wish
from services.tenant_quota.reservations import Reservations
from shared.identifiers import new_id
from shared.mongo import open_mongo
from shared.postgres import open_pool
from tests.bench.empty_call import empty_call
from tests.bench.table import Row, at_most, publish
from tests.bench.turn import DOCUMENTS, QUESTIONS, _batch, _engines
from tests.house.fake_provider import fake_provider
from tests.house.processes import running_system
from tests.journeys.tenant import Tenant, new_tenant

WARM_UP = 20
ROUNDS = 150
STREAMS = 50
PIECES = 500
EMPTY_CALLS = 4
TRIES = 20

if TYPE_CHECKING:  # these two classes exist for type checkers only
    from prosa.document_rag.v1.assistant_service_pb2_grpc import AssistantServiceAsyncStub
    from prosa.tenant_quota.v1.tenant_service_pb2_grpc import TenantServiceAsyncStub

Timed = Callable[[str], Awaitable[object]]


@dataclass(frozen=True)
class Streams:
    """Fifty answers at once: bytes and deltas of one response, bytes of its text, seconds until all had ended."""

    response_bytes: float
    deltas: float
    text_bytes: float
    seconds: float


def main() -> list[Row]:
    """Measures both and publishes the table."""
    with (
        tempfile.TemporaryDirectory(prefix="prosa-bench-") as name,
        _engines(Path(name)) as urls,
        fake_provider() as provider,
    ):
        settings = {**urls, "OPENAI_API_KEY": "fake", "OPENAI_BASE_URL": provider.base_url}
        with running_system(Path(name), settings) as system:
            tenant = new_tenant(system)
            for path in sorted(DOCUMENTS.iterdir()):
                tenant.admin.upload(path.name, path.read_bytes())
            rows = asyncio.run(_measured(system.demo["services"], tenant, urls))
    publish("ask", rows)
    return rows


async def _measured(services: dict[str, str], tenant: Tenant, urls: dict[str, str]) -> list[Row]:
    async with (
        grpc.aio.insecure_channel(services["document_rag"]) as channel,
        grpc.aio.insecure_channel(services["tenant_quota"]) as identity,
        _raw_first_half(tenant, urls) as raw,
        empty_call() as empty,
    ):
        first_word = _first_word(AssistantServiceStub(channel), TenantServiceStub(identity), tenant)
        waited, engines, nothing = await _medians(first_word, raw, empty)
    half, whole = await _streams(tenant, PIECES // 2), await _streams(tenant, PIECES)
    return _rows(waited, engines, nothing, half, whole)


def _first_word(assistants: "AssistantServiceAsyncStub", tenants: "TenantServiceAsyncStub", tenant: Tenant) -> Timed:
    credential = tenant_service_pb2.AuthenticateRequest(credential=tenant.admin.key)

    async def wait(question: str) -> float:
        token = (await tenants.Authenticate(credential)).access_token
        request = pb.AskRequest(assistant_id=tenant.assistant_id, question=question)
        began, first = time.perf_counter(), 0.0
        async for event in assistants.Ask(request, metadata=(("authorization", f"Bearer {token}"),), timeout=60):
            if not first and event.HasField("text_delta"):
                first = time.perf_counter() - began
        return first

    return wait


@asynccontextmanager
async def _raw_first_half(tenant: Tenant, urls: dict[str, str]) -> AsyncIterator[Timed]:
    """The engine calls that a first word waits for, in the order in which a turn would need them alone."""
    url = SecretStr(urls["DATABASE_URL"])
    async with (
        open_pool(url, schema="document_rag", max_size=4, on_connect=register_vector_type) as documents,
        open_pool(url, schema="tenant_quota", max_size=4) as quotas,
        open_mongo(SecretStr(urls["MONGODB_URL"]), "prosa_chat_store") as database,
    ):
        assistants, turns = AssistantStore(documents), TurnStore(documents, 10)
        index = ChunkIndex(documents, HashedEmbedder(), Stemmer(documents), VectorSearch(documents))
        reservations, chat = Reservations(quotas), MongoChatStore(database)
        tenant_id, reach = tenant.tenant_id, Reach(tenant.tenant_id, "")

        async def turn(text: str) -> float:
            began = time.perf_counter()
            question = Question(tenant.assistant_id, "", text, OnDisconnect.STOP, 0, "", new_id())
            leased = await turns.begin(tenant_id, "", question)
            await assistants.get(tenant_id, tenant.assistant_id)
            await reservations.reserve(Wish(tenant_id, "", "bench", new_id(), 6000, 6000, 60))
            await chat.create(reach, NewConversation(leased.conversation_id, ""))
            await chat.append(reach, leased.conversation_id, _batch(MessageType.USER, text))
            await index.search(tenant_id, text, top_k=8, mode=SearchMode.HYBRID)
            return time.perf_counter() - began

        yield turn
        await reservations.close()


async def _medians(first_word: Timed, raw: Timed, empty: Timed) -> tuple[float, float, float]:
    """Milliseconds of each, measured in turn so that a busy machine is as busy for all."""
    taken: tuple[list[float], list[float], list[float]] = ([], [], [])
    for number in range(WARM_UP + ROUNDS):
        question = QUESTIONS[number % len(QUESTIONS)]
        waited, engines = await first_word(question), await raw(question)
        began = time.perf_counter()
        await empty("")
        nothing = time.perf_counter() - began
        if number >= WARM_UP:
            for times, seconds in zip(taken, (waited, engines, nothing), strict=True):
                times.append(float(seconds) * 1000)  # type: ignore[arg-type]
    waited, engines, nothing = (statistics.median(times) for times in taken)
    return waited, engines, nothing


async def _streams(tenant: Tenant, pieces: int) -> Streams:
    body = {"assistant": {"displayName": "Longo", "model": f"fake-words-{pieces}", "maxOutputTokens": 10 * pieces}}
    assistant_id = tenant.admin.post("/v1/assistants", body)["assistantId"]
    headers = {"authorization": f"Bearer {tenant.admin.key}"}
    limits = httpx.Limits(max_connections=STREAMS)
    async with httpx.AsyncClient(base_url=tenant.admin.gateway, headers=headers, timeout=120, limits=limits) as client:

        async def one() -> tuple[int, int]:
            body = {"question": QUESTIONS[0], "requestId": new_id()}
            for _ in range(TRIES):
                response = await client.post(f"/v1/assistants/{assistant_id}:ask", json=body)
                if "event: completed" in response.text:
                    return len(response.content), response.text.count("event: text_delta")
                await asyncio.sleep(1)  # a machine that is too busy says 503, and when to come again
            raise AssertionError(response.text[-500:])

        began = time.perf_counter()
        answers = await asyncio.gather(*(one() for _ in range(STREAMS)))
        seconds = time.perf_counter() - began
    text = " ".join(f"palavra{number}" for number in range(pieces))
    sizes, deltas = zip(*answers, strict=True)
    return Streams(statistics.median(sizes), statistics.median(deltas), len(text), seconds)


def _rows(waited: float, engines: float, nothing: float, half: Streams, whole: Streams) -> list[Row]:
    allowed = engines + EMPTY_CALLS * nothing
    first = f"first word p50, beside engines {engines:.1f} ms + {EMPTY_CALLS} empty calls of {nothing:.2f} ms"
    doubled = 2 * half.response_bytes * whole.text_bytes / (2 * half.text_bytes)
    many = f"{STREAMS} streams of {PIECES} pieces, told in {whole.deltas:.0f} deltas"
    return [
        at_most(first, waited, allowed, "ms", 1.0),
        at_most(f"{many}: bytes, beside twice those of {PIECES // 2}", whole.response_bytes, doubled, "bytes", 1.1),
        Row(
            f"{many}: bytes a byte of text",
            whole.response_bytes,
            whole.text_bytes,
            "bytes",
            whole.response_bytes / whole.text_bytes,
            None,
            holds=True,
        ),
        Row(f"{many}: all ended", whole.seconds, half.seconds, "s", whole.seconds / half.seconds, None, holds=True),
    ]
