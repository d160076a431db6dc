"""Cuts pages of text into chunks that keep to headings and sentences, each a verbatim span that knows its place.

Pages come and chunks go one after another: a long document is never held whole. A chunk never crosses a page, so the
page that a citation names is where its words stand.
"""

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from semantic_text_splitter import MarkdownSplitter, TextSplitter

from services.document_rag.documents.extracted import Page
from services.document_rag.documents.read_text import ChunkSize
from services.document_rag.model import PAGE_BREAK, SECTION_SEPARATOR, Chunk
from services.document_rag.tokens import count_tokens

_HEADING = re.compile(r"^(#{1,6})[ \t]+(.+?)[ \t#]*$", re.MULTILINE)
_FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
_MARKUP = re.compile(r"[*_`]|\[([^\]]*)\]\([^)]*\)")
_LETTER_OR_DIGIT = re.compile(r"\w")


class _Splitter(Protocol):
    def chunk_indices(self, text: str) -> list[tuple[int, str]]: ...


@dataclass(slots=True)
class _Headings:
    """The headings of the page being cut; those still open when a page ends are in force on the next."""

    starts: list[int] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    open: list[tuple[int, str]] = field(default_factory=list)


def cut(pages: Iterable[Page], size: ChunkSize, *, is_markdown: bool) -> Iterator[Chunk]:
    """The chunks in reading order; what has neither letter nor digit is left out.

    Spans count in the pages joined by PAGE_BREAK. Sections are the headings of Markdown, else what the page says.
    """
    splitter = _splitter(size, is_markdown=is_markdown)
    headings = _Headings()
    offset = ordinal = 0
    for page in pages:
        if is_markdown:
            _find_headings(headings, page.text)
        for start, text in splitter.chunk_indices(page.text):
            if _LETTER_OR_DIGIT.search(text) is None:
                continue
            begin, end = offset + start, offset + start + len(text)
            section = _section_at(headings, start, text) if is_markdown else page.section
            yield Chunk(ordinal, page.number, begin, end, section, text, count_tokens(text))
            ordinal += 1
        offset += len(page.text) + len(PAGE_BREAK)


def _splitter(size: ChunkSize, *, is_markdown: bool) -> _Splitter:
    kind = MarkdownSplitter if is_markdown else TextSplitter
    return kind.from_callback(count_tokens, size.tokens, size.overlap_tokens)


def _find_headings(headings: _Headings, text: str) -> None:
    path = _path(headings.open)
    headings.starts, headings.paths = [0], [path]
    fences = [match.span() for match in _FENCE.finditer(text)]
    for match in _HEADING.finditer(text):
        if _is_inside(fences, match.start()):
            continue
        level = len(match[1])
        headings.open = [above for above in headings.open if above[0] < level]
        headings.open.append((level, _MARKUP.sub(r"\1", match[2]).strip()))
        headings.starts.append(match.start())
        headings.paths.append(_path(headings.open))


def _is_inside(fences: list[tuple[int, int]], position: int) -> bool:
    index = bisect_right(fences, position, key=lambda fence: fence[0]) - 1
    return index >= 0 and position < fences[index][1]


def _path(open_headings: list[tuple[int, str]]) -> str:
    return SECTION_SEPARATOR.join(name for _, name in open_headings)


def _section_at(headings: _Headings, start: int, text: str) -> str:
    """The heading path in force where the chunk's own words begin: a chunk that opens with a heading belongs to it."""
    opening = _HEADING.match(text)
    position = start + (opening.end() if opening else 0)
    return headings.paths[bisect_right(headings.starts, position) - 1]
