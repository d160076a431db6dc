"""What is kept for a time is deleted when that is over: a bounded number of rows a statement, and all of them."""

import asyncpg

from shared.postgres import tenant_transaction

FORGET_EVERY_SECONDS = 300.0
ROWS_AT_ONCE = 1_000


async def forget_all(pool: asyncpg.Pool, statement: str, *values: object) -> None:
    """Carries the statement out until nothing is left to be forgotten.

    It deletes as many rows as its first parameter says and returns how many that were.
    """
    gone = ROWS_AT_ONCE
    while gone == ROWS_AT_ONCE:
        async with tenant_transaction(pool, "*") as connection:
            gone = await connection.fetchval(statement, ROWS_AT_ONCE, *values)
