"""The nouns and rules of reports: sums of usage, monthly statements, days and months as people write them."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from datetime import date
from enum import IntEnum

from shared.errors import FieldViolation, InvalidArgument

MOST_DAYS = 400


class Dimension(IntEnum):
    """By what usage is summed up; the numbers are the contract's."""

    DAY = 1
    MONTH = 2
    USER = 3
    KEY = 4
    MODEL = 5


@dataclass(frozen=True, slots=True)
class UsageSum:
    """What was used: settled requests, tokens in disjoint components, millionths of the currency."""

    requests: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cost_micros: int = 0

    @property
    def tokens(self) -> int:
        """What is charged."""
        return self.input_tokens + self.cached_input_tokens + self.output_tokens + self.reasoning_tokens

    def __add__(self, other: "UsageSum") -> "UsageSum":
        return UsageSum(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True, slots=True)
class UsageLine:
    """A sum, and of what: as many names as it is summed up by, in their order."""

    names: tuple[str, ...]
    sum: UsageSum


@dataclass(frozen=True, slots=True)
class TopUpFlow:
    """Tokens of top-ups in a month; what is held belongs to the balance."""

    opening: int
    given: int
    used: int
    ended: int

    @property
    def closing(self) -> int:
        """What is left at the end."""
        return self.opening + self.given - self.used - self.ended


@dataclass(frozen=True, slots=True)
class Statement:
    """What a month was. Each list has a line for every name that was used, and adds up to the total."""

    tenant_id: str
    month: date
    total: UsageSum
    models: Sequence[UsageLine]
    users: Sequence[UsageLine]
    keys: Sequence[UsageLine]
    top_ups: TopUpFlow
    is_final: bool

    @property
    def digest(self) -> str:
        """SHA-256 of everything but `is_final`, as JSON without spaces whose lines are in order.

        Of users only the sums: a person who is erased gets another name, and the month stays what it was.
        """
        content = [
            self.tenant_id,
            month_text(self.month),
            astuple(self.total),
            sorted([*line.names, *astuple(line.sum)] for line in self.models),
            sorted(astuple(line.sum) for line in self.users),
            sorted([*line.names, *astuple(line.sum)] for line in self.keys),
            astuple(self.top_ups),
        ]
        text = json.dumps(content, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()


def shortened(lines: Sequence[UsageLine], most: int) -> tuple[Sequence[UsageLine], int]:
    """`most` lines at the most, those with the most tokens first, and how many share the last; 0 when none do."""
    ordered = sorted(lines, key=lambda line: (-line.sum.tokens, line.names))
    if len(ordered) <= most:
        return ordered, 0
    others = ordered[most - 1 :]
    together = UsageLine(("",) * len(others[0].names), sum((line.sum for line in others), UsageSum()))
    return [*ordered[: most - 1], together], len(others)


def day_of(field: str, text: str) -> date:
    """The day that people write as 2026-11-21; InvalidArgument when there is none."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise InvalidArgument(violations=[FieldViolation(field, "must be a day", "date.valid")]) from None


def month_of(field: str, text: str) -> date:
    """The first day of the month that people write as 2026-11; InvalidArgument when there is none."""
    return day_of(field, f"{text}-01")


def month_text(day: date) -> str:
    """The day's month as people write it."""
    return day.isoformat()[:7]


def require_span(first: date, last: date) -> None:
    """InvalidArgument when the days are reversed or too many."""
    if last < first:
        text = "must not be before `first_day`"
        raise InvalidArgument(violations=[FieldViolation("last_day", text, "last_day.gte_first_day")])
    if (last - first).days >= MOST_DAYS:
        text = f"must be within {MOST_DAYS} days of `first_day`"
        raise InvalidArgument(violations=[FieldViolation("last_day", text, "last_day.most_days")])


def require_dimensions(group_by: Sequence[Dimension]) -> None:
    """InvalidArgument when both day and month are named."""
    if Dimension.DAY in group_by and Dimension.MONTH in group_by:
        text = "must not name both the day and the month"
        raise InvalidArgument(violations=[FieldViolation("group_by", text, "group_by.day_or_month")])
