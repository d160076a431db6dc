"""The usage report: one read of rollups, regrouped."""

from services.analytics.feed_positions import FeedPositions
from services.analytics.model import UsageQuery, UsageReport
from services.analytics.rollup_store import RollupStore
from services.analytics.rollups import rows_of, total_of


class Reports:
    """Answers questions about a tenant from its rollups alone."""

    def __init__(self, store: RollupStore, positions: FeedPositions) -> None:
        self._store = store
        self._positions = positions

    async def usage(self, query: UsageQuery) -> UsageReport:
        """Rows and total; RangeTooLargeError when there would be too many rows.

        Freshness is read before the sums, so that it never promises more than they hold.
        """
        position = await self._positions.read()
        reading = await self._store.usage(query)
        rows = rows_of(query, reading.hours)
        return UsageReport(
            group_by=query.group_by,
            rows=rows,
            total=total_of(rows),
            documents_examined=reading.documents_examined,
            counted_until=position.counted_until,
        )
