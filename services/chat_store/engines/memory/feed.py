"""The feed from memory: what happened, by number. Tokens of an earlier process lead to the beginning."""

import asyncio
from collections.abc import AsyncGenerator
from datetime import datetime
from typing import Any

from services.chat_store.engines.memory.kept import APPENDED, CREATED, Happening, Memory, milliseconds_of, moment
from services.chat_store.feed_token import feed_position, feed_token, refused_token
from services.chat_store.happenings import Appended, Changed, Event, Purged, Shard, slot_of
from services.chat_store.snapshot import KeptPurge
from shared.clock import Clock

ENGINE = "memory"


class MemoryFeed:
    """Tells what happened, in its order."""

    def __init__(self, memory: Memory, clock: Clock, *, idle_seconds: float) -> None:
        self._memory = memory
        self._clock = clock
        self._idle_seconds = idle_seconds

    def position(self, tenant_id: str, shard: Shard) -> str:
        """The end of what happened."""
        return self._token(tenant_id, shard, self._memory.last_number)

    async def watch(self, tenant_id: str, resume_token: str, shard: Shard) -> AsyncGenerator[Event, None]:
        """See ChatStore.watch."""
        number = self._number(tenant_id, resume_token, shard)
        clock = asyncio.get_running_loop().time
        told, feed = clock() - self._idle_seconds, object()
        self._memory.feeds.add(feed)
        try:
            while True:
                while number < self._memory.last_number:
                    number += 1
                    happening = self._memory.happenings.get(number)
                    if happening is not None and _is_told(happening, tenant_id, shard):
                        yield _event(happening, self._token(tenant_id, shard, number))
                        told = clock()
                        # Whoever never waits must not keep all others waiting.
                        await asyncio.sleep(0)
                if clock() - told >= self._idle_seconds:
                    yield Event(self._token(tenant_id, shard, number), time=moment(self._clock))
                    told = clock()
                else:
                    await self._memory.something_happens(told + self._idle_seconds - clock())
        finally:
            self._memory.feeds.discard(feed)

    def _token(self, tenant_id: str, shard: Shard, number: int) -> str:
        return feed_token(ENGINE, _name(tenant_id, shard), {"run": self._memory.run, "number": number})

    def _number(self, tenant_id: str, resume_token: str, shard: Shard) -> int:
        if not resume_token:
            return 0
        facts: dict[str, Any] = feed_position(ENGINE, _name(tenant_id, shard), resume_token)
        run, number = facts.get("run"), facts.get("number")
        if not isinstance(run, str) or type(number) is not int or number < 0:
            raise refused_token()
        if run != self._memory.run:
            return 0
        if number > self._memory.last_number:
            raise refused_token()
        return number


def _name(tenant_id: str, shard: Shard) -> str:
    """What tokens are bound to."""
    return f"{tenant_id}\0{shard.count}\0{shard.index}"


def _is_told(happening: Happening, tenant_id: str, shard: Shard) -> bool:
    tenant, conversation_id = _key(happening)
    mine = slot_of(tenant, conversation_id) % shard.count == shard.index
    return mine and tenant_id in ("", tenant)


def _key(happening: Happening) -> tuple[str, str]:
    if isinstance(happening, KeptPurge):
        return happening.tenant_id, happening.conversation_id
    return happening.talk.key


def _event(happening: Happening, token: str) -> Event:
    key = _key(happening)
    if isinstance(happening, KeptPurge):
        return Event(token, f"{_begin(*key, happening.since)}!", *key, happening.time, Purged())
    talk, number = happening.talk, happening.number
    conversation = talk.conversation
    begin = _begin(*key, conversation.create_time)
    if happening.kind == CREATED:
        return Event(token, begin, *key, conversation.create_time, conversation.as_created())
    whose = (conversation.user_id, conversation.assistant_id, conversation.team_id, conversation.channel)
    if happening.kind == APPENDED:
        said = talk.appends[number].said
        return Event(token, f"{begin}:{number}", *key, said[0].create_time, Appended(said, *whose))
    change = talk.changes[number]
    return Event(token, f"{begin}~{number}", *key, change.time, Changed(change.state, change.actor, *whose))


def _begin(tenant_id: str, conversation_id: str, since: datetime) -> str:
    return f"{tenant_id}:{conversation_id}@{milliseconds_of(since)}"
