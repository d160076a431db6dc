"""Reports put together: UsageService, and the audit of every night beside it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from prosa.tenant_quota.v1 import usage_service_pb2, usage_service_pb2_grpc
from services.tenant_quota.audits import Audits
from services.tenant_quota.config import Config
from services.tenant_quota.nightly_audit import NightlyAudit
from services.tenant_quota.simulation import Simulations
from services.tenant_quota.statements import Statements
from services.tenant_quota.usage_handlers import UsageHandlers
from services.tenant_quota.usage_reports import UsageReports
from shared.server import Endpoint


@asynccontextmanager
async def open_reporting(pool: asyncpg.Pool, config: Config) -> AsyncIterator[Endpoint]:
    """UsageService; audits inside the block."""
    audits = Audits(pool)
    handlers = UsageHandlers(UsageReports(pool), Statements(pool), audits, Simulations(pool))
    service = usage_service_pb2.DESCRIPTOR.services_by_name["UsageService"]
    add = usage_service_pb2_grpc.add_UsageServiceServicer_to_server
    async with NightlyAudit(audits, config.audit_utc_hour).running():
        yield Endpoint(add, handlers, service.full_name)
