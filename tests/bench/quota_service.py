"""Holding and settling through the gRPC service, clients included, beside LiteLLM's budgets kept in-process; and
whether the limit holds when one of three replicas is killed under load.

Ours: processes of their own over PostgreSQL. LiteLLM: in its own process, without any wire, on Redis.
`make bench BENCH=quota_service`.
"""

import asyncio
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import grpc

from deploy.local.engine import running_engine
from deploy.local.engines import Postgres, Redis
from deploy.local.ports import free_port
from prosa.common.v1 import usage_pb2
from prosa.tenant_quota.v1 import quota_service_pb2 as pb
from prosa.tenant_quota.v1.quota_service_pb2_grpc import QuotaServiceStub
from services.tenant_quota.audit import discrepancies
from services.tenant_quota.model import PERMISSIONS, Role
from services.tenant_quota.quota_model import Quota, Window
from services.tenant_quota.quotas import Quotas
from services.tenant_quota.tenants import Tenants
from shared.caller import TokenVerifier
from shared.identifiers import new_id
from shared.server import run
from tests.bench.empty_call import empty_call
from tests.bench.quota import TENANTS, TOKENS, USED, prepared
from tests.bench.quota_load import CLIENTS, Outcome, load
from tests.bench.table import Row, at_most, publish
from tests.house.in_process import Metadata, as_service, token
from tests.house.processes import REPOSITORY
from tests.house.signing import SigningKeys, new_signing_keys

PEER_PYTHON = REPOSITORY / ".prosa" / "peers-quota" / "bin" / "python"
ROUNDS = 3
ROUND_SECONDS = 3.0
REPLICAS = 3
NARROW_REQUESTS = 2_000
LEASE_SECONDS = 3
CHECKS = 20_000
HOT = ["tenant-0"]
MANY = [f"tenant-{number}" for number in range(TENANTS)]
# The least ratio, where one was promised.
BARS = {"a store that does nothing": 0.8, "budget_reservation": 2.5}
CASES = (("one hot tenant", HOT), (f"{TENANTS:,} tenants", MANY))


class Service:
    """A client of the service, with tokens of every tenant."""

    def __init__(self, channel: grpc.aio.Channel, metadata: Mapping[str, Metadata]) -> None:
        self._stub = QuotaServiceStub(channel)
        self._metadata = metadata

    async def reserve(self, tenant_id: str, number: int) -> str:
        del number
        request = pb.ReserveTokensRequest(tokens=TOKENS, request_id=new_id(), model="gpt-5-mini")
        held = await self._stub.ReserveTokens(request, metadata=self._metadata[tenant_id], timeout=60)
        return held.reservation_id

    async def commit(self, tenant_id: str, held: str) -> None:
        await self._stub.CommitReservation(commitment(held), metadata=self._metadata[tenant_id], timeout=60)


class Retrying:
    """A client that goes on with another replica when one is away, under the same request_id."""

    def __init__(self, stubs: Sequence[Any], metadata: Metadata, first: int) -> None:
        self._stubs, self._metadata, self._at = stubs, metadata, first

    async def reserve(self) -> str | None:
        request = pb.ReserveTokensRequest(tokens=TOKENS, request_id=new_id(), lease_seconds=LEASE_SECONDS)
        try:
            held = await self._call("ReserveTokens", request)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                return None
            raise
        return str(held.reservation_id)

    async def commit(self, held: str) -> bool:
        """Whether it was charged; not when the lease ended while no replica answered."""
        try:
            await self._call("CommitReservation", commitment(held))
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.FAILED_PRECONDITION:
                return False
            raise
        return True

    async def _call(self, method: str, request: Any) -> Any:
        while True:
            call = getattr(self._stubs[self._at % REPLICAS], method)
            try:
                return await call(request, metadata=self._metadata, timeout=10)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                self._at += 1
                await asyncio.sleep(0.01)


def commitment(held: str) -> pb.CommitReservationRequest:
    """What a request has cost."""
    usage = usage_pb2.TokenUsage(input_tokens=USED - 10, output_tokens=10)
    source = usage_pb2.USAGE_SOURCE_PROVIDER
    return pb.CommitReservationRequest(reservation_id=held, usage=usage, usage_source=source, cost_micros=5)


class LiteLLM:
    """The peer in its process."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def load(self, side: str, tenants: Sequence[str], seconds: float, requests: int = 0) -> Any:
        """As quota_load.load there; `requests` is how many the budget allows, 0 any number."""
        order = {"side": side, "tenants": tenants, "seconds": seconds, "requests": requests}
        self._process.stdin.write(json.dumps(order) + "\n")  # type: ignore[union-attr]
        self._process.stdin.flush()  # type: ignore[union-attr]
        return self.answer()

    def answer(self) -> Any:
        """The next line that is ours; the library prints some of its own."""
        while line := self._process.stdout.readline():  # type: ignore[union-attr]
            if line.strip():
                return json.loads(line)
        raise AssertionError("the peer ended")


def main() -> Sequence[Row]:
    """Measures, prints and keeps the table."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="prosa-bench-") as directory:
        Path(directory).chmod(0o755)
        postgres, redis = (
            Postgres(Path(directory) / "postgres", free_port()),
            Redis(Path(directory) / "redis", free_port()),
        )
        with running_engine(postgres), running_engine(redis), _litellm(redis.url()) as peer:
            run(lambda: _compare(postgres.url(), peer, rows))
    publish("quota_service", rows)
    return rows


async def _compare(url: str, peer: LiteLLM, rows: list[Row]) -> None:
    keys = new_signing_keys()
    async with prepared(url) as (_, _, _, pool):
        rows += await _speed(url, keys, peer)
        rows += await _exactness(url, keys, peer, pool)
        rows.append(await _identity(keys))


async def _speed(url: str, keys: SigningKeys, peer: LiteLLM) -> list[Row]:
    rows = []
    async with AsyncExitStack() as stack:
        ours = await stack.enter_async_context(_service(url, keys, "services.tenant_quota"))
        nothing = await stack.enter_async_context(_service(url, keys, "tests.bench.quota_nothing"))
        for case, tenants in CASES:
            await load([ours], tenants, 1.0)
            await load([nothing], tenants, 1.0)
            mine, others = list[float](), dict[str, list[float]]()
            for _ in range(ROUNDS):
                mine.append(_pace(await load([ours], tenants, ROUND_SECONDS)))
                others.setdefault("a store that does nothing", []).append(
                    _pace(await load([nothing], tenants, ROUND_SECONDS))
                )
                for side in ("budget_reservation", "key budget"):
                    names = [f"{side}-{tenant}" for tenant in tenants]
                    others.setdefault(f"LiteLLM {side}", []).append(_pace(peer.load(side, names, ROUND_SECONDS)))
            for name, theirs in others.items():
                rows.append(_faster(f"cycles over gRPC, {case}, peer: {name}", mine, theirs))
    return rows


def _faster(case: str, mine: Sequence[float], theirs: Sequence[float]) -> Row:
    ratio = statistics.median(a / b for a, b in zip(mine, theirs, strict=True))
    bar = next((bar for name, bar in BARS.items() if name in case), None)
    figures = statistics.median(mine), statistics.median(theirs)
    return Row(case, *figures, "/s", ratio, bar, bar is None or ratio >= bar)


async def _exactness(url: str, keys: SigningKeys, peer: LiteLLM, pool: asyncpg.Pool) -> list[Row]:
    """A limit that is reached half-way, three replicas, one killed while it is being reached."""
    theirs = peer.load("budget_reservation", ["narrow"], 10.0, NARROW_REQUESTS)
    limit = NARROW_REQUESTS * USED
    tenant = await Tenants(pool).create(new_id(), "Prefeitura de Exemplo", "America/Sao_Paulo", None)
    await Quotas(pool).set(Quota(tenant.tenant_id, "", None, limit))
    metadata = _as_holder(keys, tenant.tenant_id)
    async with AsyncExitStack() as stack:
        replicas = [await stack.enter_async_context(_process(url, keys)) for _ in range(REPLICAS)]
        stubs = [QuotaServiceStub(channel) for _, channel in replicas]
        killer = asyncio.create_task(_killed_later(replicas[0][0]))
        charged = sum(await asyncio.gather(*(_until_refused(Retrying(stubs, metadata, n)) for n in range(CLIENTS))))
        await killer
        used, held = await _settled(Quotas(pool), tenant.tenant_id)
    unexplained = await discrepancies(pool, tenant.tenant_id)
    return [
        _none(
            "tokens beyond the limit, three replicas, one killed (theirs: one process, none killed)",
            max(0, used - limit),
            max(0, theirs["spent_requests"] - NARROW_REQUESTS) * USED,
        ),
        _none("tokens held after all ended", held),
        _none("tokens charged and not told, or told and not charged", abs(used - charged * USED)),
        _none("discrepancies between ledger and counters", len(unexplained)),
    ]


async def _until_refused(client: Retrying) -> int:
    """How many requests were charged before the limit let none through three times in a row."""
    charged = refusals = 0
    while refusals < 3:
        held = await client.reserve()
        if held is None:
            refusals += 1
            await asyncio.sleep(random.uniform(0.05, 0.2))
            continue
        refusals = 0
        charged += await client.commit(held)
    return charged


async def _killed_later(process: "subprocess.Popen[bytes]") -> None:
    await asyncio.sleep(0.4)
    process.send_signal(signal.SIGKILL)


async def _settled(quotas: Quotas, tenant_id: str) -> tuple[int, int]:
    """Tokens of the month used and held, when every lease has ended and been swept."""
    await asyncio.sleep(LEASE_SECONDS + 2.0)
    month = next(usage for usage in await quotas.usage(tenant_id, "", "") if usage.window is Window.MONTH)
    return month.used_tokens, month.held_tokens


def _none(case: str, ours: float, peer: float = 0.0) -> Row:
    return at_most(case, ours, peer, "", 0, ratio=ours)


async def _identity(keys: SigningKeys) -> Row:
    """A token that was seen before, beside a call that does nothing."""
    verifier = TokenVerifier(keys.public_pem)
    signed = token(keys, tenant_id="t", user_id="ana", scopes=PERMISSIONS[Role.MEMBER], lifetime_seconds=3600)
    async with empty_call() as empty:
        for _ in range(500):
            await empty("")
        calls = []
        for _ in range(2_000):
            begin = time.perf_counter()
            await empty("")
            calls.append(time.perf_counter() - begin)
    verifier.verify(signed)
    begin = time.perf_counter()
    for _ in range(CHECKS):
        verifier.verify(signed)
    check = (time.perf_counter() - begin) / CHECKS
    return at_most(
        "a known caller recognised, beside an empty call", check * 1e6, statistics.median(calls) * 1e6, "µs", 0.2
    )


@asynccontextmanager
async def _service(url: str, keys: SigningKeys, module: str) -> AsyncIterator[Service]:
    async with _process(url, keys, module) as (_, channel):
        yield Service(channel, {tenant: _as_holder(keys, tenant) for tenant in MANY})


def _as_holder(keys: SigningKeys, tenant_id: str) -> Metadata:
    """An internal service that acts for the tenant."""
    own = token(keys, key_id="rag", scopes=PERMISSIONS[Role.SERVICE], lifetime_seconds=36_000)
    subject = token(keys, tenant_id=tenant_id, user_id="ana", scopes=PERMISSIONS[Role.MEMBER], lifetime_seconds=36_000)
    return as_service(own, subject)


@asynccontextmanager
async def _process(
    url: str, keys: SigningKeys, module: str = "services.tenant_quota"
) -> AsyncIterator[tuple["subprocess.Popen[bytes]", grpc.aio.Channel]]:
    port = free_port()
    environment = {
        "DATABASE_URL": url,
        "TENANT_QUOTA_PORT": str(port),
        "TENANT_QUOTA_TOKEN_SIGNING_KEY": keys.private_pem.replace("\n", "\\n"),
        "PROSA_TOKEN_PUBLIC_KEY": keys.public_pem,
        "TENANT_QUOTA_API_KEY_PEPPER": "a pepper of this measurement",
        "TENANT_QUOTA_SWEEP_INTERVAL_SECONDS": "0.5",
    }
    process = subprocess.Popen(  # noqa: ASYNC220  (nothing else runs meanwhile)
        [sys.executable, "-m", module],
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            await asyncio.wait_for(channel.channel_ready(), 60)
            yield process, channel
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def _litellm(url: str) -> Iterator[LiteLLM]:
    command = [str(PEER_PYTHON), "-W", "ignore", "-m", "tests.bench.quota_peer", url]
    process = subprocess.Popen(
        command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    peer = LiteLLM(process)
    try:
        peer.answer()
        yield peer
    finally:
        process.stdin.close()  # type: ignore[union-attr]
        process.wait(30)


def _pace(outcome: Outcome | Mapping[str, Any]) -> float:
    return float(outcome["cycles_per_second"])


if __name__ == "__main__":
    main()
