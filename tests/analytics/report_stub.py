"""ReportService over the wire on what the tests count, and what is asked of it."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

from prosa.analytics.v1 import report_service_pb2_grpc as pb_grpc
from prosa.chat_store.v1 import feed_service_pb2 as feed_pb
from services.analytics.intake.feed_positions import FeedPositions
from services.analytics.intake.wire import fact_of
from services.analytics.model import Statement, Subject
from services.analytics.reports.endpoint import reports_endpoint
from services.analytics.reports.repricing import Price, PriceBook
from services.analytics.rollups.rollup_store import RollupStore
from shared.clock import ManualClock
from tests.analytics.events import NOON
from tests.house.in_process import as_caller, serving, token
from tests.house.signing import SigningKeys

# The generated stub is typed for synchronous channels.
Stub: TypeAlias = Any
TOMORROW = NOON + timedelta(days=1)


@asynccontextmanager
async def reporting(
    store: RollupStore,
    positions: FeedPositions,
    keys: SigningKeys,
    *,
    book: PriceBook | None = None,
    now: datetime = TOMORROW,
) -> AsyncIterator[Stub]:
    """A stub of ReportService at that time of the clock."""
    endpoint = reports_endpoint(store.projection, positions, ManualClock(now), book=book)
    async with serving([endpoint], keys) as channel:
        yield pb_grpc.ReportServiceStub(channel)


def tenant(keys: SigningKeys, tenant_id: str = "acme", scopes: Sequence[str] = ("reports.read",)) -> dict[str, Any]:
    """A caller of that tenant."""
    return {"metadata": as_caller(token(keys, tenant_id=tenant_id, scopes=scopes)), "timeout": 10}


async def count(store: RollupStore, events: Sequence[feed_pb.Event]) -> None:
    """Counts the events as the worker does."""
    for first in range(0, len(events), 1000):
        await store.commit([fact_of(event.SerializeToString()) for event in events[first : first + 1000]])


def start_of(row: Any) -> datetime:
    """When a row's step begins, UTC."""
    begun: datetime = row.start_time.ToDatetime(UTC)
    return begun


def content(number: int, counts: dict[str, int], *, at: datetime = NOON, version: int = 1, **more: Any) -> Statement:
    """What a version of an analysis says about a conversation."""
    conversation = f"c{number}"
    return Statement(
        event_id=f"content-{number}-{version}",
        tenant_id="acme",
        subject=Subject.CONTENT,
        subject_id=conversation,
        conversation_id=conversation,
        revision=version,
        time=at,
        counts=counts,
        **more,
    )


class FixedPrices:
    """A price book with these prices."""

    def __init__(self, *prices: Price) -> None:
        self._prices = prices

    async def prices(self) -> Sequence[Price]:
        """All of them."""
        return self._prices
