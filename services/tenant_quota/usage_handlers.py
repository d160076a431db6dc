"""UsageService: one RPC, one intent."""

from typing import Any

from prosa.tenant_quota.v1 import usage_service_pb2 as pb
from prosa.tenant_quota.v1.usage_service_pb2_grpc import UsageServiceServicer
from services.tenant_quota import usage_wire, wire
from services.tenant_quota.audits import Audits
from services.tenant_quota.simulation import Simulations
from services.tenant_quota.statements import Statements
from services.tenant_quota.tenancy import ledger_users, named_tenant, tenant_or_own
from services.tenant_quota.usage_model import month_of
from services.tenant_quota.usage_reports import UsageReports
from shared.paging import page_size


class UsageHandlers(UsageServiceServicer):
    """Answers for what was used, and what would have been."""

    def __init__(self, reports: UsageReports, statements: Statements, audits: Audits, simulations: Simulations) -> None:
        self._reports = reports
        self._statements = statements
        self._audits = audits
        self._simulations = simulations

    async def QueryUsage(self, request: pb.QueryUsageRequest, _: Any) -> pb.QueryUsageResponse:
        """Sums."""
        tenant_id = tenant_or_own(wire.checked(request).tenant_id)
        any_visible, user_id = ledger_users(request.user_id)
        wanted = usage_wire.usage_query(request, user_id)
        after = usage_wire.usage_place(request.page_token, tenant_id, wanted)
        size = page_size(request.page_size)
        lines = await self._reports.query(tenant_id, wanted, after, size + 1) if any_visible else []
        return usage_wire.usage_page(lines, size, tenant_id, wanted)

    async def GetStatement(self, request: pb.GetStatementRequest, _: Any) -> pb.Statement:
        """A month."""
        tenant_id = tenant_or_own(wire.checked(request).tenant_id)
        statement = await self._statements.get(tenant_id, month_of("month", request.month))
        return usage_wire.statement_message(statement)

    async def AuditLedger(self, request: pb.AuditLedgerRequest, _: Any) -> pb.AuditLedgerResponse:
        """Whether the account adds up."""
        tenant_id = named_tenant(wire.checked(request).tenant_id)
        return usage_wire.audit_message(await self._audits.run(tenant_id))

    async def Simulate(self, request: pb.SimulateRequest, _: Any) -> pb.SimulateResponse:
        """What would have been."""
        tenant_id = named_tenant(wire.checked(request).tenant_id)
        found = await self._simulations.run(usage_wire.question(request, tenant_id))
        return usage_wire.simulation_message(found)
