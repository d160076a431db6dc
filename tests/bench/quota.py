"""Holding and settling tokens, beside the usual design: one UPDATE … RETURNING per request on one counter.

Both sides run in this process, without gRPC, on the same PostgreSQL with the same number of connections, in turns.
Ours does more: four limits, a lease, a request_id, a reservation row and two ledger rows each cycle.
`python -m tests.bench.quota`.
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

from deploy.local.engine import running_engine
from deploy.local.engines import Postgres
from deploy.local.ports import free_port
from services.tenant_quota.__main__ import SCHEMA, SCHEMA_DIRECTORY
from services.tenant_quota.audit import discrepancies
from services.tenant_quota.model import Replay
from services.tenant_quota.quota_model import Settlement, State, TokenUsage, Wish
from services.tenant_quota.reservations import Reservations
from shared.identifiers import new_id
from shared.postgres import migrate, open_pool, tenant_transaction
from shared.server import run
from tests.bench.table import Row, at_least, at_most, publish

CLIENTS = 64
TENANTS = 1_000
ROUNDS = 5
ROUND_SECONDS = 2.0
LONE_CALLS = 400
CONNECTIONS = 16
TOKENS, USED = 100, 30
LIMIT = 10**12

PEER_TABLE = """
CREATE TABLE plain (tenant_id text PRIMARY KEY, used bigint NOT NULL, held bigint NOT NULL, most bigint NOT NULL)
    WITH (fillfactor = 50)
"""
PEER_RESERVE = """
UPDATE tenant_quota.plain SET held = held + $2 WHERE tenant_id = $1 AND used + held + $2 <= most RETURNING held
"""
PEER_COMMIT = "UPDATE tenant_quota.plain SET held = held - $2, used = used + $3 WHERE tenant_id = $1 RETURNING used"


class Side(Protocol):
    """One way to keep an account."""

    async def reserve(self, tenant_id: str, number: int) -> str:
        """Holds tokens; returns how to settle them."""

    async def commit(self, tenant_id: str, held: str) -> None:
        """Settles them."""


class Ours:
    """The store as the service uses it."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._store = Reservations(pool)

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


def main() -> Sequence[Row]:
    """Measures, prints and keeps the table."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="prosa-bench-") as directory:
        Path(directory).chmod(0o755)
        engine = Postgres(Path(directory) / "postgres", free_port())
        with running_engine(engine):
            run(lambda: _compare(engine.url(), rows))
    publish("quota", rows)
    return rows


async def _compare(url: str, rows: list[Row]) -> None:
    async with _prepared(url) as (ours, peer, pool):
        for case, tenants, bar in (("one hot tenant", 1, 10.0), (f"{TENANTS:,} tenants", TENANTS, 4.0)):
            mine, theirs = await _in_turns(ours, peer, tenants)
            ratio = statistics.median(a / b for a, b in zip(mine, theirs, strict=True))
            figures = statistics.median(mine), statistics.median(theirs)
            rows.append(at_least(f"reserve + commit, {case}, {CLIENTS} clients", *figures, "/s", bar, ratio=ratio))
        lone = await _lone(ours), await _lone(peer)
        rows.append(at_most("reserve + commit, nobody else, p50", *lone, "ms", 4.0))
        for number in (0, 1, TENANTS - 1):
            if await discrepancies(pool, f"tenant-{number}"):
                raise AssertionError("the ledger does not explain the counters")


@asynccontextmanager
async def _prepared(url: str) -> AsyncIterator[tuple[Ours, OneUpdateEach, asyncpg.Pool]]:
    secret = SecretStr(url)
    await migrate(secret, schema=SCHEMA, directory=SCHEMA_DIRECTORY)
    superuser = await asyncpg.connect(url, server_settings={"search_path": SCHEMA})
    await superuser.execute(PEER_TABLE)
    many = f"FROM generate_series(0, {TENANTS - 1}) i"
    await superuser.execute(f"INSERT INTO plain SELECT 'tenant-' || i, 0, 0, {LIMIT} {many}")
    await superuser.execute(f"INSERT INTO tenants SELECT 'tenant-' || i, 'T', 'America/Sao_Paulo' {many}")
    await superuser.execute(f"INSERT INTO quotas SELECT 'tenant-' || i, '', {LIMIT}, {LIMIT}, 1 {many}")
    await superuser.close()
    async with (
        open_pool(secret, schema=SCHEMA, max_size=CONNECTIONS, min_size=CONNECTIONS) as pool,
        asyncpg.create_pool(url, max_size=CONNECTIONS, min_size=CONNECTIONS) as peer_pool,
    ):
        async with tenant_transaction(pool, "*") as connection:
            await connection.fetchval("SELECT count(*) FROM tenants")
        yield Ours(pool), OneUpdateEach(peer_pool), pool


async def _in_turns(ours: Side, peer: Side, tenants: int) -> tuple[list[float], list[float]]:
    await _cycles_per_second(ours, tenants, 1.0)
    await _cycles_per_second(peer, tenants, 1.0)
    mine, theirs = [], []
    for _ in range(ROUNDS):
        mine.append(await _cycles_per_second(ours, tenants, ROUND_SECONDS))
        theirs.append(await _cycles_per_second(peer, tenants, ROUND_SECONDS))
    return mine, theirs


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
