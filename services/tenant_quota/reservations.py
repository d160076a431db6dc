"""The store of reservations: hold, extend, commit, release, expire, by the functions of schema/0014_less_to_do.sql."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeAlias, TypeVar, cast

import asyncpg

from services.tenant_quota.holds import (
    EXTEND,
    HOLD,
    REPEATED,
    Outcome,
    extension_arguments,
    extension_outcome,
    reservation_of,
    wish_arguments,
    wish_outcome,
)
from services.tenant_quota.key_names import KeyNames
from services.tenant_quota.quota_model import Extension, Reservation, Settlement, State, Wish
from services.tenant_quota.replays import present
from shared.coalescer import Coalescer
from shared.errors import Conflict, NotFound, RequestIdReused, ServiceError
from shared.postgres import ACQUIRE_TIMEOUT_SECONDS, postgres_errors

Result = TypeVar("Result")
Item = TypeVar("Item", Wish, Extension, Settlement)
CarryOut: TypeAlias = Callable[[Sequence[Item]], Awaitable[Sequence[Outcome]]]

SETTLE = """
SELECT tenant_id, reservation_id, user_id, key_id, state, granted, granted_cost, create_time, expire_time, cost_micros,
       priced, model, parent_reservation_id, child_tokens
  FROM unnest(settle($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11))
"""
NAME_TENANTS = "SELECT set_config('app.tenants', jsonb_object($1, $1)::text, true)"
KNOWN = """
SELECT a.n, r.*
  FROM unnest($1::text[], $2::text[]) WITH ORDINALITY a(tenant_id, reservation_id, n)
  JOIN reservations r ON r.tenant_id = a.tenant_id AND r.reservation_id = a.reservation_id
"""
EXTENDED = """
SELECT q.fingerprint
  FROM unnest($1::text[], $2::text[]) WITH ORDINALITY a(tenant_id, request_id, n)
  LEFT JOIN requests q ON q.tenant_id = a.tenant_id AND q.method = 'ExtendReservation' AND q.request_id = a.request_id
 ORDER BY a.n
"""
MOST_ATTEMPTS = 3
# A statement that has waited this long for a tenant's row keeps the next one back no more. It takes 4 s at
# the most for one such tenant, so no locked tenant takes all connections.
PATIENCE_SECONDS = 1.0
# Under load a statement leaves so long after the last one of its kind: fewer and larger ones cost less together.
PACE_SECONDS = 0.01


class Reservations:
    """Holds tokens and settles them, exactly, on however many replicas."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        *,
        largest_batch: int = 256,
        most_in_flight: int = 1,
        on_settled: Callable[[str, str, str], None] | None = None,
    ) -> None:
        """`on_settled` is told the tenant, user and key of whatever was settled here; it must return at once."""
        self._pool = pool
        self._on_settled = on_settled or (lambda *_: None)
        self._key_names = KeyNames(pool)

        def gathered(
            carry_out: CarryOut[Item], identity: Callable[[Item], Hashable | None]
        ) -> Coalescer[Item, Outcome]:
            return Coalescer[Item, Outcome](
                partial(_tenant_by_tenant, carry_out),
                identity,
                largest_batch=largest_batch,
                most_in_flight=most_in_flight,
                patience_seconds=PATIENCE_SECONDS,
                pace_seconds=PACE_SECONDS,
            )

        self._wishes = gathered(self._reserve_all, _request_identity)
        self._extensions = gathered(self._extend_all, _reservation_identity)
        self._settlements = gathered(self._settle_all, _reservation_identity)

    async def reserve(self, wish: Wish) -> Reservation:
        """Holds the tokens at all levels, or raises QuotaExceeded and holds none.

        A repeated request_id gives the reservation as it is now, or RequestIdReused. NotFound without such a tenant or
        parent, PermissionDenied (TENANT_INACTIVE) when the tenant is deactivated, FailedPrecondition when the parent is
        over (RESERVATION_EXPIRED, RESERVATION_SETTLED) or the cost of the model unknown (MODEL_PRICE_UNKNOWN),
        InvalidArgument when the parent is a child, Conflict when the tenant's row stays locked.
        """
        return _or_raise(await self._wishes.submit(wish))

    async def extend(self, extension: Extension) -> Reservation:
        """Holds more and renews the lease, or raises as `reserve` does and leaves the reservation as it was.

        FailedPrecondition when it is over, NotFound when there is none.
        """
        return _or_raise(await self._extensions.submit(extension))

    async def settle(self, settlement: Settlement) -> Reservation:
        """Commits or releases. NotFound, or FailedPrecondition as Settlement.judge says."""
        return _or_raise(await self._settlements.submit(settlement))

    async def sweep(self, most: int) -> int:
        """Gives back up to `most` reservations whose lease ended, and ends top-ups; returns how many."""
        async with self._connection() as connection:
            count: int = await connection.fetchval("SELECT sweep($1)", most)
            return count

    async def close(self) -> None:
        """Waits for what is under way."""
        await self._wishes.close()
        await self._extensions.close()
        await self._settlements.close()

    async def _reserve_all(self, wishes: Sequence[Wish]) -> Sequence[Outcome]:
        arguments = wish_arguments(wishes, await self._key_names.of(wish.key_id for wish in wishes))
        answer = present(await self._again(lambda connection: connection.fetchrow(HOLD, *arguments)))
        answers = [wish_outcome(wish, answer, place) for place, wish in enumerate(wishes)]
        repeated = [place for place, code in enumerate(answer["outcome"]) if code == REPEATED]
        known = await self._known([(wishes[place].tenant_id, answer["known_id"][place]) for place in repeated])
        for place, row in zip(repeated, known, strict=True):
            answers[place] = _recalled(wishes[place], row)
        return answers

    async def _extend_all(self, extensions: Sequence[Extension]) -> Sequence[Outcome]:
        rows = await self._known([(each.tenant_id, each.reservation_id) for each in extensions])
        answers: list[Outcome] = [NotFound("reservation", each.reservation_id) for each in extensions]
        found = [(place, extensions[place], row) for place, row in enumerate(rows) if row is not None]
        if not found:
            return answers
        known = [row for _, _, row in found]
        arguments = extension_arguments([each for _, each, _ in found], known)
        answer = present(await self._again(lambda connection: connection.fetchrow(EXTEND, *arguments)))
        for number, (place, each, row) in enumerate(found):
            answers[place] = extension_outcome(each, row, answer, number)
        repeated = [place for number, (place, _, _) in enumerate(found) if answer["outcome"][number] == REPEATED]
        for place, outcome in zip(repeated, await self._recall([extensions[place] for place in repeated]), strict=True):
            answers[place] = outcome
        return answers

    async def _settle_all(self, settlements: Sequence[Settlement]) -> Sequence[Outcome]:
        arguments = _settle_arguments(settlements)
        rows = await self._again(lambda connection: connection.fetch(SETTLE, *arguments))
        for row in rows:
            self._on_settled(row["tenant_id"], row["user_id"], row["key_id"])
        moved = {(row["tenant_id"], row["reservation_id"]): row for row in rows}
        others = [each for each in settlements if (each.tenant_id, each.reservation_id) not in moved]
        known = await self._known([(each.tenant_id, each.reservation_id) for each in others])
        unmoved = dict(zip(map(id, others), known, strict=True))
        return [
            _moved_outcome(each, moved[each.tenant_id, each.reservation_id])
            if id(each) not in unmoved
            else _settled_outcome(each, unmoved[id(each)])
            for each in settlements
        ]

    async def _recall(self, repeated: Sequence[Extension]) -> Sequence[Outcome]:
        """What repeated extensions get: the reservation as it is now, or RequestIdReused."""
        if not repeated:
            return []
        rows = await self._known([(each.tenant_id, each.reservation_id) for each in repeated])
        tenants = [each.tenant_id for each in repeated]
        async with self._connection() as connection, connection.transaction():
            await connection.execute(NAME_TENANTS, tenants)
            kept = await connection.fetch(
                EXTENDED, tenants, [each.replay and each.replay.request_id for each in repeated]
            )
        return [
            reservation_of(present(row))
            if each.replay and each.replay.fingerprint == first["fingerprint"]
            else RequestIdReused()
            for each, row, first in zip(repeated, rows, kept, strict=True)
        ]

    async def _known(self, wanted: Sequence[tuple[str, str]]) -> list[asyncpg.Record | None]:
        """The rows of the reservations, as they are now; None for one that does not exist."""
        found: list[asyncpg.Record | None] = [None] * len(wanted)
        if not wanted:
            return found
        tenants = [tenant_id for tenant_id, _ in wanted]
        async with self._connection() as connection, connection.transaction():
            await connection.execute(NAME_TENANTS, tenants)
            for row in await connection.fetch(KNOWN, tenants, [reservation_id for _, reservation_id in wanted]):
                found[row["n"] - 1] = row
        return found

    async def _again(self, work: Callable[[asyncpg.Connection], Awaitable[Result]]) -> Result:
        """A deadlock or lost race is known not to have been committed, so the batch may simply run once more."""
        for attempt in range(1, MOST_ATTEMPTS + 1):
            try:
                async with self._connection() as connection:
                    return await work(connection)
            except (Conflict, asyncpg.UniqueViolationError) as error:
                if _is_kept_locked(error) or attempt == MOST_ATTEMPTS:
                    raise
                await asyncio.sleep(0.01 * attempt)
        raise AssertionError

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[asyncpg.Connection]:
        with postgres_errors():
            async with self._pool.acquire(timeout=ACQUIRE_TIMEOUT_SECONDS) as connection:
                yield cast("asyncpg.Connection", connection)


async def _tenant_by_tenant(carry_out: CarryOut[Item], items: Sequence[Item]) -> Sequence[Outcome]:
    """All together; each tenant's apart when somebody keeps one of the tenants locked, so that only its own fail."""
    try:
        return await carry_out(items)
    except Conflict as error:
        if not _is_kept_locked(error):
            raise
        places: dict[str, list[int]] = defaultdict(list)
        for place, item in enumerate(items):
            places[item.tenant_id].append(place)
        if len(places) == 1:
            return [error] * len(items)
    answers: dict[int, Outcome] = {}
    for own in places.values():
        answers |= zip(own, await _tenant_by_tenant(carry_out, [items[place] for place in own]), strict=True)
    return [answers[place] for place in range(len(items))]


def _is_kept_locked(error: Exception) -> bool:
    return isinstance(error.__cause__, asyncpg.LockNotAvailableError)


def _request_identity(wish: Wish) -> Hashable | None:
    return (wish.tenant_id, wish.replay.request_id) if wish.replay else None


def _reservation_identity(item: Settlement | Extension) -> Hashable:
    return item.tenant_id, item.reservation_id


def _or_raise(outcome: Outcome) -> Reservation:
    if isinstance(outcome, ServiceError):
        raise outcome
    return outcome


def _recalled(wish: Wish, row: asyncpg.Record | None) -> Outcome:
    if row is None:
        return Conflict("the reservation was forgotten just now: asked again, the tokens are held anew")
    if wish.replay is None or wish.replay.fingerprint != row["fingerprint"]:
        return RequestIdReused()
    return reservation_of(row)


def _settle_arguments(settlements: Sequence[Settlement]) -> tuple[list[object], ...]:
    # Sorted as the database sorts them: the order in which they are locked.
    places = {tenant_id: place for place, tenant_id in enumerate(sorted({each.tenant_id for each in settlements}), 1)}
    return (
        list(places),
        [places[each.tenant_id] for each in settlements],
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


def _moved_outcome(settlement: Settlement, row: asyncpg.Record) -> Outcome:
    """Of a reservation that this very attempt moved."""
    state = State(row["state"])
    is_committed = state is State.COMMITTED
    now = Reservation(
        row["reservation_id"],
        row["user_id"],
        state,
        row["granted"],
        row["create_time"],
        row["expire_time"],
        settlement.usage if is_committed else None,
        settlement.usage_source if is_committed else 0,
        row["cost_micros"],
        row["parent_reservation_id"],
        row["child_tokens"],
        row["granted_cost"],
        row["priced"],
        row["model"],
    )
    return _judged(settlement, now, moved=True)


def _settled_outcome(settlement: Settlement, row: asyncpg.Record | None) -> Outcome:
    """Of a reservation that was over before, or never was."""
    if row is None:
        return NotFound("reservation", settlement.reservation_id)
    return _judged(settlement, reservation_of(row), moved=False)


def _judged(settlement: Settlement, now: Reservation, *, moved: bool) -> Outcome:
    try:
        return settlement.judge(now, moved=moved)
    except ServiceError as error:
        return error
