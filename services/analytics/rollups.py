"""The fold from facts into rollups, and from rollups into the rows of a report. No I/O."""

from collections.abc import Iterable
from datetime import datetime
from functools import reduce

from services.analytics.model import (
    MAX_ROWS,
    Fact,
    Figures,
    RangeTooLargeError,
    RollupKey,
    UsageQuery,
    UsageRow,
    hour_of,
)

NOTHING = Figures()


def folded(facts: Iterable[Fact]) -> dict[RollupKey, Figures]:
    """What the facts add to which rollup; the order of the facts does not matter."""
    sums: dict[RollupKey, Figures] = {}
    for fact in facts:
        for message in fact.messages:
            figures = message.figures()
            if figures == NOTHING:
                continue
            key = RollupKey(
                fact.tenant_id,
                hour_of(message.create_time),
                message.model,
                message.user_id,
                message.assistant_id,
            )
            before = sums.get(key)
            sums[key] = figures if before is None else before.plus(figures)
    return sums


def rows_of(query: UsageQuery, hours: Iterable[tuple[datetime, tuple[str, ...], Figures]]) -> list[UsageRow]:
    """The hours regrouped into the query's steps, by time, then by dimension.

    Raises RangeTooLargeError when there would be more rows than one answer holds.
    """
    steps: dict[datetime, datetime] = {}
    sums: dict[tuple[datetime, tuple[str, ...]], Figures] = {}
    for hour, split, figures in hours:
        step = steps.get(hour) or steps.setdefault(hour, query.step(hour))
        before = sums.get((step, split))
        sums[step, split] = figures if before is None else before.plus(figures)
        if len(sums) > MAX_ROWS:
            raise RangeTooLargeError(
                f"the report would have more than {MAX_ROWS} rows", metadata={"max_rows": str(MAX_ROWS)}
            )
    return [UsageRow(step, split, figures) for (step, split), figures in sorted(sums.items(), key=lambda row: row[0])]


def total_of(rows: Iterable[UsageRow]) -> Figures:
    """The sum of the rows."""
    return reduce(Figures.plus, (row.figures for row in rows), NOTHING)
