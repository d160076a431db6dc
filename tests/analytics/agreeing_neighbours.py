"""What agreement compares with: chat_store and tenant_quota as they would answer."""

from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, timedelta
from typing import Any

from prosa.chat_store.v1 import feed_service_pb2 as feed_pb
from services.analytics.agreement.model import NOTHING, Amounts, Days
from services.analytics.agreement.neighbours import Neighbours, TenantNeighbours, Told
from shared.errors import Unavailable
from tests.analytics.events import NOON

NOW = NOON + timedelta(hours=8)


@dataclass
class Others:
    """chat_store and tenant_quota of these events, as they would answer."""

    events: list[feed_pb.Event]
    ledger_extra: Counter[str] = field(default_factory=Counter)
    gone: set[str] = field(default_factory=set)
    away: bool = False

    @asynccontextmanager
    async def of(self, tenant_id: str) -> AsyncIterator[Neighbours]:
        if self.away:
            raise Unavailable("away", dependency="chat_store")
        yield _OfTenant(self, tenant_id)


@dataclass
class _OfTenant:
    others: Others
    tenant_id: str

    def _events(self) -> list[feed_pb.Event]:
        return [event for event in self.others.events if event.tenant_id == self.tenant_id]

    async def ledger(self, first: date, last: date) -> Mapping[str, Amounts]:
        sums: dict[str, Amounts] = {}
        for message in (each for event in self._events() for each in event.messages_appended.messages):
            assert first <= message.create_time.ToDatetime(UTC).date() <= last
            usage = message.usage
            charged = Amounts(
                usage.input_tokens, usage.cached_input_tokens, usage.output_tokens, usage.reasoning_tokens
            )
            sums[message.model] = sums.get(message.model, NOTHING).plus(charged)
        for model, tokens in self.others.ledger_extra.items():
            sums[model] = sums.get(model, NOTHING).plus(Amounts(input_tokens=tokens))
        return sums

    async def messages(self, days: Days) -> Told:
        kept = [event for event in self._events() if event.event_id not in self.others.gone]
        mark = feed_pb.Event()
        mark.event_time.FromDatetime(NOW)
        return await TenantNeighbours(None, _Feed([*kept, *kept[:5], mark])).messages(days)


@dataclass
class _Feed:
    """Tells the events, some of them twice."""

    events: Sequence[feed_pb.Event]

    def WatchEvents(self, _request: Any, timeout: float) -> "_Feed":
        assert timeout > 60
        return self

    async def __aiter__(self) -> AsyncIterator[feed_pb.Event]:
        for first in range(0, len(self.events), 7):
            message = feed_pb.Event()
            message.CopyFrom(self.events[first])
            message.later_events.extend(self.events[first + 1 : first + 7])
            yield message

    def cancel(self) -> None:
        """Nothing is open."""
