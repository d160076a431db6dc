"""The demo tenant: a prefeitura with documents, assistants and a team, created through the public contracts.

Every step first looks whether it is done already, so a crash in the middle costs nothing but a second try.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import grpc

from deploy.local.data_directory import read_json, write_json
from deploy.local.demo_calls import CALL_SECONDS, Caller, caller, works
from deploy.local.demo_people import assistant_of, team_of
from prosa.document_rag.v1 import document_service_pb2 as documents
from prosa.document_rag.v1.assistant_service_pb2_grpc import AssistantServiceStub
from prosa.document_rag.v1.document_service_pb2_grpc import DocumentServiceStub
from prosa.document_rag.v1.team_service_pb2_grpc import TeamServiceStub
from prosa.tenant_quota.v1 import plan_service_pb2 as plans
from prosa.tenant_quota.v1 import quota_service_pb2 as quotas
from prosa.tenant_quota.v1 import tenant_service_pb2 as tenants
from prosa.tenant_quota.v1.plan_service_pb2_grpc import PriceServiceStub
from prosa.tenant_quota.v1.quota_service_pb2_grpc import QuotaServiceStub
from prosa.tenant_quota.v1.tenant_service_pb2_grpc import TenantServiceStub

TENANT_ID = "prefeitura-de-exemplo"
TENANT_NAME = "Prefeitura de Exemplo"
USER_ID = "ana"
QUESTION = "Até que dia posso pagar o IPTU em cota única com desconto?"
TEAM_QUESTION = "Que desconto tem o IPTU em cota única, e a que horas passa o caminhão da coleta seletiva?"
# Quotes from documents cost nothing, and the price book says so: a price of 0 is not an unknown one.
FREE_MODEL = "extractive"
TOKENS_PER_DAY = 2_000_000
TOKENS_PER_MONTH = 30_000_000

DOCUMENTS = Path(__file__).with_name("demo_documents")
# Plain text does not say its own title.
TITLES = {
    "horarios_de_atendimento.txt": "Horários e canais de atendimento",
    "iluminacao_publica_e_ouvidoria.txt": "Iluminação pública, conservação de ruas e ouvidoria",
}
MIME_TYPES = {".md": "text/markdown", ".html": "text/html", ".txt": "text/plain"}
PIECE_BYTES = 64 * 1024
UPLOAD_SECONDS = 300.0
KEPT = "demo_tenant.json"


@dataclass(frozen=True)
class Demo:
    """What a visitor needs: the tenant administrator's key, one for anonymous end users, an assistant, a team."""

    api_key: str
    end_user_key: str
    assistant_id: str
    team_id: str


@dataclass(frozen=True)
class Seeder:
    """Creates what is missing of the demo tenant. `directory` keeps the keys, which are shown only once."""

    targets: Mapping[str, str]
    admin_key: str
    directory: Path

    async def seed(self) -> Demo:
        """The demo, complete; raises grpc.RpcError when a service refuses.

        Once complete it is the visitor's: what was deleted since then stays deleted.
        """
        async with AsyncExitStack() as stack:
            quota_channel = await stack.enter_async_context(_channel(self.targets["tenant_quota"]))
            rag_channel = await stack.enter_async_context(_channel(self.targets["document_rag"]))
            directory = TenantServiceStub(quota_channel)
            if (demo := await self._completed(directory)) is not None:
                return demo
            admin = caller(directory, self.admin_key)
            await _create_tenant(directory, admin)
            await _set_quota(QuotaServiceStub(quota_channel), admin)
            await _set_price(PriceServiceStub(quota_channel), admin)
            await _create_user(directory, admin)
            api_key = await self._key("api_key", directory, admin, user_id=USER_ID)
            end_user_key = await self._key("end_user_key", directory, admin, role=tenants.ROLE_END_USER)
            owner = caller(directory, api_key)
            documents_by_name = await _uploaded(DocumentServiceStub(rag_channel), owner)
            hall, house = AssistantServiceStub(rag_channel), TeamServiceStub(rag_channel)
            assistant_id = await assistant_of(hall, owner)
            team_id = await team_of(hall, house, owner, assistant_id, documents_by_name)
            demo = Demo(api_key, end_user_key, assistant_id, team_id)
        write_json(self.directory / KEPT, asdict(demo))
        return demo

    async def _completed(self, directory: Any) -> Demo | None:
        """The demo as it was completed; None if it never was, or not in these databases."""
        kept = read_json(self.directory / KEPT)
        if set(kept) != {field.name for field in fields(Demo)}:
            return None
        demo = Demo(**kept)
        usable = [await works(directory, key) for key in (demo.api_key, demo.end_user_key)]
        return demo if all(usable) else None

    async def _key(self, name: str, directory: Any, admin: Caller, **wanted: Any) -> str:
        """The key kept under this name if it still works, else a new one, kept at once."""
        path = self.directory / KEPT
        kept = read_json(path)
        if name in kept and await works(directory, kept[name]):
            return str(kept[name])
        request = tenants.CreateApiKeyRequest(tenant_id=TENANT_ID, display_name=f"demo {name}", **wanted)
        created = await directory.CreateApiKey(request, metadata=await admin(), timeout=CALL_SECONDS)
        write_json(path, {**kept, name: created.secret})
        return str(created.secret)


def _channel(target: str) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(target)


async def _create_tenant(directory: Any, admin: Caller) -> None:
    request = tenants.CreateTenantRequest(tenant_id=TENANT_ID, display_name=TENANT_NAME, time_zone="America/Sao_Paulo")
    await _unless_it_exists(directory.CreateTenant(request, metadata=await admin(), timeout=CALL_SECONDS))


async def _create_user(directory: Any, admin: Caller) -> None:
    request = tenants.CreateUserRequest(
        tenant_id=TENANT_ID,
        user_id=USER_ID,
        display_name="Ana Souza",
        email="ana.souza@exemplo.gov.br",
        role=tenants.ROLE_TENANT_ADMIN,
    )
    await _unless_it_exists(directory.CreateUser(request, metadata=await admin(), timeout=CALL_SECONDS))


async def _unless_it_exists(call: Any) -> None:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        if error.code() != grpc.StatusCode.ALREADY_EXISTS:
            raise


async def _set_quota(quota: Any, admin: Caller) -> None:
    """Only the first time: what an administrator has set since then stays."""
    current = await quota.GetQuota(
        quotas.GetQuotaRequest(tenant_id=TENANT_ID), metadata=await admin(), timeout=CALL_SECONDS
    )
    if current.HasField("tokens_per_day") or current.HasField("tokens_per_month"):
        return
    limits = quotas.Quota(
        tokens_per_day=TOKENS_PER_DAY,
        tokens_per_month=TOKENS_PER_MONTH,
        enforcement=quotas.ENFORCEMENT_HARD,
    )
    request = quotas.SetQuotaRequest(tenant_id=TENANT_ID, quota=limits)
    await quota.SetQuota(request, metadata=await admin(), timeout=CALL_SECONDS)


async def _set_price(prices: Any, admin: Caller) -> None:
    """Only the first time, as the quota."""
    wanted = plans.ListPricesRequest(model=FREE_MODEL, page_size=1)
    known = await prices.ListPrices(wanted, metadata=await admin(), timeout=CALL_SECONDS)
    if known.prices:
        return
    request = plans.SetPriceRequest(
        model=FREE_MODEL, input_micros=0, cached_input_micros=0, output_micros=0, reasoning_micros=0
    )
    await prices.SetPrice(request, metadata=await admin(), timeout=CALL_SECONDS)


async def _uploaded(library: Any, owner: Caller) -> dict[str, str]:
    """The ids of the demo's documents by their file names; uploads those that are missing."""
    listed = await library.ListDocuments(
        documents.ListDocumentsRequest(page_size=1000), metadata=await owner(), timeout=CALL_SECONDS
    )
    ids = {str(document.filename): str(document.document_id) for document in listed.documents}
    for path in demo_documents():
        if path.name not in ids:
            done = await library.UploadDocument(_pieces(path), metadata=await owner(), timeout=UPLOAD_SECONDS)
            ids[path.name] = str(done.document.document_id)
    return ids


def demo_documents() -> list[Path]:
    """The files of the demo, in the order of their names."""
    return sorted(path for path in DOCUMENTS.iterdir() if path.suffix in MIME_TYPES)


async def _pieces(path: Path) -> AsyncIterator[documents.UploadDocumentRequest]:
    content = await asyncio.to_thread(path.read_bytes)
    mime_type = MIME_TYPES[path.suffix]
    yield documents.UploadDocumentRequest(
        filename=path.name,
        title=TITLES.get(path.name, ""),
        mime_type=mime_type,
        chunk=content[:PIECE_BYTES],
    )
    for start in range(PIECE_BYTES, len(content), PIECE_BYTES):
        yield documents.UploadDocumentRequest(chunk=content[start : start + PIECE_BYTES])


def asking_assistant(gateway_url: str, demo: Demo) -> str:
    """A command that asks the demo's assistant and streams the answer, to be pasted into a shell."""
    return _curl(f"{gateway_url}/v1/assistants/{demo.assistant_id}:ask", demo.api_key, QUESTION)


def asking_team(gateway_url: str, demo: Demo) -> str:
    """The same for a question that takes two of its assistants."""
    return _curl(f"{gateway_url}/v1/teams/{demo.team_id}:ask", demo.api_key, TEAM_QUESTION)


def _curl(url: str, api_key: str, question: str) -> str:
    return (
        f"curl -N {url} \\\n"
        f"  -H 'Authorization: Bearer {api_key}' \\\n"
        f"  -H 'Content-Type: application/json' \\\n"
        f'  -d \'{{"question": "{question}"}}\''
    )
