"""The records of other services: the ledger of tenant_quota, the messages of chat_store; of one tenant at a time."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Protocol

from pydantic import SecretStr

from prosa.chat_store.v1 import conversation_service_pb2 as chat_pb
from prosa.chat_store.v1 import feed_service_pb2 as feed_pb
from prosa.chat_store.v1 import feed_service_pb2_grpc
from prosa.tenant_quota.v1 import usage_service_pb2 as usage_pb
from prosa.tenant_quota.v1 import usage_service_pb2_grpc
from services.analytics.agreement.kept_records import ByConversation
from services.analytics.agreement.model import NOTHING, Amounts, Days
from services.analytics.chat_feed import watched
from shared.channels import ServiceToken, open_channel
from shared.errors import Unavailable
from shared.neighbours import answers_of

# What one call of QueryUsage may cover.
MOST_DAYS = timedelta(days=399)
PAGE = 1_000
# A tenant's whole stored history is told before the mark; nobody waits for it but a check.
HISTORY_SECONDS = 1800.0


@dataclass(frozen=True, slots=True)
class Told:
    """What chat_store has: the messages of some days, every conversation it knows, and how many messages that took."""

    messages: ByConversation
    until: datetime
    examined: int


class Neighbours(Protocol):
    """The records of others for one tenant."""

    async def ledger(self, first: date, last: date) -> Mapping[str, Amounts]:
        """What was charged, by model."""
        ...

    async def messages(self, days: Days) -> Told:
        """What is in chat_store."""
        ...


class TenantNeighbours:
    """Over the contracts of tenant_quota and chat_store."""

    def __init__(self, usage: Any, feed: Any) -> None:
        self._usage = usage
        self._feed = feed

    async def ledger(self, first: date, last: date) -> Mapping[str, Amounts]:
        """What was charged, by model. Raises what tenant_quota answers."""
        sums: dict[str, Amounts] = {}
        with answers_of("tenant_quota"):
            while first <= last:
                until = min(first + MOST_DAYS, last)
                async for line in self._lines(first, until):
                    sums[line.model] = sums.get(line.model, NOTHING).plus(_charged(line))
                first = until + timedelta(days=1)
        return sums

    async def _lines(self, first: date, last: date) -> AsyncIterator[usage_pb.UsageLine]:
        request = usage_pb.QueryUsageRequest(
            first_day=first.isoformat(),
            last_day=last.isoformat(),
            group_by=[usage_pb.USAGE_DIMENSION_MODEL],
            page_size=PAGE,
        )
        while True:
            page = await self._usage.QueryUsage(request)
            for line in page.lines:
                yield line
            request.page_token = page.next_page_token
            if not page.next_page_token:
                return

    async def messages(self, days: Days) -> Told:
        """What is in chat_store: its stored history from the beginning, until the mark that all has been told."""
        found: ByConversation = {}
        known: set[str] = set()
        examined = 0
        with answers_of("chat_store"):
            async with watched(self._feed, timeout=HISTORY_SECONDS) as told:
                async for events in told:
                    for event in events:
                        if not event.event_id:
                            return Told(found, event.event_time.ToDatetime(UTC), examined)
                        if event.event_id not in known:
                            known |= {event.event_id} if _counted(event, days, found) else set()
                            examined += len(event.messages_appended.messages)
        raise Unavailable("the feed ended before all was told", dependency="chat_store")


def _counted(event: feed_pb.Event, days: Days, found: ByConversation) -> bool:
    """Takes in the messages of these days, and says whether there were any."""
    any_counted = False
    for message in event.messages_appended.messages:
        day = message.create_time.ToDatetime(UTC).date()
        if days.first <= day <= days.last:
            key = (day, message.model, event.conversation_id)
            found[key] = found.get(key, NOTHING).plus(_amounts(message))
            any_counted = True
    return any_counted


def _amounts(message: chat_pb.Message) -> Amounts:
    usage = message.usage
    return Amounts(
        usage.input_tokens,
        usage.cached_input_tokens,
        usage.output_tokens,
        usage.reasoning_tokens,
        message.cost_micros,
        int(message.type != chat_pb.MESSAGE_TYPE_SYSTEM),
    )


def _charged(line: usage_pb.UsageLine) -> Amounts:
    return Amounts(
        line.input_tokens,
        line.cached_input_tokens,
        line.output_tokens,
        line.reasoning_tokens,
        line.cost_micros,
        line.requests,
    )


class NeighbourAccess:
    """Opens the neighbours for a tenant, with the service's own key, as somebody who acts for that tenant."""

    def __init__(self, tenant_quota_target: str, chat_store_target: str, service_key: SecretStr) -> None:
        self._tenant_quota_target = tenant_quota_target
        self._chat_store_target = chat_store_target
        self._service_key = service_key

    @asynccontextmanager
    async def of(self, tenant_id: str) -> AsyncIterator[Neighbours]:
        """Unavailable where the service has no key to ask with."""
        if not self._service_key.get_secret_value():
            raise Unavailable("the service has no key of its own", dependency="tenant_quota")
        async with open_channel(self._tenant_quota_target) as exchange:
            token = ServiceToken(exchange, self._service_key, tenant_id=tenant_id)
            async with (
                open_channel(self._tenant_quota_target, token=token, on_behalf=False) as tenant_quota,
                open_channel(self._chat_store_target, token=token, on_behalf=False) as chat_store,
            ):
                yield TenantNeighbours(
                    usage_service_pb2_grpc.UsageServiceStub(tenant_quota),
                    feed_service_pb2_grpc.FeedServiceStub(chat_store),
                )
