"""The passages that the members of a team cite, under one numbering for the whole turn. Pure."""

import re
from collections.abc import Sequence

from services.document_rag.model import Passage

_MARK = re.compile(r"\s?\[(\d{1,3})\]")


class Sources:
    """Numbers passages from 1 in the order in which they are first cited."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self.passages: list[Passage] = []

    def taken_over(self, text: str, passages: Sequence[Passage]) -> str:
        """The text of a member with the numbers of the turn instead of its own; marks of no passage go."""

        def renumbered(mark: re.Match[str]) -> str:
            number = int(mark[1])
            if not 1 <= number <= len(passages):
                return ""
            return mark[0].replace(f"[{mark[1]}]", f"[{self._number(passages[number - 1])}]")

        return _MARK.sub(renumbered, text)

    def before(self, passages: Sequence[Passage]) -> tuple[Passage, ...]:
        """What was cited so far under its numbers, then what is new of the passages."""
        return (*self.passages, *(each for each in passages if each.chunk_id not in self._numbers))

    def _number(self, passage: Passage) -> int:
        if passage.chunk_id not in self._numbers:
            self.passages.append(passage)
            self._numbers[passage.chunk_id] = len(self.passages)
        return self._numbers[passage.chunk_id]


def without_marks_above(text: str, highest: int) -> str:
    """The text without the marks of passages that are not shown beside it."""
    return _MARK.sub(lambda mark: mark[0] if int(mark[1]) <= highest else "", text)
