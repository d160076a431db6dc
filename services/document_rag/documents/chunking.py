"""Cuts pages of text into chunks that keep to headings and sentences, each a verbatim span that knows its place.

Pages come and chunks go one after another: a long document is never held whole. A chunk never crosses a page, so the
page that a citation names is where its words stand.
"""

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from semantic_text_splitter import MarkdownSplitter, TextSplitter

from services.document_rag.documents.extracted import PAGE_BREAK, SECTION_SEPARATOR, ChunkSize, Heading, Page, Span
from services.document_rag.tokens import count_tokens

_HEADING = re.compile(r"^(#{1,6})[ \t]+(.+?)[ \t#]*$", re.MULTILINE)
_FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
_MARKUP = re.compile(r"[*_`]|\[([^\]]*)\]\([^)]*\)")
_LETTER_OR_DIGIT = re.compile(r"\w")
# A heading ends a chunk only when the chunk holds so much already: small sections share one.
_LEAST_SHARE = 0.5
# A chunk carries its section: what is longer tells nobody where a passage stands.
_MAX_TITLE_CHARACTERS = 200
_MAX_DEPTH = 6


class _Splitter(Protocol):
    def chunk_indices(self, text: str) -> list[tuple[int, str]]: ...


def cut(pages: Iterable[Page], size: ChunkSize, *, is_markdown: bool) -> Iterator[Span]:
    """The chunks in reading order; what has neither letter nor digit is left out.

    Spans count in the pages joined by PAGE_BREAK. Headings stay in force until another closes them, on later pages too.
    """
    splitter = _splitter(size, is_markdown=is_markdown)
    sections = _Sections()
    offset = 0
    for page in pages:
        headings = _markdown_headings(page.text) if is_markdown else page.headings
        sections.turn_to(page.text, headings)
        for start, text in _spans(page.text, splitter, _parts(page, size) if not is_markdown else [0]):
            if _LETTER_OR_DIGIT.search(text) is None:
                continue
            begin, end = offset + start, offset + start + len(text)
            yield Span(page.number, begin, end, sections.at(start), text, count_tokens(text))
        offset += len(page.text) + len(PAGE_BREAK)


def _splitter(size: ChunkSize, *, is_markdown: bool) -> _Splitter:
    kind = MarkdownSplitter if is_markdown else TextSplitter
    return kind.from_callback(count_tokens, size.tokens, size.overlap_tokens)


def _parts(page: Page, size: ChunkSize) -> list[int]:
    """Where the page is cut whatever its length: at headings that begin no small section."""
    starts = [0]
    for heading in page.headings:
        if count_tokens(page.text[starts[-1] : heading.start]) >= _LEAST_SHARE * size.tokens:
            starts.append(heading.start)
    return starts


def _spans(text: str, splitter: _Splitter, starts: Sequence[int]) -> Iterator[tuple[int, str]]:
    for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
        for place, piece in splitter.chunk_indices(text[start:end]):
            yield start + place, piece


@dataclass(slots=True)
class _Sections:
    """Which headings are in force where, on the page being cut."""

    headings: Sequence[Heading] = ()
    paths: list[str] = field(default_factory=list)
    open: list[tuple[float, str]] = field(default_factory=list)
    text: str = ""

    def turn_to(self, text: str, headings: Sequence[Heading]) -> None:
        """Takes the next page up; what is open stays open."""
        self.headings, self.text = headings, text
        self.paths = [self._path()]
        for heading in headings:
            self.open = [above for above in self.open if above[0] < heading.level]
            self.open.append((heading.level, heading.title))
            self.paths.append(self._path())

    def at(self, start: int) -> str:
        """The path in force where a chunk's own words begin: one that opens with headings stands under the last."""
        index = bisect_right(self.headings, start, key=lambda heading: heading.start)
        while index < len(self.headings):
            before = self.headings[index - 1].end if index else 0
            between = self.text[max(start, before) : self.headings[index].start]
            if index == 0 or before < start or between.strip():
                break
            index += 1
        return self.paths[index]

    def _path(self) -> str:
        return SECTION_SEPARATOR.join(title for _, title in self.open[-_MAX_DEPTH:])


def _markdown_headings(text: str) -> list[Heading]:
    fences = [match.span() for match in _FENCE.finditer(text)]
    return [
        Heading(match.start(), match.end(), len(match[1]), _MARKUP.sub(r"\1", match[2]).strip()[:_MAX_TITLE_CHARACTERS])
        for match in _HEADING.finditer(text)
        if not _is_inside(fences, match.start())
    ]


def _is_inside(fences: list[tuple[int, int]], position: int) -> bool:
    index = bisect_right(fences, position, key=lambda fence: fence[0]) - 1
    return index >= 0 and position < fences[index][1]
