"""The store of reservations: reserve, commit, release, expire, each a call of a function in schema/0003_account.sql."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Sequence
from contextlib import asynccontextmanager
from typing import TypeAlias, TypeVar, cast

import asyncpg

from services.tenant_quota.quota_model import (
    Level,
    Reservation,
    Settlement,
    State,
    TokenUsage,
    Window,
    Wish,
    denial,
)
from shared.coalescer import Coalescer
from shared.errors import Conflict, NotFound, PermissionDenied, ServiceError
from shared.postgres import ACQUIRE_TIMEOUT_SECONDS, postgres_errors

Outcome: TypeAlias = Reservation | ServiceError
Result = TypeVar("Result")

RESERVE = "SELECT * FROM reserve($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13,$14,$15,$16)"
SETTLE = "SELECT * FROM settle($1,$2,$3,$4,$5,$6,$7,$8,$9,$10)"
KNOWN = """
SELECT a.n, r.*
  FROM unnest($1::text[], $2::text[]) WITH ORDINALITY a(tenant_id, reservation_id, n)
  JOIN reservations r ON r.tenant_id = a.tenant_id AND r.reservation_id = a.reservation_id
"""
MOST_ATTEMPTS = 3

_GRANTED, _REPEATED, _DENIED, _NO_TENANT, _INACTIVE = 1, 2, 3, 4, 5


class Reservations:
    """Holds tokens and settles them, exactly, on however many replicas."""

    def __init__(self, pool: asyncpg.Pool, *, largest_batch: int = 256, most_in_flight: int = 2) -> None:
        self._pool = pool
        self._wishes = Coalescer[Wish, Outcome](
            self._reserve_all, _wish_identity, largest_batch=largest_batch, most_in_flight=most_in_flight
        )
        self._settlements = Coalescer[Settlement, Outcome](
            self._settle_all, _settlement_identity, largest_batch=largest_batch, most_in_flight=most_in_flight
        )

    async def reserve(self, wish: Wish) -> Reservation:
        """Holds the tokens at all levels, or raises QuotaExceeded and holds none.

        A repeated request_id gives the reservation as it is now, or RequestIdReused. NotFound without such a tenant,
        PermissionDenied (TENANT_INACTIVE) when the tenant is deactivated, Conflict when its row stays locked.
        """
        return _or_raise(await self._wishes.submit(wish))

    async def settle(self, settlement: Settlement) -> Reservation:
        """Commits or releases. NotFound, or FailedPrecondition as Settlement.judge says."""
        return _or_raise(await self._settlements.submit(settlement))

    async def sweep(self, most: int) -> int:
        """Gives back up to `most` reservations whose lease ended; returns how many were."""
        async with self._connection() as connection:
            count: int = await connection.fetchval("SELECT sweep($1)", most)
            return count

    async def close(self) -> None:
        """Waits for what is under way."""
        await self._wishes.close()
        await self._settlements.close()

    async def _reserve_all(self, wishes: Sequence[Wish]) -> Sequence[Outcome]:
        arguments = _reserve_arguments(wishes)
        rows = await self._again(lambda connection: connection.fetch(RESERVE, *arguments))
        answers = [_reserve_outcome(wish, row) for wish, row in zip(wishes, rows, strict=True)]
        await self._recall(wishes, rows, answers)
        return answers

    async def _recall(self, wishes: Sequence[Wish], rows: Sequence[asyncpg.Record], answers: list[Outcome]) -> None:
        """Repeated requests get the reservation that the first one made, as it is now."""
        repeated = [index for index, row in enumerate(rows) if row["outcome"] == _REPEATED]
        if not repeated:
            return
        tenants = [wishes[index].tenant_id for index in repeated]
        ids = [rows[index]["known_id"] for index in repeated]
        async with self._connection() as connection, connection.transaction():
            await connection.execute("SELECT set_config('app.tenants', jsonb_object($1, $1)::text, true)", tenants)
            known = await connection.fetch(KNOWN, tenants, ids)
        for row in known:
            index = repeated[row["n"] - 1]
            answers[index] = _recalled(wishes[index], row)

    async def _settle_all(self, settlements: Sequence[Settlement]) -> Sequence[Outcome]:
        arguments = _settle_arguments(settlements)
        rows = await self._again(lambda connection: connection.fetch(SETTLE, *arguments))
        return [_settle_outcome(settlement, row) for settlement, row in zip(settlements, rows, strict=True)]

    async def _again(self, work: Callable[[asyncpg.Connection], Awaitable[Result]]) -> Result:
        """A deadlock or lost race is known not to have been committed, so the batch may simply run once more."""
        for attempt in range(1, MOST_ATTEMPTS + 1):
            try:
                async with self._connection() as connection:
                    return await work(connection)
            except (Conflict, asyncpg.UniqueViolationError) as error:
                waited_for_nothing = isinstance(error.__cause__, asyncpg.LockNotAvailableError)
                if waited_for_nothing or attempt == MOST_ATTEMPTS:
                    raise
                await asyncio.sleep(0.01 * attempt)
        raise AssertionError

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[asyncpg.Connection]:
        with postgres_errors():
            async with self._pool.acquire(timeout=ACQUIRE_TIMEOUT_SECONDS) as connection:
                yield cast("asyncpg.Connection", connection)


def _wish_identity(wish: Wish) -> Hashable | None:
    return (wish.tenant_id, wish.replay.request_id) if wish.replay else None


def _settlement_identity(settlement: Settlement) -> Hashable:
    return settlement.tenant_id, settlement.reservation_id


def _or_raise(outcome: Outcome) -> Reservation:
    if isinstance(outcome, ServiceError):
        raise outcome
    return outcome


def _reserve_arguments(wishes: Sequence[Wish]) -> tuple[list[object], ...]:
    subjects: dict[tuple[str, str], int] = {}

    def place(tenant_id: str, user_id: str) -> int:
        return subjects.setdefault((tenant_id, user_id), len(subjects) + 1)

    tenant_places: list[object] = [place(wish.tenant_id, "") for wish in wishes]
    user_places: list[object] = [place(wish.tenant_id, wish.user_id) if wish.user_id else None for wish in wishes]
    return (
        [wish.tenant_id for wish in wishes],
        [wish.user_id for wish in wishes],
        [wish.key_id for wish in wishes],
        [wish.reservation_id for wish in wishes],
        [wish.tokens for wish in wishes],
        [wish.minimum for wish in wishes],
        [wish.lease_seconds for wish in wishes],
        [wish.model for wish in wishes],
        [wish.conversation_id for wish in wishes],
        [wish.assistant_id for wish in wishes],
        [wish.replay.request_id if wish.replay else None for wish in wishes],
        [wish.replay.fingerprint if wish.replay else None for wish in wishes],
        [tenant_id for tenant_id, _ in subjects],
        [user_id for _, user_id in subjects],
        tenant_places,
        user_places,
    )


def _reserve_outcome(wish: Wish, row: asyncpg.Record) -> Outcome:
    match row["outcome"]:
        case int(code) if code == _GRANTED:
            return Reservation(
                wish.reservation_id, wish.user_id, State.HELD, row["granted"], row["create_time"], row["expire_time"]
            )
        case int(code) if code == _DENIED:
            return denial(wish.minimum, _levels(wish, row), row["create_time"])
        case int(code) if code == _INACTIVE:
            return PermissionDenied("the tenant is not active", reason="TENANT_INACTIVE")
        case _:
            return NotFound("tenant", wish.tenant_id)


def _levels(wish: Wish, row: asyncpg.Record) -> list[Level]:
    subjects = [f"tenant:{wish.tenant_id}"] * 2 + [f"user:{wish.user_id}"] * 2
    windows = [Window.DAY, Window.MONTH] * 2
    counters = zip(row["limits"], row["used"], row["held"], strict=True)
    return [
        Level(subject, window, limit, used, held, row["period_end"][window - 1])
        for subject, window, (limit, used, held) in zip(subjects, windows, counters, strict=True)
    ]


def _recalled(wish: Wish, row: asyncpg.Record) -> Outcome:
    try:
        if wish.replay is not None:
            wish.replay.expect(row["fingerprint"])
    except ServiceError as error:
        return error
    return _reservation(row)


def _settle_arguments(settlements: Sequence[Settlement]) -> tuple[list[object], ...]:
    return (
        [each.tenant_id for each in settlements],
        [each.reservation_id for each in settlements],
        [each.target for each in settlements],
        [each.usage.input_tokens if each.usage else None for each in settlements],
        [each.usage.cached_input_tokens if each.usage else None for each in settlements],
        [each.usage.output_tokens if each.usage else None for each in settlements],
        [each.usage.reasoning_tokens if each.usage else None for each in settlements],
        [each.usage_source or None for each in settlements],
        [each.cost_micros for each in settlements],
        [each.model for each in settlements],
    )


def _settle_outcome(settlement: Settlement, row: asyncpg.Record) -> Outcome:
    if row["reservation_id"] is None:
        return NotFound("reservation", settlement.reservation_id)
    try:
        return settlement.judge(_reservation(row), moved=row["moved"])
    except ServiceError as error:
        return error


def _reservation(row: asyncpg.Record) -> Reservation:
    return Reservation(
        row["reservation_id"],
        row["user_id"],
        State(row["state"]),
        row["granted"],
        row["create_time"],
        row["expire_time"],
        usage_of(row),
        row["usage_source"] or 0,
        row["cost_micros"],
    )


def usage_of(row: asyncpg.Record) -> TokenUsage | None:
    """The usage columns of a reservation or ledger row; None before a commit."""
    if row["input_tokens"] is None:
        return None
    return TokenUsage(row["input_tokens"], row["cached_input_tokens"], row["output_tokens"], row["reasoning_tokens"])
