"""Requests per minute: admissions per second, and whether the limit holds, beside the `limits` library's moving window.

Both on one Redis, without gRPC, in turns; ours in this process (three replicas of it where the limit is tested), theirs
in one of its own. `make bench BENCH=rates`.
"""

import json
import statistics
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

from pydantic import SecretStr

from deploy.local.engine import running_engine
from deploy.local.engines import Redis
from deploy.local.ports import free_port
from services.tenant_quota.rate_windows import RedisWindows
from services.tenant_quota.rates import Level, Rates, Subject
from shared.identifiers import new_id
from shared.optional_redis import open_optional_redis
from shared.server import run
from tests.bench.chat_sides import PYTHON
from tests.bench.rate_load import CLIENTS, Outcome, Shares, load
from tests.bench.table import Row, at_least, at_most, publish
from tests.house.processes import REPOSITORY

ROUNDS = 5
ROUND_SECONDS = 1.5
REPLICAS = 3
WIDE, NARROW = 1_000_000, 2_000
LEVELS = ("tenant", "user", "key")
# What is measured: how many levels, how many tenants, the limit, and the least ratio to theirs.
CASES = (
    ("one level, one tenant", 1, 1, WIDE, 2.0),
    ("three levels, one tenant", 3, 1, WIDE, 4.0),
    (f"three levels, {CLIENTS} tenants", 3, CLIENTS, WIDE, 4.0),
    ("three levels, most refused", 3, 1, NARROW, 2.0),
)


class Ours:
    """A replica's windows, with limits that are at hand."""

    def __init__(self, windows: RedisWindows) -> None:
        self._limits: dict[Subject, int] = {}
        self._rates = Rates(self, windows)

    async def limits(self, subjects: Sequence[Subject]) -> Mapping[Subject, int]:
        return {subject: self._limits[subject] for subject in subjects}

    async def admit(self, shares: Shares) -> bool:
        return not (await self._rates.admit("bench", self._hits(shares, 1))).full

    async def used(self, subject: str, limit: int) -> int:
        verdict = await self._rates.admit("bench", self._hits([(subject, limit)], 0))
        return verdict.standings[0].used

    def _hits(self, shares: Shares, hits: int) -> Mapping[Subject, int]:
        named = {_subject(name): limit for name, limit in shares}
        self._limits |= named
        return dict.fromkeys(named, hits)


class Theirs:
    """The peer in its process."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def load(self, requests: Sequence[Shares], seconds: float) -> Outcome:
        """As rate_load.load there."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"requests": requests, "seconds": seconds}) + "\n")
        self._process.stdin.flush()
        outcome: Outcome = json.loads(self._process.stdout.readline())
        return outcome


def main() -> Sequence[Row]:
    """Measures, prints and keeps the table."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="prosa-bench-") as directory:
        Path(directory).chmod(0o755)
        engine = Redis(Path(directory) / "redis", free_port())
        with running_engine(engine), _peer(engine.url()) as theirs:
            run(lambda: _compare(engine.url(), theirs, rows))
    publish("rates", rows)
    return rows


async def _compare(url: str, theirs: Theirs, rows: list[Row]) -> None:
    async with _replicas(url) as replicas:
        for case, levels, tenants, limit, bar in CASES:
            mine, others = list[float](), list[float]()
            for _ in range(ROUNDS):
                outcome = await load(replicas[:1], _requests(levels, tenants, limit), ROUND_SECONDS)
                mine.append(outcome["calls_per_second"])
                others.append(theirs.load(_requests(levels, tenants, limit), ROUND_SECONDS)["calls_per_second"])
            ratio = statistics.median(a / b for a, b in zip(mine, others, strict=True))
            rows.append(at_least(case, statistics.median(mine), statistics.median(others), "/s", bar, ratio=ratio))
        rows += await _exactness(replicas, theirs)


async def _exactness(replicas: Sequence[Ours], theirs: Theirs) -> list[Row]:
    """Ours on three replicas, theirs on one; each for less than a window."""
    ours = await load(replicas, _refused_by_tenant(), 3.0)
    peer = theirs.load(_refused_by_tenant(), 3.0)
    return [
        _nothing("admitted beside the limit, in a minute", _beside(ours), _beside(peer)),
        _nothing("counted at one level, refused by another", _leaked(ours), _leaked(peer)),
    ]


def _nothing(case: str, ours: int, peer: int) -> Row:
    return at_most(case, ours, peer, "requests", 0, ratio=ours)


def _beside(outcome: Outcome) -> int:
    return abs(outcome["admitted"] - NARROW)


def _leaked(outcome: Outcome) -> int:
    return outcome["used"][0] - outcome["admitted"]


def _requests(levels: int, tenants: int, limit: int) -> list[Shares]:
    """Subjects that nobody has asked about yet, one request for each tenant."""
    return [[(f"{level}:{new_id()}", limit) for level in LEVELS[:levels]] for _ in range(tenants)]


def _refused_by_tenant() -> list[Shares]:
    """The key and the user have room, the tenant, asked last, has little."""
    return [[(f"{level}:{new_id()}", NARROW if level == "tenant" else WIDE) for level in reversed(LEVELS)]]


def _subject(name: str) -> Subject:
    level, _, subject_id = name.partition(":")
    return Subject(subject_id) if level == "tenant" else Subject("tenant", Level[level.upper()], subject_id)


@asynccontextmanager
async def _replicas(url: str) -> AsyncIterator[list[Ours]]:
    async with AsyncExitStack() as stack:
        made = []
        for _ in range(REPLICAS):
            redis = await stack.enter_async_context(
                open_optional_redis(SecretStr(url), used_for="rates", patience_seconds=5.0)
            )
            made.append(Ours(RedisWindows(redis)))
        yield made


@contextmanager
def _peer(url: str) -> Iterator[Theirs]:
    command = [str(PYTHON), "-m", "tests.bench.rate_peer", url]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        json.loads(process.stdout.readline())
        yield Theirs(process)
    finally:
        process.stdin.close()
        process.wait(30)


if __name__ == "__main__":
    main()
