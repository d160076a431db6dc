"""A thousand open conversations under load for a minute: how even the answers are, and whether memory stands still.

32 clients append pairs and read the last 50 of conversations drawn at random, through the service with its cache.
`python -m tests.bench chat_soak`.
"""

import asyncio
import random
import statistics
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import grpc
import psutil
import uvloop

from deploy.local.ports import free_port
from shared.identifiers import new_id
from tests.bench.chat import ENGINES, running_engines
from tests.bench.chat_service import (
    SCOPES,
    START_SECONDS,
    TENANT,
    USER,
    Engines,
    ServiceSide,
    opened_engine,
    running_service,
)
from tests.bench.table import Row, at_most, publish
from tests.house.in_process import as_caller, token
from tests.house.signing import SigningKeys, new_signing_keys

CONVERSATIONS = 1_000
# So long that the cache is as full as it gets before the last half minute: what still fills up is no leak.
FIRST_MESSAGES = 120
CLIENTS = 32
SECONDS = 60.0
STEADY_SECONDS = 30.0
UNEVENNESS = 6.0
# What a resident set moves by without growing.
MEMORY_NOISE = 1.02


@dataclass
class Load:
    """What the clients saw, and what the service held, by time since the beginning."""

    took: dict[str, list[float]] = field(default_factory=lambda: {"append": [], "read": []})
    errors: Counter[str] = field(default_factory=Counter)
    resident: list[tuple[float, int]] = field(default_factory=list)

    def memory(self, start: float, end: float) -> float:
        """MiB, median of a while."""
        return statistics.median(size for at, size in self.resident if start <= at < end) / 2**20


def main() -> list[Row]:
    """Measures, prints, writes .prosa/bench/chat_soak.json."""
    keys = new_signing_keys()
    with running_engines(keys.public_pem) as engines:
        rows = [row for name in ENGINES for row in uvloop.run(_measured(engines, keys, name))]
    publish("chat_soak", rows)
    return rows


async def _measured(engines: Engines, keys: SigningKeys, name: str) -> list[Row]:
    signed = token(keys, tenant_id=TENANT, user_id=USER, scopes=SCOPES, lifetime_seconds=36_000)
    port = free_port()
    async with AsyncExitStack() as stack:
        process = stack.enter_context(running_service(engines.environment(name, port)))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))
        await asyncio.wait_for(channel.channel_ready(), START_SECONDS)
        engine = await stack.enter_async_context(opened_engine(engines, name))
        side = ServiceSide(channel, as_caller(signed), engine)
        conversations = [new_id() for _ in range(CONVERSATIONS)]
        for conversation in conversations:
            await side.fill(conversation, FIRST_MESSAGES)
        return _rows(side.name, await _loaded(side, conversations, psutil.Process(process.pid)))


async def _loaded(side: ServiceSide, conversations: list[str], process: psutil.Process) -> Load:
    load, begin = Load(), time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for number in range(CLIENTS):
            tasks.create_task(_client(side, conversations, random.Random(number), load, begin))
        tasks.create_task(_weighed(process, load, begin))
    return load


async def _client(side: ServiceSide, conversations: list[str], dice: random.Random, load: Load, begin: float) -> None:
    while time.perf_counter() - begin < SECONDS:
        conversation = dice.choice(conversations)
        for call in ("append", "read"):
            asked = time.perf_counter()
            try:
                await getattr(side, call)(conversation)
            except grpc.aio.AioRpcError as error:
                load.errors[error.code().name] += 1
            else:
                load.took[call].append(time.perf_counter() - asked)


async def _weighed(process: psutil.Process, load: Load, begin: float) -> None:
    while (at := time.perf_counter() - begin) < SECONDS:
        load.resident.append((at, process.memory_info().rss))
        await asyncio.sleep(0.5)


def _rows(name: str, load: Load) -> list[Row]:
    rows = []
    for call, took in load.took.items():
        cuts = statistics.quantiles(took, n=100)
        case = f"{name}: {call}, p99 beside p50, {len(took) / SECONDS:,.0f} calls/s"
        rows.append(at_most(case, cuts[98] * 1000, cuts[49] * 1000, "ms", UNEVENNESS))
    calls = sum(map(len, load.took.values()))
    errors = load.errors.total()
    rows.append(Row(f"{name}: errors {dict(load.errors)}", errors, calls, "calls", errors / calls, 0.0, errors == 0))
    late, steady = (
        load.memory(SECONDS - 5, SECONDS),
        load.memory(SECONDS - STEADY_SECONDS, SECONDS - STEADY_SECONDS + 5),
    )
    case = f"{name}: resident memory at the end beside {STEADY_SECONDS:.0f} s before"
    return [*rows, at_most(case, late, steady, "MiB", MEMORY_NOISE)]


if __name__ == "__main__":
    main()
