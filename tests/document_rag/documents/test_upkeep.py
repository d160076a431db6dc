"""Vectors: bought once, waited for, never of the wrong length, made anew when the model changes. Leftovers: swept."""

import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import asyncpg
import pytest
from openai import AsyncOpenAI
from pydantic import SecretStr

from services.document_rag.__main__ import MIGRATIONS, SCHEMA, Documents, open_documents
from services.document_rag.config import Config
from services.document_rag.documents.model import Cause, Description, Document, DocumentState
from services.document_rag.model import EmbeddingDimensionsWrong, SearchMode
from services.document_rag.search.embedders import HashedEmbedder, OpenAIEmbedder
from shared.errors import RequestIdReused
from shared.postgres import migrate
from tests.document_rag.documents.workers import ended
from tests.document_rag.samples import IPTU, LIXO
from tests.house.waiting import until_answered

if TYPE_CHECKING:
    from tests.house.fake_provider import FakeProvider

TENANT = "prefeitura"
OLD_REQUESTS = """
    insert into upload_requests (tenant_id, request_id, fingerprint, document_id, verdict, answered_at)
    select $1, number::text, '', $2, 'new', now() - interval '49 hours' from generate_series(1, 1200) number
"""


@pytest.fixture
async def config(fresh_database: Callable[[], str], tmp_path: Path, provider: "FakeProvider") -> Config:
    """A service of its own, whose vectors are bought."""
    url = SecretStr(fresh_database())
    await migrate(url, schema=SCHEMA, directory=MIGRATIONS)
    return Config(
        database_url=url,
        originals_url=str(tmp_path / "originals"),
        embedder="openai",
        openai_api_key=SecretStr("test"),
        openai_base_url=provider.base_url,
        embedding_deadline_seconds=60.0,
    )


async def uploaded(
    documents: Documents, text: str, filename: str = "lixo.md", tenant_id: str = TENANT, request_id: str = ""
) -> Document:
    async def pieces() -> AsyncIterator[bytes]:
        yield text.encode()

    said = Description(filename=filename, request_id=request_id)
    return (await documents.ingest.upload(tenant_id, said, pieces())).document


async def test_a_text_is_bought_once_and_never_shared_between_tenants(config: Config, provider: "FakeProvider") -> None:
    async with open_documents(config) as documents:
        before = len(provider.embedded)
        first = await uploaded(documents, LIXO)
        await documents.ingest.delete(TENANT, first.document_id)
        again = await uploaded(documents, LIXO)
        assert again.state is DocumentState.READY
        assert len(provider.embedded) == before + 1
        await uploaded(documents, LIXO, tenant_id="outra")
        assert len(provider.embedded) == before + 2
        assert provider.embedded[-1] == provider.embedded[-2]


async def test_a_provider_that_asks_for_time_is_given_it(config: Config, provider: "FakeProvider") -> None:
    busy = config.model_copy(update={"embedding_model": "fake-busy"})
    async with open_documents(busy) as documents:
        started = time.monotonic()
        document = await uploaded(documents, LIXO)
        assert document.state is DocumentState.READY
        assert time.monotonic() - started >= 1.0


async def test_vectors_of_the_wrong_length_are_named_and_wait_for_the_setting_to_be_mended(config: Config) -> None:
    async with open_documents(config.model_copy(update={"embedding_model": "fake-384"})) as documents:
        document = await uploaded(documents, LIXO)
        assert document.state is DocumentState.EMBEDDING
        assert document.stage_error is not None
        assert document.stage_error.reason == EmbeddingDimensionsWrong.reason
        assert "384" in document.stage_error.message
    async with open_documents(config) as documents:
        assert await ended(documents.ingest, TENANT, document) is DocumentState.READY


async def test_a_new_model_embeds_everything_anew_while_search_goes_on(config: Config) -> None:
    hashed = config.model_copy(update={"embedder": "hashed"})
    async with open_documents(hashed) as documents:
        kept = [await uploaded(documents, text, name) for text, name in ((LIXO, "lixo.md"), (IPTU, "iptu.md"))]
        assert {document.embedding_model for document in kept} == {HashedEmbedder.model}
    async with open_documents(config) as documents:
        by_words = await documents.index.search(TENANT, "coleta de lixo", top_k=5, mode=SearchMode.HYBRID)
        assert by_words.passages[0].document_id == kept[0].document_id
        await documents.ingestion.upkeep.embed_anew()

        async def all_new() -> bool:
            models = {each.embedding_model for each in await documents.store.list(TENANT, before=None, limit=9)}
            return models == {config.embedding_model}

        await until_answered(all_new)
        found = await documents.index.search(TENANT, "coleta de lixo", top_k=5, mode=SearchMode.VECTOR)
        assert found.passages[0].document_id == kept[0].document_id
        diagnosis = await documents.ingest.diagnose(TENANT, kept[0].document_id)
        assert (diagnosis.cause, set(diagnosis.chunks_by_model)) == (Cause.SEARCHABLE, {config.embedding_model})
        assert await documents.ingestion.upkeep.embed_anew() == 0


async def test_old_vectors_are_searched_until_there_are_new_ones(config: Config) -> None:
    async with open_documents(config.model_copy(update={"embedder": "hashed"})) as documents:
        old = await uploaded(documents, LIXO)
    slow = config.model_copy(update={"openai_base_url": "http://127.0.0.1:9/v1", "embedding_deadline_seconds": 0.2})
    async with open_documents(slow) as documents:
        await documents.ingestion.upkeep.embed_anew()
        ready = documents.index._embedder
        documents.index._embedder = OpenAIEmbedder(
            AsyncOpenAI(api_key="test", base_url=config.openai_base_url), model=ready.model, deadline_seconds=60.0
        )
        found = await documents.index.search(TENANT, "coleta de lixo", top_k=5, mode=SearchMode.VECTOR)
        assert [passage.document_id for passage in found.passages][:1] == [old.document_id]
        diagnosis = await documents.ingest.diagnose(TENANT, old.document_id)
        assert diagnosis.cause is Cause.REEMBEDDING


async def test_a_replica_with_the_model_of_before_undoes_nothing(config: Config) -> None:
    async with open_documents(config.model_copy(update={"embedder": "hashed"})) as older:
        await uploaded(older, LIXO)
        await older.ingestion.upkeep.embed_anew()
        async with open_documents(config) as newer:
            await newer.ingestion.upkeep.embed_anew()
            assert await older.ingestion.upkeep.embed_anew() == 0


async def test_originals_without_a_document_are_swept_once_they_are_old(config: Config) -> None:
    async with open_documents(config.model_copy(update={"orphan_original_hours": 1.0})) as documents:
        document = await uploaded(documents, LIXO)
        directory = Path(config.originals_url.removeprefix("file://")) / TENANT
        old, young = (directory / f"018f0000-0000-7000-8000-00000000000{n}" for n in (1, 2))
        for path in (old, young):
            path.write_bytes(b"left over")
        for path in (old, directory / document.document_id):
            os.utime(path, (1, 1))
        assert await documents.ingestion.upkeep.sweep() == 1
        assert {path.name for path in directory.iterdir()} == {document.document_id, young.name}


async def test_an_uploads_request_id_is_remembered_for_its_days_however_many_there_are(config: Config) -> None:
    short = config.model_copy(update={"upload_requests_kept_days": 2, "embedder": "hashed"})
    async with open_documents(short) as documents:
        document = await uploaded(documents, LIXO, request_id="young")
        superuser = await asyncpg.connect(
            config.database_url.get_secret_value(), server_settings={"search_path": "document_rag"}
        )
        await superuser.execute(OLD_REQUESTS, TENANT, UUID(document.document_id))
        await documents.ingestion.upkeep.sweep()
        assert {row["request_id"] for row in await superuser.fetch("select request_id from upload_requests")} == {
            "young"
        }
        await superuser.close()
        with pytest.raises(RequestIdReused):
            await uploaded(documents, IPTU, request_id="young")
        assert (await uploaded(documents, IPTU, request_id="1")).document_id != document.document_id
