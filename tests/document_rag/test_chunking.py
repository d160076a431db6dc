"""Chunks keep to headings, sentences and pages, and are verbatim spans of the text."""

from itertools import pairwise

from services.document_rag.documents.chunking import cut
from services.document_rag.documents.extracted import PAGE_BREAK, ChunkSize, Heading, Page, Span
from services.document_rag.documents.headings import division_headings
from services.document_rag.model import Chunk
from services.document_rag.tokens import count_tokens
from tests.document_rag.samples import LIXO


def chunks_of(*pages: Page | str, size: int = 40, overlap: int = 10, is_markdown: bool = True) -> list[Span]:
    given = [page if isinstance(page, Page) else Page(0, page) for page in pages]
    return list(cut(given, ChunkSize(size, overlap), is_markdown=is_markdown))


def test_every_chunk_is_a_verbatim_span_no_longer_than_allowed() -> None:
    text = LIXO * 5
    chunks = chunks_of(text)
    assert len(chunks) > 5
    for chunk in chunks:
        assert text[chunk.char_start : chunk.char_end] == chunk.text
        assert 0 < chunk.tokens == count_tokens(chunk.text) <= 40


def test_a_chunk_knows_the_headings_above_it() -> None:
    sections = {chunk.section for chunk in chunks_of(LIXO)}
    assert sections == {"Coleta de lixo", "Coleta de lixo › Coleta seletiva", "Coleta de lixo › Entulho"}


def test_a_heading_inside_a_fence_is_no_heading() -> None:
    chunks = chunks_of("# Real\n\n```\n# comentário\n```\n\ntexto depois")
    assert {chunk.section for chunk in chunks} == {"Real"}


def test_a_chunk_never_crosses_a_page() -> None:
    pages = (Page(1, "Primeira página. " * 5), Page(2, "Segunda página. " * 5))
    text = PAGE_BREAK.join(page.text for page in pages)
    for chunk in chunks_of(*pages, size=2000, overlap=0, is_markdown=False):
        assert ("Primeira" in chunk.text, "Segunda" in chunk.text) == (chunk.page == 1, chunk.page == 2)
        assert text[chunk.char_start : chunk.char_end] == chunk.text


def test_sentences_stay_whole_where_they_fit() -> None:
    text = "O prazo termina amanhã. A multa é de cem reais. O pagamento é feito no banco."
    chunks = chunks_of(text, size=9, overlap=0, is_markdown=False)
    assert len(chunks) == 3
    assert all(chunk.text.endswith(".") for chunk in chunks)


def test_chunks_overlap_by_whole_words_and_no_more_than_asked() -> None:
    text = "".join(f"A sala {n} fica no andar {n}. " for n in range(60))
    chunks = chunks_of(text, size=60, overlap=15, is_markdown=False)
    for before, after in pairwise(chunks):
        shared = text[after.char_start : before.char_end]
        assert 0 < count_tokens(shared) <= 15
        assert after.text.startswith(shared.strip())


def test_headings_stay_in_force_on_the_next_page() -> None:
    chunks = chunks_of(Page(1, "# Plano diretor\n\n## Zonas\n\nA cidade tem zonas."), Page(2, "Uma zona é verde."))
    assert [chunk.section for chunk in chunks] == ["Plano diretor › Zonas"] * 2


def test_headings_that_are_not_marked_cut_too_unless_the_section_is_small() -> None:
    law = "CAPÍTULO I\nDO OBJETO\nEsta lei trata de taxas.\n" + "A taxa é paga no banco. " * 4
    law += "\nCAPÍTULO II - DOS PRAZOS\nO prazo é de dez dias.\nSEÇÃO I\nA multa é de cem reais."
    page = Page(0, law, division_headings(law))
    chunks = chunks_of(page, size=60, overlap=0, is_markdown=False)
    assert [chunk.section for chunk in chunks] == ["CAPÍTULO I DO OBJETO", "CAPÍTULO II - DOS PRAZOS"]
    assert chunks[1].text.endswith("SEÇÃO I\nA multa é de cem reais.")
    assert all(law[chunk.char_start : chunk.char_end] == chunk.text for chunk in chunks)


def test_a_section_is_short_whatever_the_headings_are() -> None:
    text = "".join(f"{'#' * level} {'título ' * 5_000}\n\n" for level in range(1, 7)) + "Um parágrafo."
    assert max(len(chunk.section) for chunk in chunks_of(text)) < 1_300
    heights = tuple(Heading(0, 0, -size, f"Corpo {size}") for size in range(99, 9, -1))
    (chunk,) = chunks_of(Page(1, "Um parágrafo.", heights), is_markdown=False)
    assert chunk.section == " › ".join(f"Corpo {size}" for size in range(15, 9, -1))


def test_a_sentence_that_names_a_chapter_is_no_heading() -> None:
    assert division_headings("Capítulo II desta lei trata de taxas.\nA seção 3 foi revogada\nTítulo de eleitor") == ()


def test_the_searchable_text_of_a_chunk_starts_with_its_context() -> None:
    chunk = Chunk(1, *chunks_of(LIXO)[1])
    assert chunk.searchable("Manual").startswith("Manual\nColeta de lixo › Coleta seletiva\n")


def test_decoration_without_a_letter_is_no_chunk() -> None:
    assert chunks_of("---\n\n***\n") == []


def test_tokens_of_long_and_of_broken_texts_are_counted() -> None:
    assert count_tokens("a palavra " * 50_000) >= 100_000
    assert count_tokens("meio par: \ud83d") == count_tokens("meio par: \ufffd")
