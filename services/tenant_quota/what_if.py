"""The past under limits and prices that are only proposed: each entry of the ledger in its turn, in bounded memory.

What it keeps is what is open: reservations that have begun and not ended, and a counter a day. No input or output.
"""

from bisect import bisect_right
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from enum import IntEnum
from typing import Any, TypeAlias

from services.tenant_quota.plan_model import Rates

MICROS_PER = 1_000_000
MINUTE = timedelta(minutes=1)
# Names kept apart; more of them share "".
MOST_NAMES = 100_000
RESERVED, SETTLED, TOPPED_UP, TOP_UP_ENDED = 1, 2, 5, 6


Entry: TypeAlias = Any
"""A row of the ledger, by the names of its columns, with its local `day`."""


class DenyingLimit(IntEnum):
    """Which proposed limit denies a reservation; the numbers are the contract's."""

    TOKENS_PER_DAY = 1
    TOKENS_PER_MONTH = 2
    COST_PER_MONTH = 3
    REQUESTS_PER_MINUTE = 4
    NO_PRICE = 5


@dataclass(frozen=True, slots=True)
class PriceList:
    """The proposed prices before those of the price book, of which only the dearest token counts here."""

    proposed: Mapping[str, Rates]
    book: Mapping[str, Sequence[tuple[datetime, int]]]

    def most(self, model: str, moment: datetime) -> int | None:
        """What the dearest token of the model cost then; None when nobody knows."""
        if model in self.proposed:
            return _dearest(self.proposed[model])
        known = self.book.get(model, ())
        place = bisect_right(known, moment, key=lambda each: each[0])
        return known[place - 1][1] if place else None


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits that deny; None where nothing does."""

    tokens_per_day: int | None = None
    tokens_per_month: int | None = None
    cost_micros_per_month: int | None = None
    requests_per_minute: int | None = None
    refuses_unpriced: bool = True


@dataclass(frozen=True, slots=True)
class Proposal:
    """What is proposed, and for which days: entries before `first_day` count, but are never denied.

    `topped_up`: tokens of top-ups left when the month of `first_day` began; None where top-ups do not help.
    """

    limits: Limits
    prices: PriceList
    first_day: date
    topped_up: int | None = None


@dataclass(slots=True)
class Denials:
    """How many reservations, and the tokens that they held."""

    reservations: int = 0
    tokens: int = 0

    def add(self, tokens: int) -> None:
        """One more."""
        self.reservations += 1
        self.tokens += tokens


@dataclass(slots=True)
class Cost:
    """As it was, and as it would have been."""

    was: int = 0
    would_be: int = 0


@dataclass(slots=True)
class Outcome:
    """What came of the replay."""

    reservations: int = 0
    denied: Denials = field(default_factory=Denials)
    first_denied: datetime | None = None
    last_denied: datetime | None = None
    denied_extensions: int = 0
    days: dict[tuple[date, DenyingLimit], Denials] = field(default_factory=lambda: defaultdict(Denials))
    users: dict[str, Denials] = field(default_factory=lambda: defaultdict(Denials))
    models: dict[str, Cost] = field(default_factory=lambda: defaultdict(Cost))

    def deny(self, entry: Entry, limit: DenyingLimit) -> None:
        """Notes a reservation that would have been denied."""
        tokens, moment = entry["held_delta"], entry["create_time"]
        self.denied.add(tokens)
        self.first_denied = self.first_denied or moment
        self.last_denied = moment
        self.days[entry["day"], limit].add(tokens)
        self.users[_kept(entry["user_id"], self.users)].add(tokens)

    def pay(self, entry: Entry, would_be: int) -> None:
        """Notes what a settled reservation cost and would have cost."""
        cost = self.models[_kept(entry["model"], self.models)]
        cost.was += entry["cost_micros"]
        cost.would_be += would_be


def _kept(name: str, names: Mapping[str, object]) -> str:
    return name if name in names or len(names) < MOST_NAMES else ""


@dataclass(slots=True)
class _Open:
    """A reservation that was granted and has not ended. `topped` of it comes from top-ups."""

    day: date
    granted: int = 0
    cost: int = 0
    topped: int = 0
    spent: int = 0
    spent_cost: int = 0


@dataclass(slots=True)
class _Counter:
    """What counts against a limit: used and held, without what top-ups cover."""

    tokens: int = 0
    cost: int = 0


class Replay:
    """Takes the entries of a tenant's ledger, or of one user or key, in their order.

    The first ones are from the day before the month of `first_day`: they only tell which reservations were open when it
    began. Their usage belongs to a month that nothing is asked about.
    """

    def __init__(self, proposal: Proposal) -> None:
        self.outcome = Outcome()
        self._limits = proposal.limits
        self._prices = proposal.prices
        self._first_day = proposal.first_day
        self._first_of_month = proposal.first_day.replace(day=1)
        self._has_top_ups = proposal.topped_up is not None
        self._topped_up = proposal.topped_up or 0
        self._days: dict[date, _Counter] = defaultdict(_Counter)
        self._months: dict[date, _Counter] = defaultdict(_Counter)
        self._open: dict[str, _Open] = {}
        self._children: dict[str, str] = {}
        self._denied: set[str] = set()
        self._earlier: set[str] = set()
        self._minute: deque[datetime] = deque()

    def take(self, entry: Entry) -> None:
        """The next entry: a row of the ledger with its local `day`."""
        kind = entry["kind"]
        if kind == RESERVED:
            self._reserve(entry)
        elif kind < TOPPED_UP:
            self._end(entry)
        elif self._has_top_ups and entry["day"] >= self._first_of_month:
            self._topped_up = max(0, self._topped_up + entry["available_delta"])

    def _reserve(self, entry: Entry) -> None:
        name, parent = entry["reservation_id"], entry["parent_reservation_id"]
        if name in self._denied or name in self._earlier or name in self._children:
            return
        if name in self._open:
            self._extend(self._open[name], entry)
        elif parent in self._denied:
            self._denied.add(name)
        elif entry["day"] < self._first_of_month or (parent and parent not in self._open):
            self._earlier.add(name)
        else:
            self._begin(entry)

    def _begin(self, entry: Entry) -> None:
        name, parent = entry["reservation_id"], entry["parent_reservation_id"]
        is_asked_about = entry["day"] >= self._first_day
        self.outcome.reservations += is_asked_about
        limit = self._too_many(entry["create_time"])
        if limit is None and not parent:
            limit = self._denying(entry, entry["day"])
        if limit is not None and is_asked_about:
            self.outcome.deny(entry, limit)
            self._denied.add(name)
            return
        if self._limits.requests_per_minute is not None:
            self._minute.append(entry["create_time"])
        if parent:
            self._children[name] = parent
        else:
            self._open[name] = _Open(entry["day"])
            self._hold(self._open[name], entry)

    def _extend(self, reservation: _Open, entry: Entry) -> None:
        if reservation.day >= self._first_day and self._denying(entry, reservation.day) is not None:
            self.outcome.denied_extensions += 1
        else:
            self._hold(reservation, entry)

    def _too_many(self, moment: datetime) -> DenyingLimit | None:
        most = self._limits.requests_per_minute
        while self._minute and self._minute[0] <= moment - MINUTE:
            self._minute.popleft()
        return DenyingLimit.REQUESTS_PER_MINUTE if most is not None and len(self._minute) >= most else None

    def _denying(self, entry: Entry, day: date) -> DenyingLimit | None:
        tokens: int = entry["held_delta"]
        if tokens == 0:
            return None
        price = self._price(entry)
        if self._limits.cost_micros_per_month is not None and price is None and self._limits.refuses_unpriced:
            return DenyingLimit.NO_PRICE
        day_left, month_left, cost_left = self._left(day)
        if max(day_left, 0) + self._topped_up < tokens:
            return DenyingLimit.TOKENS_PER_DAY
        if max(month_left, 0) + self._topped_up < tokens:
            return DenyingLimit.TOKENS_PER_MONTH
        # Whole tokens that the money is enough for, as the account counts them.
        return DenyingLimit.COST_PER_MONTH if price and tokens > cost_left * MICROS_PER // price else None

    def _left(self, day: date) -> tuple[float, float, float]:
        """Tokens of the day and the month, and cost of the month; infinite where nothing limits."""
        month = self._months[day.replace(day=1)]
        counted = self._days[day].tokens, month.tokens, month.cost
        limits = self._limits.tokens_per_day, self._limits.tokens_per_month, self._limits.cost_micros_per_month
        day_left, month_left, cost_left = (
            float("inf") if limit is None else limit - used for limit, used in zip(limits, counted, strict=True)
        )
        return day_left, month_left, cost_left

    def _price(self, entry: Entry) -> int | None:
        if self._limits.cost_micros_per_month is None:
            return None
        return self._prices.most(entry["model"], entry["create_time"])

    def _hold(self, reservation: _Open, entry: Entry) -> None:
        tokens: int = entry["held_delta"]
        cost = -(-tokens * (self._price(entry) or 0) // MICROS_PER)
        own = max(0, min(self._left(reservation.day)[:2]))
        topped = min(self._topped_up, tokens - int(own)) if own < tokens else 0
        self._topped_up -= topped
        reservation.granted += tokens
        reservation.cost += cost
        reservation.topped += topped
        self._move(reservation.day, tokens - topped, cost)

    def _end(self, entry: Entry) -> None:
        name = entry["reservation_id"]
        is_settled = entry["kind"] == SETTLED
        if name in self._denied:
            self._denied.discard(name)
            if is_settled:
                self.outcome.pay(entry, 0)
        elif name in self._children:
            parent = self._open.get(self._children.pop(name))
            if parent is not None:
                self._end_child(parent, entry, is_settled=is_settled)
        elif name in self._open:
            self._end_own(self._open.pop(name), entry, is_settled=is_settled)
        else:
            self._earlier.discard(name)

    def _end_child(self, parent: _Open, entry: Entry, *, is_settled: bool) -> None:
        cost = self._paid(entry, parent.day) if is_settled else 0
        spent, used = -entry["held_delta"], entry["used_delta"]
        spent_cost = min(cost, parent.cost - parent.spent_cost)
        if used > spent:
            # It used more than all it held, which was this part of what its parent held.
            left = max(parent.granted - parent.spent, spent, 1)
            spent_cost = min(cost, (parent.cost - parent.spent_cost) * spent // left)
        parent.spent += spent
        parent.spent_cost += spent_cost
        self._move(parent.day, used - spent, cost - spent_cost)

    def _end_own(self, reservation: _Open, entry: Entry, *, is_settled: bool) -> None:
        cost = self._paid(entry, reservation.day) if is_settled else 0
        used = entry["used_delta"]
        beyond = used + reservation.spent - (reservation.granted - reservation.topped)
        topped = max(0, min(reservation.topped, beyond))
        self._topped_up += reservation.topped - topped
        held = reservation.granted - reservation.spent
        self._move(
            reservation.day,
            used - held + reservation.topped - topped,
            cost - (reservation.cost - reservation.spent_cost),
        )

    def _paid(self, entry: Entry, day: date) -> int:
        """What the settled usage would have cost."""
        rates = self._prices.proposed.get(entry["model"])
        cost: int = entry["cost_micros"] if rates is None else _cost(rates, entry)
        if day >= self._first_day:
            self.outcome.pay(entry, cost)
        return cost

    def _move(self, day: date, tokens: int, cost: int) -> None:
        self._days[day].tokens += tokens
        month = self._months[day.replace(day=1)]
        month.tokens += tokens
        month.cost += cost


def _dearest(rates: Rates) -> int:
    return max(rates.input_micros, rates.cached_input_micros, rates.output_micros, rates.reasoning_micros)


def _cost(rates: Rates, entry: Entry) -> int:
    """Rounded up, as the account does."""
    cost: int = (
        entry["input_tokens"] * rates.input_micros
        + entry["cached_input_tokens"] * rates.cached_input_micros
        + entry["output_tokens"] * rates.output_micros
        + entry["reasoning_tokens"] * rates.reasoning_micros
    )
    return -(-cost // MICROS_PER)
