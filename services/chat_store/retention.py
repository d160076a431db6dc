"""What leaves by itself: conversations that are over, and the oldest messages of those that grow too long.

    every hour, on every replica:   expired or deleted for good ─► purge
                                    idle for retention_days     ─► purge
                                    above max_messages          ─► trim
    every TRIM_STRIDE messages:     above max_messages          ─► trim, in the background

Replicas need no agreement: purging what is gone and trimming what is trimmed do nothing. Nothing is counted when a
message is appended: its `seq` says how long the conversation is, so a cap may be exceeded by a stride for a while.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NoReturn

from services.chat_store.model import Conversation, ConversationStatus
from services.chat_store.policies import Policies
from services.chat_store.policy import Policy
from services.chat_store.selection import Period, Reach, Selection
from services.chat_store.store import ChatStore
from services.chat_store.walks import all_conversations
from shared.clock import Clock, SystemClock
from shared.errors import ServiceError, Unavailable
from shared.steadily import in_background, steadily
from shared.telemetry import get_logger

TRIM_STRIDE = 100
BATCH = 200
# More than this wait only while the store is slow; the hourly pass finds what was not taken on.
MOST_TRIMS_AT_ONCE = 64
INTERVAL_SECONDS = 3600.0
# What changed shortly before a pass began belongs to the next one too: the clocks of replicas differ.
OVERLAP = timedelta(minutes=5)
_ALIVE = frozenset(ConversationStatus) - {ConversationStatus.DELETED}

_log = get_logger()


@dataclass(slots=True)
class Cleaned:
    """What a pass did: conversations purged, messages trimmed, and conversations whose turn failed."""

    purged: int = 0
    trimmed: int = 0
    failed: int = 0


@dataclass(slots=True)
class _Seen:
    """Until when a tenant's conversations have been looked through for a cap."""

    caps: dict[str, tuple[int, datetime]] = field(default_factory=dict)

    def since(self, tenant_id: str, cap: int) -> datetime | None:
        """None = look through all: the first pass, or another cap."""
        known, until = self.caps.get(tenant_id, (0, None))
        return until if known == cap else None


class Retention:
    """Keeps what tenants want kept and no more; one in each replica."""

    def __init__(
        self,
        store: ChatStore,
        policies: Policies,
        *,
        clock: Clock | None = None,
        interval_seconds: float = INTERVAL_SECONDS,
    ) -> None:
        self._store = store
        self._policies = policies
        self._clock = clock or SystemClock()
        self._interval_seconds = interval_seconds
        self._trims: set[asyncio.Task[None]] = set()
        self._seen = _Seen()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Cleans up regularly inside the block; at its end the trims under way are waited for."""
        try:
            async with in_background(self._run()):
                yield
        finally:
            await self.drained()

    async def drained(self) -> None:
        """Returns when no trim is under way."""
        while self._trims:
            await asyncio.wait(set(self._trims))

    def appended(self, tenant_id: str, conversation_id: str, first_seq: int, last_seq: int) -> None:
        """To be told of every append. Returns at once; every TRIM_STRIDE messages it looks after the cap."""
        crossed = last_seq // TRIM_STRIDE > (first_seq - 1) // TRIM_STRIDE
        if crossed and len(self._trims) < MOST_TRIMS_AT_ONCE:
            trim = asyncio.create_task(self._trim_in_background(tenant_id, conversation_id, last_seq))
            self._trims.add(trim)
            trim.add_done_callback(self._trims.discard)

    async def cleanup(self) -> Cleaned:
        """One pass over everything; Unavailable when the store went away. Safe on several replicas at once."""
        cleaned = Cleaned()
        await self.purge_leaving(cleaned)
        for tenant_id, policy in await self._store.upkeep.policies():
            if policy.retention_days:
                await self._purge_idle(tenant_id, policy, cleaned)
            if policy.max_messages:
                await self._trim_tenant(tenant_id, policy.max_messages, cleaned)
        _log.info("cleaned_up", purged=cleaned.purged, trimmed=cleaned.trimmed, failed=cleaned.failed)
        return cleaned

    async def purge_leaving(self, cleaned: Cleaned | None = None) -> None:
        """Purges what is expired, or was deleted long enough ago."""
        now = self._clock.now()

        def still(conversation: Conversation) -> bool:
            return conversation.leave_time is not None and conversation.leave_time <= now

        await self._purge_all(lambda: self._store.upkeep.leaving(now, BATCH), still, cleaned or Cleaned())

    async def _run(self) -> NoReturn:
        # Replicas that start together shall not clean up together.
        await asyncio.sleep(random.uniform(0, self._interval_seconds))  # noqa: S311 no secret
        await steadily("cleanup", self.cleanup, self._interval_seconds * random.uniform(0.9, 1.1))  # noqa: S311 no secret

    async def _purge_idle(self, tenant_id: str, policy: Policy, cleaned: Cleaned) -> None:
        before = self._clock.now() - timedelta(days=policy.retention_days)

        async def idle() -> list[tuple[str, str]]:
            return [(tenant_id, each) for each in await self._store.upkeep.idle(tenant_id, before, BATCH)]

        await self._purge_all(idle, lambda conversation: conversation.last_activity_time < before, cleaned)

    async def _purge_all(
        self,
        due: Callable[[], Awaitable[list[tuple[str, str]]]],
        still: Callable[[Conversation], bool],
        cleaned: Cleaned,
    ) -> None:
        """Batch by batch until none is due, or only those are left that could not be purged."""
        before: list[tuple[str, str]] = []
        while (batch := await due()) and batch != before:
            for tenant_id, conversation_id in batch:
                await self._purge(tenant_id, conversation_id, still, cleaned)
            before = batch

    async def _purge(
        self, tenant_id: str, conversation_id: str, still: Callable[[Conversation], bool], cleaned: Cleaned
    ) -> None:
        try:
            removed = await self._store.upkeep.purge(tenant_id, conversation_id, still)
        except Unavailable:
            raise
        except ServiceError as error:
            # One conversation that many write to must not keep all the others.
            _log.warning("purge_failed", tenant=tenant_id, conversation=conversation_id, reason=error.reason)
            cleaned.failed += 1
        else:
            cleaned.purged += bool(removed)

    async def _trim_tenant(self, tenant_id: str, cap: int, cleaned: Cleaned) -> None:
        """Only conversations that were active since the last look can have grown."""
        began, since = self._clock.now(), self._seen.since(tenant_id, cap)
        wanted = Selection(statuses=_ALIVE, active=Period(start=since))
        async for conversation in all_conversations(self._store, Reach(tenant_id, None), wanted):
            cleaned.trimmed += await self._trim(conversation, cap)
        self._seen.caps[tenant_id] = (cap, began - OVERLAP)

    async def _trim(self, conversation: Conversation, cap: int) -> int:
        keep_from = conversation.totals.messages - cap + 1
        if keep_from <= conversation.first_seq:
            return 0
        return await self._store.upkeep.trim(conversation.tenant_id, conversation.conversation_id, keep_from)

    async def _trim_in_background(self, tenant_id: str, conversation_id: str, last_seq: int) -> None:
        try:
            policy = await self._policies.of(tenant_id)
            keep_from = last_seq - policy.max_messages + 1
            if policy.max_messages and keep_from > 1:
                await self._store.upkeep.trim(tenant_id, conversation_id, keep_from)
        except ServiceError as error:
            _log.warning("trim_failed", tenant=tenant_id, conversation=conversation_id, reason=error.reason)
