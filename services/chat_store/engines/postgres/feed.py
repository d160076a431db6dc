"""The feed from PostgreSQL: `happenings` in their order, below the oldest transaction that still runs (schema/0001).

History and what happens now are the same table, so the feed only ever reads on. Whoever has read to the end waits for
the pulse: while somebody watches, one look every POLL_SECONDS per process tells whether there is more.
"""

import asyncio
import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from services.chat_store.engines.postgres import rows
from services.chat_store.engines.postgres.database import ALL_TENANTS, Database
from services.chat_store.engines.postgres.pulse import Pulse
from services.chat_store.feed_token import feed_position, feed_token, refused_token
from services.chat_store.happenings import Appended, Changed, Event, Purged, Shard
from services.chat_store.model import Conversation, Draft, Message
from services.chat_store.store import WHOLE_FEED

ENGINE = "postgres"
AT_ONCE = 200
BYTES_AT_ONCE = 8 * 1024 * 1024
_SNAPSHOT = re.compile(r"(\d{1,19}):(\d{1,19}):(\d{1,19}(,\d{1,19})*)?")
_HIGHEST = 2**63 - 1

# $8: what had ended when a feed "from now on" began, and is not told though it is beyond the place.
_NEXT = """
    with due as (
        select h.*, sum(h.size) over w as bytes, row_number() over w as number
          from (select * from happenings
                 where (xid, position) > ($1::text::xid8, $2) and xid < $3::text::xid8
                   and tenant_id = $4 and slot % $5 = $6
                   and ($8::text is null or not pg_visible_in_snapshot(xid, $8::text::pg_snapshot))
                 order by xid, position limit $7) h
        window w as (order by h.xid, h.position rows unbounded preceding)
    )
    select h.xid::text as at, h.position, h.tenant_id, h.conversation_id, h.since, h.kind, h.place, h.time, h.actor,
           h.target, h.state, c.facts, m.said
      from due h
      left join conversations c on c.tenant_id = h.tenant_id and c.conversation_id = h.conversation_id
      left join lateral (
            select array_agg(m.said order by m.seq) as said from messages m
             where h.kind = 2 and m.tenant_id = h.tenant_id and m.conversation_id = h.conversation_id
               and m.seq >= h.place and m.seq < h.place + h.n) m on true
     where h.number = 1 or h.bytes <= $9
     order by h.xid, h.position
"""


# A statement of its own, so that each has the plan of its own index.
_NEXT_OF_ALL = _NEXT.replace("tenant_id = $4", "$4 = ''")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a feed stands: behind that happening. `beyond`: the snapshot whose transactions it does not tell."""

    xid: int = 0
    position: int = 0
    beyond: str = ""

    def behind(self, xid: int, position: int) -> "Place":
        """The place behind a happening; once all of the snapshot lies before it, it need not be remembered."""
        passed = not self.beyond or xid >= int(self.beyond.split(":")[1])
        return Place(xid, position, "" if passed else self.beyond)


class PostgresFeed:
    """Tells what happened, in its order."""

    def __init__(self, database: Database, *, idle_seconds: float) -> None:
        self._database = database
        self._idle_seconds = idle_seconds
        self.pulse = Pulse(database)

    async def position(self, tenant_id: str) -> str:
        """The place before all that had not ended by now."""
        snapshot = await self._snapshot()
        low = int(snapshot.split(":")[0])
        return _token(tenant_id, WHOLE_FEED, Place(low, 0, snapshot))

    async def watch(self, tenant_id: str, resume_token: str, shard: Shard) -> AsyncGenerator[Event, None]:
        """See ChatStore.watch."""
        place = _place(tenant_id, resume_token, shard) if resume_token else Place()
        await self._check_known(place)
        clock = asyncio.get_running_loop().time
        told = clock() - self._idle_seconds
        async with self.pulse.felt():
            while True:
                beat = self.pulse.beat
                at = self._database.now()
                found, end = await self._next(tenant_id, place, shard)
                for row in found:
                    place = place.behind(int(row["at"]), row["position"])
                    yield _event(row, _token(tenant_id, shard, place))
                if found:
                    continue
                place = place.behind(max(end, place.xid), 0) if end > place.xid else place
                if clock() - told >= self._idle_seconds:
                    yield Event(_token(tenant_id, shard, place), time=at)
                    told = clock()
                await self.pulse.next(beat, told + self._idle_seconds - clock())

    async def _next(self, tenant_id: str, place: Place, shard: Shard) -> tuple[list[Any], int]:
        """What comes next, and the bound below which all has ended: if nothing comes, nothing is left below it."""
        async with self._database.transaction(tenant_id or ALL_TENANTS) as connection:
            end = await connection.fetchval("select pg_snapshot_xmin(pg_current_snapshot())::text")
            bounds = (str(place.xid), place.position, end, tenant_id, shard.count, shard.index)
            statement = _NEXT if tenant_id else _NEXT_OF_ALL
            found = await connection.fetch(statement, *bounds, AT_ONCE, place.beyond or None, BYTES_AT_ONCE)
        return found, int(end)

    async def _snapshot(self) -> str:
        found = await self._database.call("select pg_current_snapshot()::text as snapshot")
        return str(found[0]["snapshot"])

    async def _check_known(self, place: Place) -> None:
        """A token from beyond the present is another database's: what happens here would never come after it."""
        if place.xid >= int((await self._snapshot()).split(":")[1]) + 1:
            raise refused_token()


def _token(tenant_id: str, shard: Shard, place: Place) -> str:
    facts: dict[str, str | int] = {"xid": place.xid, "position": place.position, "of": f"{shard.index}/{shard.count}"}
    return feed_token(ENGINE, tenant_id, facts | ({"beyond": place.beyond} if place.beyond else {}))


def _place(tenant_id: str, token: str, shard: Shard) -> Place:
    """The place in the token, if it is of this feed and could have been made by it."""
    facts = feed_position(ENGINE, tenant_id, token)
    xid, position, beyond = facts.get("xid"), facts.get("position"), facts.get("beyond", "")
    numbers = all(type(number) is int and 0 <= number <= _HIGHEST for number in (xid, position))
    if not numbers or not isinstance(beyond, str) or (beyond and not _is_snapshot(beyond)):
        raise refused_token()
    if facts.get("of") != f"{shard.index}/{shard.count}":
        raise refused_token()
    return Place(int(xid or 0), int(position or 0), beyond)


def _is_snapshot(text: str) -> bool:
    """Whether PostgreSQL takes it for one: the running ones in their order, between the bounds."""
    if not _SNAPSHOT.fullmatch(text):
        return False
    low, high, running = text.split(":")
    numbers = [int(low), *(int(each) for each in running.split(",") if each), int(high)]
    return (
        numbers[0] > 0
        and numbers == sorted(numbers)
        and numbers[-1] <= _HIGHEST
        and (not running or int(running.split(",")[-1]) < int(high))
    )


def _event(row: Any, token: str) -> Event:
    since: datetime = row["since"]
    begin = f"{row['tenant_id']}:{row['conversation_id']}@{rows.milliseconds_of(since)}"
    if row["kind"] == rows.PURGED:
        return Event(token, f"{begin}!", row["tenant_id"], row["conversation_id"], row["time"], Purged())
    whose = rows.load(Conversation, row["facts"])
    end, what = _told(row, whose)
    return Event(token, f"{begin}{end}", row["tenant_id"], row["conversation_id"], row["time"], what)


def _told(row: Any, whose: Conversation) -> tuple[str, Conversation | Appended | Changed]:
    if row["kind"] == rows.CREATED:
        made = replace(whose, create_time=row["since"], last_activity_time=row["since"])
        return "", made.as_created()
    owner = (whose.user_id, whose.assistant_id, whose.team_id, whose.channel)
    if row["kind"] == rows.CHANGED:
        return f"~{row['place']}", Changed(rows.state_of(row), rows.spoken(row["actor"]), *owner)
    drafts = (rows.load(Draft, said) for said in row["said"])
    messages = (Message(seq, row["time"], draft) for seq, draft in enumerate(drafts, start=row["place"]))
    return f":{row['place']}", Appended(tuple(messages), *owner)
