"""What was made of an object, kept for exactly as long as the object itself."""

import weakref
from collections.abc import Callable
from typing import Generic, TypeVar

Source = TypeVar("Source")
Made = TypeVar("Made")


class IdentityMemo(Generic[Source, Made]):
    """Makes something of each object once. Objects are told apart by identity: a large one takes long to hash.

    Sources must never change, and must be weakly referable.
    """

    def __init__(self, make: Callable[[Source], Made]) -> None:
        self._make = make
        self._kept: dict[int, _Kept[Source, Made]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def of(self, source: Source) -> Made:
        """What is made of the source."""
        kept = self._kept.get(id(source))
        if kept is None:
            made = self._make(source)
            kept = self._kept[id(source)] = _Kept(source, self._forget)
            kept.key, kept.made = id(source), made
        return kept.made

    def _forget(self, kept: "_Kept[Source, Made]") -> None:
        del self._kept[kept.key]


class _Kept(weakref.ref[Source], Generic[Source, Made]):
    """One object less than a reference and what it is kept with: most sources are asked for once only."""

    __slots__ = ("key", "made")

    key: int
    made: Made
