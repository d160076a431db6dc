"""The price book: appended to by time, and what has begun is never changed.

Whoever changes it is alone in it for the moment: nobody holds or settles tokens between the instant at which a price
begins and the instant at which everybody sees it. So a price that was seen as in force stays the one that was.
"""

from collections.abc import Sequence
from datetime import datetime

import asyncpg

from services.tenant_quota.model import PLATFORM, Replay
from services.tenant_quota.plan_model import Price, PriceInForce, Rates
from services.tenant_quota.replays import once
from services.tenant_quota.tenants import ACROSS_TENANTS, Position, bounds
from shared.errors import FieldViolation, InvalidArgument, NotFound
from shared.postgres import tenant_transaction

# The account reads prices under its tenants' locks, which it is waited for for 2 s: so this waits for less, then gives
# up rather than hold everybody up behind somebody who reads for long.
PATIENCE = "SET LOCAL lock_timeout = '1s'"
ALONE = "LOCK TABLE prices IN ACCESS EXCLUSIVE MODE"
NOW = "SELECT clock_timestamp()"
SET = """
INSERT INTO prices (model, effective_time, input_micros, cached_input_micros, output_micros, reasoning_micros)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (model, effective_time) DO UPDATE
   SET input_micros = excluded.input_micros, cached_input_micros = excluded.cached_input_micros,
       output_micros = excluded.output_micros, reasoning_micros = excluded.reasoning_micros,
       create_time = excluded.create_time
RETURNING *
"""
GET = "SELECT * FROM prices WHERE model = $1 AND effective_time = $2"
IN_FORCE = """
SELECT * FROM prices WHERE model = $1 AND effective_time <= coalesce($2, clock_timestamp())
 ORDER BY effective_time DESC LIMIT 1
"""
LIST = """
SELECT * FROM prices WHERE (effective_time, model) < ($1::text::timestamptz, $2) AND ($3 = '' OR model = $3)
 ORDER BY effective_time DESC, model DESC LIMIT $4
"""
DELETE = "DELETE FROM prices WHERE model = $1 AND effective_time = $2"


class Prices:
    """Sets, tells and takes back what models cost."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def set(self, model: str, effective_time: datetime | None, rates: Rates, replay: Replay | None) -> Price:
        """The price from then on, from now on when it is None; one that was to begin at the same time is replaced.

        InvalidArgument for a time that has passed, Conflict when the price book is being read for long.
        """
        async with tenant_transaction(self._pool, ACROSS_TENANTS) as connection:

            async def make() -> asyncpg.Record | None:
                begin = _begin(effective_time, await _alone(connection))
                micros = (rates.input_micros, rates.cached_input_micros, rates.output_micros, rates.reasoning_micros)
                return await connection.fetchrow(SET, model, begin, *micros)

            row, _ = await once(connection, PLATFORM, "SetPrice", replay, "prices", make)
        return _price(row)

    async def in_force(self, model: str, time: datetime | None) -> Price:
        """What the model costs at that time, now when it is None; NotFound when it has no price then."""
        async with tenant_transaction(self._pool, ACROSS_TENANTS) as connection:
            row = await connection.fetchrow(IN_FORCE, model, time)
        if row is None:
            raise NotFound("price", model)
        return _price(row)

    async def list(self, model: str, before: Position | None, most: int) -> Sequence[Price]:
        """Of the model, of all when it is ""; those that begin last first."""
        async with tenant_transaction(self._pool, ACROSS_TENANTS) as connection:
            return [_price(row) for row in await connection.fetch(LIST, *bounds(before), model, most)]

    async def delete(self, model: str, effective_time: datetime) -> None:
        """PriceInForce when it has begun, NotFound when there is none, Conflict as `set`."""
        async with tenant_transaction(self._pool, ACROSS_TENANTS) as connection:
            now = await _alone(connection)
            if await connection.fetchrow(GET, model, effective_time) is None:
                raise NotFound("price", model)
            if effective_time <= now:
                raise PriceInForce
            await connection.execute(DELETE, model, effective_time)


async def _alone(connection: asyncpg.Connection) -> datetime:
    """The moment from which on the price book is the transaction's alone."""
    await connection.execute(PATIENCE)
    await connection.execute(ALONE)
    now: datetime = await connection.fetchval(NOW)
    return now


def _begin(wanted: datetime | None, now: datetime) -> datetime:
    if wanted is None:
        return now
    if wanted <= now:
        text = "must be in the future, or unset for now"
        raise InvalidArgument(violations=[FieldViolation("effective_time", text, "timestamp.gt_now")])
    return wanted


def _price(row: asyncpg.Record) -> Price:
    rates = Rates(row["input_micros"], row["cached_input_micros"], row["output_micros"], row["reasoning_micros"])
    return Price(row["model"], row["effective_time"], rates, row["create_time"])
