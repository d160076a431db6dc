"""Rerankers put passages in a new order, lose none, and are not missed when they fail."""

from collections.abc import AsyncIterator, Iterator

import pytest
from openai import AsyncOpenAI

from services.document_rag.__main__ import Documents
from services.document_rag.model import Passage, SearchMode
from services.document_rag.search.chunk_index import ChunkIndex
from services.document_rag.search.rerankers import HttpReranker, LexicalReranker
from tests.document_rag.search.test_filters import put
from tests.house.fake_provider import FakeProvider, fake_provider


@pytest.fixture(scope="module")
def provider() -> Iterator[FakeProvider]:
    with fake_provider() as running:
        yield running


@pytest.fixture
async def client(provider: FakeProvider) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(api_key="test", base_url=provider.base_url, max_retries=0) as opened:
        yield opened


def passages(*texts: str) -> list[Passage]:
    return [Passage(str(n), "d", "", 1, 0, "", 0, len(text), text, 1 / (1 + n)) for n, text in enumerate(texts)]


async def test_the_lexical_one_prefers_the_words_in_their_order() -> None:
    found = passages(
        "O imposto é predial.", "Do predial e do territorial, o imposto.", "Imposto predial e territorial."
    )
    ranked = await LexicalReranker().reranked("imposto predial e territorial", found)
    assert ranked[0].text == "Imposto predial e territorial."
    assert {each.chunk_id for each in ranked} == {"0", "1", "2"}
    assert list(await LexicalReranker().reranked("xyz", found)) == found, "nothing to go by leaves the order"


async def test_the_one_behind_http_decides_and_what_it_leaves_out_comes_last(client: AsyncOpenAI) -> None:
    found = passages("curto", "muito mais longo", "longo")
    ranked = await HttpReranker(client, model="fake-rerank", deadline_seconds=60).reranked("x", found)
    assert ranked is not None
    assert [each.text for each in ranked] == ["muito mais longo", "curto", "longo"]


@pytest.mark.parametrize("model", ["fake-error", "fake-garbage"])
async def test_a_reranker_that_fails_leaves_the_order(
    documents: Documents, client: AsyncOpenAI, tenant_id: str, model: str
) -> None:
    await put(documents, tenant_id, "A coleta de lixo passa cedo.")
    await put(documents, tenant_id, "A coleta de lixo do centro da cidade passa somente mais tarde, às dez.")
    plain = documents.index
    reranker = HttpReranker(client, model=model, deadline_seconds=60)
    troubled = ChunkIndex(plain._pool, plain._embedder, plain._stemmer, plain._vectors, reranker)
    query = "quando passa a coleta de lixo"
    usual = await plain.search(tenant_id, query, top_k=5, mode=SearchMode.HYBRID)
    assert await troubled.search(tenant_id, query, top_k=5, mode=SearchMode.HYBRID) == usual
    assert usual.reranker == ""


async def test_a_search_says_who_reranked_it_and_its_scores_still_fall(
    documents: Documents, client: AsyncOpenAI, tenant_id: str
) -> None:
    for text in ("A coleta passa cedo.", "A coleta do centro da cidade passa mais tarde, às dez horas."):
        await put(documents, tenant_id, text)
    plain = documents.index
    reranker = HttpReranker(client, model="fake-rerank", deadline_seconds=60)
    index = ChunkIndex(plain._pool, plain._embedder, plain._stemmer, plain._vectors, reranker)
    found = await index.search(tenant_id, "coleta", top_k=5, mode=SearchMode.KEYWORD)
    assert found.reranker == "fake-rerank"
    assert [len(each.text) for each in found.passages] == sorted((len(p.text) for p in found.passages), reverse=True)
    assert [each.score for each in found.passages] == sorted((p.score for p in found.passages), reverse=True)
    off = await index.search(tenant_id, "coleta", top_k=5, mode=SearchMode.KEYWORD, rerank=False)
    assert off.reranker == ""
    asked = await plain.search(tenant_id, "coleta", top_k=5, mode=SearchMode.KEYWORD, rerank=True)
    assert asked.reranker == "lexical"
