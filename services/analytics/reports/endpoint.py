"""ReportService put together."""

from prosa.analytics.v1 import report_service_pb2, report_service_pb2_grpc
from services.analytics.intake.feed_positions import FeedPositions
from services.analytics.reports.activity import Activities
from services.analytics.reports.fact_list import FactList
from services.analytics.reports.handlers import ReportHandlers
from services.analytics.reports.live import LiveReports
from services.analytics.reports.reports import Reports
from services.analytics.reports.repricing import NoPrices, PriceBook, Repricing
from services.analytics.reports.rollup_reader import RollupReader
from services.analytics.reports.topics import Floor, Topics
from services.analytics.rollups.projection import Projection
from shared.clock import Clock
from shared.server import Endpoint


async def _usual_floor(_tenant_id: str) -> int:
    return 5


def reports_endpoint(
    projection: Projection,
    positions: FeedPositions,
    clock: Clock,
    *,
    book: PriceBook | None = None,
    floor: Floor = _usual_floor,
) -> Endpoint:
    """ReportService over what is kept; without a price book, what needs prices is Unavailable.

    `floor` says of a tenant below how many people a topic is not named.
    """
    reader = RollupReader(projection)
    live = LiveReports(reader, positions, clock)
    handlers = ReportHandlers(
        reports=Reports(reader, positions),
        activities=Activities(reader, positions),
        topics=Topics(reader, floor),
        repricing=Repricing(reader, positions, book or NoPrices()),
        facts=FactList(projection),
        live=live,
        clock=clock,
    )
    return Endpoint(
        add=report_service_pb2_grpc.add_ReportServiceServicer_to_server,
        servicer=handlers,
        full_name=report_service_pb2.DESCRIPTOR.services_by_name["ReportService"].full_name,
        drain=live.close,
    )
