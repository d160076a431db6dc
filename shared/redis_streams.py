"""A Redis Stream read by a group of workers: nothing is lost between taking and finishing, nothing waits for poison.

Entries leave the stream when they are done, so its length is the work that is left. Redis may lose everything at any
time: the group is made anew when it is gone, and whoever fills the stream must be able to fill it again.
"""

import os
import socket
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import redis.exceptions
from pydantic import SecretStr
from redis.asyncio import Redis

from shared.cancellation import cancellation_kept
from shared.config import CannotStartError
from shared.errors import Unavailable
from shared.identifiers import new_id

SOCKET_TIMEOUT_SECONDS = 5.0

# Each entry comes as the number of its parts, then its fields and values in turn.
_ADD = """
local ids, next = {}, 1
while next <= #ARGV do
  local parts = tonumber(ARGV[next])
  ids[#ids + 1] = redis.call('XADD', KEYS[1], '*', unpack(ARGV, next + 1, next + parts))
  next = next + parts + 1
end
return ids
"""

# In one step, because a consumer that is given something between the question and its removal would lose it.
_FORGET = """
local consumers = redis.pcall('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])
if consumers.err then return 0 end
for _, answer in ipairs(consumers) do
  local about = {}
  for place = 1, #answer, 2 do about[answer[place]] = answer[place + 1] end
  if about.pending == 0 and about.idle >= tonumber(ARGV[2]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], about.name)
  end
end
return 0
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry as a worker holds it. `deliveries` counts this one too."""

    entry_id: str
    fields: Mapping[bytes, bytes]
    deliveries: int


@dataclass(frozen=True, slots=True)
class Stuck:
    """An entry that a consumer took and has not finished; `deliveries` so far."""

    entry_id: str
    deliveries: int


def consumer_name() -> str:
    """host-pid-boot: no two processes ever share it, also when a pid comes again."""
    return f"{socket.gethostname()}-{os.getpid()}-{new_id()[-12:]}"


@asynccontextmanager
async def open_redis(url: SecretStr) -> AsyncIterator[Redis]:
    """A client, closed at the end of the block. Connects on first use; CannotStartError for a bad URL."""
    client = redis_client(url, socket_timeout=SOCKET_TIMEOUT_SECONDS, socket_connect_timeout=2.0)
    try:
        yield client
    finally:
        await client.aclose()


def redis_client(url: SecretStr, **options: Any) -> Redis:
    """A client that connects on first use; CannotStartError for a URL that is none."""
    try:
        return Redis.from_url(url.get_secret_value(), **options)
    except ValueError:  # whose words may quote a piece of the password
        raise CannotStartError(
            "REDIS_URL is not readable: redis://:password@host:6379/0; in a password, write @ : / # ? % as %40 …"
        ) from None


@contextmanager
def redis_errors() -> Iterator[None]:
    """Turns what passes by itself into Unavailable (dependency "redis"); the rest and cancellations pass through."""
    try:
        with cancellation_kept():
            yield
    except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, OSError) as error:
        raise Unavailable("the stream is unavailable", dependency="redis") from error
    except (redis.exceptions.ReadOnlyError, redis.exceptions.OutOfMemoryError) as error:
        raise Unavailable("the stream takes no entries", dependency="redis") from error


class Stream:
    """One stream, one group, and this process as one of its consumers. Every method may raise Unavailable."""

    def __init__(self, client: Redis, name: str, *, group: str, consumer: str) -> None:
        self._redis = client
        self._group = group
        self._consumer = consumer
        self.name = name
        self._add: Any = client.register_script(_ADD)
        self._forget: Any = client.register_script(_FORGET)

    async def ready(self) -> None:
        """Returns when Redis answers."""
        with redis_errors():
            await self._redis.ping()

    async def add(self, entries: Sequence[Mapping[bytes, bytes]]) -> list[str]:
        """Appends the entries in their order, in one step; returns their ids."""
        if not entries:
            return []
        arguments: list[Any] = []
        for fields in entries:
            arguments += [2 * len(fields), *(part for field in fields.items() for part in field)]
        with redis_errors():
            # One command and one answer: a pipeline of as many commands costs the client several times the CPU.
            return [_text(entry_id) for entry_id in await self._add(keys=[self.name], args=arguments)]

    async def holds(self, entry_id: str) -> bool:
        """Whether the entry is still in the stream, taken or not."""
        with redis_errors():
            return bool(await self._redis.xrange(self.name, entry_id, entry_id, count=1))

    async def length(self) -> int:
        """Entries not done yet."""
        with redis_errors():
            return int(await self._redis.xlen(self.name))

    async def read(self, count: int, block_ms: int) -> list[Entry]:
        """Takes entries that nobody has taken, waiting up to `block_ms` for the first; 0 for not at all."""
        with redis_errors():
            try:
                answer = await self._read(count, block_ms)
            except redis.exceptions.ResponseError as error:
                if not _group_is_missing(error):
                    raise
                await self._make_group()
                answer = await self._read(count, block_ms)
        return [Entry(_text(entry_id), fields, 1) for _, entries in answer or () for entry_id, fields in entries]

    async def _read(self, count: int, block_ms: int) -> Any:
        # To Redis, 0 would mean for ever.
        return await self._redis.xreadgroup(
            self._group, self._consumer, {self.name: ">"}, count=count, block=block_ms or None
        )

    async def _make_group(self) -> None:
        """From the first entry on: what is in the stream and in no group has not been done."""
        try:
            await self._redis.xgroup_create(self.name, self._group, id="0", mkstream=True)
        except redis.exceptions.ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):  # another worker was first
                raise

    async def stuck(self, idle_seconds: float, count: int) -> list[Stuck]:
        """Entries taken at least so long ago and not done, oldest first."""
        with redis_errors():
            try:
                pending: Any = await self._redis.xpending_range(
                    self.name, self._group, "-", "+", count, idle=int(idle_seconds * 1000)
                )
            except redis.exceptions.ResponseError as error:
                if _group_is_missing(error):
                    return []
                raise
        return [Stuck(_text(each["message_id"]), int(each["times_delivered"])) for each in pending]

    async def claim(self, stuck: Sequence[Stuck], idle_seconds: float) -> list[Entry]:
        """Takes stuck entries over, those that no other worker has taken over meanwhile.

        Entries that are pending but gone from the stream are forgotten.
        """
        deliveries = {each.entry_id: each.deliveries + 1 for each in stuck}
        with redis_errors():
            claimed: Any = await self._redis.xclaim(
                self.name, self._group, self._consumer, int(idle_seconds * 1000), list(deliveries)
            )
            entries = [
                Entry(_text(entry_id), fields, deliveries[_text(entry_id)])
                for entry_id, fields in claimed
                if entry_id is not None and fields
            ]
            if len(entries) < len(claimed):
                await self._forget_vanished(list(deliveries))
        return entries

    async def hold(self, entries: Sequence[Entry]) -> None:
        """Says that this consumer still works on them: it is as if they had just been taken, and no delivery more."""
        entry_ids: list[Any] = [entry.entry_id for entry in entries]
        with redis_errors():
            try:
                await self._redis.xclaim(self.name, self._group, self._consumer, 0, entry_ids, justid=True)
            except redis.exceptions.ResponseError as error:
                if not _group_is_missing(error):
                    raise

    async def _forget_vanished(self, entry_ids: Sequence[str]) -> None:
        for entry_id in entry_ids:
            if not await self._redis.xrange(self.name, entry_id, entry_id, count=1):
                await self._redis.xack(self.name, self._group, entry_id)

    async def done(self, entries: Sequence[Entry]) -> None:
        """Acknowledges the entries and takes them out of the stream."""
        if not entries:
            return
        entry_ids = [entry.entry_id for entry in entries]
        with redis_errors():
            pipeline = self._redis.pipeline(transaction=True)
            pipeline.xack(self.name, self._group, *entry_ids)
            pipeline.xdel(self.name, *entry_ids)
            await pipeline.execute()

    async def leave(self) -> None:
        """Takes this consumer out of the group, unless it still holds entries: they would be lost with it."""
        with redis_errors():
            try:
                held = await self._redis.xpending_range(self.name, self._group, "-", "+", 1, self._consumer)
                if not held:
                    await self._redis.xgroup_delconsumer(self.name, self._group, self._consumer)
            except redis.exceptions.ResponseError as error:
                if not _group_is_missing(error):
                    raise

    async def forget_absent(self, idle_seconds: float) -> None:
        """Takes consumers out of the group that hold nothing and were given nothing for so long: most were killed.

        One that lives is put back when it is given something.
        """
        with redis_errors():
            await self._forget(keys=[self.name], args=[self._group, int(idle_seconds * 1000)])


def _group_is_missing(error: redis.exceptions.ResponseError) -> bool:
    # Redis names the kind of an error by the first word of its text; redis-py has no class for this one.
    return str(error).startswith("NOGROUP")


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
