"""Reports, statements, audits and simulations on the wire: proto ↔ model, both ways."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from prosa.tenant_quota.v1 import usage_service_pb2 as pb
from services.tenant_quota import quota_wire
from services.tenant_quota.audit import Discrepancy
from services.tenant_quota.audits import Audit
from services.tenant_quota.model import clean_text
from services.tenant_quota.plan_model import Rates
from services.tenant_quota.quota_model import Level
from services.tenant_quota.simulation import Question, Simulation
from services.tenant_quota.usage_model import (
    Dimension,
    Statement,
    TopUpFlow,
    UsageLine,
    day_of,
    month_text,
    require_dimensions,
    require_span,
    shortened,
)
from services.tenant_quota.usage_reports import UsageQuery
from services.tenant_quota.what_if import Cost, Denials, Outcome
from services.tenant_quota.wire import timestamp
from shared.errors import FieldViolation, InvalidArgument
from shared.paging import page_position, page_token

MOST_LINES = 1_000
MOST_USERS = 20
MOST_MODELS = 100
MOST_IN_NAME = 200
DEFAULT_DAYS = 30
_FIELDS: Mapping[Dimension, str] = {
    Dimension.DAY: "day",
    Dimension.MONTH: "month",
    Dimension.USER: "user_id",
    Dimension.KEY: "key_id",
    Dimension.MODEL: "model",
}


def usage_query(request: pb.QueryUsageRequest, user_id: str | None) -> UsageQuery:
    """The usage asked for, of `user_id` alone unless it is None."""
    group_by = [Dimension(each) for each in request.group_by]
    first_day, last_day = day_of("first_day", request.first_day), day_of("last_day", request.last_day)
    require_span(first_day, last_day)
    require_dimensions(group_by)
    return UsageQuery(first_day, last_day, group_by, user_id, request.key_id or None, request.model or None)


def usage_place(token: str, tenant_id: str, wanted: UsageQuery) -> Sequence[str] | None:
    """The names after which the page begins; None for the first. InvalidArgument when no page of ours ends there."""
    place = page_position(token, _binding(tenant_id, wanted))
    if place is None:
        return None
    names = place.get("names")
    if isinstance(names, list) and len(names) == len(wanted.group_by) and all(map(_could_be_a_name, names)):
        return names
    raise InvalidArgument("page_token is not valid", reason="PAGE_TOKEN_INVALID")


def usage_page(lines: Sequence[UsageLine], size: int, tenant_id: str, wanted: UsageQuery) -> pb.QueryUsageResponse:
    """A page out of `size` + 1 lines that were asked for, and the token of the next."""
    shown, following = lines[:size], ""
    if len(lines) > size:
        following = page_token(_binding(tenant_id, wanted), {"names": list(shown[-1].names)})
    messages = (_line_message(line, wanted.group_by) for line in shown)
    return pb.QueryUsageResponse(lines=messages, next_page_token=following)


def statement_message(statement: Statement) -> pb.Statement:
    """The statement as clients see it, its lists shortened."""
    models, other_models = shortened(statement.models, MOST_LINES)
    users, other_users = shortened(statement.users, MOST_LINES)
    keys, other_keys = shortened(statement.keys, MOST_LINES)
    return pb.Statement(
        tenant_id=statement.tenant_id,
        month=month_text(statement.month),
        total=_line_message(UsageLine((), statement.total), ()),
        models=(_line_message(line, [Dimension.MODEL]) for line in models),
        users=(_line_message(line, [Dimension.USER]) for line in users),
        keys=(_line_message(line, [Dimension.KEY]) for line in keys),
        other_models=other_models,
        other_users=other_users,
        other_keys=other_keys,
        top_ups=_top_up_message(statement.top_ups),
        final=statement.is_final,
        digest=statement.digest,
    )


def audit_message(audit: Audit) -> pb.AuditLedgerResponse:
    """What was found."""
    return pb.AuditLedgerResponse(
        discrepancies=map(_discrepancy_message, audit.discrepancies[:MOST_LINES]),
        discrepancy_count=len(audit.discrepancies),
        phantom_held_tokens=audit.phantom_held_tokens,
        overshoot_tokens=audit.overshoot_tokens,
    )


def question(request: pb.SimulateRequest, tenant_id: str) -> Question:
    """What is proposed; InvalidArgument when nothing is, a model twice, or what no replay looks at."""
    quota = quota_wire.quota(tenant_id, request.user_id, request.key_id, request.quota)
    prices = {
        clean_text("prices.model", each.model, MOST_IN_NAME): Rates(
            each.input_micros, each.cached_input_micros, each.output_micros, each.reasoning_micros
        )
        for each in request.prices
    }
    is_shared_out = quota.fair_share_borrow_percent is not None or quota.fair_share_weight
    wrong = {
        "quota": ("must be proposed, or prices", not request.HasField("quota") and not prices),
        "quota.fair_share_borrow_percent": ("fair shares cannot be proposed", is_shared_out),
        "prices": ("must name each model once", len(prices) < len(request.prices)),
    }
    violations = [FieldViolation(name, text, "simulate.proposal") for name, (text, is_so) in wrong.items() if is_so]
    if violations:
        raise InvalidArgument(violations=violations)
    return Question(quota, request.HasField("quota"), prices, request.days or DEFAULT_DAYS)


def simulation_message(simulation: Simulation) -> pb.SimulateResponse:
    """What came of it, its lists shortened."""
    outcome = simulation.outcome
    return pb.SimulateResponse(
        start_time=timestamp(simulation.start_time),
        end_time=timestamp(simulation.end_time),
        complete=simulation.is_complete,
        reservations=outcome.reservations,
        denied_reservations=outcome.denied.reservations,
        denied_tokens=outcome.denied.tokens,
        first_denied_time=timestamp(outcome.first_denied),
        last_denied_time=timestamp(outcome.last_denied),
        denied_extensions=outcome.denied_extensions,
        denied_days=_denied_days(outcome),
        denied_users=_denied_users(outcome.users),
        models=_costs(outcome.models),
        total=_cost_message("", list(outcome.models.values())),
    )


def _binding(tenant_id: str, wanted: UsageQuery) -> dict[str, object]:
    return {"list": "usage", "tenant_id": tenant_id, **asdict(wanted)}


def _could_be_a_name(name: object) -> bool:
    return isinstance(name, str) and "\0" not in name


def _line_message(line: UsageLine, group_by: Sequence[Dimension]) -> pb.UsageLine:
    names: dict[str, Any] = {_FIELDS[each]: name for each, name in zip(group_by, line.names, strict=True)}
    return pb.UsageLine(**names, **asdict(line.sum))


def _top_up_message(flow: TopUpFlow) -> pb.TopUpStatement:
    return pb.TopUpStatement(
        opening_tokens=flow.opening,
        given_tokens=flow.given,
        used_tokens=flow.used,
        ended_tokens=flow.ended,
        closing_tokens=flow.closing,
    )


def _discrepancy_message(found: Discrepancy) -> pb.Discrepancy:
    is_top_up = found.counter.startswith("top_up")
    return pb.Discrepancy(
        counter=found.counter,
        user_id=found.subject if found.level == Level.USER else "",
        key_id=found.subject if found.level == Level.KEY else "",
        top_up_id=found.subject if is_top_up else "",
        period=found.period,
        difference=found.difference,
    )


def _denied_days(outcome: Outcome) -> list[pb.DeniedDay]:
    return [
        pb.DeniedDay(
            day=day.isoformat(),
            limit=pb.DenyingLimit.ValueType(limit),
            reservations=denied.reservations,
            tokens=denied.tokens,
        )
        for (day, limit), denied in sorted(outcome.days.items())
    ]


def _denied_users(users: Mapping[str, Denials]) -> list[pb.DeniedUser]:
    dearest = sorted(users.items(), key=lambda each: (-each[1].tokens, each[0]))[:MOST_USERS]
    return [
        pb.DeniedUser(user_id=user_id, reservations=denied.reservations, tokens=denied.tokens)
        for user_id, denied in dearest
    ]


def _costs(models: Mapping[str, Cost]) -> list[pb.SimulatedCost]:
    dearest = sorted(models.items(), key=lambda each: (-each[1].was, each[0]))
    if len(dearest) <= MOST_MODELS:
        return [_cost_message(model, [cost]) for model, cost in dearest]
    shown, others = dearest[: MOST_MODELS - 1], dearest[MOST_MODELS - 1 :]
    lines = [_cost_message(model, [cost]) for model, cost in shown]
    return [*lines, _cost_message("", [cost for _, cost in others])]


def _cost_message(model: str, costs: Sequence[Cost]) -> pb.SimulatedCost:
    return pb.SimulatedCost(
        model=model,
        cost_micros=sum(cost.was for cost in costs),
        simulated_cost_micros=sum(cost.would_be for cost in costs),
    )
