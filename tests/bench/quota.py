"""Holding and settling tokens, beside three others that send one statement per request.

"one UPDATE" keeps a single counter and nothing else: no user, no second window, no lease, no ledger, no retry. "a Redis
script" keeps the same counter where a restart may lose the last second of it.
"same account" keeps ours (four limits, a lease, a request_id, a reservation, two ledger rows), without coalescing.
All run in this process, without gRPC, on the same machine, in turns. `python -m tests.bench.quota`.
"""

import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

import asyncpg
from pydantic import SecretStr
from redis.asyncio import Redis

from deploy.local import engines
from deploy.local.engine import running_engine
from deploy.local.ports import free_port
from services.tenant_quota.__main__ import SCHEMA, SCHEMA_DIRECTORY
from services.tenant_quota.audit import discrepancies
from services.tenant_quota.model import Replay
from services.tenant_quota.quota_model import Settlement, State, TokenUsage, Wish
from services.tenant_quota.reservations import Reservations
from shared.identifiers import new_id
from shared.postgres import migrate, open_pool, tenant_transaction
from shared.server import run
from tests.bench.table import Row, at_most, publish

CLIENTS = 64
TENANTS = 1_000
ROUNDS = 5
ROUND_SECONDS = 2.0
LONE_CALLS = 400
CONNECTIONS = 16
TOKENS, USED = 100, 30
LIMIT = 10**12
# What is measured, and the least ratio to "one UPDATE" and to "same account".
CASES = (("one hot tenant", 1, (10.0, 10.0)), (f"{TENANTS:,} tenants", TENANTS, (4.0, 2.5)))

PEER_TABLE = """
CREATE TABLE plain (tenant_id text PRIMARY KEY, used bigint NOT NULL, held bigint NOT NULL, most bigint NOT NULL)
    WITH (fillfactor = 50)
"""
PEER_RESERVE = """
UPDATE tenant_quota.plain SET held = held + $2 WHERE tenant_id = $1 AND used + held + $2 <= most RETURNING held
"""
PEER_COMMIT = "UPDATE tenant_quota.plain SET held = held - $2, used = used + $3 WHERE tenant_id = $1 RETURNING used"


PEER_HOLD_SCRIPT = """
local used, held = unpack(redis.call('HMGET', KEYS[1], 'used', 'held'))
if (tonumber(used) or 0) + (tonumber(held) or 0) + ARGV[1] > tonumber(ARGV[2]) then return 0 end
redis.call('HINCRBY', KEYS[1], 'held', ARGV[1])
return 1
"""
PEER_SETTLE_SCRIPT = """
redis.call('HINCRBY', KEYS[1], 'held', -ARGV[1])
return redis.call('HINCRBY', KEYS[1], 'used', ARGV[2])
"""


class Side(Protocol):
    """One way to keep an account."""

    async def reserve(self, tenant_id: str, number: int) -> str:
        """Holds tokens; returns how to settle them."""

    async def commit(self, tenant_id: str, held: str) -> None:
        """Settles them."""


class Ours:
    """The store as the service uses it; with `coalesced` off, one statement per request and connection."""

    def __init__(self, pool: asyncpg.Pool, *, coalesced: bool = True) -> None:
        alone = Reservations(pool, largest_batch=1, most_in_flight=CONNECTIONS // 2)
        self._store = Reservations(pool) if coalesced else alone

    async def reserve(self, tenant_id: str, number: int) -> str:
        wish = Wish(
            tenant_id=tenant_id,
            user_id=f"user-{number % 8}",
            key_id="key",
            reservation_id=new_id(),
            tokens=TOKENS,
            minimum=TOKENS,
            lease_seconds=60,
            model="gpt-5-mini",
            conversation_id="conversation",
            assistant_id="assistant",
            replay=Replay(new_id(), b"payload"),
        )
        return (await self._store.reserve(wish)).reservation_id

    async def commit(self, tenant_id: str, held: str) -> None:
        usage = TokenUsage(USED - 10, 0, 10, 0)
        await self._store.settle(Settlement(tenant_id, held, State.COMMITTED, usage, 1, 5))


class OneUpdateEach:
    """A counter a tenant, an UPDATE a call."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def reserve(self, tenant_id: str, number: int) -> str:
        del number
        if await self._pool.fetchval(PEER_RESERVE, tenant_id, TOKENS) is None:
            raise AssertionError("the limit was not to be reached")
        return ""

    async def commit(self, tenant_id: str, held: str) -> None:
        del held
        await self._pool.fetchval(PEER_COMMIT, tenant_id, TOKENS, USED)


class RedisScriptEach:
    """A counter a tenant, a script a call."""

    def __init__(self, redis: Redis) -> None:
        self._hold, self._settle = redis.register_script(PEER_HOLD_SCRIPT), redis.register_script(PEER_SETTLE_SCRIPT)

    async def reserve(self, tenant_id: str, number: int) -> str:
        del number
        if not await self._hold(keys=[tenant_id], args=[TOKENS, LIMIT]):
            raise AssertionError("the limit was not to be reached")
        return ""

    async def commit(self, tenant_id: str, held: str) -> None:
        del held
        await self._settle(keys=[tenant_id], args=[TOKENS, USED])


def main() -> Sequence[Row]:
    """Measures, prints and keeps the table."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="prosa-bench-") as directory:
        Path(directory).chmod(0o755)
        postgres = engines.Postgres(Path(directory) / "postgres", free_port())
        redis = engines.Redis(Path(directory) / "redis", free_port())
        with running_engine(postgres), running_engine(redis):
            run(lambda: _compare(postgres.url(), redis.url(), rows))
    publish("quota", rows)
    return rows


async def _compare(url: str, redis_url: str, rows: list[Row]) -> None:
    async with prepared(url) as (ours, same, update, pool), Redis.from_url(redis_url) as redis:
        script = RedisScriptEach(redis)
        for case, tenants, bars in CASES:
            mine, *others = await _in_turns([ours, update, same, script], tenants)
            names = ("one UPDATE", "same account", "a Redis script")
            for name, theirs, bar in zip(names, others, (*bars, None), strict=True):
                ratio = statistics.median(a / b for a, b in zip(mine, theirs, strict=True))
                figures = statistics.median(mine), statistics.median(theirs)
                holds = bar is None or ratio >= bar
                rows.append(Row(f"cycles, {case}, peer: {name}", *figures, "/s", ratio, bar, holds))
        lone = await _lone(ours), await _lone(update)
        rows.append(at_most("a cycle, nobody else, p50, peer: one UPDATE", *lone, "ms", 4.0))
        for number in (0, 1, TENANTS - 1):
            if await discrepancies(pool, f"tenant-{number}"):
                raise AssertionError("the ledger does not explain the counters")


@asynccontextmanager
async def prepared(url: str) -> AsyncIterator[tuple[Ours, Ours, OneUpdateEach, asyncpg.Pool]]:
    """The schema with its tenants, and the sides over it."""
    secret = SecretStr(url)
    await migrate(secret, schema=SCHEMA, directory=SCHEMA_DIRECTORY)
    superuser = await asyncpg.connect(url, server_settings={"search_path": SCHEMA})
    await superuser.execute(PEER_TABLE)
    many = f"FROM generate_series(0, {TENANTS - 1}) i"
    await superuser.execute(f"INSERT INTO plain SELECT 'tenant-' || i, 0, 0, {LIMIT} {many}")
    await superuser.execute(f"INSERT INTO tenants SELECT 'tenant-' || i, 'T', 'America/Sao_Paulo' {many}")
    limits = f"SELECT 'tenant-' || i, 1, '', {LIMIT}, {LIMIT}, 1 {many}"
    columns = "tenant_id, level, subject, tokens_per_day, tokens_per_month, enforcement"
    await superuser.execute(f"INSERT INTO quotas ({columns}) {limits}")
    await superuser.close()
    async with (
        open_pool(secret, schema=SCHEMA, max_size=CONNECTIONS, min_size=CONNECTIONS) as pool,
        asyncpg.create_pool(url, max_size=CONNECTIONS, min_size=CONNECTIONS) as peer_pool,
    ):
        async with tenant_transaction(pool, "*") as connection:
            await connection.fetchval("SELECT count(*) FROM tenants")
        yield Ours(pool), Ours(pool, coalesced=False), OneUpdateEach(peer_pool), pool


async def _in_turns(sides: Sequence[Side], tenants: int) -> list[list[float]]:
    figures: list[list[float]] = [[] for _ in sides]
    for side in sides:
        await _cycles_per_second(side, tenants, 1.0)
    for _ in range(ROUNDS):
        for side, kept in zip(sides, figures, strict=True):
            kept.append(await _cycles_per_second(side, tenants, ROUND_SECONDS))
    return figures


async def _cycles_per_second(side: Side, tenants: int, seconds: float) -> float:
    stop = time.perf_counter() + seconds
    done = 0

    async def client(number: int) -> None:
        nonlocal done
        dice = random.Random(number)
        while time.perf_counter() < stop:
            tenant_id = f"tenant-{dice.randrange(tenants)}"
            await side.commit(tenant_id, await side.reserve(tenant_id, number))
            done += 1

    start = time.perf_counter()
    await asyncio.gather(*(client(number) for number in range(CLIENTS)))
    return done / (time.perf_counter() - start)


async def _lone(side: Side) -> float:
    times = []
    for number in range(LONE_CALLS):
        start = time.perf_counter()
        await side.commit("tenant-0", await side.reserve("tenant-0", number))
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1_000


if __name__ == "__main__":
    main()
