"""The marks with which a text cites passages by their numbers: [1], or [2, 3] for several at once. Pure."""

import re
from collections.abc import Callable

MARK = r"\[\d{1,3}(?:\s*,\s*\d{1,3})*\]"

_MARK = re.compile(MARK)
_MARK_AND_SPACE = re.compile(rf"\s?{MARK}")
_NUMBER = re.compile(r"\d+")


def numbers_in(text: str) -> list[int]:
    """The numbers that the text cites, as they come."""
    return [int(number) for mark in _MARK.findall(text) for number in _NUMBER.findall(mark)]


def renumbered(text: str, number_for: Callable[[int], int | None]) -> str:
    """The text with other numbers; those with None go, and with its last number a mark and the space before it."""

    def replaced(mark: re.Match[str]) -> str:
        numbers = [new for old in _NUMBER.findall(mark[0]) if (new := number_for(int(old))) is not None]
        space = mark[0][: mark[0].index("[")]
        return f"{space}[{', '.join(map(str, numbers))}]" if numbers else ""

    return _MARK_AND_SPACE.sub(replaced, text)


def without_marks(text: str) -> str:
    """The text without what it cites."""
    return _MARK_AND_SPACE.sub("", text)


def disarmed(text: str) -> str:
    """What others wrote, with its own marks in round brackets: a footnote of a document cites no passage of ours."""
    return _MARK.sub(lambda mark: f"({mark[0][1:-1]})", text)
