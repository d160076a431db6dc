"""Readers of DOCX, PPTX and XLSX. Their headings, slides, sheets and tables come out as Markdown."""

import re
from collections.abc import Iterable, Iterator
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

from services.document_rag.documents.archives import open_archive, parsed
from services.document_rag.documents.decoding import on_one_line, tidied
from services.document_rag.documents.extracted import Extracted, Page, UnreadableError
from services.document_rag.documents.readers import table

_WORD = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
_TEXT_BOX = _WORD + "txbxContent"
_HEADING = re.compile(r"(?:Heading|Título|Titulo) (\d)", re.IGNORECASE)
_FOOTNOTES = "/footnotes"


def read_docx(path: Path) -> Extracted:
    """Paragraphs, text boxes and tables in reading order with their footnotes; then headers and footers, each once."""
    import docx

    open_archive(path, "DOCX").close()
    try:
        document = docx.Document(str(path))
        notes = _footnotes(document)
        body = document.element.body
        parts = [*_blocks(body, document, notes), *_margins(document, "header"), *_margins(document, "footer")]
        title = document.core_properties.title or ""
    except Exception as error:  # whatever XML or zip trouble: to the sender it is one thing
        raise UnreadableError("the DOCX is damaged") from error
    return Extracted(title, [Page(0, tidied("\n\n".join(parts)))])


def read_pptx(path: Path) -> Extracted:
    """A page for each slide: its title as a heading, texts and tables in reading order, the speaker's notes."""
    from pptx import Presentation

    open_archive(path, "PPTX").close()
    try:
        presentation = Presentation(str(path))
        pages = [Page(number, _slide_text(slide)) for number, slide in enumerate(presentation.slides, start=1)]
        return Extracted(presentation.core_properties.title or "", pages)
    except Exception as error:
        raise UnreadableError("the PPTX is damaged") from error


def read_xlsx(path: Path) -> Extracted:
    """A table for each visible sheet, values as calculated when the file was saved."""
    import python_calamine

    open_archive(path, "XLSX").close()
    try:
        workbook = python_calamine.load_workbook(str(path))
    except Exception as error:
        raise UnreadableError("the XLSX is damaged") from error
    return Extracted("", _sheets(workbook))


def _sheets(workbook: Any) -> Iterator[Page]:
    from python_calamine import CalamineError, SheetVisibleEnum

    for sheet in workbook.sheets_metadata:
        if sheet.visible != SheetVisibleEnum.Visible:
            continue
        try:
            rows = workbook.get_sheet_by_name(sheet.name).iter_rows()
        except (CalamineError, ValueError):
            continue  # a sheet that is a chart
        yield Page(0, table(on_one_line(sheet.name), ([_value(cell) for cell in row] for row in rows)))


def _value(cell: object) -> str:
    """A cell as people write it: whole numbers without a point, dates as ISO 8601."""
    match cell:
        case bool():
            return "VERDADEIRO" if cell else "FALSO"
        case float() if cell.is_integer():
            return str(int(cell))
        case datetime() if cell.time() == time():
            return cell.date().isoformat()
        case datetime():
            return cell.isoformat(sep=" ", timespec="minutes")
        case date() | time():
            return cell.isoformat()
        case _:
            return str(cell)


def _slide_text(slide: Any) -> str:
    title = slide.shapes.title
    heading = on_one_line(title.text_frame.text) if title is not None and title.has_text_frame else ""
    parts = [f"# {heading}"] if heading else []
    shapes = (shape for shape in _leaves(slide.shapes) if title is None or shape.shape_id != title.shape_id)
    parts += [text for shape in shapes if (text := _shape_text(shape))]
    if slide.has_notes_slide and slide.notes_slide.notes_text_frame is not None:
        parts.append(slide.notes_slide.notes_text_frame.text)
    return tidied("\n\n".join(parts))


def _leaves(shapes: Any) -> Iterator[Any]:
    for shape in shapes:
        inner = getattr(shape, "shapes", None)
        if inner is None:
            yield shape
        else:
            yield from _leaves(inner)


def _shape_text(shape: Any) -> str:
    if getattr(shape, "has_table", False):
        return _rows([cell.text for cell in row.cells] for row in shape.table.rows)
    return "\n".join(paragraph.text for paragraph in shape.text_frame.paragraphs) if shape.has_text_frame else ""


def _blocks(container: Any, document: Any, notes: dict[str, str]) -> Iterator[str]:
    """The blocks under an element of the body, those in content controls too, a table of contents excepted."""
    for element in container:
        if element.tag == _WORD + "p":
            yield from _paragraph(element, document, notes)
        elif element.tag == _WORD + "tbl":
            yield _rows(_table_cells(element, notes))
        elif element.tag == _WORD + "sdt" and element.find(f".//{_WORD}docPartObj") is None:
            yield from _blocks(element.find(_WORD + "sdtContent") or (), document, notes)


def _paragraph(element: Any, document: Any, notes: dict[str, str]) -> Iterator[str]:
    from docx.text.paragraph import Paragraph

    style = Paragraph(element, document).style
    name = (style.name or "") if style is not None else ""
    text = _words(element).strip()
    heading = _HEADING.fullmatch(name)
    if text:
        level = min(int(heading[1]), 6) if heading else 1 if name == "Title" else 0
        listed = "- " if name.startswith("List") else ""
        yield f"{'#' * level} {on_one_line(text)}" if level else listed + text
    yield from _asides(element, notes)


def _asides(element: Any, notes: dict[str, str]) -> Iterator[str]:
    """What a paragraph or table carries beside its words: text boxes and footnotes."""
    for box in element.iter(_TEXT_BOX):
        if not any(parent.tag == _FALLBACK for parent in box.iterancestors()):
            yield "\n".join(filter(None, (_words(each).strip() for each in box.iter(_WORD + "p"))))
    for mark in element.iter(_WORD + "footnoteReference"):
        yield notes.get(mark.get(_WORD + "id", ""), "")


def _words(element: Any) -> str:
    """The words of a paragraph, inserted ones too, deleted ones not; text boxes in it are told by themselves."""
    pieces: list[str] = []
    stack = [element]
    while stack:
        node = stack.pop()
        if node.tag == _WORD + "t":
            pieces.append(node.text or "")
        elif node.tag in (_WORD + "tab", _WORD + "br", _WORD + "cr"):
            pieces.append("\t" if node.tag == _WORD + "tab" else "\n")
        if node.tag not in (_TEXT_BOX, _FALLBACK, _WORD + "pPr", _WORD + "rPr"):
            stack.extend(reversed(node))
    return "".join(pieces)


def _table_cells(element: Any, notes: dict[str, str]) -> Iterator[list[str]]:
    for row in element.iter(_WORD + "tr"):
        cells = (cell for cell in row if cell.tag == _WORD + "tc")
        yield ["\n".join([*map(_words, cell.iter(_WORD + "p")), *_asides(cell, notes)]) for cell in cells]


def _rows(rows: Iterable[Iterable[str]]) -> str:
    return "\n".join(" | ".join(on_one_line(cell) for cell in row) for row in rows)


def _margins(document: Any, which: str) -> list[str]:
    """The headers, or the footers, of all sections, each once."""
    margins = (getattr(section, which) for section in document.sections)
    texts = (
        tidied("\n".join(map(_words, each._element.iter(_WORD + "p"))))
        for each in margins
        if not each.is_linked_to_previous
    )
    return list(dict.fromkeys(filter(None, texts)))


def _footnotes(document: Any) -> dict[str, str]:
    """The footnotes by the id that marks refer to."""
    for relation in document.part.rels.values():
        if relation.reltype.endswith(_FOOTNOTES) and not relation.is_external:
            root = parsed(relation.target_part.blob)
            return {note.get(_WORD + "id", ""): tidied(_words(note)) for note in root.iter(_WORD + "footnote")}
    return {}
