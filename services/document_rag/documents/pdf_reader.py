"""The text layer of a PDF, read page by page from the file: neither the file nor its text is ever held whole."""

import re
from collections import defaultdict
from collections.abc import Iterator
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

import pypdfium2
from pypdfium2.raw import FPDF_ERR_PASSWORD, FPDF_ERR_SECURITY

from services.document_rag.documents.decoding import lines, on_one_line, tidied
from services.document_rag.documents.extracted import Extracted, Page, UnreadableError
from services.document_rag.model import SECTION_SEPARATOR

MAX_PAGES = 10_000
MAX_BOOKMARKS = 10_000

_SPACES = re.compile(r"[^\S\n]+")


def read_pdf(path: Path) -> Extracted:
    """The pages, with the hard line breaks of running text undone, under the bookmarks in force where they begin."""
    try:
        document = pypdfium2.PdfDocument(path)
    except pypdfium2.PdfiumError as error:
        if error.err_code in (FPDF_ERR_PASSWORD, FPDF_ERR_SECURITY):
            raise UnreadableError("the PDF is locked by a password; save it without one and upload that") from error
        raise UnreadableError("the PDF is damaged: it cannot be opened") from error
    if len(document) > MAX_PAGES:
        raise UnreadableError(f"the PDF has more than {MAX_PAGES:,} pages; split it")
    title = str(document.get_metadata_dict().get("Title", ""))
    return Extracted(title, _pages(document))


def _pages(document: Any) -> Iterator[Page]:
    bookmarks = _bookmarks(document)
    section = ""
    unreadable = 0
    for index in range(len(document)):
        here = bookmarks.get(index, [section])
        try:
            text = _page_text(document[index])
        except pypdfium2.PdfiumError:
            # One page lost is no reason to lose the others; a document of nothing but such pages is damaged.
            unreadable, text = unreadable + 1, ""
        yield Page(index + 1, text, _shared(here))
        section = here[-1]
    if unreadable == len(document):
        raise UnreadableError("the PDF is damaged: none of its pages can be read")


def _bookmarks(document: Any) -> dict[int, list[str]]:
    """The paths of the bookmarks that point to a page, by its index."""
    found: dict[int, list[str]] = defaultdict(list)
    above: list[tuple[int, str]] = []
    for bookmark in islice(document.get_toc(max_depth=6), MAX_BOOKMARKS):
        target = bookmark.get_dest()
        index = target.get_index() if target else None
        title = on_one_line(bookmark.get_title() or "")[:200]
        if index is None or not title:
            continue
        above = [each for each in above if each[0] < bookmark.level]
        above.append((bookmark.level, title))
        found[index].append(SECTION_SEPARATOR.join(name for _, name in above))
    return found


def _shared(paths: list[str]) -> str:
    """What several bookmarks of one page have in common: which of them a passage stands under is not known."""
    levels = zip(*(path.split(SECTION_SEPARATOR) for path in paths), strict=False)
    return SECTION_SEPARATOR.join(names[0] for names in takewhile(lambda names: len(set(names)) == 1, levels))


def _page_text(page: Any) -> str:
    text_page = page.get_textpage()
    text = str(text_page.get_text_range())
    text_page.close()
    page.close()
    return unwrapped(lines(text.replace("\ufffe\r\n", "").replace("\ufffe", "")))


def unwrapped(text: str) -> str:
    """Joins the lines of a paragraph: a long line that ends without a full stop goes on in the next one."""
    trimmed = [_SPACES.sub(" ", line).strip() for line in text.split("\n")]
    longest = max(map(len, trimmed), default=0)
    joined: list[list[str]] = []
    for line in trimmed:
        last = joined[-1][-1] if joined else ""
        goes_on = last and len(last) > 0.6 * longest and last[-1] not in ".:;!?"
        if goes_on and line and not line[0].isupper():
            joined[-1].append(line)
        else:
            joined.append([line])
    return tidied("\n".join(" ".join(parts) for parts in joined))
