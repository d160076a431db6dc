"""QuotaService: one RPC, one intent."""

from typing import Any

from prosa.tenant_quota.v1 import quota_service_pb2 as pb
from prosa.tenant_quota.v1.quota_service_pb2_grpc import QuotaServiceServicer
from services.tenant_quota import quota_wire, wire
from services.tenant_quota.admission import Admission
from services.tenant_quota.quota_model import Settlement, State
from services.tenant_quota.quotas import Quotas
from services.tenant_quota.reservations import Reservations
from services.tenant_quota.tenancy import (
    ledger_users,
    named_tenant,
    own_tenant,
    tenant_or_own,
    user_or_own,
    visible_key,
    visible_user,
)
from services.tenant_quota.top_ups import TopUps
from shared.caller import current_caller
from shared.paging import page_size


class QuotaHandlers(QuotaServiceServicer):
    """Answers for limits, reservations and the ledger."""

    def __init__(self, quotas: Quotas, admission: Admission, reservations: Reservations, top_ups: TopUps) -> None:
        self._quotas = quotas
        self._admission = admission
        self._reservations = reservations
        self._top_ups = top_ups

    async def SetQuota(self, request: pb.SetQuotaRequest, _: Any) -> pb.Quota:
        """Limits replaced."""
        tenant_id = named_tenant(wire.checked(request).tenant_id)
        wanted = quota_wire.quota(tenant_id, request.user_id, request.key_id, request.quota)
        return quota_wire.quota_message(await self._quotas.set(wanted))

    async def GetQuota(self, request: pb.GetQuotaRequest, _: Any) -> pb.Quota:
        """Limits."""
        tenant_id = tenant_or_own(wire.checked(request).tenant_id)
        user_id, key_id = visible_user(request.user_id), visible_key(request.key_id)
        return quota_wire.quota_message(await self._quotas.get(tenant_id, user_id, key_id))

    async def ReserveTokens(self, request: pb.ReserveTokensRequest, _: Any) -> pb.Reservation:
        """Tokens held."""
        wish = quota_wire.wish(wire.checked(request), own_tenant(), current_caller())
        await self._admission.admit(wish)
        return quota_wire.reservation_message(await self._reservations.reserve(wish))

    async def ExtendReservation(self, request: pb.ExtendReservationRequest, _: Any) -> pb.Reservation:
        """More tokens held, for longer."""
        extension = quota_wire.extension(wire.checked(request), own_tenant())
        return quota_wire.reservation_message(await self._reservations.extend(extension))

    async def CommitReservation(self, request: pb.CommitReservationRequest, _: Any) -> pb.Reservation:
        """Tokens charged."""
        settlement = quota_wire.commitment(wire.checked(request), own_tenant())
        return quota_wire.reservation_message(await self._reservations.settle(settlement))

    async def ReleaseReservation(self, request: pb.ReleaseReservationRequest, _: Any) -> pb.Reservation:
        """Tokens given back."""
        settlement = Settlement(own_tenant(), wire.checked(request).reservation_id, State.RELEASED)
        return quota_wire.reservation_message(await self._reservations.settle(settlement))

    async def CreateTopUp(self, request: pb.CreateTopUpRequest, _: Any) -> pb.TopUp:
        """Tokens given."""
        tenant_id = named_tenant(wire.checked(request).tenant_id)
        expire_time = wire.optional_moment("expire_time", request)
        replay = wire.replay(request)
        made = await self._top_ups.create(
            tenant_id, request.tokens, request.priority, expire_time, request.reason, replay
        )
        return quota_wire.top_up_message(made)

    async def ListTopUps(self, request: pb.ListTopUpsRequest, _: Any) -> pb.ListTopUpsResponse:
        """Top-ups, newest first."""
        tenant_id = tenant_or_own(wire.checked(request).tenant_id)
        query: dict[str, object] = {"list": "top_ups", "tenant_id": tenant_id}
        size = page_size(request.page_size)
        before = wire.position(request.page_token, query, str)
        found = await self._top_ups.list(tenant_id, before, size + 1)
        shown, following = wire.page(found, size, query, lambda each: (each.create_time, each.top_up_id))
        return pb.ListTopUpsResponse(top_ups=map(quota_wire.top_up_message, shown), next_page_token=following)

    async def RevokeTopUp(self, request: pb.RevokeTopUpRequest, _: Any) -> pb.TopUp:
        """The rest taken back."""
        tenant_id = named_tenant(wire.checked(request).tenant_id)
        return quota_wire.top_up_message(await self._top_ups.revoke(tenant_id, request.top_up_id))

    async def GetUsage(self, request: pb.GetUsageRequest, _: Any) -> pb.GetUsageResponse:
        """Counters of the current periods."""
        tenant_id = tenant_or_own(wire.checked(request).tenant_id)
        user_id = user_or_own(request.user_id, tenant_id)
        found = await self._quotas.usage(tenant_id, user_id, visible_key(request.key_id))
        return pb.GetUsageResponse(usages=map(quota_wire.usage_message, found))

    async def ListLedger(self, request: pb.ListLedgerRequest, _: Any) -> pb.ListLedgerResponse:
        """Movements, newest first."""
        tenant_id = tenant_or_own(wire.checked(request).tenant_id)
        any_visible, user_id = ledger_users(request.user_id)
        wanted = quota_wire.ledger_filter(request, user_id)
        query = quota_wire.ledger_query(tenant_id, wanted)
        size = page_size(request.page_size)
        before = wire.position(request.page_token, query, int)
        found = await self._quotas.ledger(tenant_id, wanted, before, size + 1) if any_visible else []
        shown, following = wire.page(found, size, query, lambda each: (each.create_time, each.entry_id))
        return pb.ListLedgerResponse(entries=map(quota_wire.entry_message, shown), next_page_token=following)
