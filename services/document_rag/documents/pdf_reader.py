"""The text layer of a PDF, read page by page from the file: neither the file nor its text is ever held whole."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from ctypes import c_int, create_string_buffer
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import pypdfium2
from pypdfium2.raw import (
    FPDF_ERR_PASSWORD,
    FPDF_ERR_SECURITY,
    FPDFText_GetCharIndexFromTextIndex,
    FPDFText_GetFontInfo,
)

from services.document_rag.documents.decoding import lines, on_one_line, tidied
from services.document_rag.documents.extracted import Extracted, Heading, Page, UnreadableError
from services.document_rag.documents.headings import (
    MAX_HEADING_CHARACTERS,
    SENTENCE_ENDS,
    division_level,
    is_name_of_division,
)

MAX_PAGES = 10_000
MAX_BOOKMARKS = 10_000

_SPACES = re.compile(r"[^\S\n]+")
_LETTERS = re.compile(r"[^\W\d_]{2}")
_SAMPLED_PAGES = 8
_MAX_LINES_MEASURED = 1_000
# A line so much taller than the body of the document is a heading.
_HEADING_HEIGHT = 1.12
# So is a short line all in bold, unless the body is; below the divisions of a law, which are bold as well.
_BOLD_FONT = re.compile(rb"bold|black|heavy|cmbx", re.IGNORECASE)
_BOLD_LEVEL = 10.0
_MAX_BOLD_CHARACTERS = 80
_MAX_FONT_NAME_BYTES = 128
# Lines of a table of contents, and addresses.
_NO_HEADING = re.compile(r"(?:\. ?){4}|https?:|\S@\S")
_LONGEST_NUMBER = 12
_TITLE_HEIGHT = 1.3
_NO_TITLE = re.compile(r"^Microsoft Word - |^untitled|^sem título|\.(docx?|odt|pdf|indd|xlsx?|pptx?)$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Line:
    """A line as printed, how tall its letters are in points, 0 when that is not known, and whether all are bold."""

    text: str
    height: float = 0.0
    is_bold: bool = False


@dataclass(frozen=True, slots=True)
class _Body:
    """How most letters of a document look. Without a height no line is told from it."""

    height: float = 0.0
    is_bold: bool = False


@dataclass(frozen=True, slots=True)
class _Bookmark:
    title: str
    level: int


def read_pdf(path: Path) -> Extracted:
    """The pages, with the hard line breaks of running text undone.

    Headings are what bookmarks point to; where a file has none, the lines taller than its body, and the divisions of
    laws.
    """
    try:
        document = pypdfium2.PdfDocument(path)
    except pypdfium2.PdfiumError as error:
        if error.err_code in (FPDF_ERR_PASSWORD, FPDF_ERR_SECURITY):
            raise UnreadableError("the PDF is locked by a password; save it without one and upload that") from error
        raise UnreadableError("the PDF is damaged: it cannot be opened") from error
    if len(document) > MAX_PAGES:
        raise UnreadableError(f"the PDF has more than {MAX_PAGES:,} pages; split it")
    body = _body(document)
    return Extracted(_stated_title(document) or _printed_title(document, body), _pages(document, body))


def _stated_title(document: Any) -> str:
    """The title in the file's description, unless a program put the name of a file there."""
    title = str(document.get_metadata_dict().get("Title", "")).strip()
    return "" if _NO_TITLE.search(title) else title


def _printed_title(document: Any, body: _Body) -> str:
    """The tallest heading of the first page, if it is much taller than the body."""
    try:
        headings = _page(1, _printed(document[0]), [], body).headings
    except pypdfium2.PdfiumError:
        return ""
    first = min(headings, key=lambda heading: heading.level, default=None)
    return first.title if first and first.level < -_TITLE_HEIGHT * body.height else ""


def _pages(document: Any, body: _Body) -> Iterator[Page]:
    bookmarks = _bookmarks(document)
    body = _Body() if bookmarks else body
    unreadable = 0
    for index in range(len(document)):
        try:
            printed = _printed(document[index])
        except pypdfium2.PdfiumError:
            # One page lost is no reason to lose the others; a document of nothing but such pages is damaged.
            unreadable, printed = unreadable + 1, []
        yield _page(index + 1, printed, bookmarks.get(index, []), body)
    if unreadable == len(document):
        raise UnreadableError("the PDF is damaged: none of its pages can be read")


def _bookmarks(document: Any) -> dict[int, list[_Bookmark]]:
    """The bookmarks that point to a page, by its index."""
    found: dict[int, list[_Bookmark]] = defaultdict(list)
    for bookmark in islice(document.get_toc(max_depth=6), MAX_BOOKMARKS):
        target = bookmark.get_dest()
        index = target.get_index() if target else None
        title = on_one_line(bookmark.get_title() or "")[:MAX_HEADING_CHARACTERS]
        if index is not None and title:
            found[index].append(_Bookmark(title, bookmark.level + 1))
    return found


def _body(document: Any) -> _Body:
    """The look of most letters of a few pages."""
    letters: Counter[_Body] = Counter()
    for index in range(0, len(document), -(-len(document) // _SAMPLED_PAGES)):
        try:
            for line in _printed(document[index]):
                letters[_Body(line.height, line.is_bold)] += len(line.text)
        except pypdfium2.PdfiumError:
            continue
    return max(letters, key=lambda look: letters[look], default=_Body())


def _printed(page: Any) -> list[_Line]:
    text_page = page.get_textpage()
    text = str(text_page.get_text_range())
    found: list[_Line] = []
    start = 0
    for line in text.split("\r\n"):
        found.append(_line(text_page, start, line) if len(found) < _MAX_LINES_MEASURED else _Line(line))
        start += len(line) + 2
    text_page.close()
    page.close()
    return found


def _line(text_page: Any, start: int, text: str) -> _Line:
    end = start + len(text.rstrip()) - 1
    is_bold = end >= start and all(_is_bold(text_page, place) for place in (start, end))
    return _Line(text, _height(text_page, start), is_bold)


def _is_bold(text_page: Any, place: int) -> bool:
    name = create_string_buffer(_MAX_FONT_NAME_BYTES)
    index = FPDFText_GetCharIndexFromTextIndex(text_page, place)
    length = FPDFText_GetFontInfo(text_page, index, name, _MAX_FONT_NAME_BYTES, c_int()) if index >= 0 else 0
    return length > 0 and _BOLD_FONT.search(name.value) is not None


def _height(text_page: Any, start: int) -> float:
    index = FPDFText_GetCharIndexFromTextIndex(text_page, start)
    if index < 0:
        return 0.0
    try:
        _, bottom, _, top = text_page.get_charbox(index, loose=True)
    except pypdfium2.PdfiumError:
        return 0.0
    return float(round(top - bottom, 1))


def _page(number: int, printed: list[_Line], bookmarks: list[_Bookmark], body: _Body) -> Page:
    """Blocks of running text and the headings between them, one empty line between any two."""
    longest = max((len(line.text) for line in printed), default=0)
    waiting = list(bookmarks)
    parts: list[str] = []
    headings: list[Heading] = []
    length = 0
    for level, text in _blocks(_joined_words(printed), waiting, body):
        part = on_one_line(text) if level is not None else unwrapped(text, longest)
        if not part:
            continue
        start = length + 2 if parts else 0
        length = start + len(part)
        parts.append(part)
        if level is not None:
            headings.append(Heading(start, length, level, part))
    return Page(number, "\n\n".join(parts), (*_unseen(waiting, headings, length), *headings))


def _unseen(waiting: list[_Bookmark], headings: list[Heading], length: int) -> Iterator[Heading]:
    """A bookmark without its line: alone, it is the whole page's. Of several it is not known which part is whose."""
    if len(waiting) == 1 and not headings:
        yield Heading(0, 0, waiting[0].level, waiting[0].title)
    elif waiting:
        headings.extend(Heading(length, length, each.level, each.title) for each in waiting)


def _blocks(printed: Iterable[_Line], bookmarks: list[_Bookmark], body: _Body) -> Iterator[tuple[float | None, str]]:
    """Lines of one kind together: a heading of some level, or, None, running text. Takes the bookmarks it meets."""
    kept: list[str] = []
    kind: float | None = None
    for line in printed:
        text = line.text.strip()
        level = _bookmarked(text, bookmarks) if bookmarks else _level(text, line, body)
        is_plain, is_below_division = level in (None, _BOLD_LEVEL), kind is not None and 0 < kind < _BOLD_LEVEL
        if is_plain and is_below_division and len(kept) == 1 and is_name_of_division(text):
            level = kind
        if text and level != kind:
            yield kind, "\n".join(kept)
            kept, kind = [], level
        kept.append(text)
    yield kind, "\n".join(kept)


def _bookmarked(text: str, bookmarks: list[_Bookmark]) -> float | None:
    """The level of the bookmark whose title the line is, a number before it apart."""
    for place, bookmark in enumerate(bookmarks):
        number = on_one_line(text).removesuffix(bookmark.title)
        if text and text != number and len(number) <= _LONGEST_NUMBER and (not number or number.endswith(" ")):
            del bookmarks[place]
            return bookmark.level
    return None


def _level(text: str, line: _Line, body: _Body) -> float | None:
    """Taller lines are above smaller ones, all of them above the divisions of a law, and these above bold lines."""
    if not body.height or len(text) > MAX_HEADING_CHARACTERS:
        return None
    if _LETTERS.search(text) is None or _NO_HEADING.search(text):
        return None
    if line.height > _HEADING_HEIGHT * body.height:
        return -line.height
    if (level := division_level(text)) is not None:
        return level
    is_bold = line.is_bold and not body.is_bold and line.height >= body.height and len(text) <= _MAX_BOLD_CHARACTERS
    return _BOLD_LEVEL if is_bold and not text.endswith(SENTENCE_ENDS) else None


def _joined_words(printed: list[_Line]) -> Iterator[_Line]:
    """Words that were broken at the end of a line are whole again, on the line where they began."""
    broken: _Line | None = None
    for line in printed:
        text = line.text if broken is None else broken.text + line.text
        whole = replace(broken or line, text=lines(text.removesuffix("\ufffe").replace("\ufffe", "")))
        broken = whole if text.endswith("\ufffe") else None
        if broken is None:
            yield whole
    if broken is not None:
        yield broken


def unwrapped(text: str, longest: int) -> str:
    """Joins the lines of a paragraph: a long line that ends without a full stop goes on in the next one.

    `longest`: characters of the longest line of the page.
    """
    joined: list[list[str]] = []
    for line in (_SPACES.sub(" ", line).strip() for line in text.split("\n")):
        last = joined[-1][-1] if joined else ""
        goes_on = last and len(last) > 0.6 * longest and last[-1] not in ".:;!?"
        if goes_on and line and not line[0].isupper():
            joined[-1].append(line)
        else:
            joined.append([line])
    return tidied("\n".join(" ".join(parts) for parts in joined))
