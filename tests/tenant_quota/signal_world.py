"""Replicas that signal, and short ways to make somebody use what they may."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import asyncpg
import grpc

from prosa.tenant_quota.v1 import signal_service_pb2 as pb
from prosa.tenant_quota.v1.signal_service_pb2_grpc import SignalServiceStub
from services.tenant_quota.__main__ import SCHEMA
from services.tenant_quota.config import Config
from services.tenant_quota.model import PERMISSIONS, Role
from services.tenant_quota.quota_model import Level
from services.tenant_quota.quotas import Quotas
from services.tenant_quota.signalling import Signalling, open_signalling
from shared.postgres import open_pool, tenant_transaction
from tests.house.in_process import Metadata, as_caller, serving, token
from tests.house.signing import SigningKeys
from tests.house.zones import AT_NOON
from tests.tenant_quota.world import fresh

if TYPE_CHECKING:
    from prosa.tenant_quota.v1.signal_service_pb2_grpc import SignalServiceAsyncStub

NEW_TENANT = "INSERT INTO tenants (tenant_id, display_name, time_zone) VALUES ($1, 'Prefeitura', $2)"
LIMIT = """
INSERT INTO quotas (tenant_id, level, subject, tokens_per_day, tokens_per_month, cost_micros_per_month, enforcement,
                    threshold_percents, unlimited)
VALUES ($1, $2, $3, $4, $5, $6, 1, $7, $8)
"""
# From now on this level is looked for.
COUNT = "UPDATE tenants SET counted = counted | $2 WHERE tenant_id = $1"
USE = """
INSERT INTO balances AS b (tenant_id, level, subject, month, used, cost_used, topped_used, day_used)
SELECT $1, $2, $3, date_trunc('month', t.today)::date, $4, $5, $6,
       array_fill(0::bigint, ARRAY[31]) FROM (SELECT (clock_timestamp() AT TIME ZONE $7)::date AS today) t
ON CONFLICT (tenant_id, level, subject, month) DO UPDATE
   SET used = b.used + excluded.used, cost_used = b.cost_used + excluded.cost_used,
       topped_used = b.topped_used + excluded.topped_used
"""
TODAY = """
UPDATE balances SET day_used[extract(day FROM clock_timestamp() AT TIME ZONE $5)] =
       day_used[extract(day FROM clock_timestamp() AT TIME ZONE $5)] + $4
 WHERE tenant_id = $1 AND level = $2 AND subject = $3
"""


async def tenant_with(pool: asyncpg.Pool, **limits: Any) -> str:
    """A tenant of its own for one test, with these limits for the tenant as a whole."""
    tenant_id = fresh("tenant")
    async with tenant_transaction(pool, tenant_id) as connection:
        await connection.execute(NEW_TENANT, tenant_id, AT_NOON)
    await limit(pool, tenant_id, Level.TENANT, "", **limits)
    return tenant_id


async def limit(
    pool: asyncpg.Pool,
    tenant_id: str,
    level: Level,
    subject: str,
    *,
    day: int | None = None,
    month: int | None = None,
    cost: int | None = None,
    percents: Sequence[int] = (),
    unlimited: bool = False,
) -> None:
    """Limits of a tenant, a user or a key."""
    async with tenant_transaction(pool, tenant_id) as connection:
        await connection.execute(LIMIT, tenant_id, level, subject, day, month, cost, list(percents), unlimited)
        await connection.execute(COUNT, tenant_id, 2 * (level - 1))


async def use(
    pool: asyncpg.Pool,
    tenant_id: str,
    tokens: int,
    *,
    level: Level = Level.TENANT,
    subject: str = "",
    cost: int = 0,
    topped: int = 0,
) -> None:
    """The counters as settlements leave them, without anybody being told of it."""
    async with tenant_transaction(pool, tenant_id) as connection:
        await connection.execute(USE, tenant_id, level, subject, tokens, cost, topped, AT_NOON)
        await connection.execute(TODAY, tenant_id, level, subject, tokens, AT_NOON)


@dataclass(frozen=True)
class Replica:
    """A process of the service as far as signals go: its own connections, its own server."""

    config: Config
    pool: asyncpg.Pool
    signalling: Signalling
    channel: grpc.aio.Channel
    keys: SigningKeys

    @property
    def stub(self) -> "SignalServiceAsyncStub":
        return SignalServiceStub(self.channel)

    def caller(self, tenant_id: str, role: Role = Role.TENANT_ADMIN, user_id: str = "") -> Metadata:
        """Somebody of the tenant."""
        return as_caller(token(self.keys, tenant_id=tenant_id, user_id=user_id, scopes=PERMISSIONS[role]))

    async def spend(self, tenant_id: str, tokens: int) -> None:
        """Used, and this replica was told."""
        await use(self.pool, tenant_id, tokens)
        self.signalling.signals.touched(tenant_id)

    def watch(
        self, tenant_id: str, caller: Metadata | None = None, **fields: Any
    ) -> "grpc.aio.UnaryStreamCall[pb.WatchUsageRequest, pb.WatchUsageResponse]":
        """A stream of the tenant's usage."""
        request = pb.WatchUsageRequest(tenant_id=tenant_id, **fields)
        return self.stub.WatchUsage(request, metadata=caller or self.caller(tenant_id))

    async def signals(self, tenant_id: str) -> Sequence[pb.Signal]:
        """All of the tenant, newest first."""
        listed = await self.stub.ListSignals(
            pb.ListSignalsRequest(tenant_id=tenant_id, page_size=1000), metadata=self.caller(tenant_id)
        )
        return listed.signals


@asynccontextmanager
async def replica(config: Config, keys: SigningKeys) -> AsyncIterator[Replica]:
    """A replica that runs inside the block."""
    async with (
        open_pool(config.database_url, schema=SCHEMA, max_size=12) as pool,
        open_signalling(pool, config, Quotas(pool)) as signalling,
        serving([signalling.endpoint], keys) as channel,
    ):
        yield Replica(config, pool, signalling, channel, keys)
