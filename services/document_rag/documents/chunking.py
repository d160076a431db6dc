"""Cuts an extracted text into chunks that keep to headings and sentences, each a verbatim span that knows its place.

A chunk never crosses a page, so the page that a citation names is where its words stand.
"""

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from semantic_text_splitter import MarkdownSplitter, TextSplitter

from services.document_rag.model import PAGE_BREAK, SECTION_SEPARATOR, Chunk, ExtractedText
from services.document_rag.tokens import count_tokens

_HEADING = re.compile(r"^(#{1,6})[ \t]+(.+?)[ \t#]*$", re.MULTILINE)
_FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
_MARKUP = re.compile(r"[*_`]|\[([^\]]*)\]\([^)]*\)")
_LETTER_OR_DIGIT = re.compile(r"\w")


class _Splitter(Protocol):
    def chunk_indices(self, text: str) -> list[tuple[int, str]]: ...


@dataclass(frozen=True, slots=True)
class _Heading:
    start: int
    path: str


def cut(extracted: ExtractedText, *, size_characters: int, overlap_characters: int) -> list[Chunk]:
    """The chunks in reading order. No chunk is longer than `size_characters`; one without a letter is left out."""
    splitter = _splitter(size_characters, overlap_characters, is_markdown=extracted.is_markdown)
    headings = _headings(extracted.text) if extracted.is_markdown else []
    chunks: list[Chunk] = []
    for page, start, text in _spans(extracted, splitter):
        if _LETTER_OR_DIGIT.search(text) is None:
            continue
        chunk = Chunk(
            ordinal=len(chunks),
            page=page,
            char_start=start,
            char_end=start + len(text),
            section=_section_at(headings, start, text),
            text=text,
            tokens=count_tokens(text),
        )
        chunks.append(chunk)
    return chunks


def _splitter(size: int, overlap: int, *, is_markdown: bool) -> _Splitter:
    kind = MarkdownSplitter if is_markdown else TextSplitter
    return kind(size, overlap)


def _spans(extracted: ExtractedText, splitter: _Splitter) -> Iterator[tuple[int, int, str]]:
    offset = 0
    for page in extracted.pages:
        for start, text in splitter.chunk_indices(page.text):
            yield page.number, offset + start, text
        offset += len(page.text) + len(PAGE_BREAK)


def _headings(text: str) -> list[_Heading]:
    fences = [match.span() for match in _FENCE.finditer(text)]
    headings: list[_Heading] = []
    open_headings: list[tuple[int, str]] = []
    for match in _HEADING.finditer(text):
        if any(start <= match.start() < end for start, end in fences):
            continue
        level = len(match[1])
        open_headings = [above for above in open_headings if above[0] < level]
        open_headings.append((level, _MARKUP.sub(r"\1", match[2]).strip()))
        headings.append(_Heading(match.start(), SECTION_SEPARATOR.join(name for _, name in open_headings)))
    return headings


def _section_at(headings: list[_Heading], start: int, text: str) -> str:
    """The heading path in force where the chunk's own words begin: a chunk that opens with a heading belongs to it."""
    opening = _HEADING.match(text)
    position = start + (opening.end() if opening else 0)
    index = bisect_right(headings, position, key=lambda heading: heading.start) - 1
    return headings[index].path if index >= 0 else ""
