"""Reading untrusted files: every type gives its text, and nothing hostile gets further than its own process."""

import asyncio
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from services.document_rag.documents import extraction
from services.document_rag.documents.read_text import ReadText
from services.document_rag.documents.sandbox import ExtractionLimits, reading
from services.document_rag.model import Chunk, DocumentEmpty, DocumentUnreadable
from shared.errors import Unavailable
from tests.document_rag import office_samples, samples
from tests.house.processes import REPOSITORY
from tests.house.waiting import until

BODY = "\n".join(["O imposto sobre a propriedade predial e territorial urbana é devido por todos os donos."] * 8)
EVIL_CONTAINER = '<container><rootfiles><rootfile full-path="../../etc/passwd"/></rootfiles></container>'
# The event loop of production, and calls that fail at once: threads of gRPC are never idle.
BESIDE_GRPC = """
import asyncio, contextlib, sys
from pathlib import Path
import grpc
from services.document_rag.documents.sandbox import ExtractionLimits, reading
from shared.server import run

async def call(channel):
    while True:
        with contextlib.suppress(grpc.aio.AioRpcError):
            await channel.unary_unary("/a/b")(b"x" * 100_000, timeout=1)

async def main():
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server_port}") as channel:
        calls = [asyncio.create_task(call(channel)) for _ in range(8)]
        for _ in range(3):
            await asyncio.gather(*(read() for _ in range(2)))
        for each in calls:
            each.cancel()

async def read():
    async with reading(Path(sys.argv[1]), "", "", ExtractionLimits()) as text:
        assert text.chunk_count

async def serve():
    global server_port
    server = grpc.aio.server()
    server_port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    await main()
    print("read 6 times", flush=True)
    await server.stop(0)

run(serve)
"""


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


async def test_docx_gives_what_stands_beside_the_running_text_too(tmp_path: Path) -> None:
    extracted = await read(tmp_path, office_samples.rich_docx())
    body = "# Edital\n\nO prazo é de dez dias.\n\nAviso na caixa\n\nContados em dias úteis.\n\nCampo preenchido"
    assert extracted.text == f"{body}\n\nPrefeitura de Exemplo\n\nRua das Flores, 10"


async def test_slides_of_a_pptx_are_pages_with_their_tables_groups_and_notes(tmp_path: Path) -> None:
    extracted = await read(tmp_path, office_samples.pptx(), "audiencia.pptx")
    first, second = extracted.chunks
    assert (extracted.about.title, extracted.about.page_count) == ("Audiência pública", 2)
    assert (first.page, first.section) == (1, "Orçamento")
    assert first.text.endswith("Receita de dez milhões\nDespesa de nove milhões\n\nLembrar do superávit.")
    assert (second.page, second.text) == (2, "Texto agrupado\n\nObras | R$ 2 milhões")


async def test_visible_sheets_of_an_xlsx_are_tables_that_know_their_columns(tmp_path: Path) -> None:
    extracted = await read(tmp_path, office_samples.xlsx(), "planilha.xlsx")
    assert [chunk.section for chunk in extracted.chunks] == ["Telefones: Secretaria, Ramal", "Datas: Evento, Dia"]
    assert extracted.chunks[0].text.endswith("| Saúde | 4012 |\n| Educação | 40.5 |")
    assert extracted.chunks[1].text.endswith("| Carnaval | 2026-02-17 |")


async def test_a_brazilian_csv_is_a_table_and_every_chunk_of_it_knows_its_columns(tmp_path: Path) -> None:
    rows = "".join(f'Rua {n};segunda-feira;"{n}h; à noite"\r\n' for n in range(100))
    extracted = await read(tmp_path, f"Rua;Coleta;Horário\r\n{rows}".encode("cp1252"), "coleta.csv")
    assert len(extracted.chunks) > 5
    assert {chunk.section for chunk in extracted.chunks} == {"Rua, Coleta, Horário"}
    assert "| Rua 42 | segunda-feira | 42h; à noite |" in "\n".join(chunk.text for chunk in extracted.chunks)


async def test_chapters_of_an_epub_come_in_reading_order_without_the_table_of_contents(tmp_path: Path) -> None:
    extracted = await read(tmp_path, office_samples.epub(), "guia.epub")
    assert extracted.about.title == "Guia do cidadão"
    assert [chunk.section for chunk in extracted.chunks] == ["Saúde", "Impostos"]


async def test_bookmarks_of_a_pdf_are_the_sections_of_its_pages(tmp_path: Path) -> None:
    content = samples.pdf("Capa.", "Objeto da lei.", "Ainda o objeto.", "Prazos.", bookmarks={"Objeto": 1, "Prazos": 3})
    extracted = await read(tmp_path, content)
    assert [chunk.section for chunk in extracted.chunks] == ["", "Objeto", "Objeto", "Prazos"]


async def test_taller_lines_of_a_pdf_without_bookmarks_are_headings_and_the_tallest_its_title(tmp_path: Path) -> None:
    body = "\n".join(f"Linha {n} do texto, que conta o que a lei manda fazer." for n in range(8))
    first = f"{{20}}Plano Diretor\n{{14}}1. Zonas\n{body}\n{{14}}2. Vias\n{body}\n{body}"
    extracted = await read(tmp_path, samples.pdf(first, f"{body}\n{{14}}3. Obras\n{body}"))
    assert extracted.about.title == "Plano Diretor"
    sections: dict[str, set[int]] = {name: set() for name in ("1. Zonas", "2. Vias", "3. Obras")}
    for chunk in extracted.chunks:
        sections[chunk.section.removeprefix("Plano Diretor › ")].add(chunk.page)
    assert sections == {"1. Zonas": {1}, "2. Vias": {1, 2}, "3. Obras": {2}}


async def test_short_bold_lines_of_a_pdf_are_headings_below_the_divisions_of_a_law(tmp_path: Path) -> None:
    body = "\n".join([BODY, "{b}Art. 7{/b} O imposto vence em março, na data que o calendário fixar.", BODY])
    law = f"{{b}}CAPÍTULO II\n{{b}}DO IMPOSTO\n{BODY}\n{{b}}Quem paga\n{body}\n{{b}}Observação:\n{BODY}"
    sections = [chunk.section for chunk in (await read(tmp_path, samples.pdf(law))).chunks]
    assert set(sections) == {"CAPÍTULO II DO IMPOSTO", "CAPÍTULO II DO IMPOSTO › Quem paga"}
    shouted = "\n".join(f"{{b}}{line}" for line in law.replace("{b}", "").replace("{/b}", "").split("\n"))
    assert {chunk.section for chunk in (await read(tmp_path, samples.pdf(shouted))).chunks} == {
        "CAPÍTULO II DO IMPOSTO"
    }


async def test_bookmarks_begin_where_their_titles_stand(tmp_path: Path) -> None:
    text = "\n".join(["Abertura da lei."] * 20 + ["2 Prazos"] + ["O prazo é de dez dias."] * 20)
    extracted = await read(tmp_path, samples.pdf(text, bookmarks={"Prazos": 0}))
    assert [chunk.section for chunk in extracted.chunks] == ["", "2 Prazos"]


async def test_a_pdf_page_that_is_a_scan_among_others_is_counted(tmp_path: Path) -> None:
    about = (await read(tmp_path, samples.pdf("Texto.", "", ""))).about
    assert (about.page_count, about.empty_pages) == (3, 2)


async def test_the_same_words_in_another_format_have_the_same_text_digest(tmp_path: Path) -> None:
    texts = [
        await read(tmp_path, samples.pdf("O prazo termina na\nsexta-feira.")),
        await read(tmp_path, b"o PRAZO termina   na sexta-feira.\n", "aviso.txt"),
        await read(tmp_path, b"O prazo termina na quinta-feira.", "aviso.txt"),
    ]
    digests = [text.about.text_sha256 for text in texts]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(
    ("text", "language"),
    [
        (samples.IPTU, "pt"),
        ("The tax is due in February, and those who pay it at once will have a discount of ten per cent.", "en"),
        ("El impuesto vence en febrero y los que pagan de una sola vez tienen un descuento del diez por ciento.", "es"),
        ("12345 67890", ""),
    ],
    ids=["Portuguese", "English", "Spanish", "numbers"],
)
async def test_the_language_of_a_document_is_told(tmp_path: Path, text: str, language: str) -> None:
    assert (await read(tmp_path, text.encode())).about.language == language


async def test_a_text_with_a_few_broken_bytes_keeps_all_the_others(tmp_path: Path) -> None:
    text = "A licitação é pública e a sessão é às três. " * 5
    broken = text.encode().replace("sessão".encode(), b"sess\xc3", 1)
    assert (await read(tmp_path, broken, "ata.txt")).chunks[0].text.startswith("A licitação é pública e a sess\ufffd é")


@pytest.mark.parametrize(
    ("content", "filename", "says"),
    [
        (b"%PDF-1.7 truncated", "a.pdf", "the PDF is damaged"),
        (b"Not at all", "a.pdf", "the PDF is damaged: it does not begin like one"),
        (samples.pdf("Segredo.", locked=True), "a.pdf", "the PDF is locked by a password"),
        (office_samples.locked_office(), "a.docx", "locked by a password"),
        (office_samples.locked_archive(office_samples.epub()), "a.epub", "locked by a password"),
        (office_samples.epub({"META-INF/rights.xml": "<rights/>"}), "a.epub", "DRM"),
        (b"PK\x03\x04 not a zip", "a.docx", "begins like a DOCX, XLSX or other archive, but is none"),
        (office_samples.archive({"leia-me.txt": "oi"}), "a.zip", "an archive, not a document"),
        (office_samples.archive({"mimetype": "application/vnd.oasis.opendocument.text"}), "a.odt", "OpenDocument"),
        (office_samples.archive({"word/document.xml": "<w:document"}), "a.docx", "the DOCX is damaged"),
        (office_samples.archive({"ppt/presentation.xml": "<p"}), "a.pptx", "the PPTX is damaged"),
        (office_samples.archive({"xl/workbook.xml": "<workbook"}), "a.xlsx", "the XLSX is damaged"),
        (office_samples.archive({"mimetype": "application/epub+zip"}), "a.epub", "the EPUB is damaged"),
        (office_samples.epub({"livro/content.opf": ""}), "a.epub", "a part of it is no XML"),
        (office_samples.epub({"META-INF/container.xml": EVIL_CONTAINER}), "a.epub", "its part ../../etc/passwd cannot"),
        (samples.docx_of("t", "h", "p")[:2000], "a.docx", "is damaged"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0", "a.pdf", "a PNG picture"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF\0", "a.txt", "a JPEG picture"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1 old word", "a.doc", "old Word, Excel or PowerPoint"),
        (b"{\\rtf1 oi}", "a.rtf", "an RTF file"),
        (b"um texto\0 com bytes nulos \0\0", "a.txt", "NUL bytes"),
        (b"a\0b", "a.txt", "NUL bytes"),
        (samples.entity_docx(), "a.docx", "XML entities"),
        (office_samples.epub({"livro/x.xhtml": '<!DOCTYPE l [<!ENTITY a "ha">]>'}), "a.epub", "XML entities"),
        (samples.bomb_docx(80_000_000), "a.docx", "unpacks to far more"),
        (b"|".join([b"c"] * 2_000), "a.csv", "columns"),
    ],
    ids=lambda each: each[:40] if isinstance(each, str) else "",
)
def test_what_cannot_be_read_says_what_it_was(tmp_path: Path, content: bytes, filename: str, says: str) -> None:
    (tmp_path / "upload").write_bytes(content)
    options = [f"--chunks={tmp_path / 'chunks'}", f"--filename={filename}"]
    # In this process, which is quicker; what ends the other one is tested above and below.
    outcome = extraction.outcome_of(extraction.parsed_arguments([*options, str(tmp_path / "upload")]))
    assert outcome["error"] == "DOCUMENT_UNREADABLE"
    assert says in str(outcome["message"])


async def test_a_bomb_ends_its_own_process_at_the_memory_limit(tmp_path: Path) -> None:
    limits = ExtractionLimits(memory_bytes=400 << 20, cpu_seconds=20, wall_seconds=40)
    with pytest.raises(DocumentUnreadable):
        await read(tmp_path, samples.bomb_pdf(200_000_000), limits=limits)


async def test_a_loop_ends_its_own_process_at_the_limit_of_processor_time(tmp_path: Path) -> None:
    with pytest.raises(DocumentUnreadable, match="more memory or time"):
        await read(tmp_path, b"a" * 9_000_000, "laco.txt", ExtractionLimits(cpu_seconds=1))


@pytest.mark.parametrize("content", [b"a b " * 2_500_001, b"a" * 40_000_001], ids=["characters", "bytes"])
async def test_a_text_too_long_for_one_document_says_so(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(DocumentUnreadable, match="more than 10,000,000 characters of text; split it"):
        await read(tmp_path, content, "tudo.txt")


async def test_a_process_that_does_not_run_is_no_fault_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="does not run"):
        await read(tmp_path, samples.LIXO.encode(), "lixo.md")


def test_the_process_starts_also_while_other_threads_use_grpc(tmp_path: Path) -> None:
    path = tmp_path / "lixo.md"
    path.write_text(samples.LIXO, encoding="utf-8")
    told = subprocess.run(
        [sys.executable, "-c", BESIDE_GRPC, str(path)], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert told.stdout == "read 6 times\n", told.stderr
    # A crash is one fork in forty; the handlers that cause it tell of themselves each time.
    assert "fork()" not in told.stderr


def test_the_process_loads_nothing_that_reading_does_not_need() -> None:
    script = "import services.document_rag.documents.extraction, sys; print(*sys.modules)"
    told = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert not {"grpc", "google.protobuf", "asyncio", "lxml.etree", "docx", "pypdfium2"} & set(told.stdout.split())


async def test_the_process_sees_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    spy = tmp_path / "sitecustomize.py"
    spy.write_text(f"import os, pathlib; pathlib.Path({str(tmp_path / 'seen')!r}).write_text(repr(dict(os.environ)))")
    monkeypatch.syspath_prepend(str(tmp_path))
    await read(tmp_path, samples.LIXO.encode(), "lixo.md")
    assert "PYTHONPATH" in (tmp_path / "seen").read_text()
    assert "secret" not in (tmp_path / "seen").read_text()


async def test_reading_ends_at_the_wall_clock(tmp_path: Path) -> None:
    with pytest.raises(DocumentUnreadable, match="too long"):
        await read(tmp_path, samples.LIXO.encode(), limits=ExtractionLimits(wall_seconds=0.01))


async def test_a_process_that_is_told_to_end_is_no_fault_of_the_file(tmp_path: Path) -> None:
    reading = asyncio.create_task(read(tmp_path, b"a" * 9_000_000, "longo.txt"))
    await until(extraction_processes)
    for process in extraction_processes():
        process.terminate()
    with pytest.raises(Unavailable):
        await reading


def extraction_processes() -> list[psutil.Process]:
    """Those that this process has started and that have begun."""
    return [each for each in psutil.Process().children() if extraction.__name__ in each.cmdline()]


async def test_deeply_nested_html_is_read_and_not_recursed_into(tmp_path: Path) -> None:
    content = b"<html><body>" + b"<div>" * 20_000 + b"fundo" + b"</div>" * 20_000
    assert "fundo" in (await read(tmp_path, content)).text
