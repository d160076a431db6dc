"""The passages that the members of a team cite, under one numbering for the whole turn. Pure."""

from collections.abc import Sequence

from services.document_rag.assistants.citation_marks import renumbered
from services.document_rag.model import Passage

Key = tuple[str, str, str]


class Sources:
    """Numbers passages from 1 in the order in which they are first cited."""

    def __init__(self) -> None:
        self._numbers: dict[Key, int] = {}
        self.passages: list[Passage] = []

    def taken_over(self, text: str, passages: Sequence[Passage]) -> str:
        """The text of a member with the numbers of the turn instead of its own; marks of no passage go."""
        return renumbered(text, lambda own: self._number(passages[own - 1]) if 1 <= own <= len(passages) else None)

    def before(self, passages: Sequence[Passage]) -> tuple[Passage, ...]:
        """What was cited so far under its numbers, then what is new of the passages."""
        return (*self.passages, *(each for each in passages if _key(each) not in self._numbers))

    def _number(self, passage: Passage) -> int:
        if _key(passage) not in self._numbers:
            self.passages.append(passage)
            self._numbers[_key(passage)] = len(self.passages)
        return self._numbers[_key(passage)]


def without_marks_above(text: str, highest: int) -> str:
    """The text without the marks of passages that are not shown beside it."""
    return renumbered(text, lambda number: number if number <= highest else None)


def _key(passage: Passage) -> Key:
    """The ids of pushed chunks are their programs' own, unique within a collection."""
    return passage.collection_id, passage.document_id, passage.chunk_id
