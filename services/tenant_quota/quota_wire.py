"""Quotas, reservations and the ledger on the wire: proto ↔ model, both ways."""

from dataclasses import asdict

from prosa.common.v1 import usage_pb2
from prosa.tenant_quota.v1 import quota_service_pb2 as pb
from services.tenant_quota.model import Replay
from services.tenant_quota.quota_model import (
    DEFAULT_LEASE_SECONDS,
    Enforcement,
    LedgerEntry,
    Quota,
    Reservation,
    Settlement,
    State,
    TokenUsage,
    Usage,
    Wish,
)
from services.tenant_quota.quotas import LedgerFilter
from services.tenant_quota.wire import optional_moment, replay, timestamp
from shared.caller import Caller
from shared.identifiers import new_id


def quota(tenant_id: str, user_id: str, wanted: pb.Quota) -> Quota:
    """The limits asked for; what is unset is lifted."""
    return Quota(
        tenant_id,
        user_id,
        wanted.tokens_per_day if wanted.HasField("tokens_per_day") else None,
        wanted.tokens_per_month if wanted.HasField("tokens_per_month") else None,
        Enforcement(wanted.enforcement or Enforcement.HARD),
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
        model=request.model,
        conversation_id=request.conversation_id,
        assistant_id=request.assistant_id,
        replay=repeatable,
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
        request.model,
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
