"""What a tenant spends on the language model: within its own cap a day, and out of its quota, charged once.

The cap is kept in MongoDB: what may be used is taken from the day (UTC) before the model is asked, under the analysis'
id, and put right in the commit that keeps the analysis. A process killed in between leaves its worst case taken until
the day is over; whoever analyses the same again takes nothing more.
"""

from collections.abc import Callable
from datetime import datetime, timedelta

import grpc

from prosa.common.v1 import usage_pb2
from prosa.tenant_quota.v1 import quota_service_pb2 as pb
from prosa.tenant_quota.v1.quota_service_pb2_grpc import QuotaServiceStub
from services.analytics.analyses.model import Analysis, Missed, Settings, Spent
from services.analytics.analyses.neighbours import Tenants
from shared.errors import FailedPrecondition, QuotaExceeded, ServiceError
from shared.identifiers import derived_id
from shared.mongo import MongoDatabase, MongoSession, mongo_errors
from shared.neighbours import CALL_TIMEOUT_SECONDS, answers_of

SPENDING = "analysis_spending"
LEASE_SECONDS = 300
_KEPT = timedelta(days=40)
# Each is lost only when we stand still between two calls for as long as a lease.
_LATE_RESERVATIONS = 5
_PROVIDER, _ESTIMATED = usage_pb2.USAGE_SOURCE_PROVIDER, usage_pb2.USAGE_SOURCE_ESTIMATED


class Budget:
    """Holds and charges tokens for analyses, each once under its id."""

    def __init__(
        self, database: MongoDatabase, channel: grpc.aio.Channel, tenants: Tenants, now: Callable[[], datetime]
    ) -> None:
        self._days = database[SPENDING]
        self._quota = QuotaServiceStub(channel)
        self._tenants = tenants
        self._now = now

    async def prepare(self) -> None:
        """Creates the indexes, by one of which MongoDB forgets old days."""
        with mongo_errors():
            await self._days.create_index("expire_time", expireAfterSeconds=0, name="expire")
            await self._days.create_index("tenant_id", name="tenant")

    async def hold(
        self, tenant_id: str, conversation_id: str, analysis_id: str, tokens: int, model: str, settings: Settings
    ) -> str | Missed:
        """The reservation that will pay, or why there is none: the cap or the quota is used up, or cannot be asked."""
        if not await self._taken_from_the_day(tenant_id, analysis_id, tokens, settings.daily_token_cap):
            return Missed.CAP
        try:
            return await self._reserve(tenant_id, conversation_id, analysis_id, tokens, model)
        except QuotaExceeded:
            await self.put_right(tenant_id, analysis_id, 0)
            return Missed.QUOTA
        except ServiceError:
            await self.put_right(tenant_id, analysis_id, 0)
            return Missed.FAILED

    async def release(self, tenant_id: str, analysis_id: str, reservation_id: str) -> None:
        """Gives back what was held for a model that did not answer; what cannot be given back ends with its lease."""
        await self.put_right(tenant_id, analysis_id, 0)
        try:
            with answers_of("tenant_quota"):
                await self._quota.ReleaseReservation(
                    pb.ReleaseReservationRequest(reservation_id=reservation_id),
                    metadata=await self._tenants.credentials(tenant_id),
                    timeout=CALL_TIMEOUT_SECONDS,
                )
        except ServiceError:
            return

    async def put_right(self, tenant_id: str, analysis_id: str, used: int, session: MongoSession | None = None) -> None:
        """Puts what was used in the place of what was taken from the day, once."""
        place = {"tenant_id": tenant_id, f"holds.{analysis_id}": {"$exists": True}}
        with mongo_errors():
            async for day in self._days.find(place, {f"holds.{analysis_id}": 1}, session=session):
                taken = day["holds"][analysis_id]
                await self._days.update_one(
                    {"_id": day["_id"], f"holds.{analysis_id}": taken},
                    {"$inc": {"taken": used - taken}, "$unset": {f"holds.{analysis_id}": ""}},
                    session=session,
                )

    async def charge(self, analysis: Analysis) -> None:
        """Charges a kept analysis once, however often it is asked to."""
        reservation_id = analysis.spent.reservation_id
        for late in range(_LATE_RESERVATIONS):
            try:
                return await self._commit(analysis, reservation_id)
            except FailedPrecondition as error:
                # Its lease ended before it was charged: exactly what was used is held anew.
                if error.reason != "RESERVATION_EXPIRED":
                    raise
            reservation_id = await self._reserve(
                analysis.tenant_id,
                analysis.conversation_id,
                f"{analysis.analysis_id}-late-{late}",
                max(analysis.spent.tokens, 1),
                analysis.spent.model,
            )
        return await self._commit(analysis, reservation_id)

    async def _taken_from_the_day(self, tenant_id: str, analysis_id: str, tokens: int, cap: int) -> bool:
        now = self._now()
        day = {"_id": f"{tenant_id}|{now:%Y-%m-%d}"}
        hold = f"holds.{analysis_id}"
        with mongo_errors():
            await self._days.update_one(
                day,
                {"$setOnInsert": {"tenant_id": tenant_id, "taken": 0, "expire_time": now + _KEPT}},
                upsert=True,
            )
            done = await self._days.update_one(
                {**day, hold: {"$exists": False}, "taken": {"$lte": cap - tokens}},
                {"$inc": {"taken": tokens}, "$set": {hold: tokens}},
            )
            return bool(done.matched_count) or await self._days.find_one({**day, hold: {"$exists": True}}) is not None

    async def _reserve(self, tenant_id: str, conversation_id: str, purpose: str, tokens: int, model: str) -> str:
        request = pb.ReserveTokensRequest(
            tokens=tokens,
            lease_seconds=LEASE_SECONDS,
            model=model,
            conversation_id=conversation_id,
            request_id=derived_id("analysis", tenant_id, purpose),
        )
        with answers_of("tenant_quota"):
            held = await self._quota.ReserveTokens(
                request, metadata=await self._tenants.credentials(tenant_id), timeout=CALL_TIMEOUT_SECONDS
            )
        return str(held.reservation_id)

    async def _commit(self, analysis: Analysis, reservation_id: str) -> None:
        spent = analysis.spent
        request = pb.CommitReservationRequest(
            reservation_id=reservation_id,
            usage=tokens_of(spent),
            usage_source=usage_pb2.USAGE_SOURCE_PROVIDER
            if spent.provider_counted
            else usage_pb2.USAGE_SOURCE_ESTIMATED,
            model=spent.model,
        )
        with answers_of("tenant_quota"):
            await self._quota.CommitReservation(
                request,
                metadata=await self._tenants.credentials(analysis.tenant_id),
                timeout=CALL_TIMEOUT_SECONDS,
            )


def tokens_of(spent: Spent) -> usage_pb2.TokenUsage:
    """The tokens as contracts have them."""
    return usage_pb2.TokenUsage(
        input_tokens=spent.input_tokens,
        cached_input_tokens=spent.cached_input_tokens,
        output_tokens=spent.output_tokens,
        reasoning_tokens=spent.reasoning_tokens,
    )
