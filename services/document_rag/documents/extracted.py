"""What readers make of a file: pages of text, given one after another, so that no document is held whole.

What the extraction process imports is kept light: it starts for every document.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

PAGE_BREAK = "\n\n"
SECTION_SEPARATOR = " › "


class UnreadableError(Exception):
    """What is wrong with the bytes, in words fit for the person who sent them."""


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading between two characters of its page, `end` exclusive; the two are one where the text lacks it.

    It closes those of its own level and of higher ones.
    """

    start: int
    end: int
    level: float
    title: str


@dataclass(frozen=True, slots=True)
class Page:
    """Text of one page. `number` counts from 1; 0 means that the format has no pages.

    `headings`: in order, where they are not marked as Markdown marks them.
    """

    number: int
    text: str
    headings: tuple[Heading, ...] = ()


@dataclass(frozen=True, slots=True)
class Extracted:
    """Title ("" when the file names none) and the pages, which are read while they are taken."""

    title: str
    pages: Iterable[Page]


@dataclass(frozen=True, slots=True)
class ChunkSize:
    """Most tokens of a chunk, and how many of them at most it repeats of the chunk before it."""

    tokens: int = 200
    overlap_tokens: int = 25


class Span(NamedTuple):
    """A chunk as it is cut. Characters count in the pages joined by PAGE_BREAK, `char_end` exclusive."""

    page: int
    char_start: int
    char_end: int
    section: str
    text: str
    tokens: int
