"""Composition root of chat_store: `python -m services.chat_store` serves until SIGTERM."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from prosa.chat_store.v1 import conversation_service_pb2 as pb
from prosa.chat_store.v1 import conversation_service_pb2_grpc as rpc
from prosa.chat_store.v1 import feed_service_pb2 as feed_pb
from prosa.chat_store.v1 import feed_service_pb2_grpc as feed_rpc
from services.chat_store.config import Config
from services.chat_store.engines import open_store
from services.chat_store.handlers import ConversationHandler, FeedHandler
from services.chat_store.store import ChatStore
from shared.caller import TokenVerifier
from shared.command_line import command
from shared.server import Endpoint, serve


@asynccontextmanager
async def open_endpoints(config: Config) -> AsyncIterator[Sequence[Endpoint]]:
    """The service's endpoints over its own open store: for those who run it inside their process."""
    async with open_store(config) as store:
        yield _endpoints(store)


def _endpoints(store: ChatStore) -> Sequence[Endpoint]:
    return [
        Endpoint(
            add=rpc.add_ConversationServiceServicer_to_server,
            servicer=ConversationHandler(store),
            full_name=pb.DESCRIPTOR.services_by_name["ConversationService"].full_name,
        ),
        Endpoint(
            add=feed_rpc.add_FeedServiceServicer_to_server,
            servicer=FeedHandler(store),
            full_name=feed_pb.DESCRIPTOR.services_by_name["FeedService"].full_name,
        ),
    ]


async def _serve() -> None:
    config = Config()  # type: ignore[call-arg]  # the environment gives the rest
    verifier = TokenVerifier(config.token_public_key)
    async with open_store(config) as store:
        await serve(config, "chat_store", _endpoints(store), verifier=verifier, ready={config.engine: store.ready})


if __name__ == "__main__":
    command("services.chat_store", Config, serve=_serve)
