"""Sliding windows in Redis: many requests, each at all of its levels or at none, in one script by Redis's own clock.

A window is a list of "until counted", one pair for each 50 ms in which somebody came: until when (Redis's time in ms)
those count, and how many came since the list began. What is between the head, which no longer counts, and the end is
what counts now. So a check reads both ends, however high the limit, and when there will be room can be read off.

A token bucket or GCRA would be smaller, and would let through twice the limit within a minute: a whole bucket, and what
drips in meanwhile. Two fixed windows, weighted, only estimate, and cannot say when to come again.
"""

import json
from collections.abc import Hashable, Sequence
from itertools import count
from typing import Any

from services.tenant_quota.rates import Ask, Share, Standing, Verdict
from shared.coalescer import Coalescer
from shared.errors import Unavailable
from shared.optional_redis import OptionalRedis

PATIENCE_SECONDS = 0.05
_PREFIX = "prosa:rate:"

# ARGV[1] is JSON: a number to be given back, the limit of each key, and of each request its keys (by their places) and
# hits in turn. The answer is JSON too: of each request and key the used, the wait and the reset, in ms; a wait of 0 had
# room, -1 never will. All that a request sees of the others in the same call is what they took.
_TAKE = """
local WINDOW, GRAIN = 60000, 50
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local asked = cjson.decode(ARGV[1])

local function pair(text)
  local gap = string.find(text, ' ', 1, true)
  return tonumber(string.sub(text, 1, gap - 1)), tonumber(string.sub(text, gap + 1))
end

local function read(key, limit)
  local log = {key = key, limit = limit, gone = 0, total = 0, taken = 0, newest = 0, here = now}
  local last = redis.call('LINDEX', key, -1)
  if last then
    log.newest, log.total = pair(last)
    if log.newest <= now or log.newest > now + 2 * WINDOW + GRAIN then
      -- Nothing counts any more; or the clock was put back by more than a window, and the list is of another time.
      redis.call('DEL', key)
      log.newest, log.total = 0, 0
    else
      -- Put back by less, time stands still here until it is where it was.
      log.here = math.max(now, log.newest - WINDOW - GRAIN)
      local ends = redis.call('LRANGE', key, 0, 1)
      log.first, log.counted = pair(ends[2])
      while log.first <= now do
        redis.call('LPOP', key)
        ends = redis.call('LRANGE', key, 0, 1)
        log.first, log.counted = pair(ends[2])
      end
      local _, gone = pair(ends[1])
      log.gone = gone
    end
  end
  log.ending = (math.floor(log.here / GRAIN) + 1) * GRAIN + WINDOW
  return log
end

-- When so many of those that count will have ceased to.
local function room(log, hits)
  local wanted = log.total + log.taken + hits - log.limit
  if wanted > log.total then return log.ending end
  if log.counted >= wanted then return log.first end
  local place = 2
  while true do
    local some = redis.call('LRANGE', log.key, place, place + 63)
    for _, each in ipairs(some) do
      local ending, counted = pair(each)
      if counted >= wanted then return ending end
    end
    place = place + 64
  end
end

local logs, answers = {}, {}
for place, key in ipairs(KEYS) do logs[place] = read(key, asked[2][place]) end

for number, request in ipairs(asked[3]) do
  local fits, answer = true, {}
  for at = 1, #request, 2 do
    local log = logs[request[at]]
    if log.total - log.gone + log.taken + request[at + 1] > log.limit then fits = false end
  end
  for at = 1, #request, 2 do
    local log, hits, wait = logs[request[at]], request[at + 1], 0
    if fits then
      log.taken = log.taken + hits
    elseif hits > log.limit then
      wait = -1
    elseif log.total - log.gone + log.taken + hits > log.limit then
      wait = room(log, hits) - now
    end
    local newest = log.taken > 0 and log.ending or log.newest
    answer[#answer + 1] = log.total - log.gone + log.taken
    answer[#answer + 1] = wait
    answer[#answer + 1] = math.max(0, newest - now)
  end
  answers[number] = answer
end

for _, log in ipairs(logs) do
  if log.taken > 0 then
    local entry = string.format('%.0f %.0f', log.ending, log.total + log.taken)
    if log.newest == 0 then
      redis.call('RPUSH', log.key, '0 0', entry)
    elseif log.newest == log.ending then
      redis.call('LSET', log.key, -1, entry)
    else
      redis.call('RPUSH', log.key, entry)
    end
    redis.call('PEXPIRE', log.key, log.ending - now)
  end
end
return cjson.encode({asked[1], answers})
"""


class RedisWindows:
    """The windows of all replicas, in the one Redis that they share."""

    def __init__(self, redis: OptionalRedis, *, largest_batch: int = 256, most_in_flight: int = 2) -> None:
        self._redis = redis
        self._take: Any = redis.client.register_script(_TAKE)
        self._numbers = count(1)
        self._asks = Coalescer[Ask, Verdict](
            self._take_all, _nobody, largest_batch=largest_batch, most_in_flight=most_in_flight
        )

    async def take(self, ask: Ask) -> Verdict:
        """Counts the request against all of its limits, or against none. Unavailable while Redis is away."""
        if not self._redis.available:
            raise Unavailable("nobody counts requests", dependency="redis")
        return await self._asks.submit(ask)

    async def close(self) -> None:
        """Waits for what is under way."""
        await self._asks.close()

    async def _take_all(self, asks: Sequence[Ask]) -> Sequence[Verdict]:
        keys: dict[str, int] = {}
        limits: list[int] = []
        requests = [_request(ask, keys, limits) for ask in asks]
        number = next(self._numbers)
        argument = json.dumps([number, limits, requests])
        reply = await self._redis.ask(lambda: self._take(keys=list(keys), args=[argument]))
        about, answers = json.loads(reply)
        if about != number:  # a connection that is out of step with its client
            raise Unavailable("Redis answered another question", dependency="redis")
        return [_verdict(ask, answer) for ask, answer in zip(asks, answers, strict=True)]


def _request(ask: Ask, keys: dict[str, int], limits: list[int]) -> list[int]:
    """Places and hits in turn. The limit of a window is the newest that came in this batch."""
    request: list[int] = []
    for share in ask.shares:
        place = keys.setdefault(_key(ask.domain, share), len(keys) + 1)
        limits[place - 1 : place] = [share.limit]
        request += [place, share.hits]
    return request


def _verdict(ask: Ask, answer: Sequence[int]) -> Verdict:
    standings = (
        Standing(share, used, None if wait < 0 else wait / 1000, reset / 1000)
        for share, used, wait, reset in zip(ask.shares, answer[::3], answer[1::3], answer[2::3], strict=True)
    )
    return Verdict(tuple(standings))


def _key(domain: str, share: Share) -> str:
    subject = share.subject
    # What an id is made of comes last, so no id can be taken for another's.
    return f"{_PREFIX}{domain}:{subject.tenant_id}:{subject.level:d}:{subject.subject_id}"


def _nobody(_: Ask) -> Hashable | None:
    return None
