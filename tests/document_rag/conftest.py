"""The documents half of the service, on the session's PostgreSQL, in this process and behind the real wire."""

from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import grpc
import pytest
from pydantic import SecretStr

from prosa.document_rag.v1 import document_service_pb2 as documents_pb2
from prosa.document_rag.v1.document_service_pb2_grpc import DocumentServiceStub
from prosa.document_rag.v1.search_service_pb2_grpc import SearchServiceStub
from services.document_rag.__main__ import MIGRATIONS, SCHEMA, Documents, document_endpoints, open_documents
from services.document_rag.config import Config
from shared.postgres import migrate
from tests.document_rag.neighbourhood import Neighbourhood, Tenant, neighbourhood
from tests.house.in_process import Metadata, as_caller, serving, token
from tests.house.signing import SigningKeys

if TYPE_CHECKING:
    from tests.house.fake_provider import FakeProvider

PERMISSIONS = ("documents.read", "documents.write")


@pytest.fixture(scope="session")
async def document_config(
    fresh_database: Callable[[], str], tmp_path_factory: pytest.TempPathFactory, signing_keys: SigningKeys
) -> Config:
    """A service on a migrated database of its own."""
    url = SecretStr(fresh_database())
    await migrate(url, schema=SCHEMA, directory=MIGRATIONS)
    return Config(
        port=0,
        database_url=url,
        originals_url=str(tmp_path_factory.mktemp("originals")),
        max_document_bytes=1_000_000,
        drain_delay_seconds=0,
        token_public_key=signing_keys.public_pem,
    )


@pytest.fixture(scope="session")
async def documents(document_config: Config) -> AsyncIterator[Documents]:
    """The documents half, wired as in production."""
    async with open_documents(document_config) as wired:
        yield wired


@pytest.fixture(scope="session")
async def document_channel(
    documents: Documents, document_config: Config, signing_keys: SigningKeys
) -> AsyncIterator[grpc.aio.Channel]:
    """DocumentService and SearchService behind the whole street."""
    async with serving(document_endpoints(documents), signing_keys, config=document_config) as channel:
        yield channel


@pytest.fixture
def tenant_id() -> str:
    """A tenant nobody else uses."""
    return f"tenant-{uuid4()}"


class Client:
    """What a program of one tenant does with documents."""

    def __init__(self, channel: grpc.aio.Channel, metadata: Metadata) -> None:
        self.metadata = metadata
        self.documents = DocumentServiceStub(channel)
        self.search_service = SearchServiceStub(channel)

    async def upload(
        self, content: bytes, filename: str = "", *, piece: int = 64_000, **said: Any
    ) -> documents_pb2.UploadDocumentResponse:
        """Sends the bytes in pieces, the description with the first."""
        pieces: Sequence[bytes] = [content[start : start + piece] for start in range(0, len(content), piece)] or [b""]
        requests = [documents_pb2.UploadDocumentRequest(chunk=each) for each in pieces]
        requests[0].MergeFrom(documents_pb2.UploadDocumentRequest(filename=filename, **said))
        return await self.documents.UploadDocument(iter(requests), metadata=self.metadata)


@pytest.fixture
def client_of(document_channel: grpc.aio.Channel, signing_keys: SigningKeys) -> Callable[[str], Client]:
    """`client_of(tenant_id)`: a program of that tenant."""
    return lambda tenant: Client(document_channel, as_caller(token(signing_keys, tenant_id=tenant, scopes=PERMISSIONS)))


@pytest.fixture
def client(client_of: Callable[[str], Client], tenant_id: str) -> Client:
    """A program of the test's own tenant."""
    return client_of(tenant_id)


@pytest.fixture
def originals_directory(document_config: Config) -> Path:
    """Where the originals lie."""
    return Path(document_config.originals_url.removeprefix("file://"))


@pytest.fixture(scope="session")
async def house(
    fresh_database: Callable[[], str],
    mongo_url: str,
    provider: "FakeProvider",
    tmp_path_factory: pytest.TempPathFactory,
    signing_keys: SigningKeys,
) -> AsyncIterator[Neighbourhood]:
    """The whole service between tenant_quota and chat_store."""
    originals = tmp_path_factory.mktemp("originals")
    async with neighbourhood(fresh_database(), mongo_url, provider.base_url, originals, signing_keys) as opened:
        yield opened


@pytest.fixture
async def tenant(house: Neighbourhood) -> Tenant:
    """A tenant of its own for one test."""
    return await house.tenant()
