"""AgreementService: one RPC, one intent."""

from typing import Any

import grpc

from prosa.analytics.v1 import agreement_service_pb2 as pb
from prosa.analytics.v1 import agreement_service_pb2_grpc as pb_grpc
from services.analytics.agreement import wire
from services.analytics.agreement.check import Agreement
from services.analytics.agreement.drift_store import DriftStore
from services.analytics.agreement.model import Days
from services.analytics.agreement.repair import Repair
from shared.caller import current_caller
from shared.clock import Clock
from shared.paging import page_size

Context = grpc.aio.ServicerContext[Any, Any]


class AgreementHandlers(pb_grpc.AgreementServiceServicer):
    """The agreement of the caller's own tenant."""

    def __init__(self, agreement: Agreement, drifts: DriftStore, repair: Repair, clock: Clock) -> None:
        self._agreement = agreement
        self._drifts = drifts
        self._repair = repair
        self._clock = clock

    async def CheckAgreement(self, request: pb.CheckAgreementRequest, _: Context) -> pb.CheckAgreementResponse:
        """Now."""
        days = Days.of(request.first_day, request.last_day, self._clock.now())
        return wire.findings_out(await self._agreement.check(current_caller().tenant_id, days))

    async def ListDrift(self, request: pb.ListDriftRequest, _: Context) -> pb.ListDriftResponse:
        """What differs."""
        size, after = page_size(request.page_size), wire.place_of(request)
        tenant_id = current_caller().tenant_id
        drifts = await self._drifts.page(tenant_id, settled=request.include_settled, after=after, size=size + 1)
        return wire.page_out(drifts, size, request)

    async def RepairDrift(self, request: pb.RepairDriftRequest, _: Context) -> pb.Drift:
        """Mended."""
        drift = await self._drifts.get(current_caller().tenant_id, request.drift_id)
        if drift.settle_time is None:
            await self._repair.mend(drift)
            drift = await self._drifts.settle(drift, self._clock.now())
        return wire.drift_out(drift)
