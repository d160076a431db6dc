"""Reading untrusted files: every type gives its text, and nothing hostile gets further than its own process."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from services.document_rag.documents.read_text import ReadText
from services.document_rag.documents.sandbox import ExtractionLimits, reading
from services.document_rag.model import Chunk, DocumentEmpty, DocumentUnreadable
from tests.document_rag import samples


@dataclass(frozen=True)
class Read:
    """What an upload of the bytes would get, its chunks taken out of their file."""

    about: ReadText
    chunks: list[Chunk]

    @property
    def text(self) -> str:
        """The text of a document that is one chunk."""
        (only,) = self.chunks
        return only.text


async def read(
    directory: Path, content: bytes, filename: str = "", limits: ExtractionLimits | None = None, mime_type: str = ""
) -> Read:
    """The text of the bytes, as an upload would get it."""
    path = directory / "upload"
    path.write_bytes(content)
    async with reading(path, filename, mime_type, limits or ExtractionLimits()) as text:
        return Read(text, [chunk for piece in text.slices() for chunk in piece])


async def test_markdown_is_kept_as_written_and_its_heading_is_the_title(tmp_path: Path) -> None:
    extracted = await read(tmp_path, samples.LIXO.encode(), "lixo.md")
    assert (extracted.about.title, extracted.about.mime_type) == ("Coleta de lixo", "text/markdown")
    assert extracted.text == samples.LIXO.strip()


async def test_pages_of_a_pdf_are_numbered_and_its_wrapped_lines_joined(tmp_path: Path) -> None:
    content = samples.pdf("A prefeitura informa que o prazo de\ninscrição termina na sexta-feira.", "Segunda página.")
    extracted = await read(tmp_path, content, "edital.bin")
    assert extracted.about.mime_type == "application/pdf"
    assert [chunk.page for chunk in extracted.chunks] == [1, 2]
    assert extracted.chunks[0].text == "A prefeitura informa que o prazo de inscrição termina na sexta-feira."
    assert extracted.about.page_count == 2


async def test_html_loses_its_furniture_and_keeps_headings_lists_and_rows(tmp_path: Path) -> None:
    extracted = await read(tmp_path, samples.HTML.encode())
    assert extracted.about.title == "Alvará de funcionamento"
    assert "# Alvará de funcionamento" in extracted.text
    assert "## Documentos\n\n- Contrato social" in extracted.text
    assert "Análise | 15 |" in extracted.text
    assert "custa R$ 120,00" in extracted.text
    assert "```\n# apt install prefeitura\nsegunda linha\n```" in extracted.text
    for furniture in ("Início", "Sumário", "Prefeitura de Exemplo", "Direitos reservados", "alert", "color"):
        assert furniture not in extracted.text


async def test_docx_gives_headings_paragraphs_and_tables_in_order(tmp_path: Path) -> None:
    content = samples.docx_of("Cemitério municipal", "Sepultamento", "O velório é gratuito.")
    extracted = await read(tmp_path, content, "arquivo")
    assert extracted.about.title == "Cemitério municipal"
    assert extracted.text == "# Sepultamento\n\nO velório é gratuito.\n\nTaxa | R$ 35,00"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252", "latin-1"])
async def test_brazilian_text_is_read_in_the_encodings_it_comes_in(tmp_path: Path, encoding: str) -> None:
    text = "A licitação é pública: às três horas, no salão."
    assert (await read(tmp_path, text.encode(encoding), "aviso.txt")).text == text


async def test_content_decides_the_type_against_name_and_declaration(tmp_path: Path) -> None:
    extracted = await read(tmp_path, samples.pdf("Texto."), "nota.docx", mime_type="text/html")
    assert extracted.about.mime_type == "application/pdf"


async def test_a_declared_html_fragment_is_read_as_html(tmp_path: Path) -> None:
    extracted = await read(tmp_path, b"<p>Um</p><p>Dois</p>", mime_type="text/html")
    assert extracted.text == "Um\n\nDois"


async def test_a_scan_says_that_it_holds_no_text(tmp_path: Path) -> None:
    with pytest.raises(DocumentEmpty, match="scan"):
        await read(tmp_path, samples.pdf("", ""), "digitalizado.pdf")


async def test_blank_text_is_empty(tmp_path: Path) -> None:
    with pytest.raises(DocumentEmpty):
        await read(tmp_path, b" \n\t \n", "vazio.txt")


@pytest.mark.parametrize(
    "content",
    [
        b"%PDF-1.7 truncated",
        b"PK\x03\x04 not a zip",
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0",
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1 old word",
        samples.docx_of("t", "h", "p")[:2000],
        samples.entity_docx(),
        samples.bomb_docx(80_000_000),
    ],
    ids=["cut pdf", "false zip", "picture", "old word", "cut docx", "entities", "zip bomb"],
)
async def test_damaged_and_foreign_files_are_unreadable(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(DocumentUnreadable):
        await read(tmp_path, content)


async def test_a_bomb_ends_its_own_process_at_the_memory_limit(tmp_path: Path) -> None:
    limits = ExtractionLimits(memory_bytes=400 << 20, cpu_seconds=20, wall_seconds=40)
    with pytest.raises(DocumentUnreadable):
        await read(tmp_path, samples.bomb_pdf(200_000_000), limits=limits)


async def test_reading_ends_at_the_wall_clock(tmp_path: Path) -> None:
    with pytest.raises(DocumentUnreadable, match="too long"):
        await read(tmp_path, samples.LIXO.encode(), limits=ExtractionLimits(wall_seconds=0.01))


async def test_deeply_nested_html_is_read_and_not_recursed_into(tmp_path: Path) -> None:
    content = b"<html><body>" + b"<div>" * 20_000 + b"fundo" + b"</div>" * 20_000
    assert "fundo" in (await read(tmp_path, content)).text
