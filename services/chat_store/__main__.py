"""Composition root of chat_store: `python -m services.chat_store` serves until SIGTERM."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

from prosa.chat_store.v1 import (
    admin_service_pb2,
    conversation_service_pb2,
    event_service_pb2,
    feed_service_pb2,
    task_service_pb2,
)
from prosa.chat_store.v1.admin_service_pb2_grpc import add_AdminServiceServicer_to_server
from prosa.chat_store.v1.conversation_service_pb2_grpc import add_ConversationServiceServicer_to_server
from prosa.chat_store.v1.event_service_pb2_grpc import add_EventServiceServicer_to_server
from prosa.chat_store.v1.feed_service_pb2_grpc import add_FeedServiceServicer_to_server
from prosa.chat_store.v1.task_service_pb2_grpc import add_TaskServiceServicer_to_server
from services.chat_store.admin_handlers import AdminHandler
from services.chat_store.audit import Audit
from services.chat_store.audited import audited
from services.chat_store.backup_command import BACKUP_ERRANDS
from services.chat_store.config import Config
from services.chat_store.engines import open_store, prepare
from services.chat_store.engines.cached import CachedChatStore
from services.chat_store.entry_handlers import EventHandler, TaskHandler
from services.chat_store.feed_handlers import FeedHandler
from services.chat_store.handlers import ConversationHandler
from services.chat_store.live import Live
from services.chat_store.policies import Policies
from services.chat_store.retention import Retention
from services.chat_store.store import ChatStore
from shared.caller import TokenVerifier
from shared.command_line import Errand, command
from shared.server import Endpoint, serve
from shared.telemetry import get_logger


@asynccontextmanager
async def open_endpoints(config: Config) -> AsyncIterator[Sequence[Endpoint]]:
    """The service's endpoints over its own open store: for those who run it inside their process."""
    async with open_store(config) as store, _running(config, store) as endpoints:
        yield endpoints


@asynccontextmanager
async def _running(config: Config, store: ChatStore) -> AsyncIterator[Sequence[Endpoint]]:
    """Everything over the store. At the end of the block the audit is written out."""
    audit, policies = Audit(store.audit), Policies(store.upkeep)
    retention = Retention(store, policies, interval_seconds=config.cleanup_interval_seconds)
    endpoints = [
        *_conversing(store, policies, retention),
        Endpoint(
            add=add_AdminServiceServicer_to_server,
            servicer=AdminHandler(store, policies, retention, partial(_status, config, store)),
            full_name=admin_service_pb2.DESCRIPTOR.services_by_name["AdminService"].full_name,
        ),
    ]
    async with audit.running(), retention.running():
        yield [audited(endpoint, audit) for endpoint in endpoints]


def _conversing(store: ChatStore, policies: Policies, retention: Retention) -> Sequence[Endpoint]:
    """Conversations, what is in them, and what happens to them."""
    return [
        Endpoint(
            add=add_ConversationServiceServicer_to_server,
            servicer=ConversationHandler(store, policies, retention, Live(store)),
            full_name=conversation_service_pb2.DESCRIPTOR.services_by_name["ConversationService"].full_name,
        ),
        Endpoint(
            add=add_TaskServiceServicer_to_server,
            servicer=TaskHandler(store.entries),
            full_name=task_service_pb2.DESCRIPTOR.services_by_name["TaskService"].full_name,
        ),
        Endpoint(
            add=add_EventServiceServicer_to_server,
            servicer=EventHandler(store.entries),
            full_name=event_service_pb2.DESCRIPTOR.services_by_name["EventService"].full_name,
        ),
        Endpoint(
            add=add_FeedServiceServicer_to_server,
            servicer=FeedHandler(store),
            full_name=feed_service_pb2.DESCRIPTOR.services_by_name["FeedService"].full_name,
        ),
    ]


def _status(config: Config, store: ChatStore) -> admin_service_pb2.StoreStatus:
    """Of an engine that is away too."""
    status = admin_service_pb2.StoreStatus(engine=config.engine)
    if isinstance(store, CachedChatStore):
        cache = store.status()
        kept = admin_service_pb2.CacheStatus(available=cache.available, hits=cache.hits, misses=cache.misses)
        status.cache.CopyFrom(kept)
    return status


async def _serve() -> None:
    config = Config()
    verifier = TokenVerifier(config.token_public_key)
    async with open_store(config) as store, _running(config, store) as endpoints:
        await serve(config, "chat_store", endpoints, verifier=verifier, ready={config.engine: store.ready})


async def _migrate() -> None:
    config = Config()
    get_logger().info("migrated", engine=config.engine, applied=await prepare(config))


async def _cleanup() -> None:
    async with open_store(Config()) as store:
        await Retention(store, Policies(store.upkeep)).cleanup()


if __name__ == "__main__":
    cleanup = Errand(_cleanup, "removes now what is over by the tenants' policies, as the service does every hour")
    errands = {"cleanup": cleanup, **BACKUP_ERRANDS}
    command("services.chat_store", Config, serve=_serve, migrate=_migrate, errands=errands)
