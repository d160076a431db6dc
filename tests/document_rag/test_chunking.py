"""Chunks keep to headings, sentences and pages, and are verbatim spans of the text."""

from services.document_rag.documents.chunking import cut
from services.document_rag.model import Chunk, ExtractedText, Page
from services.document_rag.tokens import count_tokens
from tests.document_rag.samples import LIXO


def markdown(text: str) -> ExtractedText:
    return ExtractedText("", "text/markdown", is_markdown=True, pages=(Page(0, text),))


def chunks_of(extracted: ExtractedText, size: int = 160, overlap: int = 40) -> list[Chunk]:
    return cut(extracted, size_characters=size, overlap_characters=overlap)


def test_every_chunk_is_a_verbatim_span_no_longer_than_allowed() -> None:
    extracted = markdown(LIXO * 5)
    chunks = chunks_of(extracted)
    assert [chunk.ordinal for chunk in chunks] == list(range(len(chunks)))
    for chunk in chunks:
        assert extracted.text[chunk.char_start : chunk.char_end] == chunk.text
        assert len(chunk.text) <= 160
        assert chunk.tokens == count_tokens(chunk.text) > 0


def test_a_chunk_knows_the_headings_above_it() -> None:
    sections = {chunk.section for chunk in chunks_of(markdown(LIXO))}
    assert sections == {"Coleta de lixo", "Coleta de lixo › Coleta seletiva", "Coleta de lixo › Entulho"}


def test_a_heading_inside_a_fence_is_no_heading() -> None:
    chunks = chunks_of(markdown("# Real\n\n```\n# comentário\n```\n\ntexto depois"))
    assert {chunk.section for chunk in chunks} == {"Real"}


def test_a_chunk_never_crosses_a_page() -> None:
    pages = (Page(1, "Primeira página. " * 5), Page(2, "Segunda página. " * 5))
    extracted = ExtractedText("", "application/pdf", is_markdown=False, pages=pages)
    for chunk in chunks_of(extracted, size=2000, overlap=0):
        assert ("Primeira" in chunk.text, "Segunda" in chunk.text) == (chunk.page == 1, chunk.page == 2)
        assert extracted.text[chunk.char_start : chunk.char_end] == chunk.text


def test_sentences_stay_whole_where_they_fit() -> None:
    text = "O prazo termina amanhã. A multa é de cem reais. O pagamento é feito no banco."
    extracted = ExtractedText("", "text/plain", is_markdown=False, pages=(Page(0, text),))
    assert all(chunk.text.endswith(".") for chunk in chunks_of(extracted, size=50, overlap=0))


def test_the_searchable_text_of_a_chunk_starts_with_its_context() -> None:
    chunk = chunks_of(markdown(LIXO))[1]
    assert chunk.searchable("Manual").startswith("Manual\nColeta de lixo › Coleta seletiva\n")


def test_decoration_without_a_letter_is_no_chunk() -> None:
    assert chunks_of(markdown("---\n\n***\n")) == []


def test_texts_beyond_one_tokenizer_call_are_counted_in_pieces() -> None:
    once = count_tokens("a palavra " * 5_000)
    assert abs(count_tokens("a palavra " * 50_000) - 10 * once) <= 20
