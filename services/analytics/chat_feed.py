"""chat_store's feed as all rooms read it: what is told at the same time comes together."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

from prosa.chat_store.v1 import feed_service_pb2 as feed_pb

TOGETHER = 500


@asynccontextmanager
async def watched(
    source: Any, *, timeout: float, resume_token: str = "", together: int = TOGETHER
) -> AsyncIterator[AsyncIterator[list[feed_pb.Event]]]:
    """The feed from there on, up to so many events at once; `source` is a FeedServiceStub.

    Ended with the block, because gRPC ends a call only for who is cancelled while reading.
    """
    call = source.WatchEvents(
        feed_pb.WatchEventsRequest(resume_token=resume_token, max_events=together), timeout=timeout
    )
    try:
        async with aclosing(_told(call)) as told:
            yield told
    finally:
        call.cancel()


async def _told(call: Any) -> AsyncGenerator[list[feed_pb.Event], None]:
    async for message in call:
        later = list(message.later_events)
        message.ClearField("later_events")
        yield [message, *later]
