"""The caller's token quota as a turn needs it, kept by tenant_quota."""

from contextlib import suppress
from dataclasses import dataclass, replace

import grpc

from prosa.tenant_quota.v1 import quota_service_pb2 as pb
from prosa.tenant_quota.v1.quota_service_pb2_grpc import QuotaServiceStub
from services.document_rag.assistant_model import Answer
from services.document_rag.neighbours import CALL_TIMEOUT_SECONDS, answers_of
from services.document_rag.turns import Turn
from services.document_rag.usage_wire import tokens_to_proto, usage_source_to_proto
from shared.errors import FailedPrecondition


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a turn needs: the worst case, and the fewest tokens with which it is worth beginning."""

    tokens: int
    minimum_tokens: int
    model: str
    assistant_id: str


@dataclass(frozen=True, slots=True)
class Hold:
    """Tokens held for a turn."""

    reservation_id: str
    granted_tokens: int


class TokenBudget:
    """tenant_quota, asked on behalf of the current caller. Every call is safe to repeat."""

    def __init__(self, channel: grpc.aio.Channel, lease_seconds: int) -> None:
        self._stub = QuotaServiceStub(channel)
        self._lease_seconds = lease_seconds

    async def hold(self, turn: Turn, wanted: Wanted) -> Hold:
        """Holds tokens, or takes over what an abandoned attempt holds; QuotaExceeded when too few are left."""
        held = None
        with suppress(FailedPrecondition):  # an earlier attempt wanted something else: its hold ends with its lease
            held = await self._reserve(turn, wanted, turn.request_id)
        if held is None or held.state != pb.RESERVATION_STATE_HELD:
            held = await self._reserve(turn, wanted, f"{turn.request_id}/{turn.attempt}")
        return Hold(held.reservation_id, held.granted_tokens)

    async def settle(self, hold: Hold, answer: Answer) -> None:
        """Charges the answer, once; FailedPrecondition when the lease has ended."""
        request = pb.CommitReservationRequest(
            reservation_id=hold.reservation_id,
            usage=tokens_to_proto(answer.tokens),
            usage_source=usage_source_to_proto(answer.usage_source),
            cost_micros=answer.cost_micros,
            model=answer.model,
        )
        with answers_of("tenant_quota"):
            await self._stub.CommitReservation(request, timeout=CALL_TIMEOUT_SECONDS)

    async def settle_stored(self, turn: Turn, wanted: Wanted, answer: Answer) -> None:
        """Charges an answer that an abandoned attempt stored; once, whether or not that attempt came to charge it."""
        if turn.reservation_id:
            with suppress(FailedPrecondition):  # the lease ended with the attempt: nothing was charged
                return await self.settle(Hold(turn.reservation_id, 0), answer)
        exact = replace(wanted, tokens=max(answer.tokens.total, 1), minimum_tokens=0)
        held = await self._reserve(turn, exact, f"{turn.request_id}/late")
        return await self.settle(Hold(held.reservation_id, held.granted_tokens), answer)

    async def release(self, hold: Hold) -> None:
        """Gives everything back."""
        with answers_of("tenant_quota"):
            await self._stub.ReleaseReservation(
                pb.ReleaseReservationRequest(reservation_id=hold.reservation_id), timeout=CALL_TIMEOUT_SECONDS
            )

    async def _reserve(self, turn: Turn, wanted: Wanted, request_id: str) -> pb.Reservation:
        request = pb.ReserveTokensRequest(
            tokens=wanted.tokens,
            minimum_tokens=wanted.minimum_tokens,
            lease_seconds=self._lease_seconds,
            model=wanted.model,
            conversation_id=turn.conversation_id,
            assistant_id=wanted.assistant_id,
            request_id=request_id,
        )
        with answers_of("tenant_quota"):
            return await self._stub.ReserveTokens(request, timeout=CALL_TIMEOUT_SECONDS)
