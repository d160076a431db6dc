"""What documents of a series add up to: counts are summed, distributions and users are merged. No input or output."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from services.analytics.rollups.series import USERS
from services.analytics.rollups.sketches import joined, quantiles, users_counted, users_joined


class Spread(NamedTuple):
    """How measured values are spread; nothing but zeros when none was measured."""

    measured: int = 0
    mean: float = 0.0
    p50: float = 0.0
    p95: float = 0.0
    p99: float = 0.0


class Sums:
    """What documents hold together. What they do not have counts as nothing."""

    __slots__ = ("_bytes", "counts")

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self._bytes: dict[str, list[bytes]] = {}

    def __getitem__(self, name: str) -> int:
        """The sum of that name."""
        return self.counts.get(name, 0)

    def add(self, fields: Mapping[str, Any]) -> None:
        """Takes the fields of one document."""
        counts = self.counts
        for name, value in fields.items():
            if isinstance(value, int):
                counts[name] = counts.get(name, 0) + value
            else:
                self._bytes.setdefault(name, []).append(value)

    def include(self, other: "Sums") -> None:
        """Takes what another one holds."""
        self.add(other.counts)
        for name in other._bytes:
            self._bytes.setdefault(name, []).append(other._merged(name))

    def spread(self, name: str, *, count: str, total: str) -> Spread:
        """The distribution of that name, of `count` values that add up to `total`."""
        measured = self[count]
        if not measured:
            return Spread()
        return Spread(measured, self[total] / measured, *quantiles(self._merged(name), (0.5, 0.95, 0.99)))

    def contents(self) -> dict[str, bytes]:
        """Every distribution and set, merged, by its name."""
        return {name: self._merged(name) for name in self._bytes}

    def users(self) -> bytes:
        """The set of users."""
        return self._merged(USERS)

    def users_counted(self) -> int:
        """How many different users there were."""
        return users_counted(self.users())

    def _merged(self, name: str) -> bytes:
        several = self._bytes.get(name, [])
        if len(several) > 1:
            self._bytes[name] = several = [users_joined(several) if name == USERS else joined(several)]
        return several[0] if several else b""


def together(several: Iterable[Sums]) -> Sums:
    """All of them as one."""
    whole = Sums()
    for each in several:
        whole.include(each)
    return whole
