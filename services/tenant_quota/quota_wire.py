"""Quotas, reservations and the ledger on the wire: proto ↔ model, both ways."""

from dataclasses import asdict

from prosa.common.v1 import usage_pb2
from prosa.tenant_quota.v1 import quota_service_pb2 as pb
from services.tenant_quota.model import Replay
from services.tenant_quota.quota_model import (
    DEFAULT_LEASE_SECONDS,
    Enforcement,
    Extension,
    LedgerEntry,
    Quota,
    Reservation,
    Settlement,
    State,
    TokenUsage,
    TopUp,
    UnpricedModels,
    Usage,
    Wish,
)
from services.tenant_quota.quotas import LedgerFilter
from services.tenant_quota.wire import optional_moment, replay, timestamp
from shared.caller import Caller
from shared.identifiers import new_id


def quota(tenant_id: str, user_id: str, key_id: str, wanted: pb.Quota) -> Quota:
    """The limits asked for; what is unset is the plan's, or lifted."""
    return Quota(
        tenant_id,
        user_id,
        wanted.tokens_per_day if wanted.HasField("tokens_per_day") else None,
        wanted.tokens_per_month if wanted.HasField("tokens_per_month") else None,
        Enforcement(wanted.enforcement or Enforcement.HARD),
        key_id,
        wanted.cost_micros_per_month if wanted.HasField("cost_micros_per_month") else None,
        wanted.requests_per_minute if wanted.HasField("requests_per_minute") else None,
        tuple(wanted.threshold_percents),
        wanted.unlimited,
        UnpricedModels(wanted.unpriced_models) if wanted.unpriced_models else None,
        wanted.fair_share_borrow_percent if wanted.HasField("fair_share_borrow_percent") else None,
        wanted.fair_share_weight,
    )


def wish(request: pb.ReserveTokensRequest, tenant_id: str, caller: Caller) -> Wish:
    """The reservation asked for. The user is part of what a request_id stands for."""
    repeatable: Replay | None = replay(request, caller.user_id)
    return Wish(
        tenant_id=tenant_id,
        user_id=caller.user_id,
        key_id=caller.key_id,
        reservation_id=new_id(),
        tokens=request.tokens,
        minimum=request.minimum_tokens or request.tokens,
        lease_seconds=request.lease_seconds or DEFAULT_LEASE_SECONDS,
        model=request.model.strip(),
        conversation_id=request.conversation_id,
        assistant_id=request.assistant_id,
        replay=repeatable,
        parent_reservation_id=request.parent_reservation_id,
    )


def extension(request: pb.ExtendReservationRequest, tenant_id: str) -> Extension:
    """The extension asked for."""
    return Extension(
        tenant_id,
        request.reservation_id,
        request.tokens,
        request.minimum_tokens or request.tokens,
        request.lease_seconds or DEFAULT_LEASE_SECONDS,
        replay(request),
    )


def commitment(request: pb.CommitReservationRequest, tenant_id: str) -> Settlement:
    """The settlement asked for."""
    used = request.usage
    return Settlement(
        tenant_id,
        request.reservation_id,
        State.COMMITTED,
        TokenUsage(used.input_tokens, used.cached_input_tokens, used.output_tokens, used.reasoning_tokens),
        request.usage_source,
        request.cost_micros,
        request.model.strip(),
    )


def ledger_filter(request: pb.ListLedgerRequest, user_id: str | None) -> LedgerFilter:
    """The entries asked for, of `user_id` alone unless it is None."""
    return LedgerFilter(
        user_id,
        request.reservation_id or None,
        optional_moment("start_time", request),
        optional_moment("end_time", request),
    )


def ledger_query(tenant_id: str, wanted: LedgerFilter) -> dict[str, object]:
    """What a page token of the ledger is bound to."""
    return {"list": "ledger", "tenant_id": tenant_id, **asdict(wanted)}


def quota_message(kept: Quota) -> pb.Quota:
    """The limits as clients see them."""
    return pb.Quota(
        tenant_id=kept.tenant_id,
        user_id=kept.user_id,
        tokens_per_day=kept.tokens_per_day,
        tokens_per_month=kept.tokens_per_month,
        enforcement=pb.Enforcement.ValueType(kept.enforcement),
        key_id=kept.key_id,
        cost_micros_per_month=kept.cost_micros_per_month,
        requests_per_minute=kept.requests_per_minute,
        threshold_percents=kept.threshold_percents,
        unlimited=kept.unlimited,
        unpriced_models=pb.UnpricedModels.ValueType(kept.unpriced_models or 0),
        fair_share_borrow_percent=kept.fair_share_borrow_percent,
        fair_share_weight=kept.fair_share_weight,
    )


def top_up_message(top_up: TopUp) -> pb.TopUp:
    """The top-up as clients see it."""
    return pb.TopUp(
        top_up_id=top_up.top_up_id,
        tenant_id=top_up.tenant_id,
        tokens=top_up.tokens,
        used_tokens=top_up.used,
        held_tokens=top_up.held,
        priority=top_up.priority,
        reason=top_up.reason,
        expire_time=timestamp(top_up.expire_time),
        create_time=timestamp(top_up.create_time),
    )


def reservation_message(reservation: Reservation) -> pb.Reservation:
    """The reservation as its holder sees it."""
    return pb.Reservation(
        reservation_id=reservation.reservation_id,
        user_id=reservation.user_id,
        state=pb.ReservationState.ValueType(reservation.state),
        granted_tokens=reservation.granted,
        usage=usage_tokens(reservation.usage),
        usage_source=usage_pb2.UsageSource.ValueType(reservation.usage_source),
        cost_micros=reservation.cost_micros,
        expire_time=timestamp(reservation.expire_time),
        create_time=timestamp(reservation.create_time),
        parent_reservation_id=reservation.parent_reservation_id,
        child_tokens=reservation.child_tokens,
        granted_cost_micros=reservation.granted_cost_micros,
    )


def usage_message(usage: Usage) -> pb.Usage:
    """A counter as clients see it."""
    return pb.Usage(
        window=pb.Window.ValueType(usage.window),
        user_id=usage.user_id,
        limit_tokens=usage.limit_tokens,
        used_tokens=usage.used_tokens,
        held_tokens=usage.held_tokens,
        start_time=timestamp(usage.start_time),
        end_time=timestamp(usage.end_time),
        key_id=usage.key_id,
        limit_cost_micros=usage.limit_cost_micros,
        used_cost_micros=usage.used_cost_micros,
        held_cost_micros=usage.held_cost_micros,
        topped_up_tokens=usage.topped_up_tokens,
    )


def entry_message(entry: LedgerEntry) -> pb.LedgerEntry:
    """A ledger entry as clients see it."""
    return pb.LedgerEntry(
        entry_id=entry.entry_id,
        kind=pb.LedgerEntryKind.ValueType(entry.kind),
        reservation_id=entry.reservation_id,
        user_id=entry.user_id,
        key_id=entry.key_id,
        model=entry.model,
        conversation_id=entry.conversation_id,
        assistant_id=entry.assistant_id,
        held_delta=entry.held_delta,
        used_delta=entry.used_delta,
        usage=usage_tokens(entry.usage),
        usage_source=usage_pb2.UsageSource.ValueType(entry.usage_source),
        cost_micros=entry.cost_micros,
        create_time=timestamp(entry.create_time),
        issued_delta=entry.issued_delta,
        available_delta=entry.available_delta,
        parent_reservation_id=entry.parent_reservation_id,
        top_up_id=entry.top_up_id,
        key_display_name=entry.key_display_name,
        priced=entry.priced,
    )


def usage_tokens(usage: TokenUsage | None) -> usage_pb2.TokenUsage | None:
    """Token components on the wire; unset before a commit."""
    if usage is None:
        return None
    return usage_pb2.TokenUsage(
        input_tokens=usage.input_tokens,
        cached_input_tokens=usage.cached_input_tokens,
        output_tokens=usage.output_tokens,
        reasoning_tokens=usage.reasoning_tokens,
    )
