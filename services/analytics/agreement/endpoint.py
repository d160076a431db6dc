"""AgreementService put together, and the nightly check beside it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from prosa.analytics.v1 import agreement_service_pb2, agreement_service_pb2_grpc
from services.analytics.agreement.check import Access, Agreement
from services.analytics.agreement.drift_store import DriftStore
from services.analytics.agreement.handlers import AgreementHandlers
from services.analytics.agreement.kept_records import KeptReader
from services.analytics.agreement.nightly import NightlyAgreement
from services.analytics.agreement.repair import Repair
from services.analytics.intake.feed_positions import FeedPositions
from services.analytics.rollups.projection import Projection
from shared.clock import Clock
from shared.server import Endpoint


@asynccontextmanager
async def open_agreement(
    projection: Projection, positions: FeedPositions, access: Access, clock: Clock, *, utc_hour: int | None
) -> AsyncIterator[Endpoint]:
    """The endpoint; inside the block all tenants are checked each night at that hour, never when it is None."""
    reader, drifts = KeptReader(projection), DriftStore(projection.database)
    agreement = Agreement(reader, drifts, positions, access, clock)
    endpoint = Endpoint(
        add=agreement_service_pb2_grpc.add_AgreementServiceServicer_to_server,
        servicer=AgreementHandlers(agreement, drifts, Repair(projection), clock),
        full_name=agreement_service_pb2.DESCRIPTOR.services_by_name["AgreementService"].full_name,
    )
    if utc_hour is None:
        yield endpoint
        return
    async with NightlyAgreement(agreement, reader, drifts, clock, utc_hour).running():
        yield endpoint
