"""Composition root: the API, the follower of the feed and the workers, in one process; any number of them may run."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from prosa.chat_store.v1 import feed_service_pb2_grpc
from services.analytics.admin.forgetting import Forgetting
from services.analytics.admin.handlers import AdminHandlers, admin_endpoint
from services.analytics.admin.rebuild import Rebuilding
from services.analytics.admin.replaying import Replaying
from services.analytics.admin.retention import Retentions
from services.analytics.agreement.endpoint import open_agreement
from services.analytics.agreement.neighbours import NeighbourAccess
from services.analytics.analyses.opening import open_analyses
from services.analytics.config import Config
from services.analytics.intake.feed import Feed
from services.analytics.intake.feed_positions import FeedPositions
from services.analytics.intake.handlers import metrics_endpoint
from services.analytics.intake.pipeline import Intake, intake_of, running
from services.analytics.intake.worker import OBJECTS_AT_ONCE
from services.analytics.reports.endpoint import reports_endpoint
from services.analytics.reports.repricing import open_price_book
from services.analytics.rollups.projection import Projection
from shared.caller import TokenVerifier
from shared.channels import ServiceToken, open_channel
from shared.clock import Clock, SystemClock
from shared.command_line import command
from shared.mongo import open_mongo
from shared.redis_streams import consumer_name, open_redis
from shared.server import Endpoint, Ready, serve
from shared.steadily import in_background, steadily
from shared.telemetry import get_logger

# How often it is looked whether a rebuild was ended before it had dropped what it replaced.
BROKEN_OFF_SECONDS = 60.0

log = get_logger()


@dataclass(frozen=True)
class Analytics:
    """The running service: what it serves, and the probes of what it cannot serve without.

    Redis and chat_store are not among them: without them reports grow old, but they go on.
    """

    endpoints: list[Endpoint]
    ready: Ready


@asynccontextmanager
async def open_analytics(config: Config) -> AsyncIterator[Analytics]:
    """The service with its worker and its feed running in the background until the end of the block."""
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(
            open_mongo(
                config.mongodb_url,
                config.mongodb_database,
                driver=config.mongodb_driver,
                max_pool_size=config.mongodb_max_pool_size,
                min_pool_size=config.mongodb_min_pool_size,
                timeout_ms=config.mongodb_timeout_ms,
            )
        )
        redis = await stack.enter_async_context(open_redis(config.redis_url))
        name, projection, clock = consumer_name(), Projection(database), SystemClock()
        analyses = await stack.enter_async_context(open_analyses(config, database, projection, clock))
        fulfil = analyses.unasked.fulfil if config.service_key.get_secret_value() else None
        intake = intake_of(
            database,
            redis,
            projection,
            consumer=name,
            prefix=config.stream_prefix,
            fulfil=fulfil,
            forget=analyses.store.forget_conversations,
        )
        positions = FeedPositions(database, projection)
        await stack.enter_async_context(running(intake, config))
        if config.service_key.get_secret_value():
            source = await stack.enter_async_context(_feed_source(config))
            feed = _feed(config, source, intake, positions, holder=name)
            await stack.enter_async_context(in_background(feed.run()))
        else:
            source = None
            log.warning("feed_not_followed", missing="ANALYTICS_SERVICE_KEY")
        retentions = Retentions(database, projection)
        cleaning = steadily("cleaning", retentions.clean, config.cleanup_sweep_seconds)
        await stack.enter_async_context(in_background(cleaning))
        rebuilding = Rebuilding(database, projection, source, session_idle_seconds=config.session_idle_seconds)
        settling = steadily("broken_off_rebuild", rebuilding.finish_broken_off, BROKEN_OFF_SECONDS)
        await stack.enter_async_context(in_background(settling))
        admin = AdminHandlers(
            Replaying(intake.letters),
            rebuilding,
            Forgetting(database, projection, intake.letters, analyses.store.forget_user),
            retentions,
        )
        book = await stack.enter_async_context(open_price_book(config.tenant_quota_target, config.service_key))
        agreement = await stack.enter_async_context(_agreement(config, projection, positions, clock))
        yield Analytics(
            [
                reports_endpoint(projection, positions, clock, book=book, floor=analyses.store.people_shown),
                agreement,
                metrics_endpoint(intake.inbox, clock),
                admin_endpoint(admin),
                analyses.endpoint,
            ],
            {"mongodb": intake.turns.ready},
        )


@asynccontextmanager
async def open_endpoints(config: Config) -> AsyncIterator[list[Endpoint]]:
    """As open_analytics, for those who need the endpoints only."""
    async with open_analytics(config) as analytics:
        yield analytics.endpoints


@asynccontextmanager
async def _feed_source(config: Config) -> AsyncIterator[feed_service_pb2_grpc.FeedServiceStub]:
    async with open_channel(config.tenant_quota_target) as tenant_quota:
        token = ServiceToken(tenant_quota, config.service_key)
        async with open_channel(config.chat_store_target, token=token, on_behalf=False) as chat_store:
            yield feed_service_pb2_grpc.FeedServiceStub(chat_store)


def _feed(
    config: Config,
    source: feed_service_pb2_grpc.FeedServiceStub,
    intake: Intake,
    positions: FeedPositions,
    *,
    holder: str,
) -> Feed:
    return Feed(
        source,
        intake.streams,
        intake.turns,
        positions,
        holder=holder,
        batch_size=config.feed_batch_size,
        max_in_flight=config.feed_max_in_flight,
        checkpoint_seconds=config.feed_checkpoint_seconds,
        lease_seconds=config.feed_lease_seconds,
    )


def _agreement(
    config: Config, projection: Projection, positions: FeedPositions, clock: Clock
) -> AbstractAsyncContextManager[Endpoint]:
    access = NeighbourAccess(config.tenant_quota_target, config.chat_store_target, config.service_key)
    nightly = config.agreement_utc_hour if config.service_key.get_secret_value() else None
    return open_agreement(projection, positions, access, clock, utc_hour=nightly)


async def _serve() -> None:
    config = Config()
    verifier = TokenVerifier(config.token_public_key)
    async with open_analytics(config) as analytics:
        await serve(
            config,
            "analytics",
            analytics.endpoints,
            verifier=verifier,
            ready=analytics.ready,
            batch=OBJECTS_AT_ONCE,
        )


async def _migrate() -> None:
    config = Config()
    async with (
        open_mongo(config.mongodb_url, config.mongodb_database, driver=config.mongodb_driver) as database,
        open_redis(config.redis_url) as redis,
    ):
        projection = Projection(database)
        await intake_of(database, redis, projection, consumer=consumer_name()).prepare()
        async with open_analyses(config, database, projection) as analyses:
            await analyses.prepare()


if __name__ == "__main__":
    command("services.analytics", Config, serve=_serve, migrate=_migrate)
