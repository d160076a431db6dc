"""Search finds what a Brazilian reader means: without accents, inflected, mistyped; and misses nothing of a tenant."""

from uuid import uuid4

import pytest

from services.document_rag.__main__ import Documents
from services.document_rag.documents.model import Description, UploadResult
from services.document_rag.model import Filter, RetrievalMode, SearchMode, SearchResult, fuse_by_rank
from tests.document_rag.samples import IPTU, LIXO, ORCAMENTO, POSTO


async def upload(documents: Documents, tenant_id: str, text: str, title: str = "") -> UploadResult:
    async def pieces() -> object:
        yield text.encode()

    said = Description(title=title, filename="texto.md")
    return await documents.ingest.upload(tenant_id, said, pieces())  # type: ignore[arg-type]


@pytest.fixture(scope="session")
async def town(documents: Documents) -> str:
    """A tenant with four documents."""
    tenant = f"town-{uuid4()}"
    for text in (LIXO, ORCAMENTO, IPTU, POSTO):
        await upload(documents, tenant, text)
    return tenant


async def search(
    documents: Documents, tenant_id: str, query: str, mode: SearchMode = SearchMode.HYBRID, top_k: int = 5
) -> SearchResult:
    return await documents.index.search(tenant_id, query, top_k=top_k, mode=mode)


@pytest.mark.parametrize("mode", list(SearchMode))
@pytest.mark.parametrize(
    ("query", "title"),
    [
        ("orcamento", "Lei orçamentária anual"),
        ("orçamentos municipais", "Lei orçamentária anual"),
        ("licitacao", "Lei orçamentária anual"),
        ("licitações", "Lei orçamentária anual"),
        ("vereador", "Lei orçamentária anual"),
        ("reciclavel", "Coleta de lixo"),
        ("onde jogo fora vidros quebrados", "Coleta de lixo"),
        ("aposentada tem isençao?", "Imposto predial e territorial urbano"),
        ("VACINA", "Postos de saúde"),
    ],
)
async def test_accents_inflection_and_case_do_not_hide_a_document(
    documents: Documents, town: str, query: str, title: str, mode: SearchMode
) -> None:
    result = await search(documents, town, query, mode)
    assert result.passages[0].title == title


@pytest.mark.parametrize("mode", list(SearchMode))
@pytest.mark.parametrize(
    ("query", "title"),
    [
        ("orçamneto", "Lei orçamentária anual"),
        ("licitaçao pregoes eletronicso", "Lei orçamentária anual"),
        ("vacinaçõa", "Postos de saúde"),
        ("plastcio", "Coleta de lixo"),
        ("aposentaods", "Imposto predial e territorial urbano"),
    ],
)
async def test_typing_errors_are_corrected(
    documents: Documents, town: str, query: str, title: str, mode: SearchMode
) -> None:
    result = await search(documents, town, query, mode)
    assert result.passages[0].title == title


async def test_passages_carry_section_span_and_falling_scores(documents: Documents, town: str) -> None:
    passages = (await search(documents, town, "recolhimento de vidro e metal")).passages
    best = passages[0]
    assert best.text == LIXO[best.char_start : best.char_end]
    assert best.section.startswith("Coleta de lixo")
    assert [passage.score for passage in passages] == sorted((p.score for p in passages), reverse=True)


async def test_retrieval_mode_says_how_vectors_were_compared(documents: Documents, town: str) -> None:
    assert (await search(documents, town, "lixo", SearchMode.HYBRID)).retrieval_mode is RetrievalMode.EXACT
    assert (await search(documents, town, "lixo", SearchMode.KEYWORD)).retrieval_mode is RetrievalMode.NONE


@pytest.mark.parametrize("query", ["de a o que", "?!", "   ", "xyzzyqwrt", "12345", "' or 1=1 --", "a" * 4000])
async def test_a_query_without_known_words_is_no_error(documents: Documents, town: str, query: str) -> None:
    assert (await search(documents, town, query, SearchMode.KEYWORD)).passages == ()
    await search(documents, town, query, SearchMode.HYBRID)


async def test_only_the_documents_named_are_searched(documents: Documents, town: str) -> None:
    everything = await search(documents, town, "prefeitura secretaria município")
    only = everything.passages[-1].document_id
    for mode in SearchMode:
        result = await documents.index.search(
            town, "imposto lixo saúde", top_k=50, mode=mode, filter=Filter(document_ids=(only,))
        )
        assert {passage.document_id for passage in result.passages} <= {only}
    nothing = await documents.index.search(
        town, "lixo", top_k=5, mode=SearchMode.HYBRID, filter=Filter(document_ids=("no-uuid",))
    )
    assert nothing.passages == ()


async def test_an_empty_tenant_finds_nothing(documents: Documents, tenant_id: str) -> None:
    assert (await search(documents, tenant_id, "qualquer coisa")).passages == ()


async def test_a_tenant_with_one_percent_of_the_chunks_gets_a_full_top_k(documents: Documents) -> None:
    large, small = f"large-{uuid4()}", f"small-{uuid4()}"
    await upload(documents, large, "\n\n".join(_paragraph(n) for n in range(1_500)))
    await upload(documents, small, "\n\n".join(_paragraph(n) for n in range(15)))
    counts = [(await documents.store.list(tenant, before=None, limit=1))[0].chunk_count for tenant in (large, small)]
    assert counts[0] >= 90 * counts[1] >= 900
    for mode in SearchMode:
        result = await search(documents, small, "rua buraco iluminação prefeitura", mode, top_k=10)
        assert len(result.passages) == 10


def _paragraph(number: int) -> str:
    """About 700 characters, so that each paragraph is a chunk of its own."""
    complaint = f"Reclamação {number}: buraco na rua {number * 7}, iluminação apagada, a prefeitura foi avisada. "
    return complaint * 7


async def test_no_statistics_remain_of_a_deleted_document(documents: Documents, tenant_id: str) -> None:
    await upload(documents, tenant_id, POSTO)
    before = await _index_rows(documents, tenant_id)
    added = await upload(documents, tenant_id, ORCAMENTO)
    assert await _index_rows(documents, tenant_id) != before
    await documents.ingest.delete(tenant_id, added.document.document_id)
    assert await _index_rows(documents, tenant_id) == before


async def _index_rows(documents: Documents, tenant_id: str) -> list[object]:
    tables = ("chunks", "postings", "terms", "words", "word_trigrams", "totals", "document_vocabulary")
    rows: list[object] = []
    async with documents.pool.acquire() as connection, connection.transaction():
        await connection.execute("select set_config('app.tenant', $1, true)", tenant_id)
        for table in tables:
            rows.extend(await connection.fetch(f"select * from {table} order by 1, 2, 3"))
    return rows


async def test_row_level_security_binds_even_a_statement_without_a_tenant(documents: Documents, town: str) -> None:
    for table in ("documents", "chunks", "postings", "terms", "words", "word_trigrams", "totals"):
        assert await documents.pool.fetchval(f"select count(*) from {table}") == 0


def test_ranks_are_fused_with_words_weighing_three_times_vectors() -> None:
    assert list(fuse_by_rank(["a", "b"], ["b", "c"])) == ["b", "c", "a"]
    assert list(fuse_by_rank(["a", "b"], [])) == ["a", "b"]
