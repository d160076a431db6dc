"""What answers cost as known then and as corrected: recorded sums beside the price book's prices of their hours."""

from bisect import bisect_right
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

import grpc
from pydantic import SecretStr

from prosa.tenant_quota.v1 import plan_service_pb2 as prices_pb
from prosa.tenant_quota.v1 import plan_service_pb2_grpc
from services.analytics.intake.feed_positions import FeedPositions
from services.analytics.model import Axis, Step
from services.analytics.reports.calendar import Span
from services.analytics.reports.model import Question
from services.analytics.reports.reports import rows_of
from services.analytics.reports.rollup_reader import Point, RollupReader
from services.analytics.reports.sums import Sums
from shared.channels import ServiceToken, open_channel
from shared.errors import Unavailable, error_of

TOKENS = ("input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens")
FIELDS = ("turns", "errors", "cost_micros", *TOKENS)
# Prices are per so many tokens.
PER = 1_000_000
PAGE = 1_000


@dataclass(frozen=True, slots=True)
class Price:
    """What a model's tokens cost from a moment on, in the order of TOKENS; and since when that is known."""

    model: str
    effective: datetime
    created: datetime
    micros: tuple[int, int, int, int]


class PriceBook(Protocol):
    """Where prices come from."""

    async def prices(self) -> Sequence[Price]:
        """All of them; Unavailable when they cannot be read."""
        ...


class TenantQuotaPrices:
    """The price book of tenant_quota."""

    def __init__(self, stub: Any) -> None:
        self._stub = stub

    async def prices(self) -> Sequence[Price]:
        """All of them; Unavailable when they cannot be read."""
        try:
            return [_price(each) async for each in self._all()]
        except grpc.aio.AioRpcError as refused:
            raise error_of(refused) from None

    async def _all(self) -> AsyncIterator[prices_pb.Price]:
        token = ""
        while True:
            page = await self._stub.ListPrices(prices_pb.ListPricesRequest(page_size=PAGE, page_token=token))
            for each in page.prices:
                yield each
            token = page.next_page_token
            if not token:
                return


class NoPrices:
    """In the place of the price book where the service has no key to ask with."""

    async def prices(self) -> Sequence[Price]:
        """Always Unavailable."""
        raise Unavailable(dependency="tenant_quota")


@asynccontextmanager
async def open_price_book(tenant_quota_target: str, service_key: SecretStr) -> AsyncIterator[PriceBook]:
    """The price book of tenant_quota, read with the service's own key; without one, none."""
    if not service_key.get_secret_value():
        yield NoPrices()
        return
    async with open_channel(tenant_quota_target) as exchange:
        token = ServiceToken(exchange, service_key)
        async with open_channel(tenant_quota_target, token=token, on_behalf=False) as tenant_quota:
            yield TenantQuotaPrices(plan_service_pb2_grpc.PriceServiceStub(tenant_quota))


@dataclass(frozen=True, slots=True)
class Repriced:
    """One step and model, or everything; `corrected` in millionths of a micro-unit: nothing is lost in adding."""

    start: datetime
    model: str
    sums: Sums
    corrected: int
    unpriced_tokens: int

    def corrected_micros(self) -> int:
        """The corrected cost, rounded to the nearest micro-unit."""
        return (self.corrected + PER // 2) // PER


@dataclass(frozen=True, slots=True)
class RepricingReport:
    """Rows by time and model, everything, what it cost, how fresh it is."""

    rows: Sequence[Repriced]
    total: Repriced
    documents_examined: int
    prices_examined: int
    counted_until: datetime | None


class Repricing:
    """Answers what the answers of models cost, twice."""

    def __init__(self, reader: RollupReader, positions: FeedPositions, book: PriceBook) -> None:
        self._reader = reader
        self._positions = positions
        self._book = book

    async def report(self, question: Question, known: datetime | None) -> RepricingReport:
        """By step and model; only prices set by `known`, all when None."""
        position = await self._positions.read()
        prices = await self._book.prices()
        known_prices = _by_model([each for each in prices if known is None or each.created <= known])
        hours = [Span(Step.HOUR, question.first_hour(), question.hour_after())]
        reading = await self._reader.series(question.tenant_id, Axis.MODEL, hours, FIELDS)
        rows = _rows(question, reading.points, known_prices)
        return RepricingReport(
            rows=rows,
            total=_total(question.start, rows),
            documents_examined=reading.documents_examined,
            prices_examined=len(prices),
            counted_until=position.counted_until,
        )


def _rows(question: Question, points: Sequence[Point], prices: Mapping[str, Sequence[Price]]) -> list[Repriced]:
    costs: dict[tuple[datetime, str], list[int]] = {}
    for point in points:
        model = point.split[0]
        cost, unpriced = _cost(point, prices.get(model.strip(), ()))
        mine = costs.setdefault((question.step(point.start), model), [0, 0])
        mine[0] += cost
        mine[1] += unpriced
    rows = [row for row in rows_of(question, points) if any(row.sums.counts.values())]
    return [Repriced(row.start, row.split[0], row.sums, *costs[row.start, row.split[0]]) for row in rows]


def _cost(point: Point, prices: Sequence[Price]) -> tuple[int, int]:
    """The corrected cost of one hour, and its tokens without a price, whose cost is the recorded one."""
    amounts = [point.fields.get(name, 0) for name in TOKENS]
    place = bisect_right(prices, point.start, key=lambda price: price.effective)
    if place == 0:
        return point.fields.get("cost_micros", 0) * PER, sum(amounts)
    return sum(amount * micros for amount, micros in zip(amounts, prices[place - 1].micros, strict=True)), 0


def _by_model(prices: Sequence[Price]) -> dict[str, list[Price]]:
    found: dict[str, list[Price]] = {}
    for each in sorted(prices, key=lambda price: price.effective):
        found.setdefault(each.model, []).append(each)
    return found


def _total(start: datetime, rows: Sequence[Repriced]) -> Repriced:
    sums = Sums()
    for row in rows:
        sums.include(row.sums)
    return Repriced(start, "", sums, sum(row.corrected for row in rows), sum(row.unpriced_tokens for row in rows))


def _price(message: prices_pb.Price) -> Price:
    return Price(
        model=message.model,
        effective=message.effective_time.ToDatetime(UTC),
        created=message.create_time.ToDatetime(UTC),
        micros=(
            message.input_micros,
            message.cached_input_micros,
            message.output_micros,
            message.reasoning_micros,
        ),
    )
