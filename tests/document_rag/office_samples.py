"""Office files, e-books and hostile archives made for the tests."""

import io
import zipfile
from collections.abc import Callable
from datetime import date

import docx
import xlsxwriter
from docx.oxml import parse_xml
from docx.oxml.ns import nsdecls
from pptx import Presentation
from pptx.util import Cm

CONTAINER = """<?xml version="1.0"?>
<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container" version="1.0">
<rootfiles>
<rootfile full-path="livro/content.opf" media-type="application/oebps-package+xml"/></rootfiles></container>"""
PACKAGE = """<?xml version="1.0"?>
<package xmlns="http://www.idpf.org/2007/opf" version="3.0">
<metadata xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>Guia do cidadão</dc:title></metadata>
<manifest><item id="b" href="dois.xhtml" media-type="application/xhtml+xml"/>
<item id="a" href="cap%C3%ADtulo%201.xhtml" media-type="application/xhtml+xml"/>
<item id="n" href="nav.xhtml" media-type="application/xhtml+xml" properties="nav"/></manifest>
<spine><itemref idref="n"/><itemref idref="a"/><itemref idref="b"/></spine></package>"""
CHAPTER = """<?xml version="1.0" encoding="utf-8"?><!DOCTYPE html>
<html xmlns="http://www.w3.org/1999/xhtml"><head><title>x</title></head><body><h1>{}</h1><p>{}</p></body></html>"""


def epub(extra: dict[str, str] | None = None) -> bytes:
    """Two chapters, packed against their reading order, and a table of contents."""
    parts = {
        "META-INF/container.xml": CONTAINER,
        "livro/content.opf": PACKAGE,
        "livro/dois.xhtml": CHAPTER.format("Impostos", "O IPTU vence em fevereiro."),
        "livro/capítulo 1.xhtml": CHAPTER.format("Saúde", "O posto abre às oito horas."),
        "livro/nav.xhtml": CHAPTER.format("Sumário", "Saúde, Impostos"),
    }
    return archive({"mimetype": "application/epub+zip", **parts, **(extra or {})})


def pptx() -> bytes:
    """Two slides: a title with bullets and notes; a group with a text box, and a table."""
    presentation = Presentation()
    presentation.core_properties.title = "Audiência pública"
    first = presentation.slides.add_slide(presentation.slide_layouts[1])
    first.shapes.title.text = "Orçamento"
    first.placeholders[1].text = "Receita de dez milhões\nDespesa de nove milhões"
    first.notes_slide.notes_text_frame.text = "Lembrar do superávit."
    second = presentation.slides.add_slide(presentation.slide_layouts[6])
    box = second.shapes.add_group_shape().shapes.add_textbox(Cm(1), Cm(1), Cm(5), Cm(2))
    box.text_frame.text = "Texto agrupado"
    table = second.shapes.add_table(1, 2, Cm(1), Cm(5), Cm(9), Cm(2)).table
    table.cell(0, 0).text, table.cell(0, 1).text = "Obras", "R$ 2 milhões"
    return _saved(presentation.save)


def xlsx() -> bytes:
    """A sheet of telephone numbers, one of dates, and a hidden one."""
    content = io.BytesIO()
    with xlsxwriter.Workbook(content, {"in_memory": True}) as workbook:
        people = workbook.add_worksheet("Telefones")
        people.write_row(0, 0, ["Secretaria", "Ramal"])
        people.write_row(1, 0, ["Saúde", 4012])
        people.write_row(3, 0, ["Educação", 40.5])
        dates = workbook.add_worksheet("Datas")
        dates.write_row(0, 0, ["Evento", "Dia"])
        dates.write(1, 0, "Carnaval")
        dates.write_datetime(1, 1, date(2026, 2, 17), workbook.add_format({"num_format": "dd/mm/yyyy"}))
        workbook.add_worksheet("Rascunho").write(0, 0, "segredo")
        workbook.worksheets()[2].hide()
    return content.getvalue()


def rich_docx() -> bytes:
    """A DOCX with a header, a footer, a text box, a footnote, an inserted and a deleted word, and a content control."""
    document = docx.Document()
    document.sections[0].header.paragraphs[0].text = "Prefeitura de Exemplo"
    document.sections[0].footer.paragraphs[0].text = "Rua das Flores, 10"
    document.add_heading("Edital", level=1)
    paragraph = document.add_paragraph("O prazo é de ")
    word, markup = nsdecls("w"), 'xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006"'
    box = "<w:txbxContent><w:p><w:r><w:t>Aviso na caixa</w:t></w:r></w:p></w:txbxContent>"
    both = f"<mc:Choice Requires='wps'>{box}</mc:Choice><mc:Fallback>{box}</mc:Fallback>"
    for xml in (
        f'<w:ins {word} w:id="1" w:author="a"><w:r><w:t>dez</w:t></w:r></w:ins>',
        f'<w:del {word} w:id="2" w:author="a"><w:r><w:delText>cinco</w:delText></w:r></w:del>',
        f"<w:r {word}><w:t> dias.</w:t></w:r>",
        f"<w:r {word} {markup}><mc:AlternateContent>{both}</mc:AlternateContent></w:r>",
        f'<w:r {word}><w:footnoteReference w:id="7"/></w:r>',
    ):
        paragraph._p.append(parse_xml(xml))
    control = f"<w:sdt {word}><w:sdtContent><w:p><w:r><w:t>Campo preenchido</w:t></w:r></w:p></w:sdtContent></w:sdt>"
    document.element.body.insert(2, parse_xml(control))
    return _with_footnote(_saved(document.save), "7", "Contados em dias úteis.")


def archive(parts: dict[str, str]) -> bytes:
    """A zip archive of texts."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, text in parts.items():
            packed.writestr(name, text)
    return content.getvalue()


def locked_archive(content: bytes) -> bytes:
    """The archive with every part marked as encrypted."""
    locked = bytearray(content)
    for magic, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = locked.find(magic)
        while place >= 0:
            locked[place + offset] |= 1
            place = locked.find(magic, place + 4)
    return bytes(locked)


def locked_office() -> bytes:
    """How a DOCX or XLSX under a password begins: a compound file that holds an encrypted package."""
    return b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(1016) + "EncryptedPackage".encode("utf-16-le") + bytes(480)


def _with_footnote(content: bytes, number: str, text: str) -> bytes:
    word = nsdecls("w")
    note = f'<w:footnote w:id="{number}"><w:p><w:r><w:t>{text}</w:t></w:r></w:p></w:footnote>'
    kind = "application/vnd.openxmlformats-officedocument.wordprocessingml.footnotes+xml"
    relation = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/footnotes"
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            part = old.read(name).decode("utf-8", "surrogateescape")
            if name == "[Content_Types].xml":
                part = part.replace(
                    "</Types>", f'<Override PartName="/word/footnotes.xml" ContentType="{kind}"/></Types>'
                )
            if name == "word/_rels/document.xml.rels":
                last = f'<Relationship Id="rIdNotes" Type="{relation}" Target="footnotes.xml"/></Relationships>'
                part = part.replace("</Relationships>", last)
            new.writestr(name, part.encode("utf-8", "surrogateescape"))
        new.writestr("word/footnotes.xml", f"<w:footnotes {word}>{note}</w:footnotes>")
    return packed.getvalue()


def _saved(save: Callable[[io.BytesIO], object]) -> bytes:
    content = io.BytesIO()
    save(content)
    return content.getvalue()
