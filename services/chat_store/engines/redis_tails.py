"""The ends of active conversations in Redis, each with the version that it was read at.

One hash holds one tail: its version, and its messages as JSON by `seq`. Redis may lose, keep or mix up what it likes:
a tail counts only for whoever finds the conversation at exactly that version, and names the conversation it is of. The
name of a key tells the shape of a message too, so that two releases at work at once do not read each other's.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from pydantic import SecretStr, TypeAdapter

from services.chat_store.engines.tails import TAIL_BYTES, TAIL_MESSAGES, concerns
from services.chat_store.fingerprints import digest_of
from services.chat_store.model import Message
from services.chat_store.selection import Page, Version, Window
from shared.optional_redis import OptionalRedis, open_optional_redis

# What takes longer is had from the engine.
PATIENCE_SECONDS = 0.05
MAX_CONNECTIONS = 64

_MESSAGE = TypeAdapter(Message)
_MESSAGES = TypeAdapter(tuple[Message, ...])
_PREFIX = f"prosa:tail:{digest_of([_MESSAGE.json_schema()])[:8]}:"

# A page of the tail, or nothing when the window reaches beyond it.
_PAGE = """
local kept = redis.call('HMGET', KEYS[1], 'of', 'first', 'last', 'revision', 'start')
if not kept[1] then return false end
local after, before, newest, limit = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3] == '1', tonumber(ARGV[4])
local low, high = math.max(after + 1, tonumber(kept[2])), tonumber(kept[3])
if before > 0 then high = math.min(high, before - 1) end
local from, to, step = low, math.min(high, low + limit - 1), 1
if newest then from, to, step = high, math.max(low, high - limit + 1), -1 end
local messages, more = {}, 0
if low <= high then
  if math.min(from, to) < tonumber(kept[5]) then return false end
  local seqs = {}
  for seq = from, to, step do seqs[#seqs + 1] = string.format('%.0f', seq) end
  messages = redis.call('HMGET', KEYS[1], unpack(seqs))
  if to ~= (newest and low or high) then more = 1 end
end
return {kept[1], kept[2], kept[3], kept[4], more, table.concat(messages, ',')}
"""

_KEEP = """
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'of', ARGV[2], 'first', ARGV[3], 'last', ARGV[4], 'revision', ARGV[5])
local seq, bytes = tonumber(ARGV[6]), 0
redis.call('HSET', KEYS[1], 'start', ARGV[6])
for place = 7, #ARGV do
  redis.call('HSET', KEYS[1], string.format('%.0f', seq), ARGV[place])
  seq, bytes = seq + 1, bytes + #ARGV[place]
end
redis.call('HSET', KEYS[1], 'bytes', bytes)
redis.call('PEXPIRE', KEYS[1], ARGV[1])
"""

# Messages that were appended right after the tail, and the oldest ones out where it has grown too long.
_EXTEND = """
local kept = redis.call('HMGET', KEYS[1], 'last', 'start', 'bytes')
if not kept[1] or tonumber(kept[1]) ~= tonumber(ARGV[2]) - 1 then return end
local last, start, bytes = tonumber(kept[1]), tonumber(kept[2]), tonumber(kept[3])
for place = 5, #ARGV do
  last, bytes = last + 1, bytes + #ARGV[place]
  redis.call('HSET', KEYS[1], string.format('%.0f', last), ARGV[place])
end
while start <= last and (last - start >= tonumber(ARGV[3]) or bytes > tonumber(ARGV[4])) do
  local oldest = string.format('%.0f', start)
  start, bytes = start + 1, bytes - redis.call('HSTRLEN', KEYS[1], oldest)
  redis.call('HDEL', KEYS[1], oldest)
end
redis.call('HSET', KEYS[1], 'last', string.format('%.0f', last), 'start', string.format('%.0f', start), 'bytes', bytes)
redis.call('PEXPIRE', KEYS[1], ARGV[1])
"""


@dataclass(frozen=True, slots=True)
class RedisHeld:
    """A page out of Redis, not decoded yet."""

    version: Version
    more: bool
    content: bytes

    def page(self) -> Page:
        """See Held.page."""
        return Page(_MESSAGES.validate_json(b"[%b]" % self.content), self.more)


@asynccontextmanager
async def open_tails(
    url: SecretStr, *, ttl_seconds: float, patience_seconds: float = PATIENCE_SECONDS
) -> AsyncIterator["RedisTails"]:
    """Tails over a client of their own that never tries again."""
    redis = open_optional_redis(url, used_for="cache", patience_seconds=patience_seconds)
    async with redis as answering:
        yield RedisTails(answering, ttl_seconds=ttl_seconds)


class RedisTails:
    """The tails that a Redis holds. Every method may raise Unavailable, at once while Redis is known to be away."""

    level = "redis"

    def __init__(self, redis: OptionalRedis, *, ttl_seconds: float) -> None:
        self._redis = redis
        self._ttl_ms = round(ttl_seconds * 1000)
        self._client: Any = redis.client
        self._page: Any = redis.client.register_script(_PAGE)
        self._keep: Any = redis.client.register_script(_KEEP)
        self._extend: Any = redis.client.register_script(_EXTEND)
        self._connections = asyncio.Semaphore(MAX_CONNECTIONS)

    @property
    def available(self) -> bool:
        """Whether Redis answered when it was last asked."""
        return self._redis.available

    async def page(self, tenant_id: str, conversation_id: str, window: Window) -> RedisHeld | None:
        """See Tails.page."""
        key = _key(tenant_id, conversation_id)
        asked = [window.after_seq, window.before_seq, int(window.newest_first), window.limit]
        reply = await self._ask(partial(self._page, keys=[key], args=asked))
        return _held(_subject(tenant_id, conversation_id), reply) if reply else None

    async def keep(self, tenant_id: str, conversation_id: str, version: Version, newest: Sequence[Message]) -> None:
        """See Tails.keep."""
        tail = _tail(newest)
        of = f"{_subject(tenant_id, conversation_id)}@{round(version.since.timestamp() * 1000)}"
        facts = [of, version.first_seq, version.last_seq, version.revision, version.last_seq - len(tail) + 1]
        key = _key(tenant_id, conversation_id)
        await self._ask(partial(self._keep, keys=[key], args=[self._ttl_ms, *facts, *tail]))

    async def extend(self, tenant_id: str, conversation_id: str, appended: Sequence[Message]) -> None:
        """See Tails.extend."""
        facts = [self._ttl_ms, appended[0].seq, TAIL_MESSAGES, TAIL_BYTES]
        messages = [_MESSAGE.dump_json(each, exclude_defaults=True) for each in appended]
        key = _key(tenant_id, conversation_id)
        await self._ask(partial(self._extend, keys=[key], args=[*facts, *messages]))

    async def forget(self, tenant_id: str, conversation_id: str) -> int:
        """See Tails.forget."""
        return await self._delete(_key(tenant_id, conversation_id))

    async def forget_all(self, tenant_id: str) -> int:
        """See Tails.forget_all."""
        return sum([await self._delete(key) async for key in self._keys(tenant_id)])

    async def count_by(self, tenant_id: str, user_id: str) -> int:
        """See Tails.count_by."""
        found = 0
        async for key in self._keys(tenant_id):
            fields = await self._ask(partial(self._client.hgetall, key))
            messages = [_MESSAGE.validate_json(value) for name, value in fields.items() if name.isdigit()]
            found += sum(concerns(each, user_id) for each in messages)
        return found

    async def _keys(self, tenant_id: str) -> AsyncIterator[bytes]:
        pattern, cursor = re.sub(r"([*?\[\]\\])", r"\\\1", _key(tenant_id, "")[:-1]) + "*", 0
        while True:
            cursor, keys = await self._ask(partial(self._client.scan, cursor, match=pattern, count=1000))
            for key in keys:
                yield key
            if not cursor:
                return

    async def _delete(self, key: bytes | str) -> int:
        return int(await self._ask(partial(self._client.delete, key)))

    async def _ask(self, ask: Callable[[], Awaitable[Any]]) -> Any:
        async with self._connections:
            return await self._redis.ask(ask)


def _subject(tenant_id: str, conversation_id: str) -> str:
    return f"{tenant_id}:{conversation_id}"


def _key(tenant_id: str, conversation_id: str) -> str:
    return f"{_PREFIX}{_subject(tenant_id, conversation_id)}:"


def _held(subject: str, reply: Sequence[Any]) -> RedisHeld | None:
    """The reply read; None when it is not about this conversation: a client's connection can be out of step."""
    of, first, last, revision, more, content = reply
    known, _, since = bytes(of).decode().rpartition("@")
    if known != subject:
        return None
    created = datetime.fromtimestamp(int(since) / 1000, UTC)
    return RedisHeld(Version(created, int(first), int(last), int(revision)), bool(more), content)


def _tail(newest: Sequence[Message]) -> list[bytes]:
    """As many of the messages as a tail takes, the oldest first."""
    tail, size = list[bytes](), 0
    for message in newest[:TAIL_MESSAGES]:
        content = _MESSAGE.dump_json(message, exclude_defaults=True)
        size += len(content)
        if size > TAIL_BYTES:
            break
        tail.append(content)
    return tail[::-1]
