"""The caller's token quota as a turn needs it, kept by tenant_quota."""

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

import grpc

from prosa.tenant_quota.v1 import plan_service_pb2 as plan_pb
from prosa.tenant_quota.v1 import quota_service_pb2 as pb
from prosa.tenant_quota.v1.plan_service_pb2_grpc import PriceServiceStub
from prosa.tenant_quota.v1.quota_service_pb2_grpc import QuotaServiceStub
from services.document_rag.assistants.model import ModelPrice
from services.document_rag.assistants.outcome import Paid
from services.document_rag.assistants.turns import Turn
from services.document_rag.assistants.usage_wire import tokens_to_proto, usage_source_to_proto
from shared.errors import FailedPrecondition, NotFound, ServiceError
from shared.identifiers import derived_id
from shared.neighbours import CALL_TIMEOUT_SECONDS, answers_of

# Each is lost only when this process stands still between two calls for as long as a lease.
_LATE_RESERVATIONS = 5
_LONGEST_LEASE_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a turn needs: the worst case, and the fewest tokens with which it is worth beginning.

    `phases`: how many answers are written one after the other; the lease is as many times as long.
    """

    tokens: int
    minimum_tokens: int
    model: str
    assistant_id: str
    phases: int = 1


@dataclass(frozen=True, slots=True)
class Hold:
    """Tokens held for a turn, and since when."""

    reservation_id: str
    granted_tokens: int
    held_at: datetime


class TokenBudget:
    """tenant_quota, asked on behalf of the current caller. Every call is safe to repeat."""

    def __init__(self, channel: grpc.aio.Channel, lease_seconds: int) -> None:
        self._stub = QuotaServiceStub(channel)
        self._prices = PriceServiceStub(channel)
        self._lease_seconds = lease_seconds

    async def hold(self, turn: Turn, wanted: Wanted) -> Hold:
        """Holds tokens, in place of what an abandoned attempt still holds; QuotaExceeded when too few are left."""
        if turn.attempt > 1:
            with suppress(ServiceError):  # it ends with its lease
                abandoned = await self._reserve(turn, wanted, str(turn.attempt - 1))
                await self.release(abandoned.reservation_id)
        return _hold(await self._reserve(turn, wanted, str(turn.attempt)))

    async def hold_part(self, turn: Turn, whole: Hold, wanted: Wanted, name: str) -> Hold:
        """Holds a part of what is held for the turn; QuotaExceeded when the whole has not enough left."""
        return _hold(await self._reserve(turn, wanted, f"{turn.attempt}/{name}", whole.reservation_id))

    async def price(self, model: str, hold: Hold) -> ModelPrice | None:
        """The price at which the model's tokens are charged to the hold; None where the price book knows none."""
        request = plan_pb.GetPriceRequest(model=model)
        request.time.FromDatetime(hold.held_at)
        try:
            with answers_of("tenant_quota"):
                price = await self._prices.GetPrice(request, timeout=CALL_TIMEOUT_SECONDS)
        except NotFound:
            return None
        return ModelPrice(price.input_micros, price.cached_input_micros, price.output_micros, price.reasoning_micros)

    async def charge(self, turn: Turn, paid: Paid) -> None:
        """Charges what a stored answer used once, whoever stored it and however often it is asked to."""
        reservation_id = paid.reservation_id
        for late in range(_LATE_RESERVATIONS):
            try:
                return await self._commit(reservation_id, paid)
            except FailedPrecondition as error:
                # Its lease ended before it was charged: exactly what was used is held anew.
                if error.reason != "RESERVATION_EXPIRED":
                    raise
            if paid.tokens.total == 0:
                return None
            exact = Wanted(paid.tokens.total, paid.tokens.total, paid.model, paid.assistant_id)
            name = "-".join(filter(None, ("late", paid.name, str(late))))
            reservation_id = (await self._reserve(turn, exact, name)).reservation_id
        return await self._commit(reservation_id, paid)

    async def release(self, reservation_id: str) -> None:
        """Gives everything back."""
        with answers_of("tenant_quota"):
            await self._stub.ReleaseReservation(
                pb.ReleaseReservationRequest(reservation_id=reservation_id), timeout=CALL_TIMEOUT_SECONDS
            )

    async def _commit(self, reservation_id: str, paid: Paid) -> None:
        request = pb.CommitReservationRequest(
            reservation_id=reservation_id,
            usage=tokens_to_proto(paid.tokens),
            usage_source=usage_source_to_proto(paid.usage_source),
            cost_micros=paid.cost_micros,
            model=paid.model,
        )
        with answers_of("tenant_quota"):
            await self._stub.CommitReservation(request, timeout=CALL_TIMEOUT_SECONDS)

    async def _reserve(self, turn: Turn, wanted: Wanted, purpose: str, parent_id: str = "") -> pb.Reservation:
        request = pb.ReserveTokensRequest(
            tokens=wanted.tokens,
            minimum_tokens=wanted.minimum_tokens,
            lease_seconds=min(self._lease_seconds * wanted.phases, _LONGEST_LEASE_SECONDS),
            model=wanted.model,
            conversation_id=turn.conversation_id,
            assistant_id=wanted.assistant_id,
            # A tenant's reservations share their ids, turns of two users may not: the user is part of it.
            request_id=derived_id("reservation", turn.tenant_id, turn.user_id, turn.conversation_id, turn.key(purpose)),
            parent_reservation_id=parent_id,
        )
        with answers_of("tenant_quota"):
            return await self._stub.ReserveTokens(request, timeout=CALL_TIMEOUT_SECONDS)


def _hold(reservation: pb.Reservation) -> Hold:
    held_at = reservation.create_time.ToDatetime(UTC)
    return Hold(reservation.reservation_id, reservation.granted_tokens, held_at)
