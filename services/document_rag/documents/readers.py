"""Readers of the five document types: bytes in, title and pages of text out.

They run only inside the extraction process (extraction.py), which ends when one of them is led astray by its input.
HTML and DOCX come out as Markdown, so that their headings are known to chunking.
"""

import io
import re
import zipfile
from collections.abc import Iterator
from typing import Any

MAX_PAGES = 2_000
MAX_TEXT_CHARACTERS = 5_000_000
MAX_UNPACKED_BYTES = 256 * 1024 * 1024
MAX_PART_BYTES = 64 * 1024 * 1024
MAX_COMPRESSION_RATIO = 200
MAX_PARTS = 10_000

_BLOCKS = frozenset(
    """
    address article aside blockquote body dd details div dl dt fieldset figcaption figure form h1 h2 h3 h4 h5 h6
    hr li main ol p pre section summary table tbody td tfoot th thead tr ul
    """.split()
)
_BOILERPLATE = (
    "script, style, noscript, template, nav, iframe, svg, object, select, button, head, .toc,"
    " [role=navigation], [hidden]"
)
_PAGE_FURNITURE = "header, footer, aside"
_SPACES = re.compile(r"[^\S\n]+")
_EMPTY_LINES = re.compile(r"\n\s*\n+")
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f]")

Extracted = tuple[str, list[tuple[int, str]]]
"""Title ("" when none) and pages as (number, text); number 0 where the type has no pages."""


class UnreadableError(Exception):
    """What is wrong with the bytes, in words fit for the person who sent them."""


def read_text(content: bytes) -> Extracted:
    """Plain text in UTF-8, UTF-16 with a byte order mark, or Windows-1252."""
    return "", [(0, decoded(content))]


def read_markdown(content: bytes) -> Extracted:
    """Markdown as written; its first level-one heading is the title."""
    text = decoded(content)
    heading = re.search(r"^#[ \t]+(.+?)[ \t#]*$", text, re.MULTILINE)
    return (heading[1] if heading else ""), [(0, text)]


def read_html(content: bytes) -> Extracted:
    """The words of the page without its navigation, scripts and furniture; headings, lists and rows as Markdown."""
    from selectolax.lexbor import LexborHTMLParser

    tree = LexborHTMLParser(decoded(content, declared=_declared_charset(content)))
    title_node = tree.css_first("title")
    title = _SPACES.sub(" ", title_node.text().replace("\n", " ")).strip() if title_node else ""
    for node in tree.css(_BOILERPLATE):
        node.decompose(recursive=True)
    root = tree.css_first("main") or tree.css_first("article") or tree.body
    if root is None:
        return title, [(0, "")]
    for node in root.css(_PAGE_FURNITURE):
        if node.css_first("h1, h2, h3") is None:
            node.decompose(recursive=True)
    return title, [(0, _tidied("".join(_html_pieces(root))))]


def read_pdf(content: bytes) -> Extracted:
    """The text layer, page by page, with the hard line breaks of running text undone."""
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(content)
    except pypdfium2.PdfiumError as error:
        raise UnreadableError("the PDF is damaged or locked by a password") from error
    if len(document) > MAX_PAGES:
        raise UnreadableError(f"the PDF has more than {MAX_PAGES} pages")
    title = str(document.get_metadata_dict().get("Title", ""))
    return title, [(number, _page_text(page)) for number, page in enumerate(document, start=1)]


def read_docx(content: bytes) -> Extracted:
    """Paragraphs and tables in reading order, heading styles as Markdown headings."""
    import docx
    from docx.table import Table

    _refuse_bombs(content)
    try:
        document = docx.Document(io.BytesIO(content))
    except Exception as error:  # whatever XML or zip trouble: to the sender it is one thing
        raise UnreadableError("the DOCX is damaged") from error
    parts = [
        _table_text(block) if isinstance(block, Table) else _paragraph_text(block)
        for block in document.iter_inner_content()
    ]
    return document.core_properties.title or "", [(0, _tidied("\n\n".join(parts)))]


def decoded(content: bytes, *, declared: str = "") -> str:
    """The bytes as text: byte order mark, declared charset, UTF-8, else Windows-1252 as Brazilian files often are."""
    for mark, encoding in ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if content.startswith(mark):
            return _lines(content.decode(encoding, errors="replace"))
    if b"\0" in content:
        raise UnreadableError("this is a binary file of a type that is not supported")
    for encoding in filter(None, (declared, "utf-8", "cp1252")):
        try:
            return _lines(content.decode(encoding))
        except (UnicodeDecodeError, LookupError):
            continue
    return _lines(content.decode("latin-1"))


def _lines(text: str) -> str:
    return _CONTROLS.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))


def _declared_charset(content: bytes) -> str:
    declared = re.search(rb"<meta[^>]+charset=[\"']?([\w-]+)", content[:4096], re.IGNORECASE)
    return declared[1].decode("ascii") if declared else ""


def _html_pieces(node: Any) -> Iterator[str]:
    """The text under a node; walked with an own stack, because a hostile page nests deeper than Python recurses."""
    stack: list[Any] = [node]
    while stack:
        current = stack.pop()
        if isinstance(current, str):
            yield current
            continue
        name = current.tag
        if name == "-text":
            yield re.sub(r"\s+", " ", current.text_content or "")
            continue
        if name == "br":
            yield "\n"
            continue
        if name == "pre":  # fenced, or a shell's "# command" would read as a heading
            yield f"\n\n```\n{current.text()}\n```\n\n"
            continue
        before, after = _html_frame(name)
        yield before
        stack.append(after)
        stack.extend(reversed(list(current.iter(include_text=True))))


def _html_frame(name: str) -> tuple[str, str]:
    match name:
        case "h1" | "h2" | "h3" | "h4" | "h5" | "h6":
            return "\n\n" + "#" * int(name[1]) + " ", "\n\n"
        case "li":
            return "\n- ", "\n"
        case "td" | "th":
            return " ", " |"
        case "tr" | "dt" | "dd":
            return "\n", "\n"
        case _ if name in _BLOCKS:
            return "\n\n", "\n\n"
        case _:
            return "", ""


def _page_text(page: Any) -> str:
    text_page = page.get_textpage()
    text = str(text_page.get_text_range())
    text_page.close()
    page.close()
    return _unwrapped(_lines(text.replace("\ufffe\r\n", "").replace("\ufffe", "")))


def _unwrapped(text: str) -> str:
    """Joins the lines of a paragraph: a long line that ends without a full stop goes on in the next one."""
    lines = [_SPACES.sub(" ", line).strip() for line in text.split("\n")]
    longest = max(map(len, lines), default=0)
    joined: list[str] = []
    for line in lines:
        goes_on = bool(joined and joined[-1]) and len(joined[-1].rsplit("\n", 1)[-1]) > 0.6 * longest
        if goes_on and line and joined[-1][-1] not in ".:;!?" and not line[0].isupper():
            joined[-1] += " " + line
        else:
            joined.append(line)
    return _tidied("\n".join(joined))


def _paragraph_text(paragraph: Any) -> str:
    style = paragraph.style.name if paragraph.style is not None else ""
    text = str(paragraph.text).strip()
    heading = re.fullmatch(r"(?:Heading|Título|Titulo) (\d)", style)
    if heading and text:
        return "#" * min(int(heading[1]), 6) + " " + text
    if style == "Title" and text:
        return "# " + text
    return f"- {text}" if text and style.startswith("List") else text


def _table_text(table: Any) -> str:
    rows = ([cell.text.strip().replace("\n", " ") for cell in row.cells] for row in table.rows)
    return "\n".join(" | ".join(cells) for cells in rows)


def _refuse_bombs(content: bytes) -> None:
    """Sizes as the archive declares them, before anything is unpacked; entity tricks need a DTD, and DOCX has none."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        parts = archive.infolist()
        unpacked = sum(part.file_size for part in parts)
        packed = max(1, sum(part.compress_size for part in parts))
        if len(parts) > MAX_PARTS or unpacked > MAX_UNPACKED_BYTES or unpacked > packed * MAX_COMPRESSION_RATIO:
            raise UnreadableError("the DOCX unpacks to far more than a document needs")
        for part in parts:
            if part.file_size > MAX_PART_BYTES:
                raise UnreadableError("a part of the DOCX is larger than a document needs")
            if part.filename.endswith((".xml", ".rels")) and b"<!DOCTYPE" in archive.read(part)[:4096]:
                raise UnreadableError("the DOCX declares XML entities, which no word processor does")


def _tidied(text: str) -> str:
    lines = (_SPACES.sub(" ", line).strip() for line in _CONTROLS.sub("", text).split("\n"))
    return _EMPTY_LINES.sub("\n\n", "\n".join(lines)).strip()
