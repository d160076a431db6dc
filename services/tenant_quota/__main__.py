"""tenant_quota put together: `python -m services.tenant_quota [serve | migrate | new-key]`."""

import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from prosa.tenant_quota.v1 import (
    plan_service_pb2,
    plan_service_pb2_grpc,
    quota_service_pb2,
    quota_service_pb2_grpc,
)
from services.tenant_quota import retention
from services.tenant_quota.admission import Admission
from services.tenant_quota.config import Config
from services.tenant_quota.edge_callers import EdgeVerifier
from services.tenant_quota.forgetting import FORGET_EVERY_SECONDS
from services.tenant_quota.identity import open_identity
from services.tenant_quota.model import new_secret
from services.tenant_quota.plan_handlers import PlanHandlers, PriceHandlers
from services.tenant_quota.plans import Plans
from services.tenant_quota.prices import Prices
from services.tenant_quota.quota_handlers import QuotaHandlers
from services.tenant_quota.quotas import Quotas
from services.tenant_quota.rate_limiting import edge_endpoint, open_rates
from services.tenant_quota.replays import forget
from services.tenant_quota.reporting import open_reporting
from services.tenant_quota.reservations import Reservations
from services.tenant_quota.signalling import open_signalling
from services.tenant_quota.sweeper import Sweeper
from services.tenant_quota.top_ups import TopUps
from shared import postgres
from shared.caller import TokenVerifier
from shared.command_line import command
from shared.server import Endpoint, serve
from shared.steadily import in_background, steadily
from shared.telemetry import get_logger

SCHEMA = "tenant_quota"
SCHEMA_DIRECTORY = Path(__file__).parent / "schema"


@dataclass(frozen=True)
class Service:
    """The service, ready to be served: its endpoints, its readiness probes, and the pool beneath."""

    endpoints: list[Endpoint]
    ready: Mapping[str, Callable[[], Awaitable[None]]]
    pool: asyncpg.Pool


@asynccontextmanager
async def open_endpoints(config: Config) -> AsyncIterator[Service]:
    """The whole service but its server, on a migrated database; sweeps in the background until the block ends."""
    async with (
        postgres.open_pool(config.database_url, schema=SCHEMA, max_size=config.database_connections) as pool,
        open_signalling(pool, config, Quotas(pool)) as signalling,
    ):
        reservations = Reservations(
            pool,
            largest_batch=config.largest_batch,
            most_in_flight=config.batches_in_flight,
            on_settled=signalling.signals.touched,
        )
        sweeper = Sweeper(reservations, config.sweep_interval_seconds, config.sweep_batch)
        async with (
            open_identity(pool, config) as identity,
            open_rates(pool, config) as rates,
            open_reporting(pool, config) as reports,
            in_background(
                sweeper.run(),
                steadily("requests_forgetting", lambda: forget(pool), FORGET_EVERY_SECONDS),
                steadily("retention", lambda: retention.forget_the_old(pool, config), retention.EVERY_SECONDS),
            ),
        ):
            quota_handlers = QuotaHandlers(Quotas(pool), Admission(rates, pool), reservations, TopUps(pool))
            edge = edge_endpoint(rates, TokenVerifier(config.token_public_key), identity.recognise)
            plans = _plan_endpoints(pool, config)
            yield Service(
                [*identity.endpoints, _endpoint(quota_handlers), *plans, reports, edge, signalling.endpoint],
                {"postgresql": lambda: postgres.pool_ready(pool)},
                pool,
            )
            await reservations.close()


async def migrate() -> None:
    """Brings the schema up to date."""
    config = Config()  # type: ignore[call-arg]  # the environment gives the rest
    applied = await postgres.migrate(config.database_url, schema=SCHEMA, directory=SCHEMA_DIRECTORY)
    get_logger().info("migrated", applied=applied)


async def main() -> None:
    """Serves until told to stop."""
    config = Config()  # type: ignore[call-arg]  # the environment gives the rest
    verifier = EdgeVerifier(config.token_public_key, config.edge_secret)
    async with open_endpoints(config) as service:
        await serve(config, SCHEMA, service.endpoints, verifier=verifier, ready=service.ready)


def _endpoint(quotas: QuotaHandlers) -> Endpoint:
    quota_service = quota_service_pb2.DESCRIPTOR.services_by_name["QuotaService"]
    return Endpoint(quota_service_pb2_grpc.add_QuotaServiceServicer_to_server, quotas, quota_service.full_name)


def _plan_endpoints(pool: asyncpg.Pool, config: Config) -> list[Endpoint]:
    services = plan_service_pb2.DESCRIPTOR.services_by_name
    plans, prices = PlanHandlers(Plans(pool)), PriceHandlers(Prices(pool), config.currency_code)
    grpc_module = plan_service_pb2_grpc
    return [
        Endpoint(grpc_module.add_PlanServiceServicer_to_server, plans, services["PlanService"].full_name),
        Endpoint(grpc_module.add_PriceServiceServicer_to_server, prices, services["PriceService"].full_name),
    ]


if __name__ == "__main__":
    if sys.argv[1:2] == ["new-key"]:
        print(new_secret(*sys.argv[2:3]))  # noqa: T201 what the command is for
    else:
        command(f"services.{SCHEMA}", Config, serve=main, migrate=migrate)
