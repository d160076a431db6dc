"""Vectors: alike for words that are alike, from either embedder; and a provider in trouble has until its deadline."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import numpy as np
import pytest
from openai import AsyncOpenAI

from services.document_rag.search.embedders import DIMENSIONS, HashedEmbedder, OpenAIEmbedder
from services.document_rag.search.words import fold, words_of
from shared.errors import Unavailable
from tests.house.fake_provider import FakeProvider, fake_provider


@pytest.fixture(scope="module")
def provider() -> Iterator[FakeProvider]:
    with fake_provider() as running:
        yield running


@pytest.fixture
async def client(provider: FakeProvider) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(api_key="test", base_url=provider.base_url, max_retries=0) as opened:
        yield opened


def test_words_are_folded_and_function_words_left_out() -> None:
    assert words_of("Não há orçamento PARA a Prefeitura!") == ["orçamento", "prefeitura"]
    assert fold("orçamento") == fold("Orcamento") == "orcamento"


def test_words_are_split_alike_whether_accents_are_composed_or_not() -> None:
    assert words_of("licitac\u0327a\u0303o") == words_of("licitação") == ["licitação"]


async def test_hashed_vectors_are_unit_length_and_the_same_on_every_machine() -> None:
    vectors = await HashedEmbedder().embed_documents(["A coleta de lixo", "O imposto"])
    assert vectors.shape == (2, DIMENSIONS)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert np.flatnonzero(vectors[1])[:4].tolist() == [119, 176, 333, 427]


async def test_hashed_vectors_see_inflection_accents_and_typing_errors() -> None:
    embedder = HashedEmbedder()
    documents = await embedder.embed_documents(["licitações públicas", "vacinação gratuita", "coleta de entulho"])
    for query in ("licitacao", "licitação", "licitaçoes", "licitcaoes"):
        vector = await embedder.embed_query(query, {fold(word): 1.0 for word in words_of(query)})
        assert int(np.argmax(documents @ vector)) == 0


async def test_a_text_without_words_has_the_zero_vector() -> None:
    vectors = await HashedEmbedder().embed_documents(["de a o", "..."])
    assert not vectors.any()


async def test_openai_vectors_come_in_batches_and_in_order(client: AsyncOpenAI, provider: FakeProvider) -> None:
    embedder = OpenAIEmbedder(client, model="text-embedding-3-small", deadline_seconds=60)
    texts = [f"texto número {number}" for number in range(300)]
    before = len(provider.embedded)
    vectors = await embedder.embed_documents(texts)
    assert vectors.shape == (300, DIMENSIONS)
    assert [len(batch) for batch in provider.embedded[before:]] == [128, 128, 44]
    query = await embedder.embed_query(texts[200], {})
    assert int(np.argmax(vectors @ query)) == 200


async def test_an_absent_provider_is_unavailable_at_the_deadline_and_not_later() -> None:
    async with AsyncOpenAI(api_key="test", base_url="http://127.0.0.1:9", max_retries=0) as nobody:
        embedder = OpenAIEmbedder(nobody, model="text-embedding-3-small", deadline_seconds=1.0)
        started = time.monotonic()
        with pytest.raises(Unavailable) as caught:
            await embedder.embed_query("lixo", {})
    assert caught.value.metadata == {"dependency": "embeddings"}
    assert time.monotonic() - started < 10


async def test_a_refused_key_is_not_tried_again() -> None:
    calls = 0

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal calls
        calls += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with AsyncOpenAI(api_key="bad", base_url=f"http://127.0.0.1:{port}/v1", max_retries=0) as client:
            embedder = OpenAIEmbedder(client, model="text-embedding-3-small", deadline_seconds=60)
            with pytest.raises(Unavailable):
                await embedder.embed_documents(["lixo"])
    assert calls == 1
