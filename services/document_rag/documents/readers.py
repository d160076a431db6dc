"""Readers of files that are text: plain, Markdown, HTML, CSV.

All readers run only inside the extraction process (extraction.py), which ends when one of them is led astray by its
input. What has headings or tables comes out as Markdown, so that both are known to chunking.
"""

import csv
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from services.document_rag.documents.decoding import decoded, on_one_line, tidied
from services.document_rag.documents.extracted import Extracted, Page, UnreadableError
from services.document_rag.documents.headings import division_headings

# The longest text in any encoding; what is larger is refused before it is in memory.
MAX_TEXT_CHARACTERS = 10_000_000
MAX_TEXT_BYTES = 4 * MAX_TEXT_CHARACTERS
MAX_COLUMNS = 1_000

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
_DELIMITERS = ";,\t|"


def read_text(path: Path) -> Extracted:
    """Plain text; the divisions of a law are its headings."""
    text = decoded(text_bytes(path))
    return Extracted("", [Page(0, text, headings=division_headings(text))])


def read_markdown(path: Path) -> Extracted:
    """Markdown as written; its first level-one heading is the title."""
    text = decoded(text_bytes(path))
    heading = re.search(r"^#[ \t]+(.+?)[ \t#]*$", text, re.MULTILINE)
    return Extracted(heading[1] if heading else "", [Page(0, text)])


def read_html(path: Path) -> Extracted:
    """The words of the page without its navigation, scripts and furniture; headings, lists and rows as Markdown."""
    title, text = html_text(text_bytes(path))
    return Extracted(title, [Page(0, text)])


def read_csv(path: Path) -> Extracted:
    """One Markdown table, whose first row are the names of the columns."""
    text = decoded(text_bytes(path))
    sample = text[:10_000]
    counts = {delimiter: sample.count(delimiter) for delimiter in _DELIMITERS}
    delimiter = max(_DELIMITERS, key=lambda each: counts[each]) if any(counts.values()) else ","
    csv.field_size_limit(len(text) + 1)
    rows = csv.reader(text.splitlines(keepends=True), delimiter=delimiter, strict=False)
    return Extracted("", [Page(0, table("", rows))])


def table(name: str, rows: Iterable[Iterable[str]]) -> str:
    """Rows as a Markdown table under a heading that names it and its columns, so that every chunk of it knows both."""
    written = (["" if cell is None else on_one_line(cell) for cell in row] for row in rows)
    filled = (_without_empty_end(row) for row in written)
    head = next(filter(None, filled), [])
    if not head:
        return f"# {name}" if name else ""
    if len(head) > MAX_COLUMNS:
        raise UnreadableError(f"the table has more than {MAX_COLUMNS:,} columns")
    columns = ", ".join(filter(None, head))[:300]
    opening = [f"# {name}: {columns}" if name else f"# {columns}", "", _row(head), "|" + " --- |" * len(head)]
    return "\n".join([*opening, *(_row(row) for row in filled if row)])


def html_text(content: bytes) -> tuple[str, str]:
    """Title and words of an HTML page."""
    from selectolax.lexbor import LexborHTMLParser

    tree = LexborHTMLParser(decoded(content, declared=_declared_charset(content)))
    title_node = tree.css_first("title")
    title = on_one_line(title_node.text()) if title_node else ""
    for node in tree.css(_BOILERPLATE):
        node.decompose(recursive=True)
    root = tree.css_first("main") or tree.css_first("article") or tree.body
    if root is None:
        return title, ""
    for node in root.css(_PAGE_FURNITURE):
        if node.css_first("h1, h2, h3") is None:
            node.decompose(recursive=True)
    return title, tidied("".join(_html_pieces(root)))


def text_bytes(path: Path) -> bytes:
    """The bytes of a file that is all text. UnreadableError for one too long."""
    if path.stat().st_size > MAX_TEXT_BYTES:
        raise too_long()
    return path.read_bytes()


def too_long() -> UnreadableError:
    """The error for more text than one document may have."""
    return UnreadableError(f"the document has more than {MAX_TEXT_CHARACTERS:,} characters of text; split it")


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _without_empty_end(row: list[str]) -> list[str]:
    while row and not row[-1]:
        row.pop()
    return row


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
