"""What readers make of a file: pages of text, given one after another, so that no document is held whole."""

from collections.abc import Iterable
from dataclasses import dataclass


class UnreadableError(Exception):
    """What is wrong with the bytes, in words fit for the person who sent them."""


@dataclass(frozen=True, slots=True)
class Page:
    """Text of one page. `number` counts from 1; 0 means that the format has no pages.

    `section`: the headings it stands under, where the format tells them outside of the text, as a PDF's bookmarks do.
    """

    number: int
    text: str
    section: str = ""


@dataclass(frozen=True, slots=True)
class Extracted:
    """Title ("" when the file names none) and the pages, which are read while they are taken."""

    title: str
    pages: Iterable[Page]
