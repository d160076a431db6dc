"""PlanService and PriceService: one RPC, one intent."""

from typing import Any

from google.protobuf.empty_pb2 import Empty

from prosa.tenant_quota.v1 import plan_service_pb2 as pb
from prosa.tenant_quota.v1.plan_service_pb2_grpc import PlanServiceServicer, PriceServiceServicer
from services.tenant_quota import plan_wire, wire
from services.tenant_quota.model import clean_text
from services.tenant_quota.plans import Plans
from services.tenant_quota.prices import Prices
from services.tenant_quota.tenancy import named_tenant, tenant_or_own
from shared.identifiers import new_id
from shared.paging import page_size

MODEL_CHARACTERS = 200


class PlanHandlers(PlanServiceServicer):
    """Answers for plans and who is on them."""

    def __init__(self, plans: Plans) -> None:
        self._plans = plans

    async def CreatePlan(self, request: pb.CreatePlanRequest, _: Any) -> pb.Plan:
        """A new plan."""
        terms = plan_wire.terms(wire.checked(request).plan)
        return plan_wire.plan_message(
            await self._plans.create(request.plan_id or new_id(), terms, wire.replay(request))
        )

    async def GetPlan(self, request: pb.GetPlanRequest, _: Any) -> pb.Plan:
        """A plan."""
        return plan_wire.plan_message(await self._plans.get(wire.checked(request).plan_id))

    async def ListPlans(self, request: pb.ListPlansRequest, _: Any) -> pb.ListPlansResponse:
        """All plans."""
        size, query = page_size(request.page_size), {"list": "plans"}
        before = wire.position(request.page_token, query, str)
        found = await self._plans.list(before, size + 1)
        shown, following = wire.page(found, size, query, lambda each: (each.create_time, each.plan_id))
        return pb.ListPlansResponse(plans=map(plan_wire.plan_message, shown), next_page_token=following)

    async def UpdatePlan(self, request: pb.UpdatePlanRequest, _: Any) -> pb.Plan:
        """A plan changed."""
        changes = plan_wire.plan_changes(wire.checked(request))
        return plan_wire.plan_message(await self._plans.update(request.plan_id, changes))

    async def DeletePlan(self, request: pb.DeletePlanRequest, _: Any) -> Empty:
        """A plan gone."""
        await self._plans.delete(wire.checked(request).plan_id)
        return Empty()

    async def SetTenantPlan(self, request: pb.SetTenantPlanRequest, _: Any) -> pb.TenantPlan:
        """A tenant on a plan."""
        tenant_id = named_tenant(wire.checked(request).tenant_id)
        return plan_wire.tenant_plan_message(await self._plans.give(tenant_id, request.plan_id))

    async def GetTenantPlan(self, request: pb.GetTenantPlanRequest, _: Any) -> pb.TenantPlan:
        """What a tenant is on."""
        tenant_id = tenant_or_own(wire.checked(request).tenant_id)
        return plan_wire.tenant_plan_message(await self._plans.of_tenant(tenant_id))


class PriceHandlers(PriceServiceServicer):
    """Answers for the price book."""

    def __init__(self, prices: Prices, currency_code: str) -> None:
        self._prices = prices
        self._currency_code = currency_code

    async def SetPrice(self, request: pb.SetPriceRequest, _: Any) -> pb.Price:
        """A price from a time on."""
        model = clean_text("model", wire.checked(request).model, MODEL_CHARACTERS)
        begin = wire.optional_moment("effective_time", request)
        price = await self._prices.set(model, begin, plan_wire.rates(request), wire.replay(request))
        return plan_wire.price_message(price, self._currency_code)

    async def GetPrice(self, request: pb.GetPriceRequest, _: Any) -> pb.Price:
        """The price at a time."""
        model = clean_text("model", wire.checked(request).model, MODEL_CHARACTERS)
        price = await self._prices.in_force(model, wire.optional_moment("time", request))
        return plan_wire.price_message(price, self._currency_code)

    async def ListPrices(self, request: pb.ListPricesRequest, _: Any) -> pb.ListPricesResponse:
        """Prices, those that begin last first."""
        model = wire.checked(request).model.strip()
        size, query = page_size(request.page_size), {"list": "prices", "model": model}
        before = wire.position(request.page_token, query, str)
        found = await self._prices.list(model, before, size + 1)
        shown, following = wire.page(found, size, query, lambda each: (each.effective_time, each.model))
        messages = [plan_wire.price_message(each, self._currency_code) for each in shown]
        return pb.ListPricesResponse(prices=messages, next_page_token=following)

    async def DeletePrice(self, request: pb.DeletePriceRequest, _: Any) -> Empty:
        """A price that will not come."""
        model = clean_text("model", wire.checked(request).model, MODEL_CHARACTERS)
        await self._prices.delete(model, wire.moment("effective_time", request.effective_time))
        return Empty()
