"""The usage report: one read of rollups, regrouped."""

from services.analytics.intake.feed_positions import FeedPositions
from services.analytics.reports.model import UsageQuery, UsageReport
from services.analytics.reports.rollup_reader import RollupReader
from services.analytics.reports.rows import rows_of, total_of


class Reports:
    """Answers questions about a tenant from its rollups alone."""

    def __init__(self, reader: RollupReader, positions: FeedPositions) -> None:
        self._reader = reader
        self._positions = positions

    async def usage(self, query: UsageQuery) -> UsageReport:
        """Rows and total; RangeTooLargeError when there would be too many rows.

        Freshness is read before the sums, so that it never promises more than they hold.
        """
        position = await self._positions.read()
        reading = await self._reader.usage(query)
        rows = rows_of(query, reading.hours)
        return UsageReport(
            group_by=query.group_by,
            rows=rows,
            total=total_of(rows),
            documents_examined=reading.documents_examined,
            counted_until=position.counted_until,
        )
