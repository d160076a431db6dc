"""Appending a pair of messages and reading the last 50: chat_store beside what others do, at several lengths.

Our service is a process of its own behind gRPC with its cache; every peer works in a process of its own without any
service. All take their turns in every round, so that a busy machine hurts all alike. `make bench BENCH=chat`.
"""

import asyncio
import statistics
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import uvloop
from pydantic import SecretStr

from deploy.local.engine import running_engine
from deploy.local.engines import Mongo, Postgres, Redis
from deploy.local.ports import free_port
from services.chat_store.engines import SCHEMA_DIRECTORY
from shared.identifiers import new_id
from shared.migrations import migrate
from tests.bench.bare_handler import bare_handlers
from tests.bench.chat_service import LAST, Engines, ServiceSide, opened_engine, opened_service
from tests.bench.chat_sides import Own, Peer, Side, running_peers
from tests.bench.empty_call import empty_call
from tests.bench.overhead import Sides, overhead
from tests.bench.pace import Act, alone, medians
from tests.bench.table import Row, at_least, at_most, publish
from tests.house.signing import SigningKeys, new_signing_keys

ENGINES = ("mongo", "postgres")
SHORT, MEDIUM, LONG, LONGEST = 10, 1_000, 20_000, 100_000
# As many as there are conversations of a length: filling long ones takes its time.
CLIENTS = {10: 1, 1_000: 32, 20_000: 8, 100_000: 1}
ROUNDS = 5
TURN_SECONDS = 0.5
# Of each side in a round, where the service is held against its engine.
TURNS = 200
GROWTH = 1.3
READ_BARS = {"LangChain MongoDB": 15.0, "LangChain PostgreSQL": 15.0}
PLAN = "plan 004 (SQLAlchemy)"
APPEND_BAR, LONG_APPEND_BAR = 4.0, 10.0
# What the service may add to the engine: this many calls that do nothing.
CALLS_ALLOWED = 1.5


@dataclass
class Bench:
    """All sides, ready, and the conversations each of them has at a length."""

    addresses: Engines
    engines: dict[str, Own]
    services: dict[str, ServiceSide]
    peers: list[Peer]
    names: dict[tuple[str, int], list[str]] = field(default_factory=dict)

    async def conversations(self, side: Side, length: int) -> list[str]:
        """One for each client, filled when first asked for."""
        known = self.names.get((side.name, length))
        if known is None:
            known = self.names[side.name, length] = [new_id() for _ in range(CLIENTS[length])]
            for name in known:
                await side.fill(name, length)
        return known


def main() -> list[Row]:
    """Measures, prints, writes .prosa/bench/chat.json."""
    keys = new_signing_keys()
    with running_engines(keys.public_pem) as engines, running_peers(engines) as peers:
        rows = uvloop.run(_measured(engines, keys, peers))
    publish("chat", rows)
    return rows


@contextmanager
def running_engines(public_key: str) -> Iterator[Engines]:
    """The three engines on directories of their own, PostgreSQL with chat_store's tables."""
    with tempfile.TemporaryDirectory(prefix="prosa-bench-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        mongo = Mongo(directory / "mongo", free_port())
        postgres = Postgres(directory / "postgres", free_port())
        redis = Redis(directory / "redis", free_port())
        with running_engine(mongo), running_engine(postgres), running_engine(redis):
            url = SecretStr(postgres.url())
            asyncio.run(migrate(url, schema="chat_store", directory=SCHEMA_DIRECTORY))
            yield Engines(mongo.url(), postgres.url(), redis.url(), public_key)


async def _measured(engines: Engines, keys: SigningKeys, peers: list[Peer]) -> list[Row]:
    async with _bench(engines, keys, peers) as bench:
        rows = await _growth(bench)
        rows += await _overhead(bench)
        rows += await _beside_peers(bench)
        return rows


@asynccontextmanager
async def _bench(engines: Engines, keys: SigningKeys, peers: list[Peer]) -> AsyncIterator[Bench]:
    async with AsyncExitStack() as stack:
        bare = {name: await stack.enter_async_context(opened_engine(engines, name)) for name in ENGINES}
        services = {
            name: await stack.enter_async_context(opened_service(engines, keys, side, name))
            for name, side in bare.items()
        }
        yield Bench(engines, {name: Own(side) for name, side in bare.items()}, services, peers)


async def _growth(bench: Bench) -> list[Row]:
    """Our cost at 100 000 messages beside fewer ("peer" is the shorter conversation); 50 cannot be read of 10."""
    rows = []
    for service in bench.services.values():
        side = Own(service)
        short, medium, long = [(await bench.conversations(side, length))[0] for length in (SHORT, MEDIUM, LONGEST)]
        cases: list[tuple[str, Act, str, int]] = [
            ("append a pair", service.append, short, SHORT),
            (f"read last {SHORT}", partial(service.read, last=SHORT), short, SHORT),
            (f"read last {LAST}", service.read, medium, MEDIUM),
        ]
        for what, act, peer, length in cases:
            rounds = [
                (await alone(act, long, TURN_SECONDS), await alone(act, peer, TURN_SECONDS)) for _ in range(ROUNDS)
            ]
            case = f"{side.name}: {what}, p50, {LONGEST} messages beside {length}"
            rows.append(_at_most(case, rounds, GROWTH))
    return rows


async def _overhead(bench: Bench) -> list[Row]:
    rows = []
    async with empty_call() as empty:
        for name, engine in bench.engines.items():
            service = Own(bench.services[name])
            turns = [(await bench.conversations(service, MEDIUM))[0]] * TURNS
            async with bare_handlers(bench.addresses, name) as bare:
                for call in ("append", "read"):
                    sides = Sides(getattr(service.side, call), getattr(engine.side, call), bare[call], empty)
                    case = f"{service.name}: {call}, p50"
                    rows += await overhead(case, sides, turns, statistics.median, CALLS_ALLOWED)
    return rows


async def _beside_peers(bench: Bench) -> list[Row]:
    rows = []
    plan = next(peer for peer in bench.peers if peer.name == PLAN)
    for service in map(Own, bench.services.values()):
        for peer in bench.peers:
            rows.append(await _throughput(bench, "read", service, peer, MEDIUM, READ_BARS.get(peer.name)))
            bar = APPEND_BAR if peer is plan else None
            rows.append(await _throughput(bench, "append", service, peer, MEDIUM, bar))
        rows.append(await _throughput(bench, "append", service, plan, LONG, LONG_APPEND_BAR))
        rows += [await _alone_at(bench, "read", service, peer, LONGEST) for peer in bench.peers]
    return rows


async def _throughput(bench: Bench, call: str, ours: Side, peer: Side, length: int, bar: float | None) -> Row:
    """Calls per second of all clients together."""
    our_names, peer_names = await bench.conversations(ours, length), await bench.conversations(peer, length)
    rounds = [
        (await ours.together(call, our_names, TURN_SECONDS), await peer.together(call, peer_names, TURN_SECONDS))
        for _ in range(ROUNDS)
    ]
    mine, theirs, ratio = medians(*zip(*rounds, strict=True))
    case = f"{ours.name}: {call}, {length} messages, {CLIENTS[length]} clients, beside {peer.name}"
    if bar is None:
        return Row(case, mine, theirs, "calls/s", ratio, None, holds=True)
    return at_least(case, mine, theirs, "calls/s", bar, ratio=ratio)


async def _alone_at(bench: Bench, call: str, ours: Side, peer: Side, length: int) -> Row:
    """One caller's p50: what is read whole cannot be asked often at this length."""
    mine = await ours.alone(call, (await bench.conversations(ours, length))[0], TURN_SECONDS)
    theirs = await peer.alone(call, (await bench.conversations(peer, length))[0], TURN_SECONDS)
    case = f"{ours.name}: {call}, p50, {length} messages, beside {peer.name}"
    return Row(case, mine, theirs, "ms", mine / theirs, None, holds=True)


def _at_most(case: str, rounds: list[tuple[float, float]], bar: float) -> Row:
    ours, peer, ratio = medians(*zip(*rounds, strict=True))
    return at_most(case, ours, peer, "ms", bar, ratio=ratio)


if __name__ == "__main__":
    main()
