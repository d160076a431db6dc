"""Plans and prices on the wire: proto ↔ model, both ways."""

from collections.abc import Iterable
from typing import Any

from google.protobuf.message import Message

from prosa.tenant_quota.v1 import plan_service_pb2 as pb
from prosa.tenant_quota.v1.quota_service_pb2 import Enforcement as PbEnforcement
from prosa.tenant_quota.v1.quota_service_pb2 import UnpricedModels as PbUnpricedModels
from services.tenant_quota.model import clean_mask, clean_text
from services.tenant_quota.plan_model import Limit, LimitsInForce, Plan, PlanTerms, Price, Rates, TenantPlan
from services.tenant_quota.quota_model import Enforcement, UnpricedModels
from services.tenant_quota.wire import timestamp

TENANT_LIMITS = ("tokens_per_day", "tokens_per_month", "cost_micros_per_month", "requests_per_minute")
SUBJECT_LIMITS = ("tokens_per_day", "tokens_per_month", "requests_per_minute")
# What of the contract's limits of users and keys is called what in the plan.
SUBJECTS = {"user_limits": "user", "key_limits": "key"}
CHANGEABLE = (
    "display_name",
    *TENANT_LIMITS,
    "enforcement",
    "threshold_percents",
    "unpriced_models",
    "fair_share_borrow_percent",
    *SUBJECTS,
)


def terms(wanted: pb.Plan) -> PlanTerms:
    """All that the plan says."""
    return PlanTerms(**_terms(wanted, CHANGEABLE))


def plan_changes(request: pb.UpdatePlanRequest) -> dict[str, Any]:
    """The new terms; what the mask names and the plan leaves out is no limit."""
    return _terms(request.plan, clean_mask(request.update_mask.paths, CHANGEABLE))


def _terms(wanted: pb.Plan, names: Iterable[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in names:
        match name:
            case "display_name":
                found[name] = clean_text("plan.display_name", wanted.display_name, 200)
            case "enforcement":
                found[name] = Enforcement(wanted.enforcement or Enforcement.HARD)
            case "threshold_percents":
                found[name] = tuple(wanted.threshold_percents)
            case "unpriced_models":
                found[name] = UnpricedModels(wanted.unpriced_models or UnpricedModels.REFUSE)
            case "user_limits" | "key_limits":
                limits = getattr(wanted, name)
                found |= {f"{SUBJECTS[name]}_{limit}": _optional(limits, limit) for limit in SUBJECT_LIMITS}
            case _:
                found[name] = _optional(wanted, name)
    return found


def rates(request: pb.SetPriceRequest) -> Rates:
    """What each component costs."""
    return Rates(request.input_micros, request.cached_input_micros, request.output_micros, request.reasoning_micros)


def plan_message(plan: Plan) -> pb.Plan:
    """The plan as clients see it."""
    said = plan.terms
    return pb.Plan(
        plan_id=plan.plan_id,
        display_name=said.display_name,
        tokens_per_day=said.tokens_per_day,
        tokens_per_month=said.tokens_per_month,
        cost_micros_per_month=said.cost_micros_per_month,
        requests_per_minute=said.requests_per_minute,
        enforcement=PbEnforcement.ValueType(said.enforcement),
        threshold_percents=said.threshold_percents,
        unpriced_models=PbUnpricedModels.ValueType(said.unpriced_models),
        fair_share_borrow_percent=said.fair_share_borrow_percent,
        user_limits=_subject_limits(said, "user"),
        key_limits=_subject_limits(said, "key"),
        create_time=timestamp(plan.create_time),
        update_time=timestamp(plan.update_time),
    )


def tenant_plan_message(of_tenant: TenantPlan) -> pb.TenantPlan:
    """What a tenant is on, as clients see it."""
    return pb.TenantPlan(
        tenant_id=of_tenant.tenant_id,
        plan=plan_message(of_tenant.plan) if of_tenant.plan else None,
        plan_time=timestamp(of_tenant.plan_time),
        limits=_limits_message(of_tenant.limits),
    )


def price_message(price: Price, currency_code: str) -> pb.Price:
    """The price as clients see it."""
    return pb.Price(
        model=price.model,
        effective_time=timestamp(price.effective_time),
        input_micros=price.rates.input_micros,
        cached_input_micros=price.rates.cached_input_micros,
        output_micros=price.rates.output_micros,
        reasoning_micros=price.rates.reasoning_micros,
        currency_code=currency_code,
        create_time=timestamp(price.create_time),
    )


def _limits_message(limits: LimitsInForce) -> pb.LimitsInForce:
    return pb.LimitsInForce(
        **{name: _limit_message(getattr(limits, name)) for name in TENANT_LIMITS},
        unlimited=limits.unlimited,
        threshold_percents=limits.threshold_percents,
        unpriced_models=PbUnpricedModels.ValueType(limits.unpriced_models),
        fair_share_borrow_percent=limits.fair_share_borrow_percent,
    )


def _limit_message(limit: Limit | None) -> pb.Limit | None:
    if limit is None:
        return None
    enforcement = PbEnforcement.ValueType(limit.enforcement)
    return pb.Limit(most=limit.most, enforcement=enforcement, source=pb.LimitSource.ValueType(limit.source))


def _subject_limits(said: PlanTerms, subject: str) -> pb.SubjectLimits | None:
    limits = {name: getattr(said, f"{subject}_{name}") for name in SUBJECT_LIMITS}
    return pb.SubjectLimits(**limits) if any(limit is not None for limit in limits.values()) else None


def _optional(message: Message, name: str) -> int | None:
    return getattr(message, name) if message.HasField(name) else None
