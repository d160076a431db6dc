"""FeedService: what happened, told to other services."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from prosa.chat_store.v1 import feed_service_pb2 as pb
from prosa.chat_store.v1 import feed_service_pb2_grpc as rpc
from services.chat_store.feed_messages import feed_messages
from services.chat_store.store import ChatStore
from services.chat_store.wire.feed import shard_of
from shared.caller import current_caller


class FeedHandler(rpc.FeedServiceServicer):
    """FeedService over any store."""

    def __init__(self, store: ChatStore) -> None:
        self._store = store

    async def WatchEvents(self, request: pb.WatchEventsRequest, _: Any) -> AsyncIterator[pb.Event]:
        watch = self._store.watch(current_caller().tenant_id, request.resume_token, shard_of(request))
        async with aclosing(feed_messages(watch, request.max_events or 1)) as messages:
            async for message in messages:
                yield message
