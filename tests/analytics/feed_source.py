"""A change feed as the contract describes it, in memory: history first, then live; tokens are positions in it."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import grpc

from prosa.chat_store.v1 import feed_service_pb2 as feed_pb
from prosa.chat_store.v1 import feed_service_pb2_grpc as feed_grpc
from shared.caller import TokenVerifier
from shared.channels import open_channel
from shared.config import ServiceConfig
from shared.errors import InvalidArgument
from shared.server import Endpoint, running_server
from tests.analytics.events import NOON
from tests.house.in_process import token
from tests.house.signing import SigningKeys


class FeedSource(feed_grpc.FeedServiceServicer):
    """Sends what `happen` is told, each event with the token of its place; marks when all is told and as time goes."""

    def __init__(self, events: Iterable[feed_pb.Event] = ()) -> None:
        self._events: list[feed_pb.Event] = []
        self._keep(events)
        self._more = asyncio.Condition()
        self.requests: list[str] = []
        self.break_off_after = 10**9
        self.most = 1000
        self.time = NOON
        self.watchers = 0

    async def happen(self, *events: feed_pb.Event) -> None:
        async with self._more:
            self._keep(events)
            self._more.notify_all()

    async def rest_until(self, time: datetime) -> None:
        """Nothing happens until then."""
        async with self._more:
            self.time = time
            self._more.notify_all()

    async def WatchEvents(
        self, request: feed_pb.WatchEventsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[feed_pb.Event]:
        self.requests.append(request.resume_token)
        self.watchers += 1
        try:
            async for event in self._told(self._place(request.resume_token), min(request.max_events or 1, self.most)):
                yield event
        finally:
            self.watchers -= 1
        await context.abort(grpc.StatusCode.UNAVAILABLE, "broken off")

    async def _told(self, place: int, most: int) -> AsyncIterator[feed_pb.Event]:
        left = self.break_off_after
        while left:
            while place == len(self._events):
                marked = self.time
                yield self._mark(place)
                async with self._more:
                    await self._more.wait_for(lambda: place < len(self._events) or self.time != marked)  # noqa: B023
            together = min(most, left, len(self._events) - place)
            message = feed_pb.Event()
            message.CopyFrom(self._events[place])
            message.later_events.extend(self._events[place + 1 : place + together])
            place, left = place + together, left - together
            yield message

    def _keep(self, events: Iterable[feed_pb.Event]) -> None:
        for place, event in enumerate(events, len(self._events) + 1):
            kept = feed_pb.Event()
            kept.CopyFrom(event)
            kept.resume_token = f"at-{place}"
            self._events.append(kept)

    def _mark(self, place: int) -> feed_pb.Event:
        mark = feed_pb.Event(resume_token=f"at-{place}")
        mark.event_time.FromDatetime(self.time)
        return mark

    def _place(self, resume_token: str) -> int:
        if not resume_token:
            return 0
        prefix, _, place = resume_token.partition("-")
        if prefix != "at":
            raise InvalidArgument("no token of this feed", reason="RESUME_TOKEN_INVALID")
        return int(place)

    def endpoint(self) -> Endpoint:
        return Endpoint(
            add=feed_grpc.add_FeedServiceServicer_to_server,
            servicer=self,
            full_name=feed_pb.DESCRIPTOR.services_by_name["FeedService"].full_name,
        )


@asynccontextmanager
async def served(endpoints: Sequence[Endpoint], keys: SigningKeys, port: int = 0) -> AsyncIterator[int]:
    """The endpoints behind the real server; yields the port."""
    config = ServiceConfig(port=port, token_public_key=keys.public_pem, shutdown_grace_seconds=0, drain_delay_seconds=0)
    verifier = TokenVerifier(keys.public_pem)
    async with running_server(config, endpoints, verifier=verifier, ready={}) as bound:
        yield bound


class FixedToken:
    """A service's own token that needs no exchange."""

    def __init__(self, keys: SigningKeys) -> None:
        self._token = token(keys, scopes=["feed.read"], lifetime_seconds=600)

    async def get(self) -> str:
        return self._token


@asynccontextmanager
async def feed_stub(port: int, keys: SigningKeys) -> AsyncIterator[feed_grpc.FeedServiceStub]:
    """A stub as the service makes it."""
    async with open_channel(f"127.0.0.1:{port}", token=FixedToken(keys), on_behalf=False) as channel:
        yield feed_grpc.FeedServiceStub(channel)
