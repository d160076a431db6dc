"""The nouns and rules of plans and prices: what a plan limits, and what is in force with a tenant's own quota.

The numbers of enumerations are those of the contract, which are also what the tables keep.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum

from services.tenant_quota.quota_model import Enforcement, Quota, UnpricedModels
from shared.errors import FailedPrecondition

USUAL_THRESHOLDS = (80, 100)


class LimitSource(IntEnum):
    """Where a limit comes from."""

    QUOTA = 1
    PLAN = 2


@dataclass(frozen=True, slots=True)
class PlanTerms:
    """What a plan says; None is no limit. Fields have the names of their columns."""

    display_name: str
    tokens_per_day: int | None = None
    tokens_per_month: int | None = None
    cost_micros_per_month: int | None = None
    requests_per_minute: int | None = None
    enforcement: Enforcement = Enforcement.HARD
    threshold_percents: tuple[int, ...] = ()
    unpriced_models: UnpricedModels = UnpricedModels.REFUSE
    fair_share_borrow_percent: int | None = None
    user_tokens_per_day: int | None = None
    user_tokens_per_month: int | None = None
    user_requests_per_minute: int | None = None
    key_tokens_per_day: int | None = None
    key_tokens_per_month: int | None = None
    key_requests_per_minute: int | None = None


# What every tenant without a plan is on.
NO_TERMS = PlanTerms("")


@dataclass(frozen=True, slots=True)
class Plan:
    """Limits that many tenants share."""

    plan_id: str
    terms: PlanTerms
    create_time: datetime
    update_time: datetime


@dataclass(frozen=True, slots=True)
class Limit:
    """The most there may be, what happens then, and who says so."""

    most: int
    enforcement: Enforcement
    source: LimitSource


@dataclass(frozen=True, slots=True)
class LimitsInForce:
    """What a tenant's own quota and its plan come to, for the tenant as a whole; None is no limit."""

    tokens_per_day: Limit | None
    tokens_per_month: Limit | None
    cost_micros_per_month: Limit | None
    requests_per_minute: Limit | None
    unlimited: bool
    threshold_percents: tuple[int, ...]
    unpriced_models: UnpricedModels
    fair_share_borrow_percent: int | None


@dataclass(frozen=True, slots=True)
class TenantPlan:
    """The plan a tenant is on, None for none, since when, and what follows from it."""

    tenant_id: str
    plan: Plan | None
    plan_time: datetime | None
    limits: LimitsInForce


@dataclass(frozen=True, slots=True)
class Rates:
    """What a million tokens of each component cost, in millionths of the currency."""

    input_micros: int
    cached_input_micros: int
    output_micros: int
    reasoning_micros: int


@dataclass(frozen=True, slots=True)
class Price:
    """What a model costs from a time on."""

    model: str
    effective_time: datetime
    rates: Rates
    create_time: datetime


class PlanInUse(FailedPrecondition):
    """Tenants are on the plan."""

    reason = "PLAN_IN_USE"

    def __init__(self, tenants: int) -> None:
        are_on = "1 tenant is on" if tenants == 1 else f"{tenants} tenants are on"
        super().__init__(f"{are_on} the plan", metadata={"tenants": str(tenants)})


class PriceInForce(FailedPrecondition):
    """The price has begun, so costs have been computed by it."""

    reason = "PRICE_IN_FORCE"
    usual_message = "the price is or was in force"


def in_force(quota: Quota, terms: PlanTerms) -> LimitsInForce:
    """What the account keeps to: a limit that the tenant's own quota sets, else the plan's, each as its owner says."""

    def limit(own: int | None, planned: int | None) -> Limit | None:
        if own is not None:
            return Limit(own, quota.enforcement, LimitSource.QUOTA)
        return None if planned is None else Limit(planned, terms.enforcement, LimitSource.PLAN)

    def lifted(own: int | None, planned: int | None) -> Limit | None:
        return None if quota.unlimited else limit(own, planned)

    shares = (quota.fair_share_borrow_percent, terms.fair_share_borrow_percent)
    return LimitsInForce(
        lifted(quota.tokens_per_day, terms.tokens_per_day),
        lifted(quota.tokens_per_month, terms.tokens_per_month),
        lifted(quota.cost_micros_per_month, terms.cost_micros_per_month),
        _always_hard(limit(quota.requests_per_minute, terms.requests_per_minute)),
        quota.unlimited,
        quota.threshold_percents or terms.threshold_percents or USUAL_THRESHOLDS,
        quota.unpriced_models or terms.unpriced_models,
        next((share for share in shares if share is not None), None),
    )


def _always_hard(limit: Limit | None) -> Limit | None:
    return limit and Limit(limit.most, Enforcement.HARD, limit.source)
