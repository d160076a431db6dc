"""From the sums of hours to the rows of a report. No input or output."""

from collections.abc import Iterable
from datetime import datetime
from functools import reduce

from services.analytics.model import Figures
from services.analytics.reports.model import MAX_ROWS, RangeTooLargeError, UsageQuery, UsageRow

NOTHING = Figures()


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
